package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A courier is a way to get messages to other processes, used as its
// documentation shows.
type courier struct {
	name string
	// open starts receivers, a process each, and what leads to them.
	open func(w *way, s *server, receivers int) error
}

// A sender sends one message and returns when it is acknowledged.
type sender func(to int, data []byte) error

// A way is a courier's to a number of receivers. What it can't do is nil.
type way struct {
	// sender is what a caller sends with.
	sender func(caller int) (sender, error)
	// stream sends many to the first receiver and need not wait for them.
	stream func(msgs [][]byte) error
	// settle waits until all that were streamed are acknowledged.
	settle func() error
	// ids is how many a receiver has, 0 for one. Where there is more than one
	// receiver there is one.
	ids int

	callers  []sender
	children []*child
	closers  []func()
}

func (c courier) start(s *server, receivers int) (*way, error) {
	w := &way{}
	if err := c.open(w, s, receivers); err != nil {
		w.stop()
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return w, nil
}

// child starts a process that ends with the way.
func (w *way) child(r role) (*child, error) {
	c, err := startChild(r)
	if err == nil {
		w.children = append(w.children, c)
		w.onStop(c.stop)
	}
	return c, err
}

func (w *way) onStop(f func()) { w.closers = append(w.closers, f) }

func (w *way) stop() {
	for _, f := range slices.Backward(w.closers) {
		f()
	}
}

// caller is the sender with an index, for one goroutine at a time.
func (w *way) caller(i int) (sender, error) {
	for len(w.callers) <= i {
		send, err := w.sender(len(w.callers))
		if err != nil {
			return nil, err
		}
		w.callers = append(w.callers, send)
	}
	return w.callers[i], nil
}

// acks are acknowledgements that come by themselves.
type acks struct {
	mu      sync.Mutex
	changed *sync.Cond
	due     int // below zero for a moment where one comes before it is expected
	failed  error
}

// countAcks receives until that fails.
func countAcks(receive func() error) *acks {
	a := &acks{}
	a.changed = sync.NewCond(&a.mu)
	go func() {
		for {
			err := receive()
			a.mu.Lock()
			a.due--
			a.failed = err
			if a.due == 0 || err != nil {
				a.changed.Signal()
			}
			a.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return a
}

func (a *acks) expect(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due += n
}

func (a *acks) wait() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.due != 0 && a.failed == nil {
		a.changed.Wait()
	}
	return a.failed
}

// A load is what couriers have to carry. Callers wait for each of their
// messages, and send it to a receiver at random. With no callers, and by a
// courier that acknowledges nothing, one goroutine streams.
type load struct {
	name      string
	callers   int
	receivers int
	size      int // bytes
}

// A figure is what a load came to.
type figure struct {
	perSecond   float64
	took        []time.Duration // of callers, sorted
	here, there float64         // allocations a message, of this process and of its children
}

// carry has the way carry a load for d.
func (w *way) carry(l load, d time.Duration) (f figure, err error) {
	targets := max(l.receivers, w.ids)
	if w.sender != nil {
		if err := w.reach(targets); err != nil {
			return f, err
		}
	}
	runtime.GC() // what was before is not this one's to collect
	mine, theirs, err := w.mallocs()
	if err != nil {
		return f, err
	}
	began, n := time.Now(), 0
	if l.callers == 0 || w.sender == nil {
		n, err = w.streamFor(d, l.size)
	} else {
		f.took, err = w.callFor(d, l, targets)
		n = len(f.took)
	}
	f.perSecond = float64(n) / time.Since(began).Seconds()
	if err == nil && n == 0 {
		err = fmt.Errorf("nothing was sent in %v", d)
	}
	if err != nil {
		return f, err
	}
	mineNow, theirsNow, err := w.mallocs()
	f.here, f.there = float64(mineNow-mine)/float64(n), float64(theirsNow-theirs)/float64(n)
	slices.Sort(f.took)
	return f, err
}

// reach sends one message to each target: the first after a while may cost
// more, such as gone a question to Redis.
func (w *way) reach(targets int) error {
	const atOnce = 16
	var all errgroup.Group
	for k := range min(atOnce, targets) {
		send, err := w.caller(k)
		if err != nil {
			return err
		}
		all.Go(func() error {
			for to := k; to < targets; to += atOnce {
				if err := send(to, []byte("ready?")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// mallocs are those so far.
func (w *way) mallocs() (here, there uint64, err error) {
	for _, c := range w.children {
		u, err := c.use(false)
		if err != nil {
			return 0, 0, err
		}
		there += u.Mallocs
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs, there, nil
}

// streamFor returns how many messages were acknowledged.
func (w *way) streamFor(d time.Duration, size int) (n int, err error) {
	const atOnce = 10_000 * 128 // bytes
	msgs := slices.Collect(slices.Chunk(make([]byte, atOnce/size*size), size))
	for began := time.Now(); err == nil && time.Since(began) < d; n += len(msgs) {
		err = w.stream(msgs)
	}
	if err == nil && w.settle != nil {
		err = w.settle()
	}
	return n, err
}

// callFor returns how long each message took.
func (w *way) callFor(d time.Duration, l load, targets int) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var calling errgroup.Group
	began := time.Now()
	for i := range l.callers {
		send, err := w.caller(i)
		if err != nil {
			return nil, err
		}
		calling.Go(func() error {
			data := make([]byte, l.size)
			var took []time.Duration
			for at := time.Now(); at.Sub(began) < d; {
				if err := send(rand.IntN(targets), data); err != nil {
					return err
				}
				now := time.Now()
				took = append(took, now.Sub(at))
				at = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			return nil
		})
	}
	err := calling.Wait()
	return all, err
}

// A trial is a load, and who has to carry it.
type trial struct {
	load
	couriers []courier
}

// A contest is trials that take their turns in every round.
type contest struct {
	receivers int // of every courier
	each      time.Duration
	trials    []trial
}

// results are the figures of a contest.
type results struct {
	table
	who   []string
	alone map[string][]time.Duration // how long the messages of one caller took in the last round
}

// run plays the rounds. Each begins with another courier.
func (c contest) run(s *server, rounds int) (results, error) {
	got := results{table: table{}, alone: map[string][]time.Duration{}}
	ways := map[string]*way{}
	for _, t := range c.trials {
		for _, courier := range t.couriers {
			if ways[courier.name] != nil {
				continue
			}
			w, err := courier.start(s, c.receivers)
			if err != nil {
				return got, err
			}
			defer w.stop()
			ways[courier.name] = w
			got.who = append(got.who, courier.name)
		}
	}
	for round := range rounds {
		for _, t := range c.trials {
			for _, courier := range rotate(t.couriers, round) {
				f, err := ways[courier.name].carry(t.load, c.each)
				if err != nil {
					return got, fmt.Errorf("%s, %s: %w", courier.name, t.name, err)
				}
				got.enter(t.load, courier.name, f)
				if t.callers == 1 {
					got.alone[courier.name] = f.took
				}
			}
		}
	}
	return got, nil
}

// enter adds what a courier did in a round.
func (t table) enter(l load, who string, f figure) {
	t.add(l.rate(), who, f.perSecond/1e3)
	t.add(l.here(), who, f.here)
	t.add(l.there(), who, f.there)
	if len(f.took) > 0 {
		t.add(l.p50(), who, quantile(f.took, .5)*1e3)
		t.add(l.p99(), who, quantile(f.took, .99)*1e3)
	}
}

func (l load) rate() work  { return work{l.name, thousands} }
func (l load) p50() work   { return work{l.name, "p50, µs"} }
func (l load) p99() work   { return work{l.name, "p99, µs"} }
func (l load) here() work  { return work{l.name, "allocations per message, sender"} }
func (l load) there() work { return work{l.name, "allocations per message, receiving side"} }

// rotate is a list that begins elsewhere in each round, so that changes of the
// machine's load meet all alike.
func rotate[T any](list []T, round int) []T {
	first := round % len(list)
	return slices.Concat(list[first:], list[:first])
}
