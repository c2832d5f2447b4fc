package goredislock

import (
	"context"
	"errors"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/redis/go-redis/v9"
)

// A cluster sends what concerns a lock to the master of its slot, in which all the
// lock's keys are. Wake-ups are plain Pub/Sub, which every node passes on to all
// others: one connection to any of them hears all locks. With sharded Pub/Sub it
// would be one to each master, to be moved with each slot.
type cluster struct{ *redis.ClusterClient }

// With implements gone.RedisClient.
func (c cluster) With(ctx context.Context, key string, ask func(func(...any) (any, error)) bool) error {
	node, err := c.MasterForKey(ctx, key)
	if err != nil {
		c.ReloadState(ctx)
		return err
	}
	conn := borrow(ctx, node)
	defer func() { _ = conn.Close() }()
	first := true
	if !ask(func(args ...any) (any, error) {
		reply, err := send(ctx, conn, args)
		for pause := time.Millisecond; first && err != nil; pause *= 2 {
			next := c.elsewhere(ctx, key, err, pause)
			if next == nil {
				break
			}
			_ = conn.Close()
			conn = borrow(ctx, next)
			if hasCode(err, "ASK") {
				_, _ = send(ctx, conn, []any{"ASKING"})
			}
			reply, err = send(ctx, conn, args)
		}
		first = false
		return reply, err
	}) {
		c.ReloadState(ctx)
		giveUp(ctx, conn)
	}
	return nil
}

// elsewhere is the node to ask after an answer that it is another's turn, or after
// none; nil if that is of no use. A slot that moves to another node, or a node whose
// replica takes its place, is a matter of milliseconds to seconds.
func (c cluster) elsewhere(ctx context.Context, key string, err error, pause time.Duration) *redis.Client {
	var said redis.Error
	if !errors.As(err, &said) { // the node may be dead: the next attempt is to know
		c.ReloadState(ctx)
		return nil
	}
	if addr, ok := redis.IsAskError(err); ok {
		if node := c.at(ctx, addr); node != nil {
			return node
		}
	} else if !hasCode(err, "MOVED", "TRYAGAIN", "CLUSTERDOWN") {
		return nil
	}
	c.ReloadState(ctx)
	select {
	case <-time.After(pause):
	case <-ctx.Done():
		return nil
	}
	node, err := c.MasterForKey(ctx, key)
	if err != nil {
		return nil
	}
	return node
}

// at is the node with an address, nil if it is not known.
func (c cluster) at(ctx context.Context, addr string) (found *redis.Client) {
	var mu sync.Mutex
	_ = c.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error {
		if node.Options().Addr == addr {
			mu.Lock()
			defer mu.Unlock()
			found = node
		}
		return nil
	})
	return found
}

// Idle implements gone.RedisClient. Each node has a pool of its own.
func (c cluster) Idle() int { return c.Options().PoolSize }

// Listen implements gone.RedisClient.
func (c cluster) Listen(ctx context.Context) (gone.RedisListener, error) {
	return listen(ctx, c.Subscribe(ctx))
}
