package pglock_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/pglock"
)

// TestLongFigures shows what the documentation quotes, on a server that writes to its
// disk before it answers.
func TestLongFigures(t *testing.T) {
	s := startServer(t, "-c", "fsync=on")
	must(t, pglock.Migrate(t.Context(), s.pool(t)))
	for _, c := range []struct {
		name, url string
		handOvers int
	}{
		{"direct", s.url(), 300},
		{"through a pooler", startPooler(t, s), 30}, // each waits for a poll
	} {
		name, url := c.name, c.url
		t.Run(name, func(t *testing.T) {
			locks := pglock.New(poolOf(t, url), expiry(time.Minute))
			a, b := lock(t, locks, name), lock(t, locks, name)
			show(t, "acquire and release", 1000, func() {
				must(t, a.Lock())
				a.Unlock()
			})
			must(t, a.Lock())
			show(t, "extend", 2000, func() { must(t, a.Extend()) })
			show(t, "find it held", 2000, func() { _ = b.Lock() })
			show(t, "ask who holds it", 2000, func() { _, _, _ = a.Holder() })
			t.Run("hand-over", func(t *testing.T) { handOver(t, url, c.handOvers) })
			t.Run("crash", func(t *testing.T) { crash(t, url) })
		})
	}
}

func show(t *testing.T, what string, n int, f func()) {
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		f()
		took[i] = time.Since(began)
	}
	quantiles(t, what, took)
}

func quantiles(t *testing.T, what string, took []time.Duration) {
	slices.Sort(took)
	t.Logf("%s: p50 %v, p99 %v (%d)", what, took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond), len(took))
}

// handOver measures from the return of one node's handler, as it is closed, to the
// beginning of the other's.
func handOver(t *testing.T, url string, n int) {
	type tenure struct {
		node int
		r    *gone.GoneRunner
		at   time.Time
	}
	began, ended := make(chan tenure, 1), make(chan time.Time, 1)
	var runs [2]func()
	for i := range runs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		addr := "tcp://" + ln.Addr().String()
		must(t, ln.Close())
		locks := pglock.New(poolOf(t, url))
		lock(t, locks, "another") // as a node has, so that its connections stay
		g, err := gone.NewGone(addr, locks, gone.WithLogger(slog.New(slog.DiscardHandler)))
		must(t, err)
		t.Cleanup(func() { _ = g.Close() })
		runs[i] = func() {
			_, err := g.RunOne(t.Name(), func(r *gone.GoneRunner) {
				began <- tenure{i, r, time.Now()}
				<-r.Exit
				ended <- time.Now()
			})
			must(t, err)
		}
		runs[i]()
	}
	var took []time.Duration
	for now := <-began; len(took) < n; {
		time.Sleep(8*time.Millisecond + rand.N(4*time.Millisecond)) // the other waits
		must(t, now.r.Close())
		at := <-ended
		last := now.node
		now = <-began
		took = append(took, now.at.Sub(at))
		runs[last]()
	}
	quantiles(t, "hand-over of two nodes, from return to begin", took)
}

// crash measures how long after its last Extend the lock of a node that does nothing any
// more is another's.
func crash(t *testing.T, url string) {
	const ttl = time.Second
	var took []time.Duration
	locks := [2]gone.LockFactory{pglock.New(poolOf(t, url), expiry(ttl)), pglock.New(poolOf(t, url), expiry(ttl))}
	for i := range 20 {
		id := fmt.Sprint(t.Name(), i)
		a, b := lock(t, locks[0], id), lock(t, locks[1], id)
		waits(t, a)
		_ = b.Lock()
		eventually(t, 10*time.Second, "the hold is extended", func() bool { return a.Extend() == nil || a.Lock() == nil })
		extended := time.Now()
		waits(t, b)
		took = append(took, time.Since(extended)-ttl)
	}
	quantiles(t, fmt.Sprintf("take-over from a dead node, beyond the TTL of %v", ttl), took)
}
