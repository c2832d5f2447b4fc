package pglock_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/locktest"
	"github.com/Diggs/go-one/pglock"
)

// twoHosts is where either of two servers is, whichever takes writes.
func twoHosts(a, b *server) string {
	return fmt.Sprintf("host=%s,%s user=gone dbname=postgres target_session_attrs=read-write", a.dir, b.dir)
}

// startReplica starts a replica of a server.
func (s *server) startReplica(t testing.TB) *server {
	t.Helper()
	dir, err := os.MkdirTemp(base.dir, "")
	must(t, err)
	must(t, os.Chown(dir, base.uid, base.gid))
	must(t, tool("pg_basebackup", "--pgdata="+filepath.Join(dir, "data"), "--host="+s.dir, "--username=gone", "--write-recovery-conf", "--checkpoint=fast"))
	r := &server{dir: dir}
	t.Cleanup(func() { r.stop("QUIT") })
	r.start(t)
	return r
}

func TestAHoldGoesOnAtTheNewPrimary(t *testing.T) {
	t.Parallel()
	primary := startServer(t, "-c", "synchronous_standby_names=*")
	replica := primary.startReplica(t)
	pool := poolOf(t, twoHosts(primary, replica))
	must(t, pglock.Migrate(t.Context(), pool))
	locks := pglock.New(pool, expiry(time.Minute))
	a, b := lock(t, locks, "x"), lock(t, locks, "x")
	must(t, a.Lock())

	t.Run("a standby says that it is one", func(t *testing.T) {
		l := lock(t, pglock.New(replica.pool(t), expiry(time.Minute)), "x")
		open(t, l.Lock(), "INSERT INTO", "read-only transaction")
		open(t, l.Check(t.Context()), "read-only transaction")
		_, err := l.GetValue()
		open(t, err, "the server is a standby")
		for range 2 {
			if err := l.WaitHeld(t.Context()); err != nil { // looks for itself
				t.Error(err)
			}
		}
	})

	primary.stop("QUIT")
	open(t, a.Extend())
	open(t, b.Lock())
	free := make(chan error, 1)
	go func() { free <- b.WaitFree(t.Context()) }()
	replica.do(t, "SELECT pg_promote()")
	eventually(t, 20*time.Second, "the hold is extended at the new primary", func() bool {
		err := a.Extend()
		if err != nil {
			open(t, err)
		}
		return err == nil
	})
	token := a.FencingToken()
	eventually(t, 20*time.Second, "another finds it held there", func() bool { return errors.Is(b.Lock(), gone.ErrLockHeld) })
	go a.Unlock()
	eventually(t, 20*time.Second, "another gets it there", func() bool { return b.Lock() == nil })
	if b.FencingToken() <= token {
		t.Errorf("token %d after %d", b.FencingToken(), token)
	}
	<-free
}

// A server whose role has changed, but not its connections.
func TestAServerThatOnlyReadsIsGivenUp(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	must(t, pglock.Migrate(t.Context(), s.pool(t)))
	l := lock(t, pglock.New(s.pool(t, "application_name=holder")), "x")
	must(t, l.Lock())
	set := func(value string) {
		s.do(t, "ALTER SYSTEM SET default_transaction_read_only = "+value)
		s.do(t, "SELECT pg_reload_conf()")
		eventually(t, 10*time.Second, "the setting counts", func() bool {
			return s.do(t, "SHOW default_transaction_read_only") == value
		})
	}
	const pids = "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE application_name = 'holder'"
	before := s.do(t, pids)
	set("on")
	eventually(t, 10*time.Second, "it is asked to write", func() bool {
		began := time.Now()
		err := l.Extend()
		if d := time.Since(began); d > 4*time.Second { // a request goes on for 5
			t.Fatalf("it has gone on to ask for %v", d)
		}
		if err != nil {
			open(t, err, "UPDATE", "read-only transaction")
		}
		return err != nil
	})
	eventually(t, 5*time.Second, "its connections are given up", func() bool {
		return s.do(t, "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", before) == int64(0)
	})
	conn, err := pgx.Connect(t.Context(), s.url())
	must(t, err)
	defer conn.Close(t.Context())
	for _, sql := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"} {
		_, err := conn.Exec(t.Context(), sql)
		must(t, err)
	}
	eventually(t, 10*time.Second, "the hold is extended", func() bool { return l.Extend() == nil })
}

func TestSerializableTransactionsAreNotInEachOthersWay(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	for _, mode := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			schema := s.schema(t)
			pool := s.pool(t, "default_transaction_isolation=serializable", "default_query_exec_mode="+mode)
			locks := pglock.New(pool, in(schema), expiry(time.Hour))
			const id = `it's \ "any" id` + "\xff"
			var wg sync.WaitGroup
			for range 4 {
				l := lock(t, locks, id)
				wg.Go(func() {
					for range 50 {
						err := l.Lock()
						if err == nil {
							err = l.Extend()
						} else if errors.Is(err, gone.ErrLockHeld) {
							_, err = l.GetValue()
						}
						if err != nil && !errors.Is(err, gone.ErrNoHolder) {
							t.Error(err)
						}
						l.Unlock()
					}
				})
			}
			wg.Wait()
			waits(t, lock(t, locks, id))
		})
	}
}

func TestConnectionsThatHangCostOneRequest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	must(t, pglock.Migrate(t.Context(), s.pool(t)))
	p := locktest.NewProxy(t, s.addr())
	config, err := pgxpool.ParseConfig(s.url())
	must(t, err)
	var moved atomic.Bool // the way to the server
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !moved.Load() {
			network, addr = p.Addr.Network(), p.Addr.String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	defer pool.Close()
	l := lock(t, pglock.New(pool, expiry(20*time.Second)), "x")
	must(t, l.Lock())
	var wg sync.WaitGroup
	for range 20 { // so that there are all connections
		wg.Go(func() { _, _ = l.GetValue() })
	}
	wg.Wait()
	moved.Store(true)
	defer p.Stop(t)()
	open(t, l.Extend())
	must(t, l.Extend())
}

func TestARowThatSomebodyLocksIsWaitedForInBoundedTime(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	for name, options := range map[string][]string{
		"for a quarter of the TTL": {"pool_max_conns=2"},
		"for the server's limits":  {"lock_timeout=20ms", "statement_timeout=1min"},
		"for a statement's limit":  {"statement_timeout=20ms"},
	} {
		t.Run(name, func(t *testing.T) {
			l := lock(t, pglock.New(s.pool(t, options...), in(schema), expiry(4*time.Second)), t.Name())
			eventually(t, 10*time.Second, "it is had", func() bool { return l.Lock() == nil })
			tx, err := s.pool(t).Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), fmt.Sprintf("SELECT FROM %q.gone_locks FOR UPDATE", schema))
			must(t, err)
			began := time.Now()
			open(t, l.Extend())
			if d := time.Since(began); d > 20*time.Second { // a second; without a bound a minute or more
				t.Errorf("it took %v", d)
			}
			must(t, tx.Rollback(t.Context()))
			eventually(t, 10*time.Second, "it is asked again", func() bool {
				err := l.Extend()
				return err == nil || errors.Is(err, gone.ErrLockLost) // on a slow machine
			})
		})
	}
}

func TestConnectionsThatEndAreMadeAnew(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	a := lock(t, pglock.New(s.pool(t, "application_name=ended"), in(schema)), "x")
	b := lock(t, pglock.New(s.pool(t, "application_name=ended", "idle_session_timeout=50ms"), in(schema)), "x")
	must(t, a.Lock())
	got := make(chan struct{})
	go func() {
		defer close(got)
		for b.Lock() != nil && b.WaitFree(t.Context()) == nil {
		}
	}()
	for range 5 {
		s.do(t, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'ended'")
		eventually(t, 10*time.Second, "the hold is extended", func() bool {
			err := a.Extend()
			if err != nil {
				open(t, err)
			}
			return err == nil
		})
	}
	a.Unlock()
	select {
	case <-got:
	case <-time.After(time.Minute):
		t.Fatal("another waits for what is free")
	}
}

func TestTooManyConnectionsLeaveItOpen(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	role := strings.ReplaceAll(schema, " ", "_")
	s.do(t, fmt.Sprintf("CREATE ROLE %s LOGIN CONNECTION LIMIT 0", role))
	s.do(t, fmt.Sprintf("GRANT USAGE ON SCHEMA %q TO %s", schema, role))
	s.do(t, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE ON %q.gone_locks TO %s", schema, role))
	l := lock(t, pglock.New(s.pool(t, "user="+role), in(schema)), "x")
	open(t, l.Lock(), "too many connections")
	s.do(t, fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT 1", role))
	must(t, l.Lock())
}

func TestAnApplicationThatHasUsedUpItsPoolKeepsItsLocks(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	pool := s.pool(t, "pool_max_conns=1")
	l := lock(t, pglock.New(pool, in(schema)), "x")
	conn, err := pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	must(t, l.Lock())
	must(t, l.Extend())
}

func TestAClosedLockLeavesNoConnections(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	locks := pglock.New(s.pool(t, "application_name=closed"), in(schema))
	count := func() any {
		return s.do(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closed'")
	}
	a, b := lock(t, locks, "x"), lock(t, locks, "x")
	must(t, a.Lock())
	ended := make(chan error, 1)
	go func() { ended <- b.WaitFree(t.Context()) }()
	eventually(t, 10*time.Second, "there are connections, one for wake-ups", func() bool { return count().(int64) >= 2 })
	must(t, a.Close())
	must(t, b.Close())
	eventually(t, 10*time.Second, "there are none", func() bool { return count() == int64(0) })
	must(t, <-ended) // looks for itself, and hears:
	for what, err := range map[string]error{
		"Lock": b.Lock(), "Extend": b.Extend(), "Check": b.Check(t.Context()), "WaitFree": b.WaitFree(context.Background()),
	} {
		if !errors.Is(err, gone.ErrClosed) {
			t.Errorf("%s of a closed lock: %v", what, err)
		}
	}
}
