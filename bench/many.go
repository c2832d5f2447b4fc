package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	"gonum.org/v1/plot/plotter"
)

// A crowd is how many ids, and for how long.
type crowd struct {
	ids  int
	idle time.Duration // of looking at idle nodes; a multiple of longTTL/3 has as many Extends of each lock
	ttl  time.Duration // of the mass takeover
}

func names(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprint(prefix, i))
	}
	return ids
}

// holding waits until a child holds so many ids.
func holding(c *child, n int) error {
	for range 600 {
		u, err := c.use(false)
		if err != nil || len(u.Begun) >= n {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("it does not hold all ids within a minute")
}

// threadsWaited counts how often the threads of a process have waited.
func threadsWaited(pid int) (n int64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, f := range files {
		status, _ := os.ReadFile(f)
		for line := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				var k int64
				_, _ = fmt.Sscan(v, &k)
				n += k
			}
		}
	}
	return n
}

// An idler is a node of which nothing is asked while it is looked at.
type idler struct {
	*child
	before, after, collected use
}

// cpu is the load of one core.
func (n *idler) cpu(elapsed time.Duration) float64 {
	return 100 * (n.after.CPU - n.before.CPU).Seconds() / elapsed.Seconds()
}

// each is what an id costs on top of a node without any.
func (n *idler) each(empty *idler, ids int) (goroutines, bytes float64) {
	return math.Round(100*float64(n.collected.Goroutines-empty.collected.Goroutines)/float64(ids)) / 100,
		(float64(n.collected.Bytes) - float64(empty.collected.Bytes)) / float64(ids)
}

// Works of the chapter on idle nodes.
const (
	idleWaits = "idle node that waits, TTL 30 s: % of a core"
	idleHolds = "idle node that holds, without the Extends: % of a core"
)

// idleIDs is the chapter on nodes with many ids that nobody sends to.
func idleIDs(r *report, s *server, c crowd) error {
	var holds, waits, empty idler
	var extends, nothing idler // processes without a node
	ids, others := names("many", c.ids), names("extended ", c.ids)
	for _, n := range []struct {
		*idler
		role
	}{
		{&holds, role{Name: "gone", IDs: ids}},
		{&waits, role{Name: "gone", IDs: ids}},
		{&empty, role{Name: "gone"}},
		{&extends, role{Name: "extends", IDs: others}},
		{&nothing, role{Name: "nothing"}},
	} {
		n.Redis, n.TTL = s.addr, longTTL
		var err error
		if n.child, err = startChild(n.role); err != nil {
			return err
		}
		defer n.stop()
		if n.idler == &holds || n.idler == &extends {
			if err := holding(n.child, c.ids); err != nil {
				return err
			}
		}
	}
	clients, err := s.clients()
	if err != nil {
		return err
	}
	wakes, elapsed, err := lookAt(c.idle, &holds, &waits, &empty, &extends, &nothing)
	if err != nil {
		return err
	}
	later, err := s.clients()
	if err != nil {
		return err
	}
	extending := extends.cpu(elapsed) - nothing.cpu(elapsed)
	g, b := waits.each(&empty, c.ids)
	heldG, heldB := holds.each(&empty, c.ids)
	what := fmt.Sprintf("%d ids on one node", c.ids)
	for _, c := range []claim{
		{what + ", waiting: goroutines per id", "", 1, 2, false, "", []float64{g}},
		{what + ", waiting: bytes per id", "", 4096, 6700, false, "", []float64{b}},
		{what + ", held: goroutines per id besides the handler's", "", 1, 2, false, "", []float64{heldG - 1}},
		{idleWaits, "", 1, 2, false, "%", []float64{waits.cpu(elapsed)}},
		{idleHolds, "", 1, 2, false, "%", []float64{max(holds.cpu(elapsed)-extending, 0)}},
		{"connections to Redis that the idle time added", "", 0, 0, false, "", []float64{float64(max(later-clients, 0))}},
		{"idle node without ids: wake-ups a second", "", 1, 5, false, "", []float64{wakes}},
	} {
		r.claim(c)
	}
	r.printf("## Many ids, idle\n\nOne node holds %d ids and another waits for all of them, each a process. Nothing is asked of them for %v.\n\n", c.ids, c.idle)
	r.printf("| node | goroutines per id | bytes per id | %% of a core |\n|---|--:|--:|--:|\n")
	r.printf("| holds all | %s | %.0f | %s, of which Extends %s |\n| waits for all | %s | %.0f | %s |\n| has none | | | %s; %s wake-ups a second |\n\n",
		digits(heldG), heldB, digits(holds.cpu(elapsed)), digits(extending), digits(g), b, digits(waits.cpu(elapsed)), digits(empty.cpu(elapsed)), digits(wakes))
	r.explain(idleNotes, clients, later)
	return nil
}

const idleNotes = `Bytes are those of live objects and stacks after a garbage collection, less those of the node that has no ids. What is
held includes the handler's own goroutine, ticker and stack. Wake-ups are those of threads, less those of a process of
this program without a node. What Extends cost is measured at the same time on a process without a node. It holds as
many locks and extends each as the handlers do: with a goroutine and a ticker per lock, every third of the TTL. Extends
in a tight loop would cost less, as nothing has to be woken for them. All these processes have %d connections to Redis
before, and %d after.
`

// lookAt sees what the nodes use in a time, and how often the threads of empty
// wake up a second.
func lookAt(idle time.Duration, holds, waits, empty, extends, nothing *idler) (wakes float64, elapsed time.Duration, err error) {
	nodes := []*idler{holds, waits, empty, extends, nothing}
	waited := func() float64 {
		return float64(threadsWaited(empty.cmd.Process.Pid) - threadsWaited(nothing.cmd.Process.Pid))
	}
	time.Sleep(min(idle, longTTL/3)) // until waiters know the holder's TTL
	began := time.Now()
	for _, n := range nodes {
		if n.before, err = n.use(false); err != nil {
			return 0, 0, err
		}
	}
	time.Sleep(time.Second) // until they have forgotten that they were asked
	before, calm := waited(), time.Now()
	time.Sleep(time.Until(began.Add(idle)))
	wakes = max((waited()-before)/time.Since(calm).Seconds(), 0)
	elapsed = time.Since(began)
	for _, n := range nodes {
		if n.after, err = n.use(false); err != nil {
			return 0, 0, err
		}
	}
	for _, n := range nodes {
		if n.collected, err = n.use(true); err != nil {
			return 0, 0, err
		}
	}
	return wakes, elapsed, nil
}

// clients is how many connections Redis has.
func (s *server) clients() (int, error) {
	list, err := redis.String(s.conn.Do("CLIENT", "LIST"))
	return strings.Count(list, "\n") - 1, err
}

// massTakeover is the chapter on the death of a node that holds many ids.
func massTakeover(r *report, s *server, c crowd) error {
	has := role{Name: "gone", Redis: s.addr, IDs: names("mass", c.ids), TTL: c.ttl}
	holder, err := startChild(has)
	if err != nil {
		return err
	}
	defer holder.stop()
	if err := holding(holder, c.ids); err != nil {
		return err
	}
	var others [2]*child
	for i := range others {
		if others[i], err = startChild(has); err != nil {
			return err
		}
		defer others[i].stop()
	}
	time.Sleep(c.ttl / 2) // they know the holder's TTL by now
	holder.kill()
	ends, err := s.expiries(has.IDs)
	if err != nil {
		return err
	}
	inOrder := slices.SortedFunc(maps.Values(ends), time.Time.Compare)
	first, last := inOrder[0], inOrder[len(inOrder)-1]
	const step = 20 * time.Millisecond
	commands, err := s.watch(first, last.Add(1500*time.Millisecond), step)
	if err != nil {
		return err
	}
	var late []time.Duration
	for _, n := range others {
		u, err := n.use(false)
		if err != nil {
			return err
		}
		for _, b := range u.Begun {
			late = append(late, b.At.Sub(ends[b.ID]))
		}
	}
	if len(late) != c.ids {
		return fmt.Errorf("%d of %d ids were taken over", len(late), c.ids)
	}
	r.claim(claim{fmt.Sprintf("a node with %d ids dies: from the end of the TTL to the last takeover", c.ids), "", 500, 1000, false, "ms", []float64{quantile(late, 1)}})
	highest := 0.0
	for _, p := range commands {
		highest = max(highest, p.Y)
	}
	r.printf("## The death of a node with many ids\n\nA process that held %d ids is killed; two others compete for all of them. The times run from the end of an id's TTL in\nRedis, %v after its last Extend, to the first line of its next handler: p50 %s ms, p99 %s ms, the last %s ms. All TTLs\nended within %v. The highest load of Redis in %v was %.0f commands a second, those in scripts included.\n\n",
		c.ids, c.ttl, digits(quantile(late, .5)), digits(quantile(late, .99)), digits(quantile(late, 1)), last.Sub(first).Round(10*time.Millisecond), step, highest)
	return r.picture("takeover", "commands of Redis during the takeover", chart{
		title: "Redis while the ids of a dead node are taken over", x: "s since the first TTL ended", y: "commands a second",
		lines: []curve{{points: commands}},
	})
}

// expiries are the ends of the keys' TTLs.
func (s *server) expiries(keys []string) (map[string]time.Time, error) {
	ends := map[string]time.Time{}
	for some := range slices.Chunk(keys, 500) {
		for _, key := range some {
			_ = s.conn.Send("PTTL", key)
		}
		_ = s.conn.Flush()
		for _, key := range some {
			ms, err := redis.Int64(s.conn.Receive())
			if err != nil {
				return nil, err
			}
			ends[key] = time.Now().Add(time.Duration(ms) * time.Millisecond)
		}
	}
	return ends, nil
}

// watch sees Redis's commands a second, by seconds since a first moment, from
// shortly before it until the last.
func (s *server) watch(first, last time.Time, step time.Duration) (seen plotter.XYs, err error) {
	time.Sleep(time.Until(first) - 500*time.Millisecond)
	var count int64
	at := time.Now()
	for time.Now().Before(last) {
		time.Sleep(step - time.Since(at)%step)
		n, err := s.total()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if count > 0 {
			seen = append(seen, plotter.XY{X: now.Sub(first).Seconds(), Y: float64(n-count) / now.Sub(at).Seconds()})
		}
		count, at = n, now
	}
	return seen, nil
}

// total is how many commands Redis has run.
func (s *server) total() (n int64, err error) {
	info, err := redis.String(s.conn.Do("INFO", "stats"))
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	_, _ = fmt.Sscan(rest, &n)
	return n, err
}
