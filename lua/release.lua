-- Releases the caller's hold, and no other's.
-- KEYS: lock
-- ARGV: secret, channel, message
-- Returns 1 when it was the caller's, 0 when not.
if redis.call('GETRANGE', KEYS[1], -#ARGV[1], '-1') ~= ARGV[1] then
	return 0
end
-- DEL comes first and PUBLISH is a pcall: an ACL that denies the channel must not keep the lock.
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], ARGV[3])
return 1
