package main

import (
	"strings"
	"time"
)

// requestScenarios are about replies. In the other rows a fifth of the calls are
// requests, in these nearly all, and many are open at a time.
func requestScenarios() []Scenario {
	return []Scenario{
		{
			Name: "requests-planned", Fault: "planned hand-overs with open requests: the handler returns or closes its runner, or the node is closed",
			Holds: planned, TTL: 2 * ttl, Bound: 500 * time.Millisecond, Planned: true,
			Play: func(c *Cluster, rounds int) {
				c.askAll()
				for i := range rounds {
					c.round()
					c.handOver(three[i%3])
				}
			},
		},
		{
			Name: "requests-left", Fault: "a handler returns with requests unanswered, or hangs past its lease and replies then",
			Holds: "the caller gets ErrNoReply ≤ 100 ms (p99) after the return", TTL: ttl, Bound: 2*ttl + time.Second,
			Measure: "return to ErrNoReply", P99: 100 * time.Millisecond,
			Play: func(c *Cluster, rounds int) {
				c.askAll()
				for i := range rounds {
					c.round()
					t := c.holder(three[i%3])
					c.pause(anytime(c.ttl / 3))
					c.let(t, []string{"desert", "hang"}[i%2])
					c.successor(t, c.ttl+5*time.Second)
				}
				c.quiet()
				c.left()
			},
		},
		{
			Name: "requests-crash", Fault: "a holder with open requests is killed (−9), or stopped for up to 2 TTL",
			Holds: "every result is true, every reply is that of its request", TTL: ttl, Bound: 2*ttl + time.Second,
			Play: func(c *Cluster, rounds int) {
				c.askAll()
				for i := range rounds {
					c.round()
					t := c.holder(pick(three))
					c.pause(anytime(c.ttl / 3))
					n := c.on(t)
					if i%2 == 0 {
						c.kill(n)
						c.resume(nameOf(n.Name), n.Config)
						c.successor(t, c.ttl+5*time.Second)
					} else {
						c.freeze(n)
						c.pause(anytime(2 * c.ttl))
						c.thaw(n)
					}
				}
			},
		},
	}
}

// left measures how long after their handlers returned those requests ended that it
// left, and finds those of which too little was said, where every holder lives.
func (c *Cluster) left() {
	type tenure struct {
		id    string
		token uint64
	}
	by, returned := map[message]tenure{}, map[tenure]time.Duration{}
	for _, e := range c.history {
		switch e.Kind {
		case Received:
			by[messageOf(e)] = tenure{e.ID, e.Token}
		case Returned:
			returned[tenure{e.ID, e.Token}] = e.At
		}
	}
	for _, e := range c.history {
		result, began, took, why := e.sent()
		at, over := returned[by[messageOf(e)]]
		switch {
		case e.Kind != Asked:
		case result == "noreply" && over:
			c.measure(began + took - at)
		case result == "noreply", result == "unknown" && excuse() < c.ttl/4:
			c.Findings.add(e.At, "request %s %d to %s, whose holder lives: %s: %s", e.From, e.N, e.ID, result, why)
		}
	}
}

// askAll is busy, and has the nodes that only send keep many requests open.
func (c *Cluster) askAll() {
	c.busy(same)
	for _, name := range []string{"s", "u"} {
		c.tell(c.nodes[name], "ask 100 20ms 200 %d %s", c.impatience(), strings.Join(three, " "))
	}
}
