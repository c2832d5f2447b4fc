package main

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/Diggs/go-one/internal/freeport"
	"github.com/Diggs/go-one/pglock"
)

var postgresContenders = []contender{
	{name: nameGone, open: openPglock},
	{name: "advisory lock", open: openAdvisory},
	{name: "leader row", open: openLeaderRow},
}

// postgresProgram is off the PATH on Debian.
func postgresProgram(name string) string {
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1]
	}
	return name
}

// startPostgres starts a PostgreSQL with what the contenders need. It refuses to be
// root's.
func startPostgres() (addr string, stop func(), err error) {
	dir, err := inMemory()
	if err != nil {
		return "", nil, err
	}
	var as syscall.SysProcAttr
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return "", nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", nil, err
		}
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(postgresProgram(name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, &as
		return cmd
	}
	port := strconv.Itoa(freeport.Next())
	addr = net.JoinHostPort("127.0.0.1", port)
	var d *daemon
	data := filepath.Join(dir, "data")
	err = command("initdb", "--pgdata="+data, "--username=gone", "--auth=trust", "--no-sync").Run()
	if err == nil {
		d, err = start(command("postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""), "QUIT")
	}
	if err == nil {
		err = d.answers(func() error { return prepare(addr) })
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return addr, func() { d.stop(); _ = os.RemoveAll(dir) }, nil
}

// prepare makes the tables.
func prepare(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pool, err := postgresPool(&line{addr: addr})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pglock.Migrate(ctx, pool); err != nil {
		return err
	}
	_, err = pool.Exec(ctx, leaderTable)
	return err
}

func postgresPool(l *line) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig("postgres://gone@" + l.addr + "/postgres?sslmode=disable")
	if err != nil {
		return nil, err
	}
	c.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) }
	return pgxpool.NewWithConfig(context.Background(), c)
}

func openPglock(l *line, ttl time.Duration) (node, error) {
	pool, err := postgresPool(l)
	if err != nil {
		return nil, err
	}
	return &goneNode{locks: pglock.New(pool, func(l *pglock.Lock) { l.Expiry = ttl }), end: pool.Close}, nil
}

// The advisory lock of a session: a connection for each lock that is held or waited for.
// It has no TTL, and is free when the server notices that the session is over.

type advisoryNode struct {
	pool *pgxpool.Pool
	mu   sync.Mutex
	made []*pgx.Conn
}

type advisoryLock struct {
	extendsItself
	node *advisoryNode
	id   string
	conn *pgx.Conn // nil at first
}

func openAdvisory(l *line, _ time.Duration) (node, error) {
	pool, err := postgresPool(l)
	return &advisoryNode{pool: pool}, err
}

func (n *advisoryNode) lock(id string) lock { return &advisoryLock{node: n, id: id} }

func (n *advisoryNode) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.made {
		_ = c.Close(context.Background())
	}
	n.pool.Close()
}

// ask asks in the lock's session.
func (l *advisoryLock) ask(ctx context.Context, function string) error {
	if l.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, l.node.pool.Config().ConnConfig)
		if err != nil {
			return err
		}
		l.conn = conn
		l.node.mu.Lock()
		l.node.made = append(l.node.made, conn)
		l.node.mu.Unlock()
	}
	var done bool
	err := l.conn.QueryRow(ctx, "SELECT "+function+"(hashtextextended($1, 0))::text <> 'false'", l.id).Scan(&done)
	if err == nil && !done {
		err = errRefused
	}
	return err
}

func (l *advisoryLock) acquire() error                 { return l.ask(context.Background(), "pg_try_advisory_lock") }
func (l *advisoryLock) wait(ctx context.Context) error { return l.ask(ctx, "pg_advisory_lock") }
func (l *advisoryLock) release() error                 { return l.ask(context.Background(), "pg_advisory_unlock") }

// The leader row, in the way of River's documentation: a row with an end that the leader
// moves, followers that try at an interval, here as often as the leader, a third of
// the TTL, and a notification when a leader resigns.

const (
	leaderTable = `CREATE TABLE leader (name text PRIMARY KEY, leader text NOT NULL, expires timestamptz NOT NULL)`
	elect       = `INSERT INTO leader VALUES ($1, $2, now() + $3 * interval '1 ms') ON CONFLICT (name) DO UPDATE
SET leader = excluded.leader, expires = excluded.expires WHERE leader.expires < now()`
	reelect = `UPDATE leader SET expires = now() + $3 * interval '1 ms' WHERE name = $1 AND leader = $2 AND expires >= now()`
	resign  = `WITH resigned AS (DELETE FROM leader WHERE name = $1 AND leader = $2 RETURNING name) SELECT pg_notify('leader', name) FROM resigned`
)

type leaderNode struct {
	pool *pgxpool.Pool
	ttl  time.Duration
	end  context.CancelFunc
	over chan struct{}

	mu      sync.Mutex
	waiting map[string]chan struct{} // by name
}

type leaderLock struct {
	*leaderNode
	name, leader string
}

func openLeaderRow(l *line, ttl time.Duration) (node, error) {
	pool, err := postgresPool(l)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &leaderNode{pool: pool, ttl: ttl, end: cancel, over: make(chan struct{}), waiting: map[string]chan struct{}{}}
	conn, err := pool.Acquire(ctx)
	if err == nil {
		_, err = conn.Exec(ctx, "LISTEN leader")
	}
	if err != nil {
		cancel()
		return nil, err
	}
	go n.hear(ctx, conn)
	return n, nil
}

// hear wakes whoever waits for a name that it hears.
func (n *leaderNode) hear(ctx context.Context, conn *pgxpool.Conn) {
	defer close(n.over)
	defer conn.Release()
	for {
		news, err := conn.Conn().WaitForNotification(ctx)
		if err != nil {
			return
		}
		n.mu.Lock()
		if wake, ok := n.waiting[news.Payload]; ok {
			close(wake)
			delete(n.waiting, news.Payload)
		}
		n.mu.Unlock()
	}
}

func (n *leaderNode) lock(id string) lock { return &leaderLock{n, id, rand.Text()} }

func (n *leaderNode) close() {
	n.end()
	<-n.over
	n.pool.Close()
}

func (l *leaderLock) ask(ctx context.Context, sql string, args ...any) error {
	done, err := l.pool.Exec(ctx, sql, append([]any{l.name, l.leader}, args...)...)
	if err == nil && done.RowsAffected() != 1 {
		err = errRefused
	}
	return err
}

func (l *leaderLock) acquire() error {
	return l.ask(context.Background(), elect, l.ttl.Milliseconds())
}

func (l *leaderLock) extend() error {
	return l.ask(context.Background(), reelect, l.ttl.Milliseconds())
}
func (l *leaderLock) release() error { return l.ask(context.Background(), resign) }

func (l *leaderLock) wait(ctx context.Context) error {
	for {
		wake := make(chan struct{})
		l.mu.Lock()
		l.waiting[l.name] = wake
		l.mu.Unlock()
		if err := l.ask(ctx, elect, l.ttl.Milliseconds()); err != errRefused {
			return err
		}
		select {
		case <-wake:
		case <-time.After(l.ttl / extends):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
