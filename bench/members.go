package main

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	"gonum.org/v1/plot/plotter"

	gone "github.com/Diggs/go-one"
)

// member is the node of a process that is one.
var member *gone.Gone

// serveMember is a node of a cluster with balance.
func serveMember(r role, ready func(...string)) (err error) {
	quiet := slog.New(slog.DiscardHandler) // a line for each tenure; what was lost is counted
	member, err = gone.NewGone("tcp://127.0.0.1:0", factory(r.Redis, r.TTL),
		gone.WithCluster(r.Cluster), gone.WithBalance(), gone.WithWeight(r.Weight), gone.WithLogger(quiet))
	if err != nil {
		return err
	}
	for _, id := range r.IDs {
		_, err := member.RunOne(id, takesMessages(0))
		for tries := 1; err != nil && tries < 10; tries++ { // a machine that is too busy
			_, err = member.RunOne(id, takesMessages(0))
		}
		if err != nil {
			return err
		}
	}
	ready(member.Addr())
	return nil
}

// memoryOfIDs is the chapter on what an id costs a node: one that holds all, one that
// waits for all, and one that is no standby of any.
func memoryOfIDs(r *report, s *server, z multitude, seen *costs) error {
	ids := names("memory", z.ids)
	var nodes [4]idler
	for i, has := range []role{
		{Name: "member", Cluster: "memory", Weight: 1},
		{Name: "member", Cluster: "memory", Weight: 1, IDs: ids},
		{Name: "gone", IDs: ids},
		{Name: "member", Cluster: "memory", Weight: 0, IDs: ids},
	} {
		has.Redis, has.TTL = s.addr, longTTL
		began := time.Now()
		var err error
		if nodes[i].child, err = startChild(has); err != nil {
			return err
		}
		defer nodes[i].stop()
		if i == 3 {
			seen.runOne = time.Since(began) / time.Duration(len(ids))
		}
	}
	time.Sleep(longTTL / 3) // until those that wait know the holder's TTL
	for i := range nodes {
		var err error
		if nodes[i].collected, err = nodes[i].use(true); err != nil {
			return err
		}
	}
	_, seen.held = nodes[1].each(&nodes[0], z.ids)
	_, seen.standby = nodes[2].each(&nodes[0], z.ids)
	_, seen.parked = nodes[3].each(&nodes[0], z.ids)
	r.printf("## Measured\n\n| an id that a node | bytes of its memory |\n|---|--:|\n| holds, with the handler and its stack | %.0f |\n| is a standby of | %.0f |\n| runs, but neither holds nor waits for | %.0f |\n\n",
		seen.held, seen.standby, seen.parked)
	return nil
}

// A party is the members of the measured cluster, by place: one that is restarted has
// the place of the one before.
type party struct {
	*server
	ids     []string
	members []*child
	began   time.Time
	held    []plotter.XYs // by place and time

	begun, lost uint64 // tenures of members that have ended
}

func (p *party) start(place int) (err error) {
	p.members[place], err = startChild(role{Name: "member", Cluster: "scale", Weight: 1, Redis: p.addr, IDs: p.ids, TTL: longTTL})
	return err
}

// look is how many ids each member has, by what Redis says.
func (p *party) look() (held []int, all int, err error) {
	held = make([]int, len(p.members))
	for from := 0; from < len(p.ids); from += 1000 {
		values, err := redis.Strings(p.conn.Do("MGET", redis.Args{}.AddFlat(p.ids[from:min(from+1000, len(p.ids))])...))
		if err != nil {
			return nil, 0, err
		}
		for _, value := range values {
			addr, _, _ := strings.Cut(value, " ")
			for i, m := range p.members {
				if m != nil && m.addrs[0] == addr {
					held[i]++
					all++
				}
			}
		}
	}
	at := time.Since(p.began).Seconds()
	for i, n := range held {
		p.held[i] = append(p.held[i], plotter.XY{X: at, Y: float64(n)})
	}
	return held, all, nil
}

// settle waits until the members hold all ids, and until each has its share of them,
// ± 5 % or 2; it returns how long after a moment that was.
func (p *party) settle(since time.Time) (all, even time.Duration, err error) {
	for {
		held, n, err := p.look()
		if err != nil {
			return 0, 0, err
		}
		took := time.Since(since)
		if all == 0 && n == len(p.ids) {
			all = took
		}
		members := 0
		for _, m := range p.members {
			if m != nil {
				members++
			}
		}
		share, off := float64(len(p.ids))/float64(members), 0.0
		for i, m := range p.members {
			if m != nil {
				off = max(off, math.Abs(float64(held[i])-share))
			}
		}
		switch {
		case n == len(p.ids) && off <= max(2, share/20):
			return all, took, nil
		case took > 3*time.Minute:
			return 0, 0, fmt.Errorf("not balanced after %v: %v", took, held)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// end ends a member, and remembers what there was.
func (p *party) end(place int, how func(*child)) error {
	u, err := p.members[place].use(false)
	p.begun, p.lost = p.begun+u.Tenures, p.lost+u.Lost
	how(p.members[place])
	p.members[place] = nil
	return err
}

// tenures is how many have begun, and how many of them were lost.
func (p *party) tenures() (begun, lost uint64, err error) {
	begun, lost = p.begun, p.lost
	for _, m := range p.members {
		if m != nil {
			u, err := m.use(false)
			if err != nil {
				return 0, 0, err
			}
			begun, lost = begun+u.Tenures, lost+u.Lost
		}
	}
	return begun, lost, nil
}

// act does something to the members, and returns a row of what it came to.
func (p *party) act(what string, do func() error) (row string, err error) {
	began := time.Now()
	before, lostBefore, err := p.tenures()
	if err == nil {
		_, _, err = p.look() // a point of the picture
	}
	if err == nil {
		err = do()
	}
	if err != nil {
		return "", err
	}
	all, even, err := p.settle(began)
	if err != nil {
		return "", err
	}
	fmt.Fprintln(os.Stderr, "  "+what, even)
	begun, lost, err := p.tenures()
	return fmt.Sprintf("| %s | %.1f s | %.1f s | %d | %d |\n", what, all.Seconds(), even.Seconds(), begun-before, lost-lostBefore), err
}

func (p *party) startAll() (err error) {
	for i := 0; i < len(p.members) && err == nil; i++ {
		err = p.start(i)
	}
	return err
}

// roll restarts all members, one after the other, as a deploy does that waits for each
// to be ready and for nothing else.
func (p *party) roll() error {
	for i := range p.members {
		err := p.end(i, (*child).stop)
		if err == nil {
			_, _, err = p.look()
		}
		if err == nil {
			err = p.start(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// measuredCluster is the chapter on a cluster that starts, idles, loses a node, and is
// restarted.
func measuredCluster(r *report, s *server, z multitude, _ *costs) error {
	p := &party{server: s, ids: names("scale", z.ids), members: make([]*child, z.members), began: time.Now(), held: make([]plotter.XYs, z.members)}
	defer func() {
		for _, m := range p.members {
			if m != nil {
				m.stop()
			}
		}
	}()
	var rows, idle string
	for _, a := range []struct {
		what string
		do   func() error
	}{
		{fmt.Sprintf("all %d start, one after the other", z.members), p.startAll},
		{"one is killed", func() error { return p.end(0, (*child).kill) }},
		{"another takes its place", func() error { return p.start(0) }},
		{fmt.Sprintf("all %d are restarted, one after the other", z.members), p.roll},
	} {
		row, err := p.act(a.what, a.do)
		if rows += row; err == nil && idle == "" {
			time.Sleep(10 * time.Second) // the last corrections
			idle, err = p.idle(z.idle)
		}
		if err != nil {
			return err
		}
	}
	r.printf("%d ids on %d processes of this machine, with balance, and one Redis. The TTL is %v.\n\n", z.ids, z.members, longTTL)
	r.printf("| | until all ids have a holder | until each node has its share | tenures begun | lost |\n|---|--:|--:|--:|--:|\n%s\n", rows)
	r.printf("A tenure is lost when the machine is too busy to extend it in time. Those of the killed node are not counted.\n\n%s", idle)
	c := chart{title: "Ids of each node", x: "s", y: "ids"}
	for i, held := range p.held {
		c.lines = append(c.lines, curve{name: fmt.Sprint("node ", i+1), points: held})
	}
	return r.picture("held", "ids of each node: start, idle, one killed, another joins, all restarted", c)
}

// idle looks at the cluster while nothing is asked of it.
func (p *party) idle(d time.Duration) (text string, err error) {
	type state struct {
		calls map[string]int
		redis time.Duration
		nodes time.Duration
		at    time.Time
	}
	see := func() (now state, err error) {
		if now.calls, err = p.calls(); err != nil {
			return now, err
		}
		if now.redis, err = p.cpu(); err != nil {
			return now, err
		}
		for _, m := range p.members {
			u, err := m.use(false)
			if err != nil {
				return now, err
			}
			now.nodes += u.CPU
		}
		now.at = time.Now()
		return now, nil
	}
	before, err := see()
	if err != nil {
		return "", err
	}
	time.Sleep(d)
	after, err := see()
	if err != nil {
		return "", err
	}
	seconds := after.at.Sub(before.at).Seconds()
	total := 0
	for name, n := range after.calls {
		if name != "info" {
			total += n - before.calls[name]
		}
	}
	asked := float64(after.calls["evalsha"]-before.calls["evalsha"]) / seconds
	members := float64(len(p.members))
	return fmt.Sprintf("| idle, for %v | |\n|---|--:|\n| requests to Redis a second | %.0f |\n| of which Extends, by the handlers | %.0f |\n| commands that Redis runs a second, those in scripts included | %.0f |\n| Redis's share of a core | %.1f %% |\n| a node's share of a core | %.1f %% |\n\n",
		d, asked, 3*float64(len(p.ids))/longTTL.Seconds(), float64(total)/seconds,
		100*(after.redis-before.redis).Seconds()/seconds, 100*(after.nodes-before.nodes).Seconds()/seconds/members), nil
}
