package main

import (
	"fmt"
	"time"
)

// Rows that are the same on every lock service but Redis, which has more of its own.

// handOverOn is a planned end of a tenure.
func handOverOn(on, name, fault string, service func(string) (Service, error), ttl time.Duration, long int) Scenario {
	s := handOver(name, fault, func(c *Cluster, t *Tenure) { c.let(t, "return") })
	s.On, s.Service, s.TTL, s.Long, s.Rounds = on, service, ttl, long, 50
	s.Holds, s.Bound, s.P50, s.P99 = planned, ttl+2*time.Second, 0, 0 // longer: nobody was woken
	return s
}

// killOn is a crash of the holder. The service may take so much longer than the TTL to
// let go.
func killOn(on, name, fault string, service func(string) (Service, error), ttl, later time.Duration, long int) Scenario {
	return Scenario{
		On: on, Name: name, Fault: fault, Service: service, TTL: ttl, Rounds: 50, Long: long,
		Holds: fmt.Sprintf("takeover ≤ remaining TTL + %v", later), Bound: ttl + later,
		Measure: "takeover after the TTL",
		Play: func(c *Cluster, rounds int) {
			c.three()
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.kill(n)
				// The service may or may not have heard of the last request.
				asked := max(c.last[n.Name][LockCall].At, c.last[n.Name][ExtendCall].At)
				if s := c.successor(t, ttl+later+5*time.Second); s != nil {
					c.measure(s.Begin - asked - ttl)
				}
				c.start(nameOf(n.Name), n.Config)
			}
		},
	}
}

// A trouble is what happens to a service that forgets nothing.
type trouble struct {
	on, name, fault string
	service         func(dir string) (Service, error)
	ttl             time.Duration
	long            int    // see Scenario
	measure         string // from when begin returns
	begin           func(c *Cluster) (end func() error, err error)
}

func (o trouble) scenario() Scenario {
	return Scenario{
		On: o.on, Name: o.name, Fault: o.fault, Holds: "zero overlap; service resumes by itself",
		Service: o.service, TTL: o.ttl, Rounds: 30, Long: o.long, Measure: o.measure,
		Play: func(c *Cluster, rounds int) {
			for _, name := range runners {
				cfg := c.config(the)
				cfg.Extend = c.ttl / 10 // or it is what is measured
				c.start(name, cfg)
			}
			c.tell(c.start("s", c.config()), "send 2 5ms 64 0 %s", the)
			stayed, stays := 0, 0
			var longest, away time.Duration
			for i := range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 2))
				leaves := i%2 == 1
				if leaves {
					c.let(t, "return")
					c.pause(anytime(20 * time.Millisecond))
				}
				since := clock()
				end, err := o.begin(c)
				c.must(err)
				away = max(away, clock()-since)
				// Who hands over may have to wait for the TTL: the release may be lost.
				if took := c.regained(); leaves {
					longest = max(longest, took)
				} else {
					c.measure(took)
				}
				c.must(end())
				if now := c.holder(the); !leaves {
					stays++
					if now == t {
						stayed++
					}
				}
			}
			c.remark("%d of %d holders that did not hand over went on, with a TTL of %s; the fault took up to %s to bring about, and a hand-over up to %s more",
				stayed, stays, short(c.ttl), short(away), short(longest))
		},
	}
}

// regained says how long it takes from now on until a Lock or Extend is granted that is
// asked for from now on.
func (c *Cluster) regained() time.Duration {
	now, from := clock(), len(c.history)
	var at time.Duration
	c.wait(time.Minute, "a Lock or Extend is granted", func() bool {
		asked := map[string]bool{}
		for _, e := range c.history[from:] {
			call := fmt.Sprint(e.Node, " ", e.N)
			switch e.Kind {
			case LockCall, ExtendCall:
				asked[call] = e.At > now
			case LockRet, ExtendRet:
				if asked[call] && e.Text == "ok" {
					at = e.At
					return true
				}
			}
		}
		return false
	})
	return at - now
}
