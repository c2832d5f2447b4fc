package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An outage is what Redis says instead of what it is asked for.
type outage struct {
	name  string
	begin func(c *Cluster) (end func())
}

func transient() []outage {
	acl := func(off, on string) func(*Cluster) func() {
		return func(c *Cluster) func() {
			c.do("ACL", "SETUSER", "default", off)
			return func() { c.do("ACL", "SETUSER", "default", on) }
		}
	}
	return []outage{
		{"NOSCRIPT", func(c *Cluster) func() {
			c.do("SCRIPT", "FLUSH")
			return func() {}
		}},
		{"OOM", func(c *Cluster) func() {
			c.do("CONFIG", "SET", "maxmemory", 1)
			return func() { c.do("CONFIG", "SET", "maxmemory", 0) }
		}},
		{"READONLY", func(c *Cluster) func() {
			c.do("REPLICAOF", "127.0.0.1", 1)
			return func() { c.do("REPLICAOF", "NO", "ONE") }
		}},
		{"NOPERM", acl("-@scripting", "+@scripting")},
		{"WRONGPASS", func(c *Cluster) func() {
			c.do("ACL", "SETUSER", "default", "resetpass", ">changed")
			c.do("CLIENT", "KILL", "USER", "default")
			return func() { c.do("ACL", "SETUSER", "default", "resetpass", ">"+password) }
		}},
		{"max clients", func(c *Cluster) func() {
			conn, err := c.redis.dial()
			c.must(err)
			_, err = conn.Do("CONFIG", "SET", "maxclients", 1)
			c.must(err)
			_, err = conn.Do("CLIENT", "KILL", "USER", "default")
			c.must(err)
			return func() {
				_, err := conn.Do("CONFIG", "SET", "maxclients", 10000)
				c.must(err)
				conn.Close()
			}
		}},
		{"LOADING", func(c *Cluster) func() {
			// The data set is slow to load: 100 keys, 1 ms each.
			for i := range 100 {
				c.do("SET", fmt.Sprintf("ballast-%d", i), strings.Repeat("x", 2000), "EX", 100)
			}
			c.note(Wiping, "")
			c.do("SAVE")
			c.redis.stop()
			c.redis.args = append(c.redis.args, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
			c.must(c.redis.launch())
			return func() {
				c.must(c.redis.await())
				c.redis.args = c.redis.args[:len(c.redis.args)-4]
				c.note(Wiped, "")
			}
		}},
	}
}

const password = "secret"

func (c *Cluster) threeWithPassword() {
	for _, name := range runners {
		cfg := c.config(the)
		cfg.Password = password
		c.start(name, cfg)
	}
}

// redisSays are errors that pass inside the deadline.
func redisSays() Scenario {
	return Scenario{
		Name: "redis-errors", Fault: "Redis says OOM, LOADING, READONLY, NOSCRIPT, NOPERM, WRONGPASS, max clients, for up to 0.4 TTL",
		Holds: "the tenure goes on", TTL: 4 * ttl, Bound: ttl,
		Redis: []string{"--requirepass", password},
		Play: func(c *Cluster, rounds int) {
			c.threeWithPassword()
			t := c.holder(the)
			outages := transient()
			for i := range max(rounds, len(outages)) {
				c.round()
				o := outages[i%len(outages)]
				end := o.begin(c)
				c.pause(anytime(c.ttl * 4 / 10))
				end()
				c.unharmed(t)
			}
		},
	}
}

// redisRefuses are errors that last.
func redisRefuses() Scenario {
	return Scenario{
		Name: "redis-refuses", Fault: "Redis says NOPERM, WRONGPASS, WRONGTYPE, max clients, READONLY for 2 TTL",
		Holds: "each node names it once and makes ≤ 20 calls a second; service resumes by itself", TTL: 2 * ttl,
		Redis:   []string{"--requirepass", password},
		Measure: "end of the refusal to first line",
		Play: func(c *Cluster, rounds int) {
			c.threeWithPassword()
			outages := slices.DeleteFunc(transient(), func(o outage) bool {
				return o.name == "NOSCRIPT" || o.name == "OOM" || o.name == "LOADING"
			})
			outages = append(outages, outage{"WRONGTYPE", func(c *Cluster) func() {
				c.note(Wiping, "")
				c.do("DEL", the)
				c.do("LPUSH", the, "not a lock")
				return func() { c.do("DEL", the); c.note(Wiped, "") }
			}})
			for i := range max(rounds, len(outages)) {
				c.round()
				o := outages[i%len(outages)]
				t := c.holder(the)
				logs, calls := len(c.logs), c.counts[LockCall]
				c.note(Blocked, "")
				end := o.begin(c)
				c.pause(2 * c.ttl)
				end()
				at := c.note(Free, "")
				named := map[string]int{} // by node and error
				for _, e := range c.logs[logs:] {
					if strings.Contains(e.Text, "can't compete") {
						named[e.Node]++
					}
				}
				if len(named) == 0 {
					c.Findings.add(at, "%s: nobody named it", o.name)
				}
				for node, n := range named {
					if n > 3 { // I/O errors of the moment of change are others
						c.Findings.add(at, "%s: %s logged %d times", o.name, node, n)
					}
				}
				if n := c.counts[LockCall] - calls; n > 3*20*int(2*c.ttl/time.Second) {
					c.Findings.add(at, "%s: %d calls of Lock in %v", o.name, n, 2*c.ttl)
				}
				s := c.successor(t, 10*time.Second)
				c.measure(s.Begin - at)
			}
		},
	}
}
