// Package redisconn is a process's share of its Redises: requests, each repeated until
// a server answers that is the right one, and one connection for wake-ups while somebody
// waits for one.
// The connections are a client library's; redigo is built in.
package redisconn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A Redis is what a client library has to offer. Its comments are those of
// RedisClient in the root.
type Redis interface {
	With(ctx context.Context, key string, ask func(do func(args ...any) (reply any, err error)) (keep bool)) error
	Idle() int
	Listen(ctx context.Context) (Listener, error)
}

// A Listener is one connection for wake-ups; see RedisListener in the root.
type Listener interface {
	Subscribe(channels ...string) error
	Unsubscribe(channel string) error
	Ping() error
	Receive(timeout time.Duration) (kind, channel, payload string, err error)
	Close() error
}

// A Client is this process's share of one Redis. It is counted by those who
// retain it. All its methods may be called concurrently.
type Client struct {
	redis   Redis
	wakeups *wakeups

	key   any    // in clients
	close func() // nil: the connections are the caller's to close
	uses  int    // guarded by clients
}

var clients = struct {
	sync.Mutex
	m map[any]*Client // by Address, or by what the caller has
}{m: map[any]*Client{}}

// timeout of every step of a connection.
const timeout = 5 * time.Second

// lifetime is how long a connection is used, as its server may have lost its role
// without a word while the address leads to another by now. It is short beside a
// TTL, and nothing beside the cost of a connection.
const lifetime = 10 * time.Second

// Use returns the client of a caller's connections, retained. They stay the
// caller's to close. What is equal is the same client; it must be comparable.
func Use(r Redis) *Client {
	return share(r, func() (Redis, func()) { return r, nil })
}

func share(key any, connect func() (Redis, func())) *Client {
	clients.Lock()
	defer clients.Unlock()
	c := clients.m[key]
	if c == nil {
		c = &Client{key: key}
		c.redis, c.close = connect()
		c.wakeups = newWakeups(c)
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
		time.AfterFunc(linger, c.end)
	}
}

// end gives the connections back, unless the client is used again, or was and
// has been closed since.
func (c *Client) end() {
	clients.Lock()
	defer clients.Unlock()
	if c.uses > 0 || clients.m[c.key] != c {
		return
	}
	delete(clients.m, c.key)
	c.wakeups.close()
	if c.close != nil {
		c.close()
	}
}

// tick is how late Redis may notice that the time of a WAIT is over.
const tick = 100 * time.Millisecond

// A command is sent by do.
type do = func(args ...any) (reply any, err error)

// With lets ask use a connection to the server of a key until the context's
// deadline, and again another when it breaks or its server may be the wrong one:
// all that gone asks of Redis may be repeated. A Redis that was restarted, or has
// lost its role, has left every idle connection so, which only using it shows,
// hence the number of attempts.
func (c *Client) With(ctx context.Context, key string, ask func(do) error) (err error) {
	for attempts := 3 + c.redis.Idle(); ; attempts-- {
		again := true
		none := c.redis.With(ctx, key, func(do do) bool {
			err = ask(do)
			wrong := misplaced(err)
			again = wrong || err != nil && !isSaid(err)
			return !wrong
		})
		if none != nil {
			err, again = none, !isSaid(none) // such as WRONGPASS
		}
		if deadline, _ := ctx.Deadline(); errors.Is(err, ErrUnconfirmed) && time.Until(deadline) < 3*tick {
			again = false // another WAIT would not end in time
		}
		if !again || attempts <= 1 || ctx.Err() != nil {
			return err
		}
	}
}

// isSaid reports whether an error is an answer of Redis.
func isSaid(err error) bool {
	var said interface{ RedisError() }
	return errors.As(err, &said)
}

// misplaced reports whether an answer may be due to who gave it: a demoted master,
// one that no replica follows any more, one that is loading or has lost its master,
// a node of a Cluster for keys of another, a proxy without a server. The address may
// lead elsewhere by now. There are more of them than any list has; so these are all
// with a code of their own but those about the key, the script, the user or memory.
func misplaced(err error) bool {
	if errors.Is(err, ErrUnconfirmed) {
		return true
	}
	if err == nil || !isSaid(err) {
		return false
	}
	has := func(word string) bool { return strings.Contains(err.Error(), word) }
	if strings.HasPrefix(err.Error(), "ERR ") { // also what a script was told, before Redis 7
		return slices.ContainsFunc([]string{"READONLY", "NOREPLICAS", "MASTERDOWN", "LOADING", "MOVED", "CLUSTERDOWN"}, has)
	}
	return !slices.ContainsFunc([]string{"WRONGTYPE", "NOSCRIPT", "NOPERM", "OOM"}, has)
}

// A Script is sent by its hash, and by its text where Redis does not know it. It
// returns an integer or several, the first being positive for "granted".
type Script struct {
	keys         int
	source, hash string
}

// NewScript makes a script whose first arguments are so many keys, all of one slot.
func NewScript(keys int, source string) *Script {
	return &Script{keys, source, redis.NewScript(keys, source).Hash()}
}

// ErrUnconfirmed: Redis granted it, but not enough replicas know.
var ErrUnconfirmed = errors.New("too few replicas have confirmed")

// Eval runs a script. What it grants must be confirmed by a number of
// replicas, in half of the time that is left.
func (c *Client) Eval(ctx context.Context, replicas int, s *Script, key string, args ...any) (r []int64, err error) {
	err = c.With(ctx, key, func(do do) error {
		r, err = integers(s.run(do, key, args))
		if err != nil || r[0] <= 0 || replicas <= 0 {
			return err
		}
		// On the same connection: WAIT is for what that has written.
		deadline, _ := ctx.Deadline()
		n, err := integers(do("WAIT", replicas, 1+time.Until(deadline).Milliseconds()/2))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
		if n[0] < int64(replicas) {
			return fmt.Errorf("%w: %d of %d", ErrUnconfirmed, n[0], replicas)
		}
		return nil
	})
	return r, err
}

// List runs a script that returns strings.
func (c *Client) List(ctx context.Context, s *Script, key string, args ...any) (list []string, err error) {
	err = c.With(ctx, key, func(do do) error {
		list, err = redis.Strings(s.run(do, key, args))
		return err
	})
	return list, err
}

func (s *Script) run(do do, key string, args []any) (reply any, err error) {
	call := func(how, script string) (any, error) {
		return do(append([]any{how, script, s.keys, key}, args...)...)
	}
	reply, err = call("EVALSHA", s.hash)
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT ") {
		reply, err = call("EVAL", s.source)
	}
	return reply, err
}

func integers(reply any, err error) ([]int64, error) {
	if err != nil {
		return nil, err
	}
	if n, ok := reply.(int64); ok {
		return []int64{n}, nil
	}
	r, err := redis.Int64s(reply, nil)
	if err == nil && len(r) == 0 {
		err = errors.New("empty reply")
	}
	return r, err
}

func text(reply any, err error) (string, error) {
	if s, ok := reply.(string); ok {
		return s, err
	}
	return redis.String(reply, err)
}

// Get reads the first bytes of a string, "" where there is no such key.
func (c *Client) Get(ctx context.Context, key string, most int) (s string, err error) {
	err = c.With(ctx, key, func(do do) (err error) {
		s, err = text(do("GETRANGE", key, 0, most-1))
		return err
	})
	return s, err
}

// Info is what INFO says. Redis may refuse it.
func (c *Client) Info(ctx context.Context, key string) (info map[string]string, err error) {
	err = c.With(ctx, key, func(do do) error {
		s, err := text(do("INFO"))
		info = fields(s)
		return err
	})
	return info, err
}

func fields(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}

// Plain reports whether all keys are taken to be in one server.
func (c *Client) Plain() bool {
	_, ok := c.redis.(Pool)
	return ok
}

// Refused reports whether Redis may not, or does not know how to, do what a script
// asked of it.
func Refused(err error) bool {
	return isSaid(err) && (strings.Contains(err.Error(), "executing the script can't") || strings.Contains(err.Error(), "command called from script"))
}
