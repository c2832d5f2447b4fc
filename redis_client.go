package gone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/redisconn"
)

// NewRedisLock returns the lock of an id in the Redis at addr, a [net.TCPAddr] or
// [net.UnixAddr] or what dials like one; a missing IP means this machine. It sends
// nothing yet. Close the lock when it is no longer used.
func NewRedisLock(addr net.Addr, id, value string) (*RedisLock, error) {
	if v := reflect.ValueOf(addr); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, errors.New("gone: redis lock: nil address")
	}
	network, address := addr.Network(), addr.String()
	switch network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, fmt.Errorf("gone: redis lock: network %q of address %q, want tcp or unix", network, address)
	}
	return newRedisLock(id, value, redisconn.Address{Network: network, Address: address}.Dial)
}

// RedisLocks returns a factory of locks in the Redis at a URL:
//
//	redis://[user:password@]host[:6379][/db]
//	rediss://…                                  the same over TLS
//	unix://[user:password@]/path[?db=n]
//
// The host is looked up at every connect. A certificate must be for the host, and signed
// by an authority that the system trusts; for others use [NewRedisLockPool]. Each
// configure is called for each lock before it is used, perhaps concurrently. If the URL
// can't be understood, every call of the factory returns an error.
func RedisLocks(url string, configure ...func(*RedisLock)) LockFactory {
	addr, err := redisconn.ParseURL(url)
	return func(id, value string) (GoneLock, error) {
		if err != nil {
			return nil, err
		}
		l, err := newRedisLock(id, value, addr.Dial)
		if err != nil {
			return nil, err
		}
		for _, f := range configure {
			f(l)
		}
		return l, nil
	}
}

// NewRedisLockPool is [NewRedisLock] with the caller's pool, which brings TLS, a password
// or ACL user, a database and timeouts. The caller closes the pool. The pool needs Dial
// or DialContext, by which the lock makes one more connection, for wake-ups. Connections
// should have a connect and a write timeout, and the pool a MaxConnLifetime of some 10 s:
// it bounds how long the lock asks a server that has lost its role.
func NewRedisLockPool(pool *redis.Pool, id, value string) (*RedisLock, error) {
	if pool == nil || pool.Dial == nil && pool.DialContext == nil {
		return nil, errors.New("gone: redis lock: a pool with Dial or DialContext is needed")
	}
	return newRedisLock(id, value, func() *redisconn.Client { return redisconn.Use(redisconn.Pool{Pool: pool}) })
}

// A RedisClient is what a [RedisLock] needs of a client library. The one for redigo is
// built in, the one for go-redis is the module goredislock. Its methods are called
// concurrently. Locks whose clients are equal share one connection for wake-ups, so the
// type must be comparable.
type RedisClient interface {
	// With lends ask a connection to the server where the key may be written, and
	// returns an error when it gets none. Do sends one command, always on the same
	// connection, and returns its reply: nil, an int64, a string or []byte, or an
	// []any of these. Ctx always has a deadline, which bounds everything. An error
	// that comes from Redis begins with the text that Redis gave, and has, or wraps one
	// that has, a method RedisError(). When ask returns false, the server may be the
	// wrong one: the connection must not be used again.
	With(ctx context.Context, key string, ask func(do func(args ...any) (reply any, err error)) (keep bool)) error
	// Idle returns how many connections may have broken, or lead to a wrong server,
	// unnoticed until they are used. A request is worth as many more attempts.
	Idle() int
	// Listen makes a connection for wake-ups. Ctx bounds the making of it.
	Listen(ctx context.Context) (RedisListener, error)
}

// A RedisListener is a connection for wake-ups. One goroutine calls Receive, another
// the methods that send, and perhaps a third Close, which ends all calls.
type RedisListener interface {
	// Subscribe asks for channels, with a command for each, because an ACL may deny
	// some. It does not wait for the answers.
	Subscribe(channels ...string) error
	Unsubscribe(channel string) error
	Ping() error
	// Receive waits for what comes next: "message" with its channel and payload,
	// "subscribe" or "unsubscribe" with a channel, or something else, which is
	// ignored, as is an error that comes from Redis. After any other error, and when
	// nothing comes in time, Close is called. Receive does not connect again.
	Receive(timeout time.Duration) (kind, channel, payload string, err error)
	Close() error
}

// NewRedisLockClient is [NewRedisLock] with a client library. The caller closes the
// client.
func NewRedisLockClient(client RedisClient, id, value string) (*RedisLock, error) {
	if v := reflect.ValueOf(client); !v.IsValid() || !v.Comparable() {
		return nil, fmt.Errorf("gone: redis lock: a client of type %T, which is not comparable", client)
	}
	return newRedisLock(id, value, func() *redisconn.Client { return redisconn.Use(clientLibrary{client}) })
}

// A clientLibrary is a RedisClient for redisconn, which can't see the root.
type clientLibrary struct{ RedisClient }

func (c clientLibrary) Listen(ctx context.Context) (redisconn.Listener, error) {
	return c.RedisClient.Listen(ctx)
}

// newRedisLock makes a lock. Retain is called only when id and value are valid.
func newRedisLock(id, value string, retain func() *redisconn.Client) (*RedisLock, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if isHelper(id) {
		return nil, fmt.Errorf("gone: redis lock: %q is where the last token of another id, or a roster, is kept", id)
	}
	if value == "" || len(value) > maxValue {
		return nil, fmt.Errorf("gone: redis lock: value of %d bytes, want 1 to %d", len(value), maxValue)
	}
	return &RedisLock{id: id, value: value, redis: retain()}, nil
}
