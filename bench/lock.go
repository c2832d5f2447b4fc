package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// A plan is how much of each work a round has.
type plan struct {
	steady    int // acquire + release, and extend
	handovers int
	pollers   int // locks that are handed over side by side where waiters poll
	vigils    int // locks that one node waits for when their holder dies
	ttl       time.Duration
}

// Work that contenders have in common.
var (
	workTake       = work{"acquire + release", "µs"}
	workExtend     = work{"extend", "µs"}
	workPass       = work{"clean hand-over", "p50, ms"}
	workPassWorst  = work{"clean hand-over", "p99, ms"}
	workStalled    = work{"clean hand-overs that took 2 s or more", "in a round"}
	workPassGone   = work{"clean hand-over of a whole Gone", "p50, ms"}
	workPassGone99 = work{"clean hand-over of a whole Gone", "p99, ms"}
	workCrash      = work{"crash takeover after the end of the TTL", "p50, ms"}
	workCrashWorst = work{"crash takeover after the end of the TTL", "worst, ms"}
	workIdle       = work{"idle waiting", "commands per TTL and id"}
)

// speedOfTheLock is the first chapter of the report.
func speedOfTheLock(r *report, s *server, p plan) error {
	t := table{}
	own := map[string]float64{}
	for _, c := range contenders {
		commands, err := alone(s, c, p.vigils, p.ttl)
		if err != nil {
			return fmt.Errorf("%s, holding alone: %w", c.name, err)
		}
		own[c.name] = commands
	}
	for round := range r.rounds {
		if err := t.lockRound(s, p, rotate(contenders, round), own); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		what        string
		ours        work
		theirs      work
		rival       string
		goal, least float64
	}{
		{"hand-over of a whole Gone, p50 ÷ rueidislock's bare lock", workPassGone, workPass, nameRueidis, 1, 1.1},
		{"hand-over of a whole Gone, p99 ÷ rueidislock's bare lock", workPassGone99, workPassWorst, nameRueidis, 1, none},
		{"hand-over of the lock, p50 ÷ rueidislock", workPass, workPass, nameRueidis, 1, 1},
		{"hand-over of the lock, p99 ÷ rueidislock", workPassWorst, workPassWorst, nameRueidis, 1, 1},
		{"acquire + release of the lock ÷ bare redigo", workTake, workTake, nameBare, 1.25, 1.25},
	} {
		r.claim(claim{c.what, c.ours.what, c.goal, c.least, false, "×", t.ratios(c.ours, nameGone, c.theirs, c.rival)})
	}
	r.claim(claim{"idle waiting for a lock: commands per TTL and id", workIdle.what, 1, 1, false, "", t[workIdle][nameGone]})
	r.printf("## Speed of the lock\n\n")
	var names []string
	for _, c := range contenders {
		names = append(names, c.name)
	}
	r.figures(t, names, workTake, workExtend, workPass, workPassWorst, workStalled, workPassGone, workPassGone99, workCrash, workCrashWorst, workIdle)
	r.explain(lockNotes, p.steady, chunk, p.handovers, p.pollers, p.vigils, p.ttl)
	return nil
}

// lockRound has each contender do all the work. The commands of one that holds
// alone are its own.
func (t table) lockRound(s *server, p plan, who []contender, own map[string]float64) error {
	if err := t.uncontended(s.addr, "", who, p.steady); err != nil {
		return err
	}
	for _, c := range who {
		took, err := handover(s.addr, c, p.handovers, p.pollers)
		if err != nil {
			return fmt.Errorf("%s, hand-over: %w", c.name, err)
		}
		t.add(workPass, c.name, quantile(took, .5))
		t.add(workPassWorst, c.name, quantile(took, .99))
		stalled := slices.DeleteFunc(took, func(d time.Duration) bool { return d < stall })
		t.add(workStalled, c.name, float64(len(stalled)))
		if c.name == nameGone {
			took, err = handoverGone(s, p.handovers)
			if err != nil {
				return fmt.Errorf("hand-over of a whole Gone: %w", err)
			}
			t.add(workPassGone, nameGone, quantile(took, .5))
			t.add(workPassGone99, nameGone, quantile(took, .99))
		}
	}
	for _, c := range who {
		var commands float64
		late, err := vigil(s.addr, c, p.vigils, p.ttl, func(h *holder, _ *line) (err error) {
			commands, err = h.count(s)
			return err
		}, func(id string, _ time.Time) (time.Time, error) { return s.expiry(c.key(id)) })
		if err != nil {
			return fmt.Errorf("%s, idle waiting and crash: %w", c.name, err)
		}
		t.add(workCrash, c.name, quantile(late, .5))
		t.add(workCrashWorst, c.name, quantile(late, 1))
		t.add(workIdle, c.name, math.Round(10*(commands-own[c.name]))/10)
	}
	return nil
}

// uncontended has each contender work alone, and notes that as of a service.
func (t table) uncontended(addr, service string, who []contender, n int) error {
	taken, extended, err := uncontended(addr, who, n)
	if err != nil {
		return fmt.Errorf("uncontended: %w", err)
	}
	for i, c := range who {
		t.add(workTake.on(service), c.name, quantile(taken[i], .5)*1e3)
		if len(extended[i]) > 0 {
			t.add(workExtend.on(service), c.name, quantile(extended[i], .5)*1e3)
		}
	}
	return nil
}

const lockNotes = `One process, one redis-server on the loopback interface, every node with connections of its own. All contenders take
their turns in every round.

- Acquire + release, and extend: the median of %d, in turns of %d. The TTL is 30 s.
- Clean hand-over: a lock goes back and forth between two nodes %d times, from the moment before the release until the
  other node has it. Where waiters poll, %d locks do so side by side and are held for a random time. A waiter that does
  not get a free lock in 2 s has missed its wake-up. It is made to look again, and the hand-over counts as what it took.
- A whole Gone: from Unlock, after Close of the runner, to the first line of the next handler. Its ratio is to the bare
  lock of the other.
- Idle waiting: a node waits for %d locks that another node holds and extends every third of a TTL of %v. INFO
  commandstats counts, calls from scripts included. What the holder alone costs is taken off. The cost of a poller
  grows with the TTL, that of a woken waiter does not.
- Crash takeover: then the holder's connections are cut. From the end of the TTL in Redis, which is known to a
  millisecond, until each waiter has its lock.

Ways of use: gone is RedisLock, waiting by WaitFree. Bare redigo is SET NX PX with a random value and a
compare-and-delete script, polling every 10 ms. redislock polls every 100 ms, as in its documentation. redsync
has its defaults (50 to 250 ms) on one Redis. rueidislock has one key and no notices of its own changes, as in
its own benchmark. It extends by itself, so that can't be timed.
`
