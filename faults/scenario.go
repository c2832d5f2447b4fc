package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// A Scenario is one fault: what is done, what must hold, how it is played.
type Scenario struct {
	Name  string
	On    string // the lock service; "" is Redis
	Fault string // what is done
	Holds string // what must hold, besides what is checked of every history

	TTL     time.Duration
	Service func(dir string) (Service, error) // nil: one redis-server
	Redis   []string                          // more arguments of redis-server

	// Measure says what the scenario's times are; P50 and P99 are their limits.
	// 0 is none.
	Measure  string
	P50, P99 time.Duration

	// Bound is how long there may be no holder though a node competes. 0: not
	// checked.
	Bound   time.Duration
	Planned bool // every send must return nil, every request its reply
	Alone   bool // nothing else runs meanwhile: it measures milliseconds
	Split   bool // two servers grant, so the calls of a lock are not those of one
	Guarded bool // the restart guard is on: no overlap after Redis has forgotten
	Rounds  int  // at most so many, where a round is long
	Long    int  // so many rounds fewer than 3 are in the short version

	Play func(c *Cluster, rounds int)
}

// A Row is what one scenario found.
type Row struct {
	Scenario
	Played    int
	Findings  findings
	Times     []time.Duration
	Outside   []time.Duration // overlaps outside a stopped process
	Forgotten []time.Duration // overlaps after Redis had lost its memory
	Waking    int             // messages taken in the instant of waking
	Messages  Messages
	Tenures   int
	Calls     int // of locks
	Undecided int // histories of a lock that took too long to check
	Notes     []string
	Took      time.Duration
}

// note adds a remark to the report, once.
func (r *Row) remark(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(r.Notes, s) {
		r.Notes = append(r.Notes, s)
	}
}

// round counts a round.
func (r *Row) round() { r.Played++ }

// measure adds a time.
func (r *Row) measure(d time.Duration) { r.Times = append(r.Times, d) }

// leeway widens all limits on times. The short version sets it, for machines
// that do other things, too.
var leeway time.Duration

// held is the longest that this process has waited for its turn, in ns. It tells
// how busy the machine is: the nodes had to wait as well.
var held atomic.Int64

// nap is time.Sleep that learns how late it wakes.
func nap(d time.Duration) {
	began := clock()
	time.Sleep(d)
	for late := int64(clock() - began - d); ; {
		if was := held.Load(); was >= late || held.CompareAndSwap(was, late) {
			return
		}
	}
}

// slack is what to add to a limit, and excuse what to allow a node that could not
// stop in time, for it had to wait for its turn. Both are 0 in the long version.
func slack() time.Duration {
	if leeway == 0 {
		return 0
	}
	return leeway + 10*time.Duration(held.Load())
}

func excuse() time.Duration {
	if leeway == 0 {
		return 0
	}
	return time.Duration(held.Load())
}

// pairs are the key pairs that the nodes of all clusters have, each one of them;
// none: their wires are plain.
var pairs []Pair

// newPairs makes more of them than a cluster has nodes.
func newPairs() (ps []Pair, err error) {
	for range 32 {
		var p Pair
		if p.Public, p.Secret, err = zmq4.NewCurveKeypair(); err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

// clusters are those that run.
var clusters sync.Map

// dump is a directory for the histories, "" for none.
var dump string

// play runs a scenario and checks its history.
func play(s Scenario, rounds int) *Row {
	began := time.Now()
	row := &Row{Scenario: s}
	if s.Rounds > 0 {
		rounds = min(rounds, s.Rounds)
	}
	c, err := newCluster(row)
	if err != nil {
		row.Findings.add(0, "%v", err)
		return row
	}
	defer c.close()
	clusters.Store(c, nil)
	defer clusters.Delete(c)
	func() {
		defer func() {
			if p := recover(); p != nil {
				if _, ok := p.(gaveUp); !ok {
					panic(p)
				}
			}
		}()
		s.Play(c, rounds)
		c.finish()
	}()
	c.history.sort()
	row.judge(c)
	if dump != "" {
		var b []byte
		for _, e := range c.history {
			b = e.append(append(append(b, e.Node...), '\t'))
		}
		_ = os.WriteFile(filepath.Join(dump, s.Name+".log"), b, 0o644)
	}
	row.Took = time.Since(began)
	return row
}

// judge runs all checkers, those that look at one id alone for each of them.
func (r *Row) judge(c *Cluster) {
	found := func(f findings) { r.Findings = append(r.Findings, f...) }
	found(checkStore(c.store.accepted()))
	for id, h := range c.history.byID() {
		r.Tenures += len(h.tenures())
		bad, outside, forgotten := checkTenures(h, r.TTL, excuse())
		found(bad)
		r.Outside, r.Forgotten = append(r.Outside, outside...), append(r.Forgotten, forgotten...)
		bad, waking := checkPaused(h)
		found(bad)
		r.Waking += waking
		if r.Bound > 0 {
			found(checkGaps(h, r.Bound+slack()))
		}
		m, bad := checkMessages(h, r.Planned)
		found(bad)
		r.Messages.add(m)
		if r.Split {
			continue
		}
		bad, undecided := checkLock(h, id, r.TTL, r.Guarded, 20*time.Second)
		found(bad)
		if undecided {
			r.Undecided++
		}
	}
	if r.Guarded {
		for _, d := range r.Forgotten {
			r.Findings.add(0, "an overlap of %v after Redis had forgotten, though the restart guard was on", d)
		}
	}
	r.Calls = c.counts[LockRet] + c.counts[ExtendRet] + c.counts[UnlockRet] + c.counts[PassRet]
	r.judgeTimes()
}

// judgeTimes compares what was measured with its limits.
func (r *Row) judgeTimes() {
	if len(r.Times) == 0 {
		return
	}
	if p := quantile(r.Times, .5); r.P50 > 0 && p > r.P50+slack() {
		r.Findings.add(0, "%s: p50 %v, wanted at most %v", r.Measure, p, r.P50+slack())
	}
	if p := quantile(r.Times, .99); r.P99 > 0 && p > r.P99+slack() {
		r.Findings.add(0, "%s: p99 %v, wanted at most %v", r.Measure, p, r.P99+slack())
	}
}

// quantile is the q-quantile, by the nearest rank.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	return s[max(int(math.Ceil(q*float64(len(s))))-1, 0)]
}

// playAll plays scenarios: first one by one those that measure milliseconds, then several
// at a time. Done is called after each, one at a time, with those that have been played.
func playAll(all []Scenario, rounds, parallel int, done func(r *Row, played []*Row)) []*Row {
	rows := make([]*Row, len(all))
	var mu sync.Mutex
	one := func(i int) {
		r := play(all[i], rounds)
		mu.Lock()
		defer mu.Unlock()
		rows[i] = r
		done(r, slices.DeleteFunc(slices.Clone(rows), func(r *Row) bool { return r == nil }))
	}
	for i, s := range all {
		if s.Alone {
			one(i)
			runtime.GC() // a history can be large
		}
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, parallel)
	for i, s := range all {
		if s.Alone {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			one(i)
		})
	}
	wg.Wait()
	return rows
}

// scenarios are all of them, in the order of the report.
func scenarios() []Scenario {
	return slices.Concat(nodeScenarios(), redisScenarios(), endpointScenarios(), sentinelScenarios(), shardScenarios(), etcdScenarios(), postgresScenarios(), messageScenarios(), requestScenarios(), hostScenarios(), manyScenarios())
}
