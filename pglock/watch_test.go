package pglock_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/Diggs/go-one/pglock"
)

// A counter is a tracer that counts statements.
type counter struct{ all, listen atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	c.all.Add(1)
	if strings.HasPrefix(q.SQL, "LISTEN") {
		c.listen.Add(1)
	}
	return ctx
}

func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// counted makes a pool that counts.
func counted(t testing.TB, url string) (*pgxpool.Pool, *counter) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	must(t, err)
	c := &counter{}
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool, c
}

func TestAThousandWhoWaitCostFewStatementsAndConnections(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]func(*server) string{
		"by notifications": func(s *server) string { return s.url("application_name=waiters") },
		"through a pooler": func(s *server) string { return startPooler(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n, ttl = 1000, 6 * time.Second
			s := sharedServer(t)
			schema := s.schema(t)
			holders := pglock.New(s.pool(t), in(schema), expiry(10*time.Minute)) // who waits asks sooner
			pool, statements := counted(t, through(s))
			waiters := pglock.New(pool, in(schema), expiry(ttl))
			a, b := make([]*pglock.Lock, n), make([]*pglock.Lock, n)
			for i := range n {
				a[i], b[i] = lock(t, holders, fmt.Sprint(i)), lock(t, waiters, fmt.Sprint(i))
			}
			each(t, a, (*pglock.Lock).Lock)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var woken atomic.Int64
			var wg sync.WaitGroup
			for _, l := range b {
				wg.Go(func() {
					if l.WaitFree(ctx) == nil {
						woken.Add(1)
					}
				})
			}
			time.Sleep(ttl)
			t.Logf("%d statements, of which %d LISTEN", statements.all.Load(), statements.listen.Load())
			// A statement for all of them each second at most, and what connections cost.
			if got := statements.all.Load(); got > 60 {
				t.Errorf("a TTL of waiting has cost %d statements", got)
			}
			if got := s.do(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiters'").(int64); got > 5 {
				t.Errorf("there are %d connections", got)
			}
			if got := woken.Load(); got > 0 {
				t.Errorf("%d were woken, though all was held", got)
			}
			for _, l := range a {
				l.Unlock()
			}
			eventually(t, 20*time.Second, "all are woken", func() bool { return woken.Load() == n })
			wg.Wait()
		})
	}
}

func each(t testing.TB, ls []*pglock.Lock, f func(*pglock.Lock) error) {
	t.Helper()
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for i := k; i < len(ls); i += 8 {
				if err := f(ls[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWhoWaitsIsWokenThoughThePoolerHearsNothing(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	pool, statements := counted(t, startPooler(t, s))
	a := lock(t, pglock.New(s.pool(t), in(schema), expiry(10*time.Minute)), "x")
	b := lock(t, pglock.New(pool, in(schema), expiry(10*time.Minute)), "x")
	must(t, a.Lock())
	time.AfterFunc(100*time.Millisecond, a.Unlock)
	waits(t, b)
	// The connection that is lent for it would go on to listen, for others.
	if n := statements.listen.Load(); n > 0 {
		t.Errorf("the pooler was asked to LISTEN %d times", n)
	}
}

// waits fails unless a lock is had long before its TTL has run out.
func waits(t testing.TB, l *pglock.Lock) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for l.Lock() != nil {
		if err := l.WaitFree(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNotificationsOfStrangersKeepNobodyAsleep(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	s := sharedServer(t)
	schema := s.schema(t)
	pool := s.pool(t)
	locks := pglock.New(pool, in(schema), expiry(ttl))
	a, b := lock(t, locks, "x"), lock(t, locks, "x")
	began := time.Now()
	waits(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			for _, payload := range []string{"", " ", "x", "1 2", "1 2 3", "9223372036854775807 9223372036854775807 78", "7 3600000 78", "1 0 78 78"} {
				_, _ = pool.Exec(ctx, "SELECT pg_notify($1, $2)", "gone:"+schema+".gone_locks", payload)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	waits(t, b) // a is not extended, and its TTL runs out
	cancel()
	wg.Wait()
	if d := time.Since(began); d < ttl {
		t.Errorf("it was had after %v", d)
	}
}

func TestAConnectionForWakeUpsThatEndsIsReplaced(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	locks := pglock.New(s.pool(t, "application_name=deaf"), in(schema), expiry(10*time.Minute))
	a, b := lock(t, locks, "x"), lock(t, locks, "x")
	for range 3 {
		must(t, a.Lock())
		time.AfterFunc(200*time.Millisecond, func() {
			s.do(t, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'deaf' AND query LIKE 'LISTEN%'")
			a.Unlock()
		})
		waits(t, b)
		a, b = b, a
	}
}

func TestWaitHeldWaitsForAnotherHoldThanWasSeen(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	locks := pglock.New(s.pool(t), in(schema))
	a, b := lock(t, locks, "x"), lock(t, locks, "x")
	must(t, a.Lock())
	_, token, err := b.Holder()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := b.WaitHeld(ctx); err == nil {
		t.Error("it returned, though the holder is the one that was seen")
	}
	time.AfterFunc(100*time.Millisecond, func() {
		a.Unlock()
		if err := a.Lock(); err != nil {
			t.Error(err)
		}
	})
	must(t, b.WaitHeld(t.Context()))
	if _, now, err := b.Holder(); err != nil || now <= token {
		t.Errorf("token %d after %d, error %v", now, token, err)
	}
}

func TestAHoldIsExtendedInPlace(t *testing.T) {
	t.Parallel()
	extendsInPlace(t, 20_000)
}

func TestLongExtendsAreInPlace(t *testing.T) { extendsInPlace(t, 100_000) }

func extendsInPlace(t *testing.T, extends int) {
	s := startServer(t) // nobody else has old rows kept
	schema := s.schema(t)
	const n = 1000 // pages are full
	locks := make([]*pglock.Lock, n)
	factory := pglock.New(s.pool(t), in(schema), expiry(time.Hour))
	for i := range locks {
		locks[i] = lock(t, factory, fmt.Sprint("some singleton ", i))
	}
	each(t, locks, (*pglock.Lock).Lock)
	size := func() int64 {
		return s.do(t, "SELECT pg_total_relation_size($1::text::regclass)", fmt.Sprintf("%q.gone_locks", schema)).(int64)
	}
	before := size()
	began := time.Now()
	for range extends / n {
		each(t, locks, (*pglock.Lock).Extend)
	}
	took := time.Since(began)
	after := size()
	t.Logf("%d extends of %d ids in %v (%.0f a second): the table and its index had %d bytes and have %d",
		extends, n, took.Round(time.Millisecond), float64(extends)/took.Seconds(), before, after)
	if after > 3*before {
		t.Errorf("the table has grown from %d to %d bytes", before, after)
	}
	for _, l := range locks {
		must(t, l.Close()) // when their connections end, the statistics are complete
	}
	var hot, all any
	eventually(t, 10*time.Second, "the statistics are there", func() bool {
		hot = s.do(t, "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = $1", schema)
		all = s.do(t, "SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = $1", schema)
		return all.(int64) >= int64(extends)
	})
	t.Logf("%v of %v updates were in place", hot, all)
	if hot.(int64) < all.(int64)*99/100 {
		t.Errorf("%v of %v updates were in place", hot, all)
	}
}
