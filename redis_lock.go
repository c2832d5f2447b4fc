package gone

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// RedisLock is a [GoneLock] in one Redis (5 or later), with all the extras.
//
// The key is the id itself and its value is "<value> <fencing token> <secret>",
// so that "redis-cli GET <id>" shows the holder's address. A helper key in the
// id's Cluster slot keeps the last token for a day; tokens also follow the
// server's clock, so they keep increasing when the helper key is lost.
//
// All locks of a process that name one Redis address, or one pool, share its
// connections: a pool of at most 16, and one more for wake-ups.
type RedisLock struct {
	// Expiry is the TTL of the lock in Redis. 0 means [DefaultExpiry]. It must
	// not be changed while the lock is used.
	Expiry time.Duration

	id, value string
	redis     *redisClient

	mu     sync.Mutex
	secret string        // of the current attempt or hold, "" for none
	unsure bool          // an attempt with this secret may have succeeded, or may yet
	token  uint64        // of the current hold
	free   time.Time     // when another's hold ends at the latest, as far as is known
	wakeup *subscription // while it waits for something
	closed bool
}

// counterTTL is how long a token counter outlives the last use of its lock.
const counterTTL = 24 * time.Hour

const maxValue = 512 // bytes; the scripts look at 1024 for value, token and secret

var (
	//go:embed lua/acquire.lua
	acquireLua string
	//go:embed lua/extend.lua
	extendLua string
	//go:embed lua/release.lua
	releaseLua string

	acquireScript = newLuaScript(2, acquireLua)
	extendScript  = newLuaScript(2, extendLua)
	releaseScript = newLuaScript(1, releaseLua)
)

// NewRedisLock makes the lock of an id in the Redis at addr, a [net.TCPAddr] or
// [net.UnixAddr]; a missing IP means this machine. Nothing is sent yet. Close
// it when it is no longer used.
func NewRedisLock(addr net.Addr, id, value string) (*RedisLock, error) {
	if addr == nil {
		return nil, errors.New("gone: redis lock: nil address")
	}
	if err := checkRedisLock(id, value); err != nil {
		return nil, err
	}
	return &RedisLock{id: id, value: value, redis: dialRedis(addr)}, nil
}

// NewRedisLockPool is NewRedisLock for a pool of the caller's, which brings
// TLS, a password or ACL user, a database and timeouts. The pool stays the
// caller's to close. It needs Dial or DialContext, from which one connection
// more is made for wake-ups; connections should have a read and a write
// timeout.
func NewRedisLockPool(pool *redis.Pool, id, value string) (*RedisLock, error) {
	if pool == nil || pool.Dial == nil && pool.DialContext == nil {
		return nil, errors.New("gone: redis lock: a pool with Dial or DialContext is needed")
	}
	if err := checkRedisLock(id, value); err != nil {
		return nil, err
	}
	return &RedisLock{id: id, value: value, redis: useRedis(pool)}, nil
}

func checkRedisLock(id, value string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if value == "" || len(value) > maxValue {
		return fmt.Errorf("gone: redis lock: value of %d bytes, want 1 to %d", len(value), maxValue)
	}
	return nil
}

// TTL is Expiry, or [DefaultExpiry].
func (l *RedisLock) TTL() time.Duration {
	if l.Expiry == 0 {
		return DefaultExpiry
	}
	return l.Expiry
}

// Lock implements [GoneLock].
func (l *RedisLock) Lock() error {
	if l.TTL() < time.Millisecond {
		return fmt.Errorf("gone: redis lock %q: expiry %v is less than a millisecond", l.id, l.Expiry)
	}
	l.mu.Lock()
	if l.secret == "" {
		l.secret = rand.Text()
	}
	secret := l.secret
	l.mu.Unlock()

	// The secret stays until Unlock or loss, so an attempt whose reply was lost
	// is recognised when it is repeated.
	r, err := redis.Int64s(l.do(acquireScript, l.id, l.counter(), l.value, secret,
		l.TTL().Milliseconds(), counterTTL.Milliseconds(), l.channel()))
	if err == nil && len(r) == 0 {
		err = errors.New("empty reply")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unsure = true
		return l.failed("lock", err)
	}
	if r[0] < 0 {
		if !l.unsure {
			l.secret = ""
		}
		left := l.TTL() // a key that someone made without a TTL
		if len(r) > 1 && r[1] >= 0 {
			left = time.Duration(r[1]) * time.Millisecond
		}
		l.free = time.Now().Add(left)
		return fmt.Errorf("%w: redis lock %q", ErrLockHeld, l.id)
	}
	l.token = uint64(r[0])
	l.forget()
	return nil
}

// Extend implements [GoneLock].
func (l *RedisLock) Extend() error {
	l.mu.Lock()
	hold, secret := l.hold(), l.secret
	l.mu.Unlock()
	if hold == "" {
		return fmt.Errorf("%w: redis lock %q is not held", ErrLockLost, l.id)
	}
	r, err := redis.Int(l.do(extendScript, l.id, l.counter(), hold,
		l.TTL().Milliseconds(), counterTTL.Milliseconds(), l.channel()))
	if err != nil {
		return l.failed("extend", err)
	}
	if r == 1 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secret == secret {
		l.secret, l.token, l.unsure = "", 0, false
	}
	if r == 0 {
		return fmt.Errorf("%w: redis lock %q is another's", ErrLockLost, l.id)
	}
	return fmt.Errorf("%w: redis lock %q is gone", ErrLockLost, l.id)
}

// Unlock implements [GoneLock]. While Redis does not answer it tries a few
// times; then the lock is left to expire.
func (l *RedisLock) Unlock() {
	l.mu.Lock()
	secret := l.secret
	l.secret, l.token, l.unsure = "", 0, false
	l.mu.Unlock()
	if secret != "" {
		_, _ = l.do(releaseScript, l.id, secret, l.channel())
	}
}

// GetValue implements [GoneLock].
func (l *RedisLock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

// FencingToken implements [Fencer].
func (l *RedisLock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// Holder implements [Fencer].
func (l *RedisLock) Holder() (value string, token uint64, err error) {
	// A bounded read, as the key may be anybody's.
	s, err := redis.String(l.redis.do(l.timeout(), "GETRANGE", l.id, 0, 1023))
	if err != nil {
		return "", 0, l.failed("read", err)
	}
	if s == "" {
		return "", 0, fmt.Errorf("%w: redis lock %q", ErrNoHolder, l.id)
	}
	s, _, ok := cutLast(s) // the secret
	value, digits, ok2 := cutLast(s)
	token, err = strconv.ParseUint(digits, 10, 64)
	if !ok || !ok2 || err != nil || token == 0 {
		return "", 0, fmt.Errorf("gone: redis lock %q: the key has a foreign value", l.id)
	}
	l.mu.Lock()
	l.forget()
	l.mu.Unlock()
	return value, token, nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// spread is how far the attempts of many waiters for one expired lock lie
// apart, and how late the first may be.
const spread = 20 * time.Millisecond

// WaitFree implements [Waiter]: it returns on a release, when the holder's TTL
// has run out, or for a poll where there are no wake-ups. While wake-ups
// arrive, it costs no command: they carry the new TTL after each Extend.
func (l *RedisLock) WaitFree(ctx context.Context) error {
	return l.wait(ctx, func(remaining time.Duration) (time.Duration, bool) {
		if remaining == 0 {
			return 0, true
		}
		return min(remaining, l.TTL()) + mathrand.N(spread), false
	})
}

// WaitHeld implements [Waiter].
func (l *RedisLock) WaitHeld(ctx context.Context) error {
	return l.wait(ctx, func(remaining time.Duration) (time.Duration, bool) {
		return l.TTL(), remaining > 0
	})
}

// wait calls next with what is left of the hold, 0 for none: at first and for
// each wake-up. It returns when next says so, or when as long as next said has
// gone by without another wake-up.
func (l *RedisLock) wait(ctx context.Context, next func(remaining time.Duration) (time.Duration, bool)) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.wakeup == nil {
		l.wakeup = l.redis.wakeups.subscribe(l.channel())
	}
	wakeup := l.wakeup
	free := l.free
	l.mu.Unlock()

	patience, _ := next(max(time.Until(free), time.Millisecond))
	timer := time.NewTimer(l.patience(patience, wakeup))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-wakeup.wake:
			remaining, known := wakeup.take()
			if !known {
				return nil
			}
			patience, now := next(remaining)
			if now {
				return nil
			}
			timer.Reset(l.patience(patience, wakeup))
		}
	}
}

// patience shortens d to a poll interval where no wake-ups can be expected.
func (l *RedisLock) patience(d time.Duration, s *subscription) time.Duration {
	if s.live.Load() {
		return d
	}
	return min(d, jitter(min(max(l.TTL()/10, 50*time.Millisecond), 5*time.Second)))
}

// forget ends the subscription: what it waited for has happened. It is called
// with mu held.
func (l *RedisLock) forget() {
	if l.wakeup != nil {
		l.wakeup.cancel()
		l.wakeup = nil
	}
}

// Close gives back the lock's share of the connections. It does not unlock.
func (l *RedisLock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.forget()
		l.redis.release()
	}
	return nil
}

// hold is the key's value while this lock holds it. It is called with mu held.
func (l *RedisLock) hold() string {
	if l.token == 0 || l.secret == "" {
		return ""
	}
	return l.value + " " + strconv.FormatUint(l.token, 10) + " " + l.secret
}

// counter is the helper key, always in the id's Cluster slot.
func (l *RedisLock) counter() string {
	if !strings.ContainsAny(l.id, "{}") {
		return "{" + l.id + "}:token"
	}
	// An id with braces may have a hash tag of its own, or braces that are none
	// and can't be wrapped. A leading zero byte changes neither the tag nor the
	// CRC16 of the whole, and no id has one.
	return "\x00" + l.id
}

// channel carries wake-ups: the remaining TTL in ms, 0 when the lock is free.
func (l *RedisLock) channel() string { return "gone:" + l.id }

// timeout bounds one request. A request that hangs leaves time for others
// before the deadline.
func (l *RedisLock) timeout() time.Duration { return min(l.TTL()/4, 5*time.Second) }

func (l *RedisLock) do(script *luaScript, args ...any) (any, error) {
	return l.redis.eval(l.timeout(), script, args...)
}

func (l *RedisLock) failed(what string, err error) error {
	return fmt.Errorf("gone: redis lock %q: %s: %w", l.id, what, err)
}
