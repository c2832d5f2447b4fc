-- Tries every command that the other scripts call, without effect.
-- KEYS: lock, token counter
-- ARGV: channel, a message that nobody heeds
-- Returns 1: nothing is refused, 2: PUBLISH is, or an error: NOPERM with all that is refused, or whatever
-- else it met.
local refused, mute, failure = {}, false, nil
local function try(name, ...)
	local r = redis.pcall(name, ...)
	if type(r) ~= 'table' or not r.err then
		return r
	elseif not (string.find(r.err, 'NOPERM') or string.find(r.err, "can't ") or string.find(r.err, 'nknown')) then
		failure = failure or r
	elseif name == 'PUBLISH' then
		mute = true
	else
		refused[#refused + 1] = name .. ': ' .. r.err
	end
end

try('TIME')
try('EXISTS', KEYS[1])
local last, left = try('GETRANGE', KEYS[2], '0', '95'), try('PTTL', KEYS[2])
if left == -2 or left == 0 then -- none, or gone in less than a millisecond
	last, left = '0 ', 1
end
-- Written as it is. One that lives for ever, or is longer, is somebody's.
if last and #last < 96 and left and left > 0 and try('PSETEX', KEYS[2], left, last) then
	try('PEXPIRE', KEYS[2], left)
	if try('DEL', KEYS[2]) and last ~= '0 ' then
		redis.call('PSETEX', KEYS[2], left, last)
	end
end
try('PUBLISH', ARGV[1], ARGV[2])
if failure then
	return failure
elseif #refused > 0 then
	return redis.error_reply('NOPERM ' .. table.concat(refused, '; '))
end
return mute and 2 or 1
