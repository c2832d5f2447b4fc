package main

import (
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/gomodule/redigo/redis"
)

// failover is to a replica that missed the last hand-over.
func failover() Scenario {
	return Scenario{
		Name: "failover", Fault: "failover to a replica that missed the last hand-over",
		Holds: "the old handler ends at its next Extend or deadline; tokens keep increasing; service resumes",
		TTL:   ttl, Bound: 3 * ttl,
		Redis:   []string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"},
		Measure: "failover to Exit of the old handler",
		Play: func(c *Cluster, rounds int) {
			replica, err := startRedis(filepath.Join(c.dir, "replica"), c.Scenario.Redis...)
			c.must(err)
			c.onClose(func() { replica.stop() })
			var ways []*Proxy
			for _, name := range runners {
				p := c.proxy(c.redis.addr())
				ways = append(ways, p)
				cfg := c.config(the)
				cfg.Service = p.Listen
				c.start(name, cfg)
			}
			for range rounds {
				c.round()
				t := c.holder(the)
				_, err := replica.try("REPLICAOF", c.redis.host, c.redis.port)
				c.must(err)
				c.wait(20*time.Second, "the replica has caught up", func() bool {
					here, _ := redis.String(c.do("GET", the), nil)
					there, err := redis.String(replica.try("GET", the))
					return err == nil && here != "" && here == there
				})
				c.settle(t)
				_, err = replica.try("REPLICAOF", "NO", "ONE")
				c.must(err)
				c.let(t, "return")
				t = c.successor(t, 5*time.Second)
				c.forget(func() {
					for _, p := range ways {
						c.must(p.Update(&toxiproxy.Proxy{Listen: p.Listen, Upstream: replica.addr(), Enabled: true}))
					}
				})
				at := clock()
				c.redis, replica = replica, c.redis
				c.wait(5*time.Second, "Exit of the old holder", func() bool { return t.Exit != never })
				c.measure(t.Exit - at)
				c.successor(t, 5*time.Second)
			}
		},
	}
}

// confirmed is a failover to a replica that has confirmed every Lock and Extend.
func confirmed() Scenario {
	return Scenario{
		Name: "failover-wait", Fault: "the primary is killed, perhaps in a hand-over, and its replica promoted, with Replicas = 1",
		Holds: "zero overlap; service resumes once there is a replica again", TTL: 4 * ttl, Guarded: true,
		Redis: []string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"},
		Play: func(c *Cluster, rounds int) {
			replica, err := startRedis(filepath.Join(c.dir, "replica"), c.Scenario.Redis...)
			c.must(err)
			c.onClose(func() { replica.stop() })
			c.must(replica.follow(c.redis))
			var ways []*Proxy
			for _, name := range runners {
				p := c.proxy(c.redis.addr())
				ways = append(ways, p)
				cfg := c.config(the)
				cfg.Service, cfg.Replicas = p.Listen, 1
				c.start(name, cfg)
			}
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 2))
				if rand.IntN(2) == 0 {
					c.let(t, "return")
					c.pause(anytime(20 * time.Millisecond))
				}
				c.forget(func() {
					c.redis.stop()
					_, err := replica.try("REPLICAOF", "NO", "ONE")
					c.must(err)
					for _, p := range ways {
						c.must(p.Update(&toxiproxy.Proxy{Listen: p.Listen, Upstream: replica.addr(), Enabled: true}))
					}
				})
				c.redis, replica = replica, c.redis
				c.must(replica.start())
				c.must(replica.follow(c.redis))
			}
		},
	}
}
