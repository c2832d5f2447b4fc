// Package redisconn is a process's connections to its Redises: a pool for
// requests, and one connection for wake-ups while somebody waits for one.
package redisconn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A Client is this process's share of one Redis. It is counted by those who
// retain it. All its methods may be called concurrently.
type Client struct {
	pool    *redis.Pool
	wakeups *wakeups

	key  any // in clients
	own  bool
	uses int // guarded by clients
}

var clients = struct {
	sync.Mutex
	m map[any]*Client // by Address or by the user's pool
}{m: map[any]*Client{}}

// timeout of every step of a connection.
const timeout = 5 * time.Second

// lifetime is how long a connection is used, as its server may have lost its role
// without a word while the address leads to another by now. It is short beside a
// TTL, and nothing beside the cost of a connection.
const lifetime = 10 * time.Second

// Dial returns the client of an address, retained. Nothing is sent yet.
func (a Address) Dial() *Client {
	return share(a, true, func() *redis.Pool {
		return &redis.Pool{
			DialContext: a.connect,
			MaxActive:   16,
			MaxIdle:     16,
			IdleTimeout: time.Minute,
			Wait:        true,

			MaxConnLifetime: lifetime,
		}
	})
}

// Use returns the client of a caller's pool, retained. The pool stays the
// caller's to close.
func Use(pool *redis.Pool) *Client {
	return share(pool, false, func() *redis.Pool { return pool })
}

func share(key any, own bool, pool func() *redis.Pool) *Client {
	clients.Lock()
	defer clients.Unlock()
	c := clients.m[key]
	if c == nil {
		c = &Client{key: key, own: own, pool: pool()}
		c.wakeups = newWakeups(c.dial)
		clients.m[key] = c
	}
	c.uses++
	return c
}

// Retain is for a request, by somebody who has retained the client already: its
// connections are there until all have released it. Redigo's pool may panic
// when it is closed while somebody waits for it.
func (c *Client) Retain() {
	clients.Lock()
	defer clients.Unlock()
	c.uses++
}

// linger is how long connections outlive their last use: a node that hands its
// only id over does not have Redis end connections just when the next node needs
// it, and finds them again when it competes anew.
const linger = 100 * time.Millisecond

// Release is called once for each Dial, Use and Retain.
func (c *Client) Release() {
	clients.Lock()
	defer clients.Unlock()
	if c.uses--; c.uses == 0 {
		time.AfterFunc(linger, c.close)
	}
}

// close gives the connections back, unless the client is used again, or was and
// has been closed since.
func (c *Client) close() {
	clients.Lock()
	defer clients.Unlock()
	if c.uses > 0 || clients.m[c.key] != c {
		return
	}
	delete(clients.m, c.key)
	c.wakeups.close()
	if c.own {
		_ = c.pool.Close()
	}
}

// dial makes a connection beside the pool, whose limit may be one.
func (c *Client) dial(ctx context.Context) (redis.Conn, error) {
	if c.pool.DialContext != nil {
		return c.pool.DialContext(ctx)
	}
	return c.pool.Dial()
}

// With lets ask use a connection until the context's deadline, and again with
// another when it breaks: all that gone asks of Redis may be repeated. A Redis
// that was restarted has left every idle connection broken, which only using
// it shows, hence the number of attempts.
func (c *Client) With(ctx context.Context, ask func(redis.Conn) error) error {
	for attempts := 3 + c.pool.IdleCount(); ; attempts-- {
		again, err := c.once(ctx, ask)
		if again && errors.Is(err, redis.ErrPoolExhausted) { // a pool that does not wait itself
			select {
			case <-time.After(time.Millisecond/2 + rand.N(time.Millisecond)):
				attempts++
				continue
			case <-ctx.Done():
			}
		}
		if !again || attempts <= 1 || ctx.Err() != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, ask func(redis.Conn) error) (again bool, err error) {
	conn, err := c.get(ctx)
	if err != nil {
		var said redis.Error // such as WRONGPASS
		return !errors.As(err, &said), err
	}
	defer conn.Close()
	err = ask(conn)
	if misplaced(err) {
		// This connection must not go back to the pool, which keeps all that are
		// not broken: a read that should have ended before it began breaks it.
		_, _ = redis.DoWithTimeout(conn, -1, "PING")
	}
	return conn.Err() != nil, explain(err)
}

// explain adds what to do about an answer of Redis.
func explain(err error) error {
	var said redis.Error
	if errors.As(err, &said) {
		switch word, _, _ := strings.Cut(string(said), " "); word {
		case "MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT":
			return fmt.Errorf("%w (this is a Redis Cluster, which needs a client that follows its slots)", err)
		}
	}
	return err
}

// misplaced reports whether an answer may be due to who gave it: a demoted master,
// one that no replica follows any more, one that is loading or has lost its master,
// a node of a Cluster for keys of another, a proxy without a server. The address may
// lead elsewhere by now. There are more of them than any list has; so these are all
// with a code of their own but those about the key, the script, the user or memory.
func misplaced(err error) bool {
	var said redis.Error
	if errors.Is(err, ErrUnconfirmed) {
		return true
	}
	if !errors.As(err, &said) {
		return false
	}
	has := func(word string) bool { return strings.Contains(string(said), word) }
	if strings.HasPrefix(string(said), "ERR ") { // also what a script was told, before Redis 7
		return slices.ContainsFunc([]string{"READONLY", "NOREPLICAS", "MASTERDOWN", "LOADING", "MOVED", "CLUSTERDOWN"}, has)
	}
	return !slices.ContainsFunc([]string{"WRONGTYPE", "NOSCRIPT", "NOPERM", "OOM"}, has)
}

// get borrows a connection. A pool with Dial alone knows no context while it
// dials, so it is left to itself when that has ended.
func (c *Client) get(ctx context.Context) (redis.Conn, error) {
	if c.pool.DialContext != nil {
		return c.pool.GetContext(ctx)
	}
	type result struct {
		conn redis.Conn
		err  error
	}
	got := make(chan result)
	go func() {
		conn, err := c.pool.GetContext(ctx)
		select {
		case got <- result{conn, err}:
		case <-ctx.Done():
			_ = conn.Close()
		}
	}()
	select {
	case r := <-got:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Do runs one command on a connection, until the context's deadline.
func Do(ctx context.Context, conn redis.Conn, cmd string, args ...any) (any, error) {
	deadline, _ := ctx.Deadline()
	return redis.DoWithTimeout(conn, max(time.Until(deadline), 1), cmd, args...)
}

// A Script is sent by its hash, and by its text where Redis does not know it.
// It returns an integer or several, the first being positive for "granted".
// Redigo's own has no timeout for one call.
type Script struct {
	keys         int
	source, hash string
}

// NewScript makes a script whose first arguments are so many keys.
func NewScript(keys int, source string) *Script {
	return &Script{keys, source, redis.NewScript(keys, source).Hash()}
}

// ErrUnconfirmed: Redis granted it, but not enough replicas know.
var ErrUnconfirmed = errors.New("too few replicas have confirmed")

// Eval runs a script. What it grants must be confirmed by a number of
// replicas, in half of the time that is left.
func (c *Client) Eval(ctx context.Context, replicas int, s *Script, args ...any) (r []int64, err error) {
	args = append([]any{s.hash, s.keys}, args...)
	err = c.With(ctx, func(conn redis.Conn) error {
		args[0] = s.hash
		reply, err := Do(ctx, conn, "EVALSHA", args...)
		if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT ") {
			args[0] = s.source
			reply, err = Do(ctx, conn, "EVAL", args...)
		}
		if n, ok := reply.(int64); ok {
			reply = []any{n}
		}
		if r, err = redis.Int64s(reply, err); err == nil && len(r) == 0 {
			err = errors.New("empty reply")
		}
		if err != nil || r[0] <= 0 || replicas <= 0 {
			return err
		}
		// On the same connection: WAIT is for what that has written.
		deadline, _ := ctx.Deadline()
		n, err := redis.Int(Do(ctx, conn, "WAIT", replicas, 1+time.Until(deadline).Milliseconds()/2))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
		if n < replicas {
			return fmt.Errorf("%w: %d of %d", ErrUnconfirmed, n, replicas)
		}
		return nil
	})
	return r, err
}
