package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	gone "github.com/Diggs/go-one"
)

// manyScenarios are what happens to nodes that share many ids, while messages flow to
// random ones.
func manyScenarios() []Scenario {
	return []Scenario{
		manyScenario("many-join", "a node joins, another is closed", true, "", joinAndLeave),
		manyScenario("many-drain", "a node drains and resumes", true, "", drainAndResume),
		manyScenario("many-move", "five ids are moved by hand", true, "", moveSome),
		manyScenario("many-rolling", "rolling restart of all nodes", true, "", roll),
		manyScenario("many-clocks", "clocks of nodes are hours apart; a node joins, another is closed", true, "", setClocks),
		manyScenario("many-roster", "the roster is lost (DEL)", true, "", loseRoster),
		manyScenario("many-kill", "kill −9 of one node, or of three at once; they are started again", false, "", killSome),
		manyScenario("many-freeze", "SIGSTOP of a node past its TTL, or for a part of it, then SIGCONT", false, "", freezeOne),
		manyScenario("many-no-redis", "a node is cut off from Redis past its TTL", false, "redis", cutFromRedis),
		manyScenario("many-no-peers", "a node is cut off from all others, but reaches Redis", false, "peers", cutFromPeers),
		manyScenario("many-redis-empty", "Redis restarted empty", false, "", emptyRedis),
	}
}

// manyScenario is a row whose rounds are events of a crowd.
func manyScenario(name, fault string, isPlanned bool, cut string, round func(m *crowd, i int)) Scenario {
	s := Scenario{
		Name: name, Fault: "many ids on 5 nodes with balance: " + fault,
		Holds: "even shares (±5 % or 2 ids) ≤ 30 s later, then rest; few moves",
		TTL:   gone.DefaultExpiry, Bound: 2 * time.Second, Planned: isPlanned, Rounds: 5, Long: 2,
		Measure: "event to even shares",
	}
	if isPlanned {
		s.Holds += "; " + planned
	} else {
		s.TTL = 20 * ttl
		s.Bound = s.TTL + 5*time.Second
	}
	s.Play = func(c *Cluster, rounds int) {
		m := c.crowd(cut)
		defer m.report()
		for i := range rounds {
			c.round()
			round(m, i)
		}
	}
	return s
}

var five = []string{"a", "b", "c", "d", "e"} // nodes

// A crowd is a cluster with many ids, and what each kind of event cost.
type crowd struct {
	*Cluster
	ids   []string
	idle  map[string]bool // nodes that are to hold nothing now
	pace  time.Duration   // a sender pauses for as long
	calm  time.Duration   // without a move: in so long each node would have given something away
	place func(name string, cfg NodeConfig) (NodeConfig, []string)
	net   Net               // if there is one
	ways  map[string]*Proxy // to Redis, if there are any
	kinds []string
	costs map[string]*cost // by kind
}

// cost is what events of a kind cost.
type cost struct {
	moves, most []int
	times, gaps []time.Duration
}

const evenWithin = 30 * time.Second

// crowd starts five nodes and waits until each has its share.
func (c *Cluster) crowd(cut string) *crowd {
	m := &crowd{Cluster: c, idle: map[string]bool{}, place: anew, ways: map[string]*Proxy{}, costs: map[string]*cost{}}
	many := 1000
	m.pace, m.calm = 50*time.Millisecond, 13*time.Second
	if leeway > 0 {
		many, m.pace, m.calm = 100, 200*time.Millisecond, 8*time.Second
	}
	for i := range many {
		m.ids = append(m.ids, fmt.Sprint("id", i))
	}
	switch cut {
	case "peers":
		m.net = c.network(five...)
		m.place = m.net.place
	case "redis":
		m.place = func(name string, cfg NodeConfig) (NodeConfig, []string) {
			m.ways[name] = c.proxy(c.redis.addr())
			cfg.Service = m.ways[name].Listen
			return cfg, nil
		}
	}
	m.event("start", func() (most int) {
		m.join(five...)
		return many * 5 / 2
	})
	c.Times = nil
	return m
}

// join starts nodes at once.
func (m *crowd) join(names ...string) {
	for _, name := range names {
		cfg := m.config(m.ids...)
		cfg.Balance, cfg.Loop = true, true
		cfg, wrap := m.place(name, cfg)
		m.launch(name, cfg, wrap...)
	}
	for _, name := range names {
		m.await(m.nodes[name])
		m.tell(m.nodes[name], "send 2 %v 64 %d %s", m.pace, m.impatience(), strings.Join(m.ids, " "))
	}
}

// event does something to the crowd, which says how many moves it may cost, and waits
// until shares are even and nothing moves.
func (m *crowd) event(kind string, do func() (most int)) {
	moves := m.counts[Begin]
	began := clock()
	most := do()
	at, bound := clock(), evenWithin
	if !m.Planned {
		bound += m.ttl
	}
	uneven, moved, seen, calm := at, at, m.counts[Begin], false
	for now := at; !calm && now < at+bound+2*m.calm+4*slack(); now = clock() {
		m.pause(50 * time.Millisecond)
		if n := m.counts[Begin]; n != seen {
			seen, moved = n, now
		}
		if !m.even() {
			uneven = now
		}
		calm = now-max(uneven, moved) > m.calm
	}
	switch took := uneven - at; {
	case !calm:
		m.found(at, "%s: no rest: %v held, the last move %v after it", kind, m.held(), moved-at)
	case took > bound+slack():
		m.found(at, "%s: shares were even after %v", kind, took)
	}
	moves = m.counts[Begin] - moves
	if moves > most {
		m.found(at, "%s: %d moves, wanted at most %d", kind, moves, most)
	}
	m.measure(uneven - at)
	of := m.costs[kind]
	if of == nil {
		of = &cost{}
		m.costs[kind] = of
		m.kinds = append(m.kinds, kind)
	}
	of.moves, of.most, of.times = append(of.moves, moves), append(of.most, most), append(of.times, uneven-at)
	of.gaps = append(of.gaps, m.gaps(began)...)
}

// found adds a finding, where the machine is not too busy for it: a node that waits
// for its turn looks like one that has crashed.
func (m *crowd) found(at time.Duration, format string, args ...any) {
	if tooBusy() {
		m.remark(format, args...)
	} else {
		m.Findings.add(at, format, args...)
	}
}

func tooBusy() bool { return excuse() > time.Second/4 }

// some is what may move beside what must.
func (m *crowd) some() int { return 6 + len(m.ids)/25 }

// spilt is what may move when a node gives up all it holds: whoever of the standbys comes
// first takes it, and what is uneven then moves once more.
func (m *crowd) spilt(name string) int { return m.held()[name]*5/4 + m.some() }

// share is what so many nodes are to hold that have come to others.
func (m *crowd) share(nodes int) int {
	return len(m.ids)*nodes/(len(m.nodes)-len(m.idle)) + m.some()
}

// held is how many ids each node that runs holds.
func (m *crowd) held() map[string]int {
	held := map[string]int{}
	for name := range m.nodes {
		held[name] = 0
	}
	for _, id := range m.ids {
		if t := m.current(id); t != nil && t.End() == never {
			if n := m.nodes[nameOf(t.Node)]; n != nil && n.Name == t.Node {
				held[nameOf(t.Node)]++
			}
		}
	}
	return held
}

// even reports whether every id is held, and every node has its share.
func (m *crowd) even() bool {
	sum, share := 0, float64(len(m.ids))/float64(len(m.nodes)-len(m.idle))
	for name, n := range m.held() {
		want := share
		if m.idle[name] {
			want = 0
		}
		if d := float64(n) - want; max(d, -d) > max(2, want/20) {
			return false
		}
		sum += n
	}
	return sum == len(m.ids)
}

// gaps are how long ids were without a holder since.
func (m *crowd) gaps(since time.Duration) (gaps []time.Duration) {
	for _, id := range m.ids {
		ts := m.live[id]
		for i := 1; i < len(ts); i++ {
			if ts[i].Begin > since && ts[i-1].End() != never {
				gaps = append(gaps, max(ts[i].Begin-ts[i-1].End(), 0))
			}
		}
	}
	return gaps
}

// report says what each kind of event cost.
func (m *crowd) report() {
	if m.Planned && tooBusy() {
		m.Planned = false
		m.remark("a process had to wait %s for its turn: that all goes as planned is not checked", short(excuse()))
	}
	for _, kind := range m.kinds {
		c := m.costs[kind]
		s := fmt.Sprintf("%s, %d × with %d ids: moves %v, limits %v; shares even after p50 %s max %s",
			kind, len(c.moves), len(m.ids), c.moves, c.most, short(quantile(c.times, .5)), short(quantile(c.times, 1)))
		if len(c.gaps) > 0 {
			s += fmt.Sprintf("; without a holder p50 %s p99 %s max %s", short(quantile(c.gaps, .5)), short(quantile(c.gaps, .99)), short(quantile(c.gaps, 1)))
		}
		m.remark("%s", s)
	}
}

// any is a node that runs.
func (m *crowd) any() *Node {
	var names []string
	for name := range m.nodes {
		names = append(names, name)
	}
	return m.nodes[pick(names)]
}

// command gives a node a command that must succeed.
func (m *crowd) command(n *Node, format string, args ...any) {
	if answer := m.ask(n, fmt.Sprintf(format, args...)); answer != "<nil>" {
		m.found(clock(), "%s: "+format+": %s", slices.Concat([]any{n.Name}, args, []any{answer})...)
	}
}

func joinAndLeave(m *crowd, i int) {
	m.event("join", func() (most int) {
		m.join(fmt.Sprint("n", i))
		return m.share(1)
	})
	m.event("leave", func() (most int) {
		n := m.any()
		most = m.spilt(nameOf(n.Name))
		m.term(n)
		return most
	})
}

func drainAndResume(m *crowd, _ int) {
	n := m.any()
	name := nameOf(n.Name)
	m.event("drain", func() (most int) {
		most = m.spilt(name)
		m.command(n, "drain")
		m.idle[name] = true
		m.poll()
		if held := m.held()[name]; held > 0 {
			m.found(clock(), "%s still holds %d when Drain has returned", n.Name, held)
		}
		return most
	})
	m.event("resume", func() (most int) {
		m.command(n, "resume")
		delete(m.idle, name)
		return m.share(1)
	})
}

func moveSome(m *crowd, _ int) {
	m.event("five moves", func() (most int) {
		for range 5 {
			id := pick(m.ids)
			t := m.holder(id)
			to := m.any()
			for to.Name == t.Node {
				to = m.any()
			}
			m.command(m.any(), "move %s %s", id, to.Addr)
			if !m.within(time.Second+slack(), func() bool { return m.current(id).Node == to.Name }) {
				m.found(clock(), "%s was moved from %s to %s and is at %s", id, t.Node, to.Name, m.current(id).Node)
			}
		}
		return 5 + m.some()
	})
}

func roll(m *crowd, _ int) {
	m.event("rolling restart", func() (most int) {
		for _, name := range five {
			most += 2 * m.held()[name]
			m.term(m.nodes[name])
			m.join(name)
			m.pause(anytime(10 * time.Second))
		}
		return most + m.some()
	})
}

func setClocks(m *crowd, i int) {
	if !m.ownClocks() {
		return
	}
	m.event("clocks hours apart", func() (most int) {
		for _, n := range m.nodes {
			m.must(shiftClock(n.cmd.Process.Pid, unix.CLOCK_REALTIME, 3600*int64(rand.IntN(9)-4)))
		}
		return 0
	})
	joinAndLeave(m, i)
}

func loseRoster(m *crowd, _ int) {
	m.event("roster lost", func() (most int) {
		if n := m.do("DEL", "{gone}:nodes"); n != int64(1) {
			m.failed("there was no roster: %v", n)
		}
		return 0
	})
}

func killSome(m *crowd, i int) {
	names := slices.Clone(five)
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:1+i%2*2]
	m.event(fmt.Sprintf("kill of %d", len(names)), func() (most int) {
		var victims []*Node
		for _, name := range names {
			victims = append(victims, m.nodes[name])
			most += m.spilt(name)
		}
		m.kill(victims...)
		return most
	})
	m.event(fmt.Sprintf("%d started anew", len(names)), func() (most int) {
		m.join(names...)
		return m.share(len(names))
	})
}

func freezeOne(m *crowd, i int) {
	n := m.any()
	name := nameOf(n.Name)
	if i%2 == 1 {
		m.event("frozen for a part of the TTL", func() (most int) {
			m.freeze(n)
			m.pause(anytime(m.ttl / 2))
			m.thaw(n)
			return 0
		})
		return
	}
	m.event("frozen", func() (most int) {
		most = m.spilt(name)
		m.freeze(n)
		m.idle[name] = true
		return most
	})
	m.event("thawed", func() (most int) {
		m.thaw(n)
		delete(m.idle, name)
		return m.share(1)
	})
}

func cutFromRedis(m *crowd, _ int) {
	n := m.any()
	name := nameOf(n.Name)
	m.event("cut off from Redis", func() (most int) {
		most = m.spilt(name)
		m.ways[name].swallow()
		m.idle[name] = true
		return most
	})
	m.event("in reach of Redis again", func() (most int) {
		m.ways[name].spit()
		delete(m.idle, name)
		return m.share(1)
	})
}

func cutFromPeers(m *crowd, _ int) {
	name := nameOf(m.any().Name)
	m.event("cut off from others", func() (most int) {
		for other := range m.nodes {
			if other != name {
				m.net.cut(name, other)
				m.net.cut(other, name)
			}
		}
		return 0
	})
	m.event("in reach of others again", func() (most int) {
		m.net.heal()
		return 0
	})
}

func emptyRedis(m *crowd, _ int) {
	m.event("Redis restarted empty", func() (most int) {
		m.forget(func() {
			m.redis.stop()
			m.must(m.redis.start())
		})
		return 2 * len(m.ids)
	})
}
