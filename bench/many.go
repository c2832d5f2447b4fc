package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A crowd is how many ids, and for how long.
type crowd struct {
	ids  int
	idle time.Duration // of looking at idle nodes
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

// idleIDs is the chapter on nodes with many ids that nobody sends to.
func idleIDs(r *report, s *server, c crowd) error {
	ids := names("many", c.ids)
	var nodes [4]*child // holds them, waits for them, has none; and a process without a node
	for i, has := range [][]string{ids, ids, nil, nil} {
		name := "gone"
		if i == 3 {
			name = "nothing"
		}
		n, err := startChild(role{Name: name, Redis: s.addr, IDs: has, TTL: longTTL})
		if err != nil {
			return err
		}
		defer n.stop()
		if nodes[i] = n; i == 0 {
			if err := holding(n, c.ids); err != nil {
				return err
			}
		}
	}
	clients, err := s.clients()
	if err != nil {
		return err
	}
	time.Sleep(min(c.idle, longTTL/3)) // until waiters know the holder's TTL
	var before, after [4]use
	for i, n := range nodes {
		if before[i], err = n.use(false); err != nil {
			return err
		}
	}
	time.Sleep(time.Second) // until they have forgotten that they were asked
	waited := threadsWaited(nodes[2].cmd.Process.Pid) - threadsWaited(nodes[3].cmd.Process.Pid)
	began := time.Now()
	time.Sleep(c.idle)
	elapsed := time.Since(began).Seconds()
	waited = threadsWaited(nodes[2].cmd.Process.Pid) - threadsWaited(nodes[3].cmd.Process.Pid) - waited
	for i, n := range nodes {
		if after[i], err = n.use(false); err != nil {
			return err
		}
	}
	later, err := s.clients()
	if err != nil {
		return err
	}
	var used [4]use
	for i, n := range nodes {
		if used[i], err = n.use(true); err != nil {
			return err
		}
	}
	extend, err := costOfExtend(s)
	if err != nil {
		return err
	}
	load := func(i int) float64 { return 100 * (after[i].CPU - before[i].CPU).Seconds() / (elapsed + 1) }
	extends := 100 * extend.Seconds() * float64(c.ids) / (longTTL / 3).Seconds()
	per := func(i int) (goroutines, bytes float64) {
		return math.Round(100*float64(used[i].Goroutines-used[2].Goroutines)/float64(c.ids)) / 100, (float64(used[i].Bytes) - float64(used[2].Bytes)) / float64(c.ids)
	}
	g, b := per(1)
	heldG, heldB := per(0)
	wakes := max(float64(waited)/elapsed, 0)
	what := fmt.Sprintf("%d ids on one node", c.ids)
	r.claim(claim{what + ", waiting: goroutines an id", "", 1, 2, false, "", []float64{g}})
	r.claim(claim{what + ", waiting: bytes an id", "", 4096, 6700, false, "", []float64{b}})
	r.claim(claim{what + ", held: goroutines an id besides the handler's", "", 1, 2, false, "", []float64{heldG - 1}})
	r.claim(claim{"the node that waits, idle, 30 s expiry: % of a core", "", 1, 2, false, "%", []float64{load(1)}})
	r.claim(claim{"the node that holds, idle, besides the Extends: % of a core", "", 1, 2, false, "%", []float64{max(load(0)-extends, 0)}})
	r.claim(claim{"connections to Redis more after that time", "", 0, 0, false, "", []float64{float64(max(later-clients, 0))}})
	r.claim(claim{"idle node without ids: wake-ups a second", "", 1, 5, false, "", []float64{wakes}})
	r.printf("## Many ids, idle\n\n%d ids, held by one node, waited for by another, each a process; %v of looking.\n\n", c.ids, c.idle)
	r.printf("| node | goroutines an id | bytes an id | %% of a core |\n|---|--:|--:|--:|\n")
	r.printf("| holds all | %s | %.0f | %s, of which Extends %s |\n| waits for all | %s | %.0f | %s |\n| has none | | | %s; %s wake-ups a second |\n\n",
		digits(heldG), heldB, digits(load(0)), digits(extends), digits(g), b, digits(load(1)), digits(load(2)), digits(wakes))
	r.printf("Bytes are those of live objects and of stacks, after a collection, less those of the node that has none; what is held\nincludes the handler's own goroutine, ticker and stack. Wake-ups are those of threads, less those of a process of this\nprogram without a node. An Extend of a RedisLock costs its process %v of CPU, measured alone. All nodes have %d connections to Redis, before and after: %d.\n\n",
		extend.Round(100*time.Nanosecond), clients, later)
	return nil
}

// clients is how many connections Redis has.
func (s *server) clients() (int, error) {
	list, err := redis.String(s.conn.Do("CLIENT", "LIST"))
	return strings.Count(list, "\n") - 1, err
}

// costOfExtend is the CPU time of this process for one.
func costOfExtend(s *server) (time.Duration, error) {
	lock, err := factory(s.addr, longTTL)("cost", "of extend")
	if err != nil {
		return 0, err
	}
	if err := lock.Lock(); err != nil {
		return 0, err
	}
	defer lock.Unlock()
	const n = 5000
	cpu := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := cpu()
	for range n {
		if err := lock.Extend(); err != nil {
			return 0, err
		}
	}
	return (cpu() - before) / n, nil
}

// massTakeover is the chapter on the death of a node that holds many ids.
func massTakeover(r *report, s *server, c crowd) error {
	ids := names("mass", c.ids)
	start := func() (*child, error) {
		return startChild(role{Name: "gone", Redis: s.addr, IDs: ids, TTL: c.ttl})
	}
	holder, err := start()
	if err != nil {
		return err
	}
	defer holder.stop()
	if err := holding(holder, c.ids); err != nil {
		return err
	}
	var others [2]*child
	for i := range others {
		if others[i], err = start(); err != nil {
			return err
		}
		defer others[i].stop()
	}
	time.Sleep(c.ttl / 2) // they know the holder's TTL by now
	holder.kill()
	ends := map[string]time.Time{}
	for some := range slices.Chunk(ids, 500) {
		for _, id := range some {
			_ = s.conn.Send("PTTL", id)
		}
		_ = s.conn.Flush()
		for _, id := range some {
			ms, err := redis.Int64(s.conn.Receive())
			if err != nil {
				return err
			}
			ends[id] = time.Now().Add(time.Duration(ms) * time.Millisecond)
		}
	}
	var first, last time.Time
	for _, at := range ends {
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	// Commands a second, from before the first TTL ends.
	const step = 20 * time.Millisecond
	time.Sleep(time.Until(first) - 500*time.Millisecond)
	var x, y []float64
	var count int64
	at := time.Now()
	for time.Now().Before(last.Add(1500 * time.Millisecond)) {
		time.Sleep(step - time.Since(at)%step)
		n, err := s.total()
		if err != nil {
			return err
		}
		now := time.Now()
		if count > 0 {
			x, y = append(x, now.Sub(first).Seconds()), append(y, float64(n-count)/now.Sub(at).Seconds())
		}
		count, at = n, now
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
	r.claim(claim{fmt.Sprintf("the node that holds %d ids dies: the last is taken over, after the TTL's end", c.ids), "", 500, 1000, false, "ms", []float64{quantile(late, 1)}})
	r.printf("## The death of a node with many ids\n\nA process that held %d ids is killed; two others compete for all of them. From the end of an id's TTL in Redis, %v\nafter its last Extend, to the first line of its next handler: p50 %s ms, p99 %s ms, the last %s ms. The TTLs ended\nwithin %v. Highest load of Redis in %v: %.0f commands a second, those of scripts included.\n\n",
		c.ids, c.ttl, digits(quantile(late, .5)), digits(quantile(late, .99)), digits(quantile(late, 1)), last.Sub(first).Round(10*time.Millisecond), step, slices.Max(y))
	return r.picture("takeover", "commands of Redis during the takeover", chart{
		title: "Redis while the ids of a dead node are taken over", x: "s since the first TTL ended", y: "commands a second",
		lines: []curve{{points: points(x, y)}},
	})
}

// total is how many commands Redis has run.
func (s *server) total() (n int64, err error) {
	info, err := redis.String(s.conn.Do("INFO", "stats"))
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	_, _ = fmt.Sscan(rest, &n)
	return n, err
}
