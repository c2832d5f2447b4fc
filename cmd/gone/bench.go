package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	gone "github.com/Diggs/go-one"
)

// A load is what bench puts on a handler.
type load struct {
	last   time.Duration
	width  int
	length int
}

func (l *load) define(flags *flag.FlagSet) {
	flags.DurationVar(&l.last, "for", 4*time.Second, "in all")
	flags.IntVar(&l.width, "c", 1, "at a time")
	flags.IntVar(&l.length, "size", 128, "bytes of each message")
}

// A figure is what has been measured; times are in seconds.
type figure struct {
	Kind      string  `json:"kind"`
	Count     uint64  `json:"count"`
	Errors    uint64  `json:"errors"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50"`
	P99       float64 `json:"p99"`
	Max       float64 `json:"max"`
}

func (s *session) bench(args []string) error {
	switch l := s.load; {
	case l.last <= 0:
		return misuse("-for %v is not positive", l.last)
	case l.width < 1 || l.width > 10_000:
		return misuse("-c %d is not in 1 … 10000", l.width)
	case l.length < 0 || l.length > s.maxSize:
		return misuse("-size %d is not in 0 … %d, which is -max-size", l.length, s.maxSize)
	}
	id := ""
	if len(args) > 0 {
		id = args[0]
	}
	if err := s.join(id); err != nil {
		return err
	}
	if id == "" {
		var end func()
		var err error
		if id, end, err = s.echo(); err != nil {
			return err
		}
		defer end()
	}
	// The first finds out who holds it, and whether anybody does.
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	data := make([]byte, s.load.length)
	if _, err := s.node.Request(ctx, id, data); err != nil {
		return err
	}
	sent, err := s.measure("send", func(ctx context.Context) error { return s.node.SendDataContext(ctx, id, data) })
	asked, err2 := s.measure("request", func(ctx context.Context) error {
		_, err := s.node.Request(ctx, id, data)
		return err
	})
	figures := []figure{sent, asked}
	if e := s.print(figures, func(w io.Writer) {
		fmt.Fprintln(w, "KIND\tCOUNT\tERRORS\tPER SECOND\tP50\tP99\tMAX")
		for _, f := range figures {
			fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%v\t%v\t%v\n", f.Kind, f.Count, f.Errors, f.PerSecond, micros(f.P50), micros(f.P99), micros(f.Max))
		}
	}); e != nil {
		return e
	}
	return cmp.Or(err, err2)
}

func micros(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond)
}

// echo runs a handler of this command's own, on a node and in a cluster of its own, so
// that nobody lists it or gives it anything.
func (s *session) echo() (id string, end func(), err error) {
	opts, err := s.nodeOptions()
	if err != nil {
		return "", nil, err
	}
	id = "gone-bench-" + rand.Text()
	node, err := gone.NewGone("tcp://127.0.0.1:0", s.backend.locks, append(opts, gone.WithCluster(id))...)
	if err != nil {
		return "", nil, err
	}
	end = func() { _ = node.Close() }
	if _, err = node.RunOne(id, func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_ = m.Reply(m.Data)
		}
	}); err != nil {
		end()
		return "", nil, s.asked(err)
	}
	return id, end, nil
}

// measure calls do again and again for half of the time. It returns the last error.
func (s *session) measure(kind string, do func(context.Context) error) (figure, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.load.last/2)
	defer cancel()
	var times histogram
	var errors atomic.Uint64
	var last atomic.Pointer[error]
	var all sync.WaitGroup
	began := time.Now()
	for range s.load.width {
		all.Go(func() {
			for ctx.Err() == nil {
				// Not cut off by the end of the time: an outcome may be unknown then.
				one, cancel := context.WithTimeout(s.ctx, s.timeout)
				start := time.Now()
				err := do(one)
				took := time.Since(start)
				cancel()
				switch {
				case err == nil:
					times.add(took)
				case s.ctx.Err() == nil:
					errors.Add(1)
					last.Store(&err)
				}
			}
		})
	}
	all.Wait()
	f := figure{
		Kind: kind, Count: times.count.Load(), Errors: errors.Load(),
		P50: times.quantile(.5), P99: times.quantile(.99), Max: time.Duration(times.most.Load()).Seconds(),
	}
	f.PerSecond = float64(f.Count) / time.Since(began).Seconds()
	if err := last.Load(); err != nil {
		return f, *err
	}
	return f, nil
}

// A histogram counts durations in buckets that are 3 % wide at most, so that its size
// does not grow.
type histogram struct {
	count   atomic.Uint64
	most    atomic.Int64
	buckets [64 * fine]atomic.Uint64
}

const fine = 32 // buckets from one power of two to the next

func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, fine))
	exponent := bits.Len64(n) - 6 // fine is 2^5
	h.buckets[exponent*fine+int(n>>exponent)-fine].Add(1)
	h.count.Add(1)
	for most := h.most.Load(); int64(d) > most && !h.most.CompareAndSwap(most, int64(d)); most = h.most.Load() {
	}
}

// quantile is in seconds.
func (h *histogram) quantile(q float64) float64 {
	left := uint64(q * float64(h.count.Load()))
	for i := range h.buckets {
		if n := h.buckets[i].Load(); n > left {
			return time.Duration(uint64(i%fine+fine) << (i / fine)).Seconds()
		} else {
			left -= n
		}
	}
	return 0
}
