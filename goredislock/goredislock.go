// Package goredislock makes locks for [gone] with a go-redis client: in one Redis, one
// behind Sentinel, or a Cluster.
package goredislock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/redis/go-redis/v9"
)

// Lock is the lock of an id, with all extras. Behind Sentinel and in a Cluster, where a
// replica may take its master's place at any time, Replicas is 1 unless configure sets it:
// a lock that no replica knows would be forgotten, and two handlers would run.
type Lock = gone.RedisLock

// New returns a factory of locks in the Redis of a client: a [redis.Client], also one from
// [redis.NewFailoverClient], or a [redis.ClusterClient]. The caller closes the client,
// after all Gones that use it. While any lock waits, there is one more connection,
// for wake-ups.
//
// Set ConnMaxLifetime to about 10 s in the client's options: it bounds how long the locks
// ask a server that has silently lost its role. A request ends at its deadline, whatever
// the options say about timeouts and retries.
//
// Each configure is called for each lock before it is used, perhaps concurrently.
func New(client redis.UniversalClient, configure ...func(*Lock)) gone.LockFactory {
	c, replicas, err := adapt(client)
	return func(id, value string) (gone.GoneLock, error) {
		if err != nil {
			return nil, err
		}
		l, err := gone.NewRedisLockClient(c, id, value)
		if err != nil {
			return nil, err
		}
		l.Replicas = replicas
		for _, f := range configure {
			f(l)
		}
		return l, nil
	}
}

// adapt makes a RedisClient, and says how many replicas are to confirm.
func adapt(client redis.UniversalClient) (c gone.RedisClient, replicas int, err error) {
	switch client := client.(type) {
	case *redis.Client:
		if client == nil {
			break
		}
		if client.Options().Addr == "FailoverClient" { // so go-redis names it
			replicas = 1
		}
		return single{client}, replicas, nil
	case *redis.ClusterClient:
		if client == nil {
			break
		}
		return cluster{client}, 1, nil
	case *redis.Ring:
		return nil, 0, errors.New("gone: goredislock: a Ring keeps no lock: when a server is missed, another gives it to a second holder; use a Client or a ClusterClient")
	}
	return nil, 0, fmt.Errorf("gone: goredislock: a client of type %T, want a *redis.Client or *redis.ClusterClient that is not nil", client)
}

// A single is one server, or that which Sentinel says is the master.
type single struct{ *redis.Client }

// With implements gone.RedisClient.
func (s single) With(ctx context.Context, _ string, ask func(func(...any) (any, error)) bool) error {
	conn := borrow(ctx, s.Client)
	defer conn.Close()
	if !ask(func(args ...any) (any, error) {
		reply, err := send(ctx, conn, args)
		return reply, explain(err)
	}) {
		giveUp(ctx, conn)
	}
	return nil
}

// Idle implements gone.RedisClient.
func (s single) Idle() int { return int(s.PoolStats().IdleConns) }

// Listen implements gone.RedisClient.
func (s single) Listen(ctx context.Context) (gone.RedisListener, error) {
	return listen(ctx, s.Subscribe(ctx))
}

// borrow takes a connection when the first command is sent. When it breaks, it is
// not replaced, so that WAIT is never sent on another. Go-redis minds a context's
// deadline in reads and writes only where the user has said so; the timeouts of a
// copy of the client do the same.
func borrow(ctx context.Context, client *redis.Client) *redis.Conn {
	deadline, _ := ctx.Deadline()
	return client.WithTimeout(max(time.Until(deadline), time.Millisecond)).Conn()
}

// send sends one command.
func send(ctx context.Context, conn *redis.Conn, args []any) (any, error) {
	reply, err := conn.Do(ctx, args...).Result()
	if errors.Is(err, redis.Nil) { // a reply as any other
		return nil, nil
	}
	var said redis.Error
	if errors.As(err, &said) { // perhaps inside of "the connection is in a bad state"
		err = said
	}
	return reply, err
}

// giveUp has the server end a connection. Go-redis drops it when it sees the end, which
// the next to borrow it may be too early for; so that is waited for.
func giveUp(ctx context.Context, conn *redis.Conn) {
	_, _ = send(ctx, conn, []any{"QUIT"})
	_, _ = send(ctx, conn, []any{"PING"})
}

// explain adds what to do about an answer of a Cluster to a client of one server.
func explain(err error) error {
	if err != nil && hasCode(err, "MOVED", "ASK", "CLUSTERDOWN", "CROSSSLOT") {
		return fmt.Errorf("%w (this is a Redis Cluster: use a redis.ClusterClient)", err)
	}
	return err
}

// hasCode reports whether an error is an answer of Redis with one of these codes.
func hasCode(err error, codes ...string) bool {
	var said redis.Error
	if !errors.As(err, &said) {
		return false
	}
	word, _, _ := strings.Cut(said.Error(), " ")
	for _, code := range codes {
		if word == code {
			return true
		}
	}
	return false
}
