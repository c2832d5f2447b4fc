package pglock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxConns = 4 // of the locks of a pool, and one more for wake-ups
	// maxAge is how long a connection is used: it bounds how long a server is asked
	// that the address does not lead to any more.
	maxAge = 10 * time.Second
	// connectTimeout is that of a pool that says none: a dead address must not keep the
	// next one from being tried.
	connectTimeout = 3 * time.Second
)

var (
	errNoPool  = errors.New("gone: pg lock: a pool is needed")
	errStandby = errors.New("the server is a standby")
)

// A database is what the locks of one pool share: connections, and for each table a
// watch. It is there while any of these locks is.
//
// The connections are not those of the user's pool, only made as these are: an
// application that has used up its pool must not lose its locks by that, and they are
// given up sooner.
type database struct {
	of    *pgxpool.Pool // the user's
	pool  *pgxpool.Pool
	doubt atomic.Pointer[time.Time] // when the last request began that failed

	// Guarded by databases.
	users   int // locks that are not closed, and requests
	watches map[string]*watch
}

// databases are those of this process that are in use.
var databases = struct {
	sync.Mutex
	of map[*pgxpool.Pool]*database
}{of: map[*pgxpool.Pool]*database{}}

// databaseOf is the database of a user's pool, for the caller to release.
func databaseOf(pool *pgxpool.Pool) (*database, error) {
	databases.Lock()
	defer databases.Unlock()
	db := databases.of[pool]
	if db == nil {
		own, err := pgxpool.NewWithConfig(context.Background(), settings(pool))
		if err != nil {
			return nil, err
		}
		db = &database{of: pool, pool: own, watches: map[string]*watch{}}
		databases.of[pool] = db
	}
	db.users++
	return db, nil
}

func settings(pool *pgxpool.Pool) *pgxpool.Config {
	c := pool.Config()
	c.MaxConns = min(c.MaxConns, maxConns)
	c.MinConns, c.MinIdleConns = 0, 0
	c.MaxConnLifetime, c.MaxConnLifetimeJitter = maxAge, 0
	c.MaxConnIdleTime, c.HealthCheckPeriod = maxAge, maxAge
	// A dead connection shows in the request itself, in the same time.
	c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	if c.ConnConfig.ConnectTimeout == 0 {
		c.ConnConfig.ConnectTimeout = connectTimeout
	}
	before := c.AfterConnect
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if before != nil {
			if err := before(ctx, conn); err != nil {
				return err
			}
		}
		return examine(ctx, conn)
	}
	return c
}

// What is known of a connection, as its custom data.
const (
	modeKey   = "gone.mode"   // pgx.QueryExecMode: how to ask in one round trip
	poolerKey = "gone.pooler" // bool: whether there is a pooler in between
	heardKey  = "gone.heard"  // time.Time: of the last answer that was no error
)

// examine finds out about a connection. A pooler gives its clients numbers of their
// own. One that lends connections for a transaction lends one without what is prepared
// there, or listened to.
func examine(ctx context.Context, conn *pgx.Conn) error {
	mode := conn.Config().DefaultQueryExecMode
	if mode != pgx.QueryExecModeSimpleProtocol {
		mode = pgx.QueryExecModeExec
	}
	var pid uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()", mode).Scan(&pid); err != nil {
		return err
	}
	pooler := pid != conn.PgConn().PID()
	if !pooler && conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		mode = pgx.QueryExecModeCacheStatement
	}
	data := conn.PgConn().CustomData()
	data[modeKey], data[poolerKey], data[heardKey] = mode, pooler, time.Now()
	return nil
}

// retain is for who has it already.
func (db *database) retain() {
	databases.Lock()
	defer databases.Unlock()
	db.users++
}

func (db *database) release() {
	databases.Lock()
	defer databases.Unlock()
	if db.users--; db.users > 0 {
		return
	}
	delete(databases.of, db.of)
	for _, w := range db.watches {
		w.close()
	}
	go db.pool.Close() // waits for the watches, and for a server that does not hear that it is over
}

// watch is that of a table.
func (db *database) watch(t *table) *watch {
	databases.Lock()
	defer databases.Unlock()
	w := db.watches[t.name]
	if w == nil {
		w = newWatch(db, t)
		db.watches[t.name] = w
	}
	return w
}

// ask sends a statement on a connection of the pool, calls each for each row of the
// answer, and returns the number of rows, changed or read. It does so again where
// transactions were in each other's way: nothing has happened then. Any other error may
// be due to a wrong server, or the way to it: on an old connection it is no answer, and
// it asks again on another; all that locks ask for can be repeated.
func (db *database) ask(ctx context.Context, s statement, each func(pgx.Rows) error, args ...any) (n int64, err error) {
	for pause := time.Millisecond; ; pause *= 2 {
		var old bool
		n, old, err = db.try(ctx, s, each, args)
		again := conflict(err) && sleep(ctx, pause) == nil || !conflict(err) && old && ctx.Err() == nil
		if err == nil || !again {
			return n, s.explain(err)
		}
	}
}

// try asks on one connection, and says whether that was there before.
func (db *database) try(ctx context.Context, s statement, each func(pgx.Rows) error, args []any) (n int64, old bool, err error) {
	began := time.Now()
	conn, err := db.acquire(ctx)
	if err != nil {
		return 0, false, err
	}
	defer conn.Release()
	data := conn.Conn().PgConn().CustomData()
	old = data[heardKey].(time.Time).Before(began)
	defer func() {
		switch {
		case err == nil:
			data[heardKey] = time.Now()
		case !conflict(err):
			db.doubt.Store(&began)
			hangUp(conn)
		}
	}()
	rows, err := conn.Query(ctx, s.sql, append([]any{data[modeKey]}, args...)...)
	if err != nil {
		return 0, old, err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return 0, old, err
		}
	}
	rows.Close()
	return rows.CommandTag().RowsAffected(), old, rows.Err()
}

// acquire takes a connection from the pool. Those that have answered nothing since a
// request began that failed are given up: each may hang for as long as that did. Not all
// are: where many requests are late, making new connections would only make more late.
func (db *database) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	for {
		conn, err := db.pool.Acquire(ctx)
		if err != nil {
			if ctx.Err() != nil {
				stat := db.pool.Stat()
				err = fmt.Errorf("no connection in time (%d in use, %d being made): %w", stat.AcquiredConns(), stat.ConstructingConns(), err)
			}
			return nil, err
		}
		doubt := db.doubt.Load()
		if doubt == nil || conn.Conn().PgConn().CustomData()[heardKey].(time.Time).After(*doubt) {
			return conn, nil
		}
		hangUp(conn)
		conn.Release()
	}
}

// hangUp closes a connection without waiting for the server to do so, too.
func hangUp(conn *pgxpool.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Conn().Close(ctx)
}

// conflict reports whether a transaction was ended in favour of others: it could not
// be serialized, or was in a deadlock.
func conflict(err error) bool {
	code := codeOf(err)
	return code == "40001" || code == "40P01"
}

// refused reports whether the server will not do what it is asked: the table is not
// there, or the right to it.
func refused(err error) bool {
	code := codeOf(err)
	return strings.HasPrefix(code, "42") || code == "3F000"
}

func codeOf(err error) string {
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// explain adds what was asked for to the server's words.
func (s statement) explain(err error) error {
	switch codeOf(err) {
	case "":
		return err
	case "42P01", "3F000": // no such table, or schema
		return fmt.Errorf("%s (pglock.Migrate makes it): %w", s.what, err)
	}
	return fmt.Errorf("%s: %w", s.what, err)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d/2 + rand.N(d)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
