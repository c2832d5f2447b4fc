-- May this tenure say this line? One atomic answer for all bots: "say", "said" or "stale".
-- KEYS[1]: the highest fencing token that has asked. KEYS[2]: the mark of this line.
-- ARGV[1]: the tenure's fencing token. ARGV[2]: this hand-over's own name, so that asking again after a lost reply
-- gets the same answer. ARGV[3]: seconds to remember both.
local highest = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[1]) < highest then return 'stale' end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
local mark = redis.call('GET', KEYS[2])
if mark and mark ~= ARGV[2] then return 'said' end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 'say'
