package pglock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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
// given up sooner, and all at once.
type database struct {
	of   *pgxpool.Pool // the user's
	pool *pgxpool.Pool
	mode pgx.QueryExecMode

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
		c := settings(pool)
		own, err := pgxpool.NewWithConfig(context.Background(), c)
		if err != nil {
			return nil, err
		}
		db = &database{of: pool, pool: own, mode: modeOf(c), watches: map[string]*watch{}}
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
	return c
}

// modeOf is a mode that asks in one round trip and prepares nothing that a pooler
// would have to know.
func modeOf(c *pgxpool.Config) pgx.QueryExecMode {
	if c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
		return pgx.QueryExecModeSimpleProtocol
	}
	return pgx.QueryExecModeExec
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
		w = newWatch(db.pool, db.mode, t)
		db.watches[t.name] = w
	}
	return w
}

// ask makes a request on a connection of the pool, and makes it again where
// transactions were in each other's way: nothing has happened then. After any other
// error all connections are given up: it may have been the wrong server, or the way to
// it. The next ones are dialled anew.
func ask(ctx context.Context, pool *pgxpool.Pool, s statement, request func(*pgxpool.Conn) error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := try(ctx, pool, request)
		if !conflict(err) || sleep(ctx, pause) != nil {
			return s.explain(err)
		}
	}
}

func try(ctx context.Context, pool *pgxpool.Pool, request func(*pgxpool.Conn) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			stat := pool.Stat()
			return fmt.Errorf("no connection in time (%d in use, %d being made): %w", stat.AcquiredConns(), stat.ConstructingConns(), err)
		}
		return err
	}
	defer conn.Release()
	err = request(conn)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) && !conflict(err) {
		pool.Reset()
	}
	return err
}

// conflict reports whether a transaction was ended in favour of others: it could not
// be serialized, or was in a deadlock.
func conflict(err error) bool {
	code := codeOf(err)
	return code == "40001" || code == "40P01"
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
