package etcdlock_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
)

// of runs a benchmark on one member and on three.
func of(b *testing.B, bench func(*testing.B, *cluster, *clientv3.Client)) {
	b.Run("1 member", func(b *testing.B) { c, client := get(b, one); bench(b, c, client) })
	b.Run("3 members", func(b *testing.B) { c, client := get(b, three); bench(b, c, client) })
}

func BenchmarkAcquireAndRelease(b *testing.B) {
	of(b, func(b *testing.B, _ *cluster, client *clientv3.Client) {
		l := newLock(b, client, time.Minute, "a")
		timed(b, func() time.Duration {
			sent := time.Now()
			must(b, l.Lock())
			l.Unlock()
			return time.Since(sent)
		})
	})
}

func BenchmarkExtend(b *testing.B) {
	of(b, func(b *testing.B, _ *cluster, client *clientv3.Client) {
		l := newLock(b, client, time.Minute, "a")
		must(b, l.Lock())
		timed(b, func() time.Duration {
			sent := time.Now()
			must(b, l.Extend())
			return time.Since(sent)
		})
	})
}

// settled is when the next one waits. A watch that begins in the past, as those of
// package concurrency do, hears of nothing for the first 100 ms.
const settled = 150 * time.Millisecond

// A hand-over is from when the holder is told to end until the next one runs.
func BenchmarkHandOver(b *testing.B) {
	b.Run("gone", func(b *testing.B) { of(b, handOverGone) })
	b.Run("Election", func(b *testing.B) { of(b, handOverElection) })
	b.Run("Mutex", func(b *testing.B) { of(b, handOverMutex) })
}

func handOverGone(b *testing.B, c *cluster, client *clientv3.Client) {
	nodes, runs := [2]*gone.Gone{}, make(chan time.Time, 1)
	for i, client := range []*clientv3.Client{client, c.dial(b)} {
		g, err := gone.NewGone("tcp://127.0.0.1:0", etcdlock.New(client), gone.WithLogger(slog.New(slog.DiscardHandler)))
		must(b, err)
		b.Cleanup(func() { _ = g.Close() })
		nodes[i] = g
	}
	compete := func(g *gone.Gone) *gone.GoneRunner {
		r, err := g.RunOne(b.Name(), func(r *gone.GoneRunner) {
			runs <- time.Now()
			<-r.Exit
		})
		must(b, err)
		return r
	}
	holder := compete(nodes[0])
	<-runs
	timed(b, func() time.Duration {
		next := compete(nodes[1])
		time.Sleep(settled)
		told := time.Now()
		go func(r *gone.GoneRunner) { _ = r.Close() }(holder)
		took := (<-runs).Sub(told)
		<-holder.Exit
		holder = next
		nodes[0], nodes[1] = nodes[1], nodes[0]
		return took
	})
	must(b, holder.Close())
}

func handOverElection(b *testing.B, c *cluster, client *clientv3.Client) {
	turns(b, c, client, func(s *concurrency.Session) (func(context.Context) error, func(context.Context) error) {
		e := concurrency.NewElection(s, b.Name())
		return func(ctx context.Context) error { return e.Campaign(ctx, "x") }, e.Resign
	})
}

func handOverMutex(b *testing.B, c *cluster, client *clientv3.Client) {
	turns(b, c, client, func(s *concurrency.Session) (func(context.Context) error, func(context.Context) error) {
		m := concurrency.NewMutex(s, b.Name())
		return m.Lock, m.Unlock
	})
}

// turns has two sessions take what is made of them in turn.
func turns(b *testing.B, c *cluster, client *clientv3.Client, of func(*concurrency.Session) (lock, unlock func(context.Context) error)) {
	var lock, unlock [2]func(context.Context) error
	for i, client := range []*clientv3.Client{client, c.dial(b)} {
		s, err := concurrency.NewSession(client, concurrency.WithTTL(30))
		must(b, err)
		b.Cleanup(func() { _ = s.Close() })
		lock[i], unlock[i] = of(s)
	}
	ctx := b.Context()
	must(b, lock[0](ctx))
	holder := 0
	timed(b, func() time.Duration {
		runs, next := make(chan time.Time, 1), 1-holder
		go func() {
			if lock[next](ctx) == nil {
				runs <- time.Now()
			}
		}()
		time.Sleep(settled)
		told := time.Now()
		must(b, unlock[holder](ctx))
		took := (<-runs).Sub(told)
		holder = next
		return took
	})
}

// timed reports the median and the 99th percentile of b.N times.
func timed(b *testing.B, one func() time.Duration) {
	b.Helper()
	all := []time.Duration{}
	for b.Loop() {
		all = append(all, one())
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(all[len(all)/2]), "p50-ms")
	b.ReportMetric(ms(all[len(all)*99/100]), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
