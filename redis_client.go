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

// NewRedisLock makes the lock of an id in the Redis at addr, a [net.TCPAddr] or
// [net.UnixAddr] or what dials like one; a missing IP means this machine.
// Nothing is sent yet. Close it when it is no longer used.
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
// The host is looked up at every connect. A certificate has to be for the host
// and signed by whom the system trusts; [NewRedisLockPool] is for others. Each
// configure is called for each lock, perhaps concurrently, before it is used. A
// URL that can't be understood is an error of every call of the factory.
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

// NewRedisLockPool is NewRedisLock for a pool of the caller's, which brings
// TLS, a password or ACL user, a database and timeouts. The pool stays the
// caller's to close. It needs Dial or DialContext, from which one connection
// more is made for wake-ups; connections should have a connect and a write
// timeout, and the pool a MaxConnLifetime of some 10 s: it bounds how long a server
// that has lost its role is asked.
func NewRedisLockPool(pool *redis.Pool, id, value string) (*RedisLock, error) {
	if pool == nil || pool.Dial == nil && pool.DialContext == nil {
		return nil, errors.New("gone: redis lock: a pool with Dial or DialContext is needed")
	}
	return newRedisLock(id, value, func() *redisconn.Client { return redisconn.Use(redisconn.Pool{Pool: pool}) })
}

// A RedisClient is what a [RedisLock] needs of a client library. The one for redigo is
// built in, the one for go-redis is the module goredislock. Its methods are called
// concurrently. Locks whose clients are equal share one connection for wake-ups; so the
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
	// Idle is how many connections may have broken, or lead to a wrong server, and
	// only using them will show it. A request is worth some more attempts.
	Idle() int
	// Listen makes a connection for wake-ups. Ctx is for making it.
	Listen(ctx context.Context) (RedisListener, error)
}

// A RedisListener is a connection for wake-ups. One goroutine calls Receive, another
// the methods that send, and perhaps a third Close, which ends all calls.
type RedisListener interface {
	// Subscribe asks for channels, with a command for each, as an ACL may deny some.
	// It does not wait for the answers.
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

// NewRedisLockClient is NewRedisLock for a client library. The client stays the
// caller's to close.
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
