-- Extends the caller's hold. Never creates a key.
-- KEYS: lock, token counter
-- ARGV: value of the hold, TTL of the lock (ms), TTL of the counter (ms), channel
-- Returns 1: extended, 0: another's, -1: gone.
if redis.call('GETRANGE', KEYS[1], 0, 1023) ~= ARGV[1] then
	return redis.call('EXISTS', KEYS[1]) - 1
end
-- PEXPIRE works where SET is refused for want of memory.
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
-- Waiters learn the new deadline and need not ask. An ACL may deny it.
redis.pcall('PUBLISH', ARGV[4], ARGV[2])
return 1
