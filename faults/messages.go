package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/freeport"
)

var (
	runners = []string{"a", "b", "c"}
	three   = []string{"one", "two", "three"} // ids
)

const planned = "every send returns nil, every request its reply"

// messageScenarios are about "every message accounted for".
func messageScenarios() []Scenario {
	return []Scenario{
		messagesKillScenario(),
		messagesCrashScenario(),
		messagesStopScenario(),
		messagesHandoverScenario(),
		messagesRollingScenario(),
		partition("messages-partition", "partition between a sender's node and the holder's, both ways; both reach Redis", true),
		partition("messages-one-way", "partition one way, from a sender's node to the holder's or back; both reach Redis", false),
		messagesResetsScenario(),
		messagesLateScenario(),
		messagesGarbageScenario(),
		messagesStuckScenario(),
		messagesRedisScenario(),
	}
}

func messagesKillScenario() Scenario {
	return Scenario{
		Name: "messages-kill", Fault: "kill −9 of a holder while messages flow; it starts again on its address before its lock expires",
		Holds: "every result is true", TTL: ttl, Bound: ttl + time.Second,
		Play: func(c *Cluster, rounds int) {
			c.busy(same)
			for range rounds {
				c.round()
				t := c.holder(pick(three))
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.kill(n)
				c.resume(nameOf(n.Name), n.Config)
				c.successor(t, c.ttl+5*time.Second)
			}
		},
	}
}

func messagesCrashScenario() Scenario {
	return Scenario{
		Name: "messages-crash", Fault: "a holder with messages on their way is killed or stopped for good; deadlines are 10 s or five minutes",
		Holds: "no sender waits longer than the TTL and a second (p99), whatever its deadline", TTL: ttl, Bound: ttl + time.Second,
		Measure: "crash to the end of the sends under way", P99: ttl + time.Second,
		Play: func(c *Cluster, rounds int) {
			patient := c.config()
			patient.SendTimeout = 5 * time.Minute
			for name, cfg := range map[string]NodeConfig{"a": c.config("one"), "b": c.config("one"), "s": c.config(), "u": patient} {
				n := c.start(name, cfg)
				c.tell(n, "behave one slow") // so that messages wait for the handler
				if len(cfg.IDs) == 0 {
					c.tell(n, "send 16 0s 64 0 one")
				}
			}
			for i := range rounds {
				c.round()
				t := c.holder("one")
				c.pause(50*time.Millisecond + anytime(c.ttl/3))
				n := c.on(t)
				crashed := clock()
				if i%2 == 0 {
					c.kill(n)
				} else {
					c.freeze(n)
				}
				c.successor(t, c.ttl+5*time.Second)
				c.pause(crashed + 2*c.ttl + 2*time.Second - clock()) // for those that wait too long
				c.waited(crashed)
				if i%2 != 0 {
					c.kill(n)
				}
				name := nameOf(n.Name)
				c.tell(c.start(name, n.Config), "behave one slow")
			}
		},
	}
}

func messagesStopScenario() Scenario {
	return Scenario{
		Name: "messages-stop", Fault: "a holder is stopped while messages flow, for less or more than the TTL",
		Holds: "every result is true", TTL: ttl, Bound: 2*ttl + time.Second,
		Play: func(c *Cluster, rounds int) {
			c.busy(same)
			for range rounds {
				c.round()
				t := c.holder(pick(three))
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.freeze(n)
				c.pause(anytime(2 * c.ttl))
				c.thaw(n)
				c.pause(anytime(c.ttl / 5))
			}
		},
	}
}

func messagesHandoverScenario() Scenario {
	return Scenario{
		Name: "messages-handover", Fault: "planned hand-overs while messages flow: the handler returns or closes its runner, or the node is closed",
		Holds: planned, TTL: 2 * ttl, Bound: 500 * time.Millisecond, Planned: true,
		Play: func(c *Cluster, rounds int) {
			c.busy(anew)
			for i := range rounds {
				c.round()
				c.handOver(three[i%3])
			}
		},
	}
}

func messagesRollingScenario() Scenario {
	return Scenario{
		Name: "messages-rolling", Fault: "rolling restart of all nodes, senders too, each on its old address, while messages flow",
		Holds: planned, TTL: 10 * ttl, Bound: 500 * time.Millisecond, Planned: true,
		Play: func(c *Cluster, rounds int) {
			c.busy(same)
			for range max(rounds/4, 1) {
				c.round()
				for _, name := range []string{"a", "b", "c", "s", "u"} {
					n := c.nodes[name]
					c.term(n)
					c.resume(name, n.Config)
					for _, id := range three {
						c.holder(id)
					}
					c.pause(anytime(50 * time.Millisecond))
				}
			}
		},
	}
}

func messagesResetsScenario() Scenario {
	return Scenario{
		Name: "messages-resets", Fault: "connections between nodes are reset, or slow (5 ± 5 ms)",
		Holds: "every result is true", TTL: ttl, Bound: 500 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			net := newProxies(c, append([]string{"s", "u"}, runners...))
			c.busy(net.place)
			for _, p := range net.to {
				p.add("slow", "latency", "upstream", 1, `{"latency": 5, "jitter": 5}`)
			}
			for range rounds {
				c.round()
				p := net.to[pick([]string{"a", "b", "c", "s", "u"})]
				p.add("reset", "reset_peer", "upstream", 1, fmt.Sprintf(`{"timeout": %d}`, rand.IntN(20)))
				c.pause(anytime(100 * time.Millisecond))
				p.remove("reset")
				c.pause(anytime(300 * time.Millisecond))
			}
		},
	}
}

func messagesLateScenario() Scenario {
	return Scenario{
		Name: "messages-late", Fault: "connections between nodes break, and what was in them arrives up to 0.8 s later",
		Holds: "every result is true", TTL: 2 * ttl, Bound: 500 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			pipes := map[string]*latePipe{}
			c.busy(func(name string, cfg NodeConfig) (NodeConfig, []string) {
				real := freeport.Addr()
				pipes[name] = c.latePipe(real)
				cfg.Addr, cfg.Bind = "tcp://"+pipes[name].ln.Addr().String(), "tcp://"+real
				return cfg, nil
			})
			// A queue of a second at the handler: a late copy finds the number of
			// its message still open.
			for _, n := range c.nodes {
				c.tell(n, "behave %s slow", three[0])
			}
			c.tell(c.nodes["s"], "send 250 0s 64 0 %s", three[0])
			c.tell(c.nodes["u"], "send 250 0s 64 0 %s", three[0])
			for range rounds {
				c.round()
				p := pipes[nameOf(c.holder(three[0]).Node)]
				p.stall(300*time.Millisecond + anytime(500*time.Millisecond))
				c.pause(20*time.Millisecond + anytime(50*time.Millisecond))
				p.sever()
				c.pause(500*time.Millisecond + anytime(500*time.Millisecond))
			}
		},
	}
}

func messagesGarbageScenario() Scenario {
	return Scenario{
		Name: "messages-garbage", Fault: "garbage, malformed frames and half-open connections on every node's port",
		Holds: planned, TTL: 2 * ttl, Bound: 500 * time.Millisecond, Planned: true,
		Play: func(c *Cluster, rounds int) {
			c.busy(anew)
			for range rounds {
				c.round()
				for _, n := range c.nodes {
					c.must(garbage(strings.TrimPrefix(n.Addr, "tcp://"), c.onClose))
				}
				c.pause(anytime(100 * time.Millisecond))
			}
			var malformed uint64
			for _, n := range c.nodes {
				malformed += c.stats(n).Malformed
			}
			if encrypted := len(pairs) > 0; (malformed == 0) != encrypted {
				c.Findings.add(clock(), "%d malformed frames got as far as a node", malformed)
			}
			c.remark("%d malformed frames were counted", malformed)
		},
	}
}

func messagesStuckScenario() Scenario {
	return Scenario{
		Name: "messages-stuck", Fault: "one handler never reads and one is slow (2 ms a message), beside a healthy one",
		Holds: "senders to the healthy one wait ≤ 1 s; those to the stuck one get not delivered", TTL: 2 * ttl, Rounds: 20, Long: 2,
		Play: func(c *Cluster, rounds int) {
			cfg := c.config("stuck", "slow", "well")
			cfg.SendTimeout = 2 * time.Second
			a := c.start("a", cfg)
			c.tell(a, "behave stuck deaf")
			c.tell(a, "behave slow slow")
			c.holder("stuck")
			writes := c.counts[Wrote]
			c.wait(10*time.Second, "the handlers do as told", func() bool { return c.counts[Wrote] > writes+9 })
			cfg.IDs = nil
			for _, name := range []string{"s", "u"} {
				s := c.start(name, cfg)
				for range 3 {
					c.tell(s, "send 4 0s 4096 0 stuck")
					c.tell(s, "send 4 0s 4096 5 slow")
				}
				c.tell(s, "send 2 2ms 64 0 well")
			}
			for range rounds {
				c.round()
				c.pause(3 * time.Second)
			}
			var longest time.Duration
			right := map[string][]string{"well": {"nil", "not-tried", replied, failed}, "stuck": {"not", "not-tried"}}
			for _, e := range c.history {
				result, _, took, _ := e.sent()
				if want := right[e.ID]; want != nil && e.sends() && !slices.Contains(want, result) {
					c.Findings.add(e.At, "%s handler: %s: %s", e.ID, e.Kind, e.Text)
				}
				if e.sends() && e.ID == "well" {
					longest = max(longest, took)
				}
			}
			c.remark("longest wait of a sender to the healthy handler %s", short(longest))
			if longest > time.Second+slack() {
				c.Findings.add(0, "a sender to the healthy handler waited %v", longest)
			}
		},
	}
}

func messagesRedisScenario() Scenario {
	return Scenario{
		Name: "messages-redis", Fault: "Redis stops (0.1 to 1.5 TTL) or is restarted empty while messages flow",
		Holds: "every result is true", TTL: 2 * ttl,
		Play: func(c *Cluster, rounds int) {
			c.busy(same)
			for i := range rounds {
				c.round()
				if i%3 == 2 {
					c.forget(func() {
						c.redis.stop()
						c.must(c.redis.start())
					})
				} else {
					c.note(Blocked, "")
					c.must(c.redis.freeze())
					c.pause(c.ttl/10 + anytime(c.ttl*14/10))
					c.must(c.redis.thaw())
					c.note(Free, "")
				}
				c.pause(anytime(c.ttl))
			}
		},
	}
}

// waited measures how long after a crash those sends ended that were on their way
// when it happened, and finds those that have not ended.
func (c *Cluster) waited(crashed time.Duration) {
	open := map[string]bool{} // sending goroutines that have ended none since
	for _, e := range c.history {
		if !e.sends() {
			continue
		}
		_, began, took, _ := e.sent()
		switch end := began + took; {
		case end < crashed:
			open[e.From] = true
		case began < crashed:
			c.measure(end - crashed)
			delete(open, e.From)
		default:
			delete(open, e.From)
		}
	}
	if len(open) > 0 {
		c.Findings.add(crashed, "%d senders still wait for a holder that has crashed", len(open))
	}
}

// handOver ends the tenure of an id in one of the planned ways.
func (c *Cluster) handOver(id string) {
	t := c.holder(id)
	c.settle(t)
	n := c.on(t)
	switch rand.IntN(3) {
	case 0:
		c.let(t, "return")
		c.successor(t, 5*time.Second)
	case 1:
		c.let(t, "leave")
		c.successor(t, 5*time.Second)
		c.tell(n, "run %s", id)
	case 2:
		c.term(n)
		c.successor(t, 5*time.Second)
		c.resume(nameOf(n.Name), n.Config, n.wrap...)
	}
}

func pick[T any](from []T) T { return from[rand.IntN(len(from))] }

// busy starts three nodes that compete for three ids, one of them with Messages, and
// two that only send. All of them send.
func (c *Cluster) busy(place func(name string, cfg NodeConfig) (NodeConfig, []string)) {
	for _, name := range []string{"a", "b", "c", "s", "u"} {
		var ids []string
		if len(c.nodes) < len(runners) {
			ids = three
		}
		cfg := c.config(ids...)
		cfg.Loop = name == "b"
		cfg, wrap := place(name, cfg)
		c.resume(name, cfg, wrap...)
	}
	for _, id := range three {
		c.holder(id)
	}
}

// pace is about how long a sender waits between two calls. The short version sets it,
// to leave processors for others: its faults are the same.
var pace = time.Millisecond

// resume starts a node and its senders.
func (c *Cluster) resume(name string, cfg NodeConfig, wrap ...string) {
	n := c.start(name, cfg, wrap...)
	c.tell(n, "send 2 %v 64 %d %s", pace, c.impatience(), strings.Join(three, " "))
	c.tell(n, "send 1 %v 2000 %d %s", 4*pace, c.impatience(), three[0])
}

// impatience is how many of a hundred sends are withdrawn early: none where all must
// succeed.
func (c *Cluster) impatience() int {
	if c.Planned {
		return 0
	}
	return 5
}

// anew gives a node any port, same one that it keeps.
func anew(_ string, cfg NodeConfig) (NodeConfig, []string) { return cfg, nil }

func same(_ string, cfg NodeConfig) (NodeConfig, []string) {
	cfg.Addr = fmt.Sprintf("tcp://127.0.0.1:%d", freeport.Next())
	return cfg, nil
}

func partition(name, fault string, both bool) Scenario {
	return Scenario{
		Name: name, Fault: fault, Holds: "every result is true; no hand-over", TTL: 2 * ttl, Bound: 500 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			net := c.network("a", "b", "c", "s", "u")
			c.busy(net.place)
			for range rounds {
				c.round()
				from := pick([]string{"s", "u"})
				to := nameOf(c.holder(pick(three)).Node)
				if !both && rand.IntN(2) == 0 {
					from, to = to, from
				}
				net.cut(from, to)
				if both {
					net.cut(to, from)
				}
				c.pause(anytime(800 * time.Millisecond))
				net.heal()
				c.pause(anytime(300 * time.Millisecond))
			}
			for _, id := range three {
				if first := c.live[id][0]; len(c.live[id]) > 1 && !starved(first, c.ttl) {
					c.Findings.add(clock(), "a hand-over, though every node reached Redis all the time: %s", first.Cause)
				}
			}
		},
	}
}

// garbage does to a port what strangers do.
func garbage(addr string, onClose func(func())) error {
	random := make([]byte, 1+rand.IntN(4096))
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	greeting := append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0}, make([]byte, 52)...)
	copy(greeting[12:], "NULL")
	ready := []byte("\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH")
	frame := append([]byte{0, byte(min(len(random), 255))}, random[:min(len(random), 255)]...)
	for _, parts := range [][][]byte{
		{random},
		{},              // half-open
		{greeting[:10]}, // a slow handshake
		{{0x01, 0x00, 0x05, 0x00, 'h', 'e', 'y', '!'}}, // ZMTP 1.0
		{greeting, ready, frame},
		{greeting, ready, []byte("\x02\xff\xff\xff\xff\xff\xff\xff\xff")}, // a frame of 2^64−1 bytes
	} {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		for _, part := range parts {
			// The node may have hung up already.
			_, _ = conn.Write(part)
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = conn.Read(make([]byte, 256))
		}
		if rand.IntN(4) > 0 {
			time.AfterFunc(rand.N(300*time.Millisecond), func() { conn.Close() })
		} else {
			onClose(func() { conn.Close() })
		}
	}
	return nil
}

// forget does what makes Redis lose its memory.
func (c *Cluster) forget(how func()) {
	c.note(Wiping, "")
	how()
	c.note(Wiped, "")
}
