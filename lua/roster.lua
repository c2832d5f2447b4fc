-- Keeps the list of those who have entered, and forgets who has not for too long.
-- KEYS: roster
-- ARGV: value, note, TTL (ms): 0 takes the value off the list, -1 only reads
-- Returns each value that is listed, followed by its note, where it reads: it does so, too, where the value
-- is new, as nobody else may ever read, and who has crashed must not stay.
--
-- A field is "<end of its time, in ms> <TTL> <note>". Who is alive enters again and again, so an end that
-- lies further ahead than the TTL is of a clock that was set back since. Both times are rounded down to ms,
-- so an end is over when the next ms has begun.
local t = redis.call('TIME')
local now, ttl = t[1] * 1000 + math.floor(t[2] / 1000), tonumber(ARGV[3])
if ttl > 0 then
	local new = redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f ', now + ttl, ttl) .. ARGV[2])
	redis.call('PEXPIRE', KEYS[1], '86400000')
	if new == 0 then
		return {}
	end
elseif ttl == 0 then
	redis.call('HDEL', KEYS[1], ARGV[1])
	return {}
end
local all, listed = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
	local left, most, note = string.match(all[i + 1], '^(%d+) (%d+) (.*)$')
	left = (tonumber(left) or 0) - now
	if left >= 0 and left <= tonumber(most) then
		listed[#listed + 1] = all[i]
		listed[#listed + 1] = note
	else
		redis.call('HDEL', KEYS[1], all[i])
	end
end
return listed
