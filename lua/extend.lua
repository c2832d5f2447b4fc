-- Extends the caller's hold. Never creates a key.
-- KEYS: lock
-- ARGV: " <token> <secret>", TTL (ms), channel, message
-- Returns 1: extended, 0: another's, -1: gone.
if redis.call('GETRANGE', KEYS[1], -#ARGV[1], '-1') ~= ARGV[1] then
	return redis.call('EXISTS', KEYS[1]) - 1
end
-- PEXPIRE works where SET is refused for want of memory.
redis.call('PEXPIRE', KEYS[1], ARGV[2])
-- Waiters learn the new deadline and need not ask. An ACL may deny it.
redis.pcall('PUBLISH', ARGV[3], ARGV[4])
return 1
