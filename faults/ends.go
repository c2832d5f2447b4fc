package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	gone "github.com/Diggs/go-one"
)

const (
	ttl = 500 * time.Millisecond // of most scenarios
	the = "the-one"              // their id
)

// nodeScenarios are what happens to nodes and their handlers.
func nodeScenarios() []Scenario {
	return []Scenario{
		killScenario(),
		handOver("close", "Close of the holder's node", func(c *Cluster, t *Tenure) {
			n := c.on(t)
			n.ended = true
			c.tell(n, "close")
		}),
		handOver("sigterm", "SIGTERM of the holder", func(c *Cluster, t *Tenure) {
			n := c.on(t)
			n.ended = true
			c.must(n.cmd.Process.Signal(syscall.SIGTERM))
		}),
		handOver("leave", "the handler closes its own runner", func(c *Cluster, t *Tenure) {
			c.let(t, "leave")
		}),
		handOver("return", "the handler returns", func(c *Cluster, t *Tenure) {
			c.let(t, "return")
		}),
		byGoRedis(handOver("return-go-redis", "the handler returns; the lock goes through go-redis", func(c *Cluster, t *Tenure) {
			c.let(t, "return")
		})),
		sigstopScenario(),
		suspendScenario(),
		wallClockScenario(),
		badHandlers(),
		sixScenario(),
		elasticScenario(),
		thousandScenario(),
	}
}

func killScenario() Scenario {
	return Scenario{
		Name: "kill", Fault: "kill −9 of the holder",
		Holds: "takeover ≤ remaining TTL + 50 ms (p99)",
		TTL:   ttl, Bound: ttl + 500*time.Millisecond,
		Measure: "takeover after the TTL", P99: 50 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			c.three()
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.kill(n)
				end := c.expires(the)
				if s := c.successor(t, c.ttl+5*time.Second); s != nil {
					c.measure(s.Begin - end)
				}
				c.start(nameOf(n.Name), n.Config)
			}
		},
	}
}

func sigstopScenario() Scenario {
	return Scenario{
		Name: "sigstop", Fault: "SIGSTOP of the holder past its TTL, then SIGCONT",
		Holds: "after waking it receives at most the message on offer; Extend says lost; the store refuses its writes",
		TTL:   ttl, Bound: ttl + 500*time.Millisecond,
		Measure: "SIGCONT to Exit seen",
		Play: func(c *Cluster, rounds int) {
			c.three()
			for _, n := range c.nodes {
				c.tell(n, "send 2 1ms 64 0 %s", the)
			}
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.freeze(n)
				c.successor(t, c.ttl+5*time.Second)
				c.pause(anytime(50 * time.Millisecond)) // its successor works
				at := c.thaw(n)
				if c.within(5*time.Second, func() bool { return t.Exit != never && t.Returned != never }) {
					c.measure(t.Exit - at)
				} else {
					c.Findings.add(clock(), "%s: Exit of %d not closed within 5 s of SIGCONT", t.ID, t.Token)
				}
			}
		},
	}
}

func suspendScenario() Scenario {
	return Scenario{
		Name: "suspend", Fault: "the holder's machine is suspended past its deadline: Go's clock and timers stop, CLOCK_BOOTTIME goes on",
		Holds: "it notices within a second of waking, and receives no message; Extend says lost", TTL: ttl, Bound: ttl + 500*time.Millisecond,
		Measure: "wake to Exit seen", P99: time.Second + 50*time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			for _, name := range runners {
				cfg := c.config(the)
				cfg.Extend = c.ttl * 4 / 5 // or it learns it from its next Extend
				c.start(name, cfg)
			}
			if !c.ownClocks() {
				return
			}
			for _, n := range c.nodes {
				c.tell(n, "send 1 5ms 64 0 %s", the)
			}
			slept := map[*Node]int64{}
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				n := c.on(t)
				c.freeze(n)
				asleep := clock()
				c.successor(t, c.ttl+5*time.Second)
				c.pause(asleep + time.Second - clock())
				slept[n]++
				c.must(shiftClock(n.cmd.Process.Pid, unix.CLOCK_MONOTONIC, -slept[n]))
				at := c.thaw(n)
				c.wait(5*time.Second, "Exit", func() bool { return t.Exit != never })
				c.measure(t.Exit - at)
			}
			c.remark("played by a process that is stopped for a second, after which Go's clock is set back")
		},
	}
}

func wallClockScenario() Scenario {
	return Scenario{
		Name: "wall-clock", Fault: "the wall clock of a node jumps an hour forward or back",
		Holds: "nothing changes", TTL: ttl, Bound: ttl, Planned: true,
		Play: func(c *Cluster, rounds int) {
			c.three()
			if !c.ownClocks() {
				return
			}
			for _, n := range c.nodes {
				c.tell(n, "send 1 2ms 64 0 %s", the)
			}
			t := c.holder(the)
			for i := range rounds {
				c.round()
				n := c.nodes[pick(runners)]
				if i%2 == 0 {
					n = c.on(t)
				}
				hours := []int64{1, -1, 0}[i%3]
				c.must(shiftClock(n.cmd.Process.Pid, unix.CLOCK_REALTIME, hours*3600))
				var now int64
				_, _ = fmt.Sscan(c.ask(n, "clock"), &now)
				if off := time.Until(time.Unix(now, 0)) - time.Duration(hours)*time.Hour; off.Abs() > 10*time.Second {
					c.failed("the wall clock of %s did not jump", n.Name)
				}
				c.pause(anytime(c.ttl / 2))
				c.unharmed(t)
			}
			c.remark("the clock jumps in one process alone, whose copy of the vDSO is patched; Redis keeps its own")
		},
	}
}

func sixScenario() Scenario {
	return Scenario{
		Name: "six", Fault: "6 nodes; the holder and two others killed at once",
		Holds: "takeover ≤ remaining TTL + 50 ms (p99); exactly one new tenure for each that ends",
		TTL:   ttl, Bound: ttl + 500*time.Millisecond,
		Measure: "takeover after the TTL", P99: 50 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			all := []string{"a", "b", "c", "d", "e", "f"}
			for _, name := range all {
				c.launch(name, c.config(the))
			}
			for _, name := range all {
				c.await(c.nodes[name])
			}
			for range rounds {
				c.round()
				t := c.holder(the)
				c.pause(anytime(c.ttl / 3))
				victims := []*Node{c.on(t)}
				for _, name := range all {
					if n := c.nodes[name]; n != victims[0] && len(victims) < 3 {
						victims = append(victims, n)
					}
				}
				rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				c.kill(victims...)
				end := c.expires(the)
				s := c.successor(t, c.ttl+5*time.Second)
				c.measure(s.Begin - end)
				for _, n := range victims {
					c.launch(nameOf(n.Name), n.Config)
				}
				for _, n := range victims {
					c.await(c.nodes[nameOf(n.Name)])
				}
				c.balanced(the)
			}
		},
	}
}

func elasticScenario() Scenario {
	return Scenario{
		Name: "elastic", Fault: "1 to 10 nodes come and go, killed or closed",
		Holds: "exactly one new tenure for each that ends", TTL: ttl, Bound: ttl + 500*time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			c.start("n0", c.config(the))
			grow := true
			for i := 1; c.Played < rounds; i++ {
				switch len(c.nodes) {
				case 1:
					grow = true
				case 10:
					grow = false
				}
				if up := rand.IntN(4) > 0; up == grow && len(c.nodes) < 10 {
					c.start(fmt.Sprintf("n%d", i), c.config(the))
					continue
				}
				if len(c.nodes) == 1 {
					continue
				}
				c.round()
				t := c.holder(the)
				n := c.on(t)
				if rand.IntN(3) == 0 { // not the holder
					for _, n = range c.nodes {
						if n.Name != t.Node {
							break
						}
					}
				}
				if rand.IntN(2) == 0 {
					c.kill(n)
				} else {
					c.term(n)
				}
				if n.Name == t.Node {
					c.successor(t, c.ttl+5*time.Second)
				}
			}
			c.balanced(the)
		},
	}
}

func thousandScenario() Scenario {
	return Scenario{
		Name: "thousand", Fault: "1,000 ids on one node, which is killed",
		Holds: "another takes all over; a node has at most 17 connections to Redis", TTL: 10 * ttl, Rounds: 5, Long: 2,
		Measure: "kill to the last of 1,000 takeovers",
		Play: func(c *Cluster, rounds int) {
			var ids []string
			for i := range 1000 {
				ids = append(ids, fmt.Sprintf("id-%d", i))
			}
			cfg := c.config(ids...)
			cfg.Store = "" // a store for each is not the point
			c.start("a", cfg)
			held := func(n *Node) (held int) {
				for _, id := range ids {
					if t := c.current(id); t != nil && t.Node == n.Name && t.End() == never {
						held++
					}
				}
				return held
			}
			c.wait(time.Minute, "all run on the first node", func() bool { return held(c.nodes["a"]) == len(ids) })
			for i := range rounds {
				c.round()
				from, to := []string{"a", "b"}[i%2], []string{"b", "a"}[i%2]
				c.start(to, cfg)
				c.connections(2)
				c.pause(c.ttl / 2)
				c.kill(c.nodes[from])
				at := clock()
				c.wait(c.ttl+time.Minute, "the other node runs all", func() bool { return held(c.nodes[to]) == len(ids) })
				c.measure(clock() - at)
				c.connections(1)
			}
		},
	}
}

// balanced checks that each start but the last one's has its end.
func (c *Cluster) balanced(id string) {
	ends := 0
	for _, t := range c.live[id] {
		if t.End() != never {
			ends++
		}
	}
	if starts := len(c.live[id]); starts > ends+1 || starts < ends {
		c.Findings.add(clock(), "%d starts, %d ends", starts, ends)
	}
}

// anytime is a random time below d.
func anytime(d time.Duration) time.Duration { return rand.N(d) }

// three starts three nodes that compete for one id.
func (c *Cluster) three() {
	for _, name := range []string{"a", "b", "c"} {
		c.start(name, c.config(the))
	}
}

// settle lets a tenure last for longer than the TTL. A handler that returns
// sooner counts as one that fails, and its node backs off.
func (c *Cluster) settle(t *Tenure) {
	c.pause(t.Begin + c.ttl + anytime(50*time.Millisecond) - clock())
}

// handOver is one kind of planned end. The time is from Unlock to the next
// handler's first line.
func handOver(name, fault string, end func(*Cluster, *Tenure)) Scenario {
	return Scenario{
		Name: name, Fault: fault,
		Holds: "hand-over p50 ≤ 1 ms, p99 ≤ 3 ms on loopback; " + planned,
		TTL:   ttl, Bound: 100 * time.Millisecond, Planned: true, Alone: true,
		Measure: "Unlock to first line", P50: time.Millisecond, P99: 3 * time.Millisecond,
		Play: func(c *Cluster, rounds int) {
			c.three()
			sender := c.start("sender", c.config())
			c.tell(sender, "send 2 2ms 64 0 %s", the)
			for range rounds {
				c.round()
				t := c.holder(the)
				c.settle(t)
				n := c.on(t)
				end(c, t)
				s := c.successor(t, 5*time.Second)
				c.wait(5*time.Second, fmt.Sprintf("Unlock of %d", t.Token), func() bool { return t.Unlock != never })
				c.measure(s.Begin - t.Unlock)
				switch {
				case n.ended:
					c.end(n, 30*time.Second)
					c.start(nameOf(n.Name), n.Config)
				case name == "leave":
					c.tell(n, "run %s", the)
				}
			}
		},
	}
}

// byGoRedis is a scenario with another client.
func byGoRedis(s Scenario) Scenario {
	s.Service = startForGoRedis
	return s
}

// starved reports whether a tenure may have lost its lease only because its node
// had to wait for its turn: between two Extends it has two thirds of the TTL.
func starved(t *Tenure, ttl time.Duration) bool {
	return strings.Contains(t.Cause, gone.ErrLeaseExpired.Error()) && excuse() > ttl/4
}

// unharmed checks that a tenure goes on: its next Extend succeeds.
func (c *Cluster) unharmed(t *Tenure) {
	from := clock()
	ok := c.within(c.ttl+slack(), func() bool {
		e := c.last[t.Node][Extended]
		return t.End() != never || c.current(t.ID) != t || e.At > from && e.Text == "ok"
	})
	if !ok || t.End() != never || c.current(t.ID) != t {
		if starved(t, c.ttl) {
			c.remark("ended early: the machine is too busy for a TTL of %v", c.ttl)
			panic(gaveUp("too busy"))
		}
		c.failed("needless hand-over: tenure %d on %s ended: %s", t.Token, t.Node, t.Cause)
	}
}

// badHandlers do what a handler should not.
func badHandlers() Scenario {
	return Scenario{
		Name: "bad-handlers", Fault: "the handler ignores Exit, returns at once, panics, never reads Data, takes long to return",
		Holds: "each ends as promised; log and counters show it", TTL: ttl,
		Play: func(c *Cluster, rounds int) {
			cfg := c.config(the)
			cfg.SendTimeout = 200 * time.Millisecond
			for _, name := range runners {
				c.start(name, cfg)
			}
			kinds := []string{"ignore", "return", "panic", "deaf", "sluggish"}
			for i := range max(rounds, len(kinds)) {
				c.round()
				c.misbehave(kinds[i%len(kinds)])
			}
		},
	}
}

// misbehave has the holder's handler, or all, do one of these, and looks at what comes
// of it.
func (c *Cluster) misbehave(kind string) {
	t := c.holder(the)
	n := c.on(t)
	starts := len(c.live[the])
	all := func(how string) {
		for _, n := range c.nodes {
			c.tell(n, "behave %s %s", the, how)
		}
	}
	switch kind {
	case "ignore":
		c.let(t, "ignore")
		s := c.successor(t, c.ttl+5*time.Second)
		if s.Node == t.Node {
			c.Findings.add(s.Begin, "a second handler beside one that ignores Exit")
		}
		c.wait(5*time.Second, "the log says that a handler ignores Exit", func() bool { return c.logged(n.Name, "ignores Exit") > 0 })
		if s := c.stats(n); s.Overdue == 0 {
			c.Findings.add(clock(), "Overdue is 0")
		}
		c.tell(n, "behave %s well", the)
		c.wait(5*time.Second, "it returns", func() bool { return t.Returned != never })
	case "return", "panic":
		all(kind)
		c.pause(time.Second)
		all("well")
		// Three nodes that back off from 10 ms on, twice as long each time.
		if n := len(c.live[the]) - starts; n > 60 {
			c.Findings.add(clock(), "%s: %d tenures in a second", kind, n)
		}
		if kind == "panic" && (c.logged(n.Name, "handler panicked") == 0 || c.stats(n).Panics == 0) {
			c.Findings.add(clock(), "a panic was neither logged nor counted")
		}
	case "deaf":
		all("deaf")
		c.pause(100 * time.Millisecond)
		c.tell(n, "send 1 50ms 64 0 %s", the)
		c.tell(c.nodes[runners[(slices.Index(runners, nameOf(n.Name))+1)%3]], "send 1 50ms 64 0 %s", the)
		c.pause(c.ttl)
		c.unharmed(t)
		c.quiet()
		all("well")
	case "sluggish":
		c.let(t, "sluggish")
		c.pause(50 * time.Millisecond)
		c.tell(n, "leave %s", the)
		s := c.successor(t, c.ttl+5*time.Second)
		// On a busy machine it may take longer than its lease has left.
		if s.Begin < t.Returned && excuse() < c.ttl/4 {
			c.Findings.add(s.Begin, "the lock was released before the handler had returned")
		}
		c.tell(n, "run %s", the)
	}
}

// stats asks a node for its counters.
func (c *Cluster) stats(n *Node) (s gone.Stats) {
	c.must(json.Unmarshal([]byte(c.ask(n, "stats")), &s))
	return s
}

// ask gives a node a command that it answers.
func (c *Cluster) ask(n *Node, what string) string {
	delete(c.last[n.Name], Stats)
	c.tell(n, "%s", what)
	c.wait(5*time.Second, "answer to "+what, func() bool { _, ok := c.last[n.Name][Stats]; return ok })
	return c.last[n.Name][Stats].Text
}

// ownClocks gives every node clocks of its own, where that is possible.
func (c *Cluster) ownClocks() bool {
	for _, n := range c.nodes {
		c.freeze(n)
		err := shiftClock(n.cmd.Process.Pid, unix.CLOCK_REALTIME, 0)
		c.thaw(n)
		if err != nil {
			c.remark("not played: %v", err)
			return false
		}
	}
	return true
}
