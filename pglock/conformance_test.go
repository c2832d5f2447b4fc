package pglock_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/locktest"
	"github.com/Diggs/go-one/pglock"
)

func TestALockKeepsThePromisesOfALock(t *testing.T) {
	locks := func(pool *pgxpool.Pool, schema string) func(time.Duration) gone.LockFactory {
		return func(ttl time.Duration) gone.LockFactory { return pglock.New(pool, in(schema), expiry(ttl)) }
	}
	t.Run("whatever goes wrong, by a user with the smallest rights", func(t *testing.T) {
		t.Parallel()
		s := startServer(t)
		clock := s.fakeClock(t)
		schema := s.schema(t)
		s.grant(t, schema)
		table := fmt.Sprintf("%q.gone_locks", schema)
		p := locktest.NewProxy(t, s.addr())
		locktest.Run(t, locktest.Service{
			Locks:       locks(proxied(t, p, s.url(clock, "user=node")), schema),
			Stop:        p.Stop,
			Slow:        p.Slow,
			LoseReplies: p.LoseReplies,
			Restart: func(t testing.TB) {
				s.stop("QUIT")
				s.start(t)
			},
			Forget:  func(t testing.TB) { s.do(t, "TRUNCATE "+table) },
			Advance: func(t testing.TB, by time.Duration) { s.do(t, "UPDATE fake.clock SET ahead = ahead + $1", by) },
			SetBack: func(t testing.TB, by time.Duration) { s.do(t, "UPDATE fake.clock SET ahead = ahead - $1", by) },
			Delete: func(t testing.TB, id string) {
				s.do(t, "DELETE FROM "+table+" WHERE id = encode($1, 'escape')", []byte(id))
			},
			Spoil: func(t testing.TB, id string) {
				s.do(t, "UPDATE "+table+` SET value = 'x\', secret = '', token = 0, expires = 'infinity' WHERE id = encode($1, 'escape')`, []byte(id))
			},
		})
	})
	t.Run("through a pooler that lends its connections for a transaction", func(t *testing.T) {
		t.Parallel()
		s := sharedServer(t)
		locktest.Run(t, locktest.Service{Locks: locks(poolOf(t, startPooler(t, s)), s.schema(t))})
	})
}

// grant makes a user called node, who has the rights that a lock needs.
func (s *server) grant(t testing.TB, schema string) {
	t.Helper()
	s.do(t, "CREATE ROLE node LOGIN")
	s.do(t, fmt.Sprintf("GRANT USAGE ON SCHEMA %q TO node", schema))
	s.do(t, fmt.Sprintf("GRANT SELECT, INSERT, UPDATE ON %q.gone_locks TO node", schema))
}

func (s *server) addr() net.Addr {
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(s.dir, ".s.PGSQL.5432")}
}

// proxied makes a pool whose connections go through a proxy.
func proxied(t testing.TB, p *locktest.Proxy, url string) *pgxpool.Pool {
	t.Helper()
	c, err := pgxpool.ParseConfig(url)
	must(t, err)
	c.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, p.Addr.Network(), p.Addr.String())
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// fakeClock returns the option with which a server's clock is as far ahead as the table
// fake.clock says.
func (s *server) fakeClock(t testing.TB) (option string) {
	t.Helper()
	s.do(t, `CREATE SCHEMA fake`)
	s.do(t, `CREATE TABLE fake.clock AS SELECT interval '0' AS ahead`)
	s.do(t, `CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
		'SELECT pg_catalog.clock_timestamp() + ahead FROM fake.clock'`)
	s.do(t, `GRANT USAGE ON SCHEMA fake TO PUBLIC`)
	s.do(t, `GRANT SELECT ON fake.clock TO PUBLIC`)
	return "search_path=fake,pg_catalog"
}

// startPooler starts a pgbouncer in transaction mode, and returns where it is.
func startPooler(t testing.TB, s *server) (url string) {
	t.Helper()
	dir, err := os.MkdirTemp(base.dir, "")
	must(t, err)
	config := filepath.Join(dir, "pgbouncer.ini")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
postgres = host=%s user=gone
[pgbouncer]
unix_socket_dir = %s
listen_addr =
listen_port = 5432
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, s.dir, dir), 0o644))
	must(t, os.Chown(dir, base.uid, base.gid))
	p := launch(t, filepath.Join(dir, "log"), binary("pgbouncer"), config)
	t.Cleanup(func() { p.end("TERM") })
	url = "host=" + dir + " user=gone dbname=postgres default_query_exec_mode=exec"
	eventually(t, 10*time.Second, "the pooler answers", func() bool {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		return conn.Ping(t.Context()) == nil
	})
	return url
}
