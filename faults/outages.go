package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// redisScenarios are what happens to Redis and on the way to it.
func redisScenarios() []Scenario {
	return []Scenario{
		blackHoleScenario(),
		redisPausedScenario(),
		amnesia("redis-empty", "Redis restarted empty", func(c *Cluster) {
			c.redis.stop()
			c.must(c.redis.start())
		}),
		amnesia("flushall", "FLUSHALL", func(c *Cluster) { c.do("FLUSHALL") }),
		redisRestartedScenario(),
		tokenLostScenario(),
		restartGuardScenario(),
		failover(),
		confirmed(),
		lostReplies(),
		slowRedisScenario(),
		redisSays(),
		redisRefuses(),
		wakeUpsScenario(),
	}
}

func blackHoleScenario() Scenario {
	return Scenario{
		Name: "black-hole", Fault: "Redis black-holed for the holder, or for all: packets dropped, connections open",
		Holds: "Exit closes by the deadline although an Extend is in flight; zero overlap",
		TTL:   ttl, Bound: ttl + time.Second,
		Measure: "deadline to Exit seen", P99: 20 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			way := map[string]*Proxy{}
			for _, name := range runners {
				way[name] = c.proxy(c.redis.addr())
				cfg := c.config(the)
				cfg.Service = way[name].Listen
				c.start(name, cfg)
			}
			for i := range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				cut := []*Proxy{way[nameOf(t.Node)]}
				if i%2 == 1 {
					cut = []*Proxy{way["a"], way["b"], way["c"]}
					c.note(Blocked, "")
				}
				for _, p := range cut {
					p.swallow()
				}
				c.wait(5*time.Second, "Exit", func() bool { return t.Exit != never })
				c.measure(t.Exit - c.deadline(t))
				if i%2 == 0 {
					c.successor(t, c.ttl+5*time.Second)
				} else {
					c.pause(anytime(c.ttl))
				}
				for _, p := range cut {
					p.spit()
				}
				if i%2 == 1 {
					c.note(Free, "")
					c.successor(t, c.ttl+5*time.Second)
				}
			}
		},
	}
}

func redisPausedScenario() Scenario {
	return Scenario{
		Name: "redis-paused", Fault: "Redis stops for 0.1 to 1.6 TTL (3 to 48 s of 30 s): SIGSTOP, DEBUG SLEEP, CLIENT PAUSE",
		Holds: "zero overlap; service resumes by itself",
		TTL:   2 * ttl, Bound: 4 * ttl,
		Play: func(c *Cluster, rounds int) {
			c.three()
			for i := range rounds {
				c.round()
				c.holder(the)
				c.pause(anytime(c.ttl / 3))
				d := c.ttl/10 + anytime(c.ttl*15/10)
				c.note(Blocked, "")
				switch i % 3 {
				case 0:
					c.must(c.redis.freeze())
					c.pause(d)
					c.must(c.redis.thaw())
				case 1:
					go c.redis.try("DEBUG", "SLEEP", d.Seconds())
					c.pause(d)
				case 2:
					c.do("CLIENT", "PAUSE", d.Milliseconds(), "ALL")
					c.pause(d)
				}
				c.note(Free, "")
			}
		},
	}
}

func redisRestartedScenario() Scenario {
	return Scenario{
		Name: "redis-restarted", Fault: "Redis killed and restarted with its data",
		Holds: "the tenure goes on", TTL: 4 * ttl, Bound: ttl,
		Redis: []string{"--appendonly", "yes", "--appendfsync", "always"},
		Play: func(c *Cluster, rounds int) {
			c.three()
			t := c.holder(the)
			for range rounds {
				c.round()
				c.pause(anytime(c.ttl / 8))
				c.redis.stop()
				c.must(c.redis.start())
				c.unharmed(t)
			}
		},
	}
}

func tokenLostScenario() Scenario {
	return Scenario{
		Name: "token-lost", Fault: "the token key is deleted, then the handler returns",
		Holds: "tokens keep increasing", TTL: ttl, Bound: ttl,
		Play: func(c *Cluster, rounds int) {
			c.three()
			for range rounds {
				c.round()
				t := c.holder(the)
				c.settle(t)
				keys, err := redis.Strings(c.do("KEYS", "*"), nil)
				c.must(err)
				for _, k := range keys {
					if k != the {
						c.do("DEL", k)
					}
				}
				c.let(t, "return")
				c.successor(t, 5*time.Second)
			}
		},
	}
}

func restartGuardScenario() Scenario {
	return Scenario{
		Name: "restart-guard", Fault: "Redis restarted empty, with RestartGuard",
		Holds: "zero overlap; service resumes a TTL and a second after the start", TTL: ttl, Guarded: true,
		Bound:   2*ttl + 1500*time.Millisecond,
		Measure: "restart to first line",
		Play: func(c *Cluster, rounds int) {
			cfg := c.config(the)
			cfg.Guard = true
			for _, name := range runners {
				c.start(name, cfg)
			}
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				c.forget(func() {
					c.redis.stop()
					c.must(c.redis.start())
				})
				at := clock()
				s := c.successor(t, c.ttl+5*time.Second)
				c.measure(s.Begin - at)
			}
		},
	}
}

func slowRedisScenario() Scenario {
	return Scenario{
		Name: "slow-redis", Fault: "200 ms round trips to Redis, 5 % of them end in a reset; the default TTL",
		Holds: "no needless hand-over; planned ones work", TTL: gone.DefaultExpiry,
		Measure: "Unlock to first line",
		Play: func(c *Cluster, rounds int) {
			for _, name := range runners {
				slow := c.proxy(c.redis.addr())
				slow.add("up", "latency", "upstream", 1, `{"latency": 100}`)
				slow.add("down", "latency", "downstream", 1, `{"latency": 100}`)
				p := c.redisProxy(slow.Listen)
				p.set(func(string) fate {
					if rand.IntN(100) < 5 {
						return pick([]fate{loseReply, loseBoth})
					}
					return pass
				})
				cfg := c.config(the)
				cfg.Service, cfg.Extend = p.addr(), 300*time.Millisecond
				c.start(name, cfg)
			}
			for i := range rounds {
				c.round()
				t := c.holder(the)
				c.pause(time.Second)
				c.unharmed(t)
				if i%5 == 4 {
					c.let(t, "return")
					s := c.successor(t, 10*time.Second)
					c.wait(5*time.Second, "Unlock", func() bool { return t.Unlock != never })
					c.measure(s.Begin - t.Unlock)
				}
			}
		},
	}
}

func wakeUpsScenario() Scenario {
	return Scenario{
		Name: "wake-ups", Fault: "wake-ups (PUBLISH) are lost or denied by ACL, or their connection is dropped",
		Holds: "the hand-over falls back to the poll or the TTL; nobody waits forever",
		TTL:   2 * ttl, Bound: 2*ttl + 500*time.Millisecond,
		Measure: "Unlock to first line",
		Play: func(c *Cluster, rounds int) {
			var ps []*RedisProxy
			for _, name := range runners {
				p := c.redisProxy(c.redis.addr())
				ps = append(ps, p)
				cfg := c.config(the)
				cfg.Service = p.addr()
				c.start(name, cfg)
			}
			for i := range rounds {
				c.round()
				t := c.holder(the)
				c.settle(t)
				heal := func() {}
				switch i % 3 {
				case 0:
					for _, p := range ps {
						p.setDeaf(true)
						heal = func() {
							for _, p := range ps {
								p.setDeaf(false)
							}
						}
					}
				case 1:
					c.do("ACL", "SETUSER", "default", "resetchannels")
					heal = func() { c.do("ACL", "SETUSER", "default", "allchannels") }
				case 2:
					c.do("CLIENT", "KILL", "TYPE", "pubsub")
				}
				c.let(t, "return")
				s := c.successor(t, c.ttl+5*time.Second)
				heal()
				c.wait(5*time.Second, "Unlock", func() bool { return t.Unlock != never })
				c.measure(s.Begin - t.Unlock)
			}
		},
	}
}

// deadline is that of a tenure, by the last request for it that was granted.
func (c *Cluster) deadline(t *Tenure) time.Duration {
	var asked, granted time.Duration
	calls := map[int]time.Duration{}
	for _, e := range c.history {
		if e.Node != t.Node || e.ID != t.ID {
			continue
		}
		switch e.Kind {
		case LockCall, ExtendCall:
			calls[e.N] = e.At
		case LockRet, ExtendRet:
			if asked = calls[e.N]; e.Token == t.Token && e.Text == "ok" {
				granted = max(granted, asked)
			}
		}
	}
	return granted + c.ttl - c.ttl/10
}

// connections checks how many there are to Redis.
func (c *Cluster) connections(nodes int) {
	info, err := redis.String(c.do("INFO", "clients"), nil)
	c.must(err)
	var n int
	_, after, _ := strings.Cut(info, "connected_clients:")
	_, _ = fmt.Sscan(after, &n)
	if n > nodes*17+1 {
		c.Findings.add(clock(), "%d connections of %d nodes to Redis", n-1, nodes)
	}
}

func (c *Cluster) redisProxy(upstream string) *RedisProxy {
	p, err := newRedisProxy(upstream)
	c.must(err)
	c.onClose(p.close)
	return p
}

// amnesia is a Redis that loses its memory. The old holder may go on until its
// next Extend.
func amnesia(name, fault string, how func(*Cluster)) Scenario {
	return Scenario{
		Name: name, Fault: fault,
		Holds: "the old handler ends at its next Extend or deadline; tokens keep increasing; service resumes",
		TTL:   ttl, Bound: 2 * ttl,
		Measure: "loss to Exit of the old handler",
		Play: func(c *Cluster, rounds int) {
			c.three()
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				c.forget(func() { how(c) })
				at := clock()
				c.wait(5*time.Second, "Exit of the old holder", func() bool { return t.Exit != never })
				c.measure(t.Exit - at)
				c.successor(t, 5*time.Second)
			}
		},
	}
}

// losing guards the count of what the proxies of one round lose.
var losing sync.Mutex

// lostReplies cuts the connection before or after a script has run, once or
// several times in a row.
func lostReplies() Scenario {
	return Scenario{
		Name: "lost-replies", Fault: "the connection is cut before or after a script (acquire, extend, release) runs, 1 to 6 times in a row",
		Holds: "no node waits for its own lock until the TTL; no false \"lost\"",
		TTL:   2 * ttl, Bound: 500 * time.Millisecond,
		Measure: "Unlock to first line",
		Play: func(c *Cluster, rounds int) {
			var ps []*RedisProxy
			for _, name := range runners {
				p := c.redisProxy(c.redis.addr())
				ps = append(ps, p)
				cfg := c.config(the)
				cfg.Service, cfg.Extend = p.addr(), 100*time.Millisecond
				c.start(name, cfg)
			}
			for i := range rounds {
				c.round()
				t := c.holder(the)
				c.settle(t)
				what := []string{"acquire", "extend", "release"}[i%3]
				times := 1 + rand.IntN(6)
				if what == "release" {
					times = 1 + rand.IntN(2) // after three Unlock leaves it to the TTL
				}
				how := pick([]fate{loseReply, loseBoth})
				lost := 0
				for _, p := range ps { // one rule for all: nobody knows who acquires
					p.set(func(w string) fate {
						losing.Lock()
						defer losing.Unlock()
						if w != what || lost >= times {
							return pass
						}
						lost++
						return how
					})
				}
				if what == "extend" {
					c.pause(200 * time.Millisecond)
					c.unharmed(t)
				} else {
					c.let(t, "return")
					s := c.successor(t, 700*time.Millisecond+slack())
					c.wait(5*time.Second, "Unlock", func() bool { return t.Unlock != never })
					c.measure(s.Begin - t.Unlock)
				}
				losing.Lock()
				if lost == 0 {
					c.Findings.add(clock(), "the suite lost no %s", what)
				}
				lost = times
				losing.Unlock()
			}
		},
	}
}
