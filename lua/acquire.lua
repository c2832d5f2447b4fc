-- Takes the lock, or answers "yes, yours" to a repeated request.
-- KEYS: lock, token counter
-- ARGV: value, secret, TTL of the lock (ms), TTL of the counter (ms), channel
-- Returns {token} when the lock is the caller's, {-1, remaining ms} when not.
local held = redis.call('GETRANGE', KEYS[1], 0, 1023)
if held == '' and redis.call('EXISTS', KEYS[1]) == 0 then
	-- Strictly above every token before, also when the counter has been lost
	-- or the clock was set back, though not when both happened. Stays below
	-- 2^53, where Lua's numbers are exact.
	local t = redis.call('TIME')
	local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
	local last = tonumber(redis.call('GET', KEYS[2]) or 0)
	local token = string.format('%.0f', math.max(last + 1, now))
	-- The counter first: if it can't be written, nothing has been taken.
	redis.call('SET', KEYS[2], token, 'PX', ARGV[4])
	redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. token .. ' ' .. ARGV[2], 'NX', 'PX', ARGV[3])
	redis.pcall('PUBLISH', ARGV[5], ARGV[3])
	return {token}
end
local token, secret = string.match(held, ' (%d+) (%S+)$')
if secret == ARGV[2] then
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
	return {token}
end
return {-1, redis.call('PTTL', KEYS[1])}
