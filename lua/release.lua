-- Releases the caller's hold, and no other's.
-- KEYS: lock
-- ARGV: secret, channel
-- Returns 1 when it was the caller's.
local secret = string.match(redis.call('GETRANGE', KEYS[1], 0, 1023), ' (%S+)$')
if secret ~= ARGV[1] then
	return 0
end
-- DEL comes first and PUBLISH is a pcall: an ACL that denies the channel must
-- not keep the lock.
redis.call('DEL', KEYS[1])
redis.pcall('PUBLISH', ARGV[2], 0)
return 1
