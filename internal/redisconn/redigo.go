package redisconn

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A Pool is the connections of redigo.
type Pool struct{ *redis.Pool }

// Dial returns the client of an address, retained. Nothing is sent yet.
func (a Address) Dial() *Client {
	return share(a, func() (Redis, func()) {
		pool := &redis.Pool{
			DialContext: a.connect,
			MaxActive:   16,
			MaxIdle:     16,
			IdleTimeout: time.Minute,
			Wait:        true,

			MaxConnLifetime: lifetime,
		}
		return Pool{pool}, func() { _ = pool.Close() }
	})
}

// Idle implements Redis.
func (p Pool) Idle() int { return p.IdleCount() }

// With implements Redis. All keys are in one server.
func (p Pool) With(ctx context.Context, _ string, ask func(do) bool) error {
	conn, err := p.get(ctx)
	if err != nil {
		return said(err)
	}
	defer conn.Close()
	// Asks nothing, but not of a connection that can't bound a request.
	if _, err := redis.DoWithTimeout(conn, timeout, ""); err != nil && conn.Err() == nil {
		return refusal("the pool's connections must be those of redigo, which have a timeout for each call; " + Clustered)
	}
	deadline, _ := ctx.Deadline()
	keep := ask(func(args ...any) (any, error) {
		name, _ := args[0].(string)
		reply, err := redis.DoWithTimeout(conn, max(time.Until(deadline), 1), name, args[1:]...)
		return reply, said(err)
	})
	if !keep {
		// This connection must not go back to the pool, which keeps all that are
		// not broken: a read that should have ended before it began breaks it.
		_, _ = redis.DoWithTimeout(conn, -1, "PING")
	}
	return nil
}

// Clustered is what to do about a Redis Cluster.
const Clustered = "for a Redis Cluster use package goredislock with a redis.ClusterClient"

// A refusal is what Redis said.
type refusal string

func (r refusal) Error() string { return string(r) }

// RedisError tells it from errors of the connection.
func (r refusal) RedisError() {}

// said adds what to do about an answer of Redis.
func said(err error) error {
	var e redis.Error
	if !errors.As(err, &e) {
		return err
	}
	switch word, _, _ := strings.Cut(string(e), " "); word {
	case "MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT":
		e += redis.Error(" (this is a Redis Cluster, which needs a client that follows its slots: " + Clustered + ")")
	}
	return refusal(e)
}

// get borrows a connection. A pool that is exhausted and does not wait itself is
// asked again.
func (p Pool) get(ctx context.Context) (redis.Conn, error) {
	for {
		conn, err := p.borrow(ctx)
		if !errors.Is(err, redis.ErrPoolExhausted) {
			return conn, err
		}
		select {
		case <-time.After(time.Millisecond/2 + rand.N(time.Millisecond)):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// borrow leaves a pool with Dial alone to itself when the context has ended: it
// knows none while it dials.
func (p Pool) borrow(ctx context.Context) (redis.Conn, error) {
	if p.DialContext != nil {
		return p.GetContext(ctx)
	}
	type result struct {
		conn redis.Conn
		err  error
	}
	got := make(chan result)
	go func() {
		conn, err := p.GetContext(ctx)
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

// Listen implements Redis, with a connection beside the pool, whose limit may be
// one.
func (p Pool) Listen(ctx context.Context) (Listener, error) {
	dial := p.DialContext
	if dial == nil {
		dial = func(context.Context) (redis.Conn, error) { return p.Dial() }
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, said(err)
	}
	return listener{redis.PubSubConn{Conn: conn}}, nil
}

type listener struct{ redis.PubSubConn }

func (l listener) Subscribe(channels ...string) error {
	for _, name := range channels {
		if err := l.Conn.Send("SUBSCRIBE", name); err != nil {
			return err
		}
	}
	return l.Conn.Flush()
}

func (l listener) Unsubscribe(channel string) error { return l.PubSubConn.Unsubscribe(channel) }

func (l listener) Ping() error { return l.PubSubConn.Ping("") }

func (l listener) Receive(timeout time.Duration) (kind, channel, payload string, err error) {
	switch m := l.ReceiveWithTimeout(timeout).(type) {
	case redis.Message:
		return "message", m.Channel, string(m.Data), nil
	case redis.Subscription:
		return m.Kind, m.Channel, "", nil
	case error:
		return "", "", "", said(m)
	}
	return "", "", "", nil
}
