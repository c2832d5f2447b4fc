-- Takes the lock, or answers "yes, yours" to a repeated request.
-- KEYS: lock, token counter
-- ARGV: value, secret, TTL (ms), channel, whether the restart guard is on (0 or 1), and, of a holder that
-- takes it for another in its own place, " <token> <secret>" of its hold
-- Returns the token when the lock is the caller's, {-1, remaining ms, token} when it is another's, with
-- token 0 where that is not known, -2 when the key has a foreign value, and -3 when the secret's hold is
-- over: the request is a copy that came late, or its reply was lost for longer than the TTL; -4 when there
-- is no hold to take the place of. An empty value is none. The counter is "<token> <secret>" of the last hold.
--
-- Numbers are given to Redis as strings, and a table is returned only on refusal: the rest is slower.
local held = redis.call('GETRANGE', KEYS[1], '0', '1023')
if ARGV[6] then
	local token, secret = string.match(held, ' (%d+) (%S+)$')
	if secret == ARGV[2] then
		return tonumber(token) -- with whatever TTL it has by now
	elseif string.sub(held, -#ARGV[6]) ~= ARGV[6] then
		return -4
	end
	held = ''
end
if held == '' then
	if ARGV[5] == '1' then
		-- Both ends of the uptime are cut to whole seconds.
		local up = string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')
		local left = ARGV[3] + 1000 - up * 1000
		if left > 0 then
			return {-1, left, 0}
		end
	end
	local t = redis.call('TIME')
	local now = t[1] * 1000000 + t[2]
	local last, past = redis.call('GETRANGE', KEYS[2], '0', '95'), nil
	if last == '' then
		last = 0
	else
		last, past = string.match(last .. ' ', '^(%d+) (%S*) ?$')
		last = tonumber(last)
	end
	if not (last and last < 2 ^ 53) then
		return redis.error_reply('ERR foreign value in the key ' .. KEYS[2])
	end
	if past == ARGV[2] then
		return -3
	end
	-- Strictly above every token before: also when the counter has been lost or is an old one, or
	-- when the clock was set back, though not when both happened. Stays below 2^53, where Lua's
	-- numbers are exact. The counter is kept until a day after the clock has passed the token.
	local token, keep = now, '86400000'
	if last >= now then
		token = last + 1
		keep = keep + math.ceil((token - now) / 1000)
	end
	local digits = string.format('%.0f', token)
	-- The counter first: if it can't be written, nothing has been taken.
	redis.call('PSETEX', KEYS[2], keep, digits .. ' ' .. ARGV[2])
	redis.call('PSETEX', KEYS[1], ARGV[3], ARGV[1] .. ' ' .. digits .. ' ' .. ARGV[2])
	redis.pcall('PUBLISH', ARGV[4], digits .. ' ' .. ARGV[3])
	return token
end
local token, secret = string.match(held, ' (%d+) (%S+)$')
if not token then
	return -2
elseif secret == ARGV[2] then
	redis.call('PEXPIRE', KEYS[1], ARGV[3])
	return tonumber(token)
end
-- The holder has never asked for more than its TTL, which the secret ends with. If more is left, or no
-- end is set, the clock was set back or somebody else did it; the holder may be dead.
local left, ttl = redis.call('PTTL', KEYS[1]), string.match(secret, '%.(%d+)$')
if ttl and #ttl < 16 and (left < 0 or left > tonumber(ttl)) then
	redis.call('PEXPIRE', KEYS[1], ttl)
	left = tonumber(ttl)
end
return {-1, left, tonumber(token)}
