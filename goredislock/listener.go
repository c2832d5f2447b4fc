package goredislock

import (
	"context"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/redis/go-redis/v9"
)

// A listener is a connection for wake-ups.
//
// Go-redis would make the next one by itself, behind a lock that everything else
// waits for, and nobody would learn that something may have been missed. It dials
// with the context of whatever finds the connection broken; in one that has ended,
// it can't. Reads and writes mind only a context's deadline, of which this has none.
type listener struct{ *redis.PubSub }

var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func listen(ctx context.Context, p *redis.PubSub) (gone.RedisListener, error) {
	if err := p.Ping(ctx); err != nil { // which connects
		_ = p.Close()
		return nil, err
	}
	return listener{p}, nil
}

// Subscribe implements gone.RedisListener.
func (l listener) Subscribe(channels ...string) error {
	for _, name := range channels {
		if err := l.PubSub.Subscribe(ended, name); err != nil {
			return err
		}
	}
	return nil
}

// Unsubscribe implements gone.RedisListener.
func (l listener) Unsubscribe(channel string) error { return l.PubSub.Unsubscribe(ended, channel) }

// Ping implements gone.RedisListener.
func (l listener) Ping() error { return l.PubSub.Ping(ended) }

// Receive implements gone.RedisListener.
func (l listener) Receive(timeout time.Duration) (kind, channel, payload string, err error) {
	m, err := l.ReceiveTimeout(ended, timeout)
	switch m := m.(type) {
	case *redis.Message:
		return "message", m.Channel, m.Payload, err
	case *redis.Subscription:
		return m.Kind, m.Channel, "", err
	}
	return "", "", "", err
}
