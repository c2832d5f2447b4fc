package pglock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/pglock"
)

func TestManyNodesMigrateAtOnce(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	pools := make([]*pgxpool.Pool, 8)
	for i := range pools {
		pools[i] = s.pool(t, "default_transaction_isolation=serializable")
		must(t, pools[i].Ping(t.Context()))
	}
	schemas := []string{""}
	for i := range 5 {
		schemas = append(schemas, fmt.Sprintf(`it's "new" %d %d`, i, time.Now().UnixNano()))
	}
	for _, schema := range schemas {
		configure := func(l *pglock.Lock) { l.Schema, l.Table = schema, `locks of "many"` }
		var wg sync.WaitGroup
		for _, pool := range pools {
			wg.Go(func() {
				if err := pglock.Migrate(t.Context(), pool, configure); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		l := lock(t, pglock.New(pools[0], configure), t.Name())
		must(t, l.Lock())
		must(t, l.Check(t.Context()))
	}
}

func TestAUsersOwnMigrationMakesTheTable(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := fmt.Sprint("own ", time.Now().UnixNano())
	sql, err := pglock.Migration(in(schema))
	must(t, err)
	s.do(t, fmt.Sprintf("CREATE SCHEMA %q", schema))
	for range 2 {
		s.do(t, sql)
	}
	// Whoever may only see it has nothing to do.
	s.do(t, fmt.Sprintf("CREATE ROLE %q LOGIN", schema))
	must(t, pglock.Migrate(t.Context(), s.pool(t, fmt.Sprintf("user='%s'", schema)), in(schema)))
	must(t, lock(t, pglock.New(s.pool(t), in(schema)), t.Name()).Lock())
}

func TestWhatCanNotBeALockIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	for name, c := range map[string]struct {
		id, value string
		configure func(*pglock.Lock)
		want      string
	}{
		"no id":        {"", "v", in(""), "id of 0 bytes"},
		"long id":      {strings.Repeat("x", gone.MaxIDLength+1), "v", in(""), "id of"},
		"no value":     {"x", "", in(""), "value of 0 bytes"},
		"long value":   {"x", strings.Repeat("v", 513), in(""), "value of 513 bytes"},
		"short expiry": {"x", "v", expiry(time.Microsecond), "expiry of 1µs"},
		"long schema":  {"x", "v", in(strings.Repeat("s", 64)), "at most 63 bytes"},
		"NUL":          {"x", "v", func(l *pglock.Lock) { l.Table = "a\x00b" }, "no NUL"},
	} {
		if _, err := pglock.New(s.pool(t), c.configure)(c.id, c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, c.want)
		}
	}
	if _, err := pglock.New(nil)("x", "v"); err == nil {
		t.Error("no pool: no error")
	}
}

// open fails unless an error leaves it open how the lock is, and says what was asked for
// and what the server said.
func open(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil || errors.Is(err, gone.ErrLockHeld) || errors.Is(err, gone.ErrLockLost) || errors.Is(err, gone.ErrNoHolder) {
		t.Fatalf("got error %v, want one that leaves it open", err)
	}
	for _, s := range want {
		if !strings.Contains(err.Error(), s) {
			t.Fatalf("error %q does not say %q", err, s)
		}
	}
}

func TestARefusalNamesTheStatementAndTheServersWords(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	t.Run("no table", func(t *testing.T) {
		l := lock(t, pglock.New(s.pool(t), func(l *pglock.Lock) { l.Table = "nowhere" }), t.Name())
		words := []string{`INSERT INTO "public"."nowhere"`, `relation "public.nowhere" does not exist`, "pglock.Migrate"}
		open(t, l.Lock(), words...)
		open(t, l.Check(t.Context()), words...)
		_, err := l.GetValue()
		open(t, err, `SELECT FROM "public"."nowhere"`)
	})
	t.Run("no right", func(t *testing.T) {
		schema := s.schema(t)
		role := strings.ReplaceAll(schema, " ", "_")
		s.do(t, "CREATE ROLE "+role+" LOGIN")
		s.do(t, fmt.Sprintf("GRANT USAGE ON SCHEMA %q TO %s", schema, role))
		l := lock(t, pglock.New(s.pool(t, "user="+role), in(schema)), t.Name())
		for _, missing := range []string{"SELECT, UPDATE", "SELECT, INSERT", "INSERT, UPDATE"} {
			s.do(t, fmt.Sprintf("REVOKE ALL ON %q.gone_locks FROM %s", schema, role))
			s.do(t, fmt.Sprintf("GRANT %s ON %q.gone_locks TO %s", missing, schema, role))
			open(t, l.Check(t.Context()), "INSERT INTO", "gone_locks", "permission denied for table gone_locks")
			open(t, l.Lock(), "INSERT INTO", "gone_locks", "permission denied for table gone_locks")
		}
		s.do(t, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE ON %q.gone_locks TO %s", schema, role))
		must(t, l.Check(t.Context()))
		if n := s.do(t, fmt.Sprintf("SELECT count(*) FROM %q.gone_locks", schema)); n != int64(0) {
			t.Errorf("Check has left %v rows", n)
		}
		must(t, l.Lock())
		must(t, l.Check(t.Context()))
	})
	t.Run("no right to connect", func(t *testing.T) {
		l := lock(t, pglock.New(s.pool(t, "dbname=nowhere")), t.Name())
		open(t, l.Check(t.Context()), `database "nowhere" does not exist`)
	})
	t.Run("ended context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := lock(t, pglock.New(s.pool(t)), t.Name()).Check(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v", err)
		}
	})
}

func TestTokensGoOnWhereTheClockIsBehind(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	l := lock(t, pglock.New(s.pool(t), in(schema)), "x")
	before := time.Now().UnixMicro()
	must(t, l.Lock())
	if token := int64(l.FencingToken()); token < before-1e6 || token > time.Now().UnixMicro()+1e6 {
		t.Errorf("token %d, want the time in microseconds, %d", token, before)
	}
	ahead := before + 1e12
	s.do(t, fmt.Sprintf("UPDATE %q.gone_locks SET token = $1", schema), ahead)
	l.Unlock()
	// As the hold has another token now, it had been lost; its secret has released it.
	for i := range int64(3) {
		must(t, l.Lock())
		if token := int64(l.FencingToken()); token != ahead+1+i {
			t.Errorf("token %d after %d", token, ahead+i)
		}
		l.Unlock()
	}
}

func TestACopyOfALockThatComesLateTakesNothing(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	l := lock(t, pglock.New(s.pool(t), in(schema)), "x")
	must(t, l.Lock())
	secret := l.Secret()
	l.Unlock()
	verdict, err := l.AcquireAgain(secret)
	must(t, err)
	if verdict != "over" {
		t.Errorf("a copy of a released hold's request is answered with %q", verdict)
	}
	if _, err := l.GetValue(); !errors.Is(err, gone.ErrNoHolder) {
		t.Errorf("after it, the holder is found with error %v", err)
	}
}

func TestRefusedLocksWriteNothing(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	a, b := lock(t, pglock.New(s.pool(t), in(schema)), "x"), lock(t, pglock.New(s.pool(t), in(schema)), "x")
	must(t, a.Lock())
	row := func() any { return s.do(t, fmt.Sprintf("SELECT xmin::text || xmax::text FROM %q.gone_locks", schema)) }
	before := row()
	for range 10 {
		if err := b.Lock(); !errors.Is(err, gone.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	if after := row(); after != before {
		t.Errorf("the row's transactions were %v and are %v", before, after)
	}
}

// A request that was held up in the server goes by a clock of long ago.
func TestACopyOfALockThatComesLateDoesNotShortenTheHold(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	schema := s.schema(t)
	l := lock(t, pglock.New(s.pool(t, "application_name=late"), in(schema), expiry(time.Minute)), "x")
	must(t, l.Lock())
	tx, err := s.pool(t).Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), fmt.Sprintf("SELECT FROM %q.gone_locks FOR UPDATE", schema))
	must(t, err)
	late := make(chan error, 1)
	go func() {
		_, err := l.AcquireAgain(l.Secret())
		late <- err
	}()
	eventually(t, 10*time.Second, "the copy waits for the row", func() bool {
		return s.do(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'late' AND wait_event_type = 'Lock'") == int64(1)
	})
	// The hold is extended before the copy's turn.
	var expires time.Time
	must(t, tx.QueryRow(t.Context(), fmt.Sprintf("UPDATE %q.gone_locks SET expires = clock_timestamp() + ttl RETURNING expires", schema)).Scan(&expires))
	must(t, tx.Commit(t.Context()))
	must(t, <-late)
	if now := s.do(t, fmt.Sprintf("SELECT expires FROM %q.gone_locks", schema)).(time.Time); now.Before(expires) {
		t.Errorf("the hold ends %v earlier", expires.Sub(now))
	}
}
