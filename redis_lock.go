package gone

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/redisconn"
)

// RedisLock is a [GoneLock] in one Redis (5 or later), with all the extras.
//
// The key is the id itself, after a Prefix if there is one, and its value is "<value> <fencing token> <secret>",
// so that "redis-cli GET <id>" shows the holder's address. An empty value counts
// as none. A helper key in the id's Cluster slot keeps the last token for a day;
// tokens also follow the server's clock, so they keep increasing when the helper
// key is lost. A key that would live for longer than its holder's TTL, as when the
// server's clock is set back, is cut to it by who competes.
//
// All locks of a process that name one Redis address, or one pool, share its
// connections: at most 16, or what that pool allows, and one more for wake-ups
// while any of them waits. A connection is used for 10 s at most, and given up at any
// answer that may be due to a wrong server behind the address: when that has come to
// lead elsewhere, the lock follows within seconds. Until then two may hold it where
// the old server goes on granting, for no longer than the TTL and those 10 s. The
// connection for wake-ups stays while it lives: if the old server goes on, who waits
// hears nothing, and looks again when the TTL has run out.
//
// A Redis user needs the keys "<id>" and "{<id>}:token" ("\x00<id>" where the id
// has braces), the channel "gone:<id>", and EVALSHA, EVAL, GETRANGE, EXISTS,
// TIME, PSETEX, PEXPIRE, PTTL, DEL, PUBLISH, SUBSCRIBE, UNSUBSCRIBE and PING.
// Without the channel waiters poll.
//
// The fields must not be changed while the lock is used.
type RedisLock struct {
	// Expiry is the TTL of the lock in Redis, at least a millisecond. 0 means
	// [DefaultExpiry].
	Expiry time.Duration

	// Prefix comes before the id in the names of the key, of the helper key and
	// of the channel, for a Redis that is shared. All nodes must have the same.
	Prefix string

	// RestartGuard is for a Redis that may restart without its data and so
	// forget who holds a lock. Until it has been up for the TTL and a second,
	// nothing that is free is granted: Lock wraps ErrLockHeld and says how long
	// that is. All nodes should have the same Expiry. It does not notice a
	// FLUSHALL or a failover. The Redis user needs INFO.
	RestartGuard bool

	// Replicas is how many replicas must have confirmed (WAIT) what Lock or
	// Extend has written before they return nil, so that a failover to one of
	// them forgets nothing. When too few do in time, Lock releases what it got,
	// and both return an error that says neither held nor lost. The Redis user
	// needs WAIT.
	Replicas int

	id, value string
	redis     *redisconn.Client

	taking sync.Mutex // Lock and Unlock: one at a time, as they come

	mu      sync.Mutex
	hold    redisHold               // the last that Lock obtained
	attempt string                  // a secret with which a Lock may have succeeded, or may yet
	other   redisconn.News          // of the hold that made Lock fail
	wakeup  *redisconn.Subscription // from the first wait to what it waited for
	closed  bool
}

type redisHold struct {
	secret string // "" when it is over
	token  uint64
}

const maxValue = 512 // bytes; the scripts look at 1024 for value, token and secret

var (
	//go:embed lua/acquire.lua
	acquireLua string
	//go:embed lua/extend.lua
	extendLua string
	//go:embed lua/release.lua
	releaseLua string

	acquireScript = redisconn.NewScript(2, acquireLua)
	extendScript  = redisconn.NewScript(1, extendLua)
	releaseScript = redisconn.NewScript(1, releaseLua)
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
	if err := checkRedisLock(id, value); err != nil {
		return nil, err
	}
	return &RedisLock{id: id, value: value, redis: redisconn.Address{Network: network, Address: address}.Dial()}, nil
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
		if err := checkRedisLock(id, value); err != nil {
			return nil, err
		}
		l := &RedisLock{id: id, value: value, redis: addr.Dial()}
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
	if err := checkRedisLock(id, value); err != nil {
		return nil, err
	}
	return &RedisLock{id: id, value: value, redis: redisconn.Use(pool)}, nil
}

func checkRedisLock(id, value string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if isCounter(id) {
		return fmt.Errorf("gone: redis lock: %q is where the last token of another id is kept", id)
	}
	if value == "" || len(value) > maxValue {
		return fmt.Errorf("gone: redis lock: value of %d bytes, want 1 to %d", len(value), maxValue)
	}
	return nil
}

// isCounter reports whether a key is where the last token of an id is kept.
func isCounter(key string) bool {
	return strings.HasPrefix(key, "{") && strings.HasSuffix(key, "}:token")
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
	err := l.acquire()
	if errors.Is(err, redisconn.ErrUnconfirmed) {
		l.Unlock()
	}
	return err
}

func (l *RedisLock) acquire() error {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	// With the same secret until the outcome is known, so that a hold whose
	// reply was lost is recognised.
	secret := cmp.Or(l.hold.secret, l.attempt)
	l.mu.Unlock()
	if secret == "" {
		secret = l.newSecret()
	}
	guard := 0
	if l.RestartGuard {
		guard = 1
	}
	r, err := l.eval(l.Replicas, acquireScript, l.key(), l.counter(), l.value, secret, l.ms(), l.channel(), guard)
	if err == nil && r[0] == -3 {
		secret = l.newSecret()
		r, err = l.eval(l.Replicas, acquireScript, l.key(), l.counter(), l.value, secret, l.ms(), l.channel(), guard)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.attempt = secret
		return l.failed("lock", err)
	case r[0] > 0:
		l.hold, l.attempt = redisHold{secret, uint64(r[0])}, ""
		l.forget()
		return nil
	}
	l.hold.secret = ""
	if len(r) < 3 {
		return l.foreign()
	}
	left := time.Duration(r[1]) * time.Millisecond
	if left < 0 || left > l.TTL() {
		left = l.TTL() // a key that someone made without a TTL, or with any
	}
	l.other = redisconn.News{Token: uint64(r[2]), Until: time.Now().Add(left)}
	if r[2] == 0 {
		return fmt.Errorf("%w, perhaps: redis lock %q: Redis has just started and may have forgotten the holder; free in %v",
			ErrLockHeld, l.id, left)
	}
	return fmt.Errorf("%w: redis lock %q", ErrLockHeld, l.id)
}

// newSecret makes the secret of a hold. Its end tells others how long the key can
// live at most.
func (l *RedisLock) newSecret() string {
	return rand.Text() + "." + strconv.FormatInt(l.ms(), 10)
}

// Extend implements [GoneLock].
func (l *RedisLock) Extend() error {
	l.mu.Lock()
	hold, closed := l.hold, l.closed
	l.mu.Unlock()
	if closed {
		return l.failed("extend", ErrClosed)
	}
	if hold.secret == "" {
		return fmt.Errorf("%w: redis lock %q is not held", ErrLockLost, l.id)
	}
	// With the token: a copy of Lock's request that comes late must not look
	// like this hold.
	is := " " + strconv.FormatUint(hold.token, 10) + " " + hold.secret
	r, err := l.eval(l.Replicas, extendScript, l.key(), is, l.ms(), l.channel(), redisconn.FormatNews(hold.token, l.ms()))
	switch {
	case otherType(err):
		r = []int64{0}
	case err != nil:
		return l.failed("extend", err)
	case r[0] > 0:
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold == hold { // and not one that a Lock has obtained meanwhile
		l.hold.secret = ""
	}
	if r[0] == 0 {
		return fmt.Errorf("%w: redis lock %q is another's", ErrLockLost, l.id)
	}
	return fmt.Errorf("%w: redis lock %q is gone", ErrLockLost, l.id)
}

// Unlock implements [GoneLock]. While Redis does not answer it tries again, for
// a quarter of the TTL or 5 s; then the lock is left to expire.
func (l *RedisLock) Unlock() {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	secret, token := cmp.Or(l.hold.secret, l.attempt), l.hold.token
	l.hold.secret, l.attempt = "", ""
	l.mu.Unlock()
	if secret == "" {
		return
	}
	_ = l.request(func(ctx context.Context) error {
		for pause := 10 * time.Millisecond; ; pause *= 2 {
			_, err := l.redis.Eval(ctx, 0, releaseScript, l.key(), secret, l.channel(), redisconn.FormatNews(token, 0))
			if err == nil || otherType(err) || sleepCtx(ctx, jitter(pause)) != nil {
				return err
			}
		}
	})
}

// otherType reports whether the key is not even a string, and so no hold.
func otherType(err error) bool { return err != nil && strings.Contains(err.Error(), "WRONGTYPE") }

// GetValue implements [GoneLock].
func (l *RedisLock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

// FencingToken implements [Fencer].
func (l *RedisLock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hold.token
}

// Holder implements [Fencer].
func (l *RedisLock) Holder() (value string, token uint64, err error) {
	var s string
	err = l.request(func(ctx context.Context) error {
		return l.redis.With(ctx, func(conn redis.Conn) (err error) {
			// A bounded read, as the key may be anybody's.
			s, err = redis.String(redisconn.Do(ctx, conn, "GETRANGE", l.key(), 0, 1023))
			return err
		})
	})
	if err != nil {
		return "", 0, l.failed("read", err)
	}
	if s == "" {
		return "", 0, fmt.Errorf("%w: redis lock %q", ErrNoHolder, l.id)
	}
	value, token, ok := parseHold(s)
	if !ok {
		return "", 0, l.foreign()
	}
	l.mu.Lock()
	l.forget()
	l.mu.Unlock()
	return value, token, nil
}

// maxToken is the greatest one that a script makes: its numbers are floating.
const maxToken = 1<<53 - 1

// parseHold splits what the key of a lock that is held has.
func parseHold(s string) (value string, token uint64, ok bool) {
	s, secret := cutLast(s)
	value, digits := cutLast(s)
	token, err := strconv.ParseUint(digits, 10, 64)
	return value, token, err == nil && token != 0 && token <= maxToken && secret != "" && value != "" && len(value) <= maxValue
}

func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, ' ')
	return s[:max(i, 0)], s[i+1:]
}

// WaitFree implements [Waiter]: it returns on a release, when the TTL of the
// holder that made Lock fail has run out, or for a poll where there are no
// wake-ups. While wake-ups arrive, it costs no command: they carry the new TTL
// after each Extend. One goroutine at a time may wait: another wakes the first.
func (l *RedisLock) WaitFree(ctx context.Context) error { return l.wait(ctx, l.held()) }

// WaitHeld implements [Waiter]. What WaitFree says of goroutines holds for both
// together.
func (l *RedisLock) WaitHeld(ctx context.Context) error { return l.wait(ctx, redisconn.News{}) }

// whenFree implements [sleeper].
func (l *RedisLock) whenFree(wake func()) error {
	_, err := l.await(l.held(), wake)
	return err
}

// forgetFree implements [sleeper].
func (l *RedisLock) forgetFree() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
}

// held is the hold that made Lock fail, or one that is over.
func (l *RedisLock) held() redisconn.News {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.other.Until.IsZero() {
		return redisconn.News{Until: time.Now()}
	}
	return l.other
}

func (l *RedisLock) wait(ctx context.Context, hold redisconn.News) error {
	woken := make(chan struct{})
	wakeup, err := l.await(hold, func() { close(woken) })
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		wakeup.Abandon()
		return ctx.Err()
	case <-woken:
		return nil
	}
}

func (l *RedisLock) await(hold redisconn.News, wake func()) (*redisconn.Subscription, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, l.failed("wait", ErrClosed)
	}
	if l.wakeup == nil {
		l.wakeup = l.redis.Subscribe(l.channel())
	}
	wakeup := l.wakeup
	l.mu.Unlock()
	most := l.TTL()
	if hold.Until.IsZero() { // nothing else tells that wake-ups come from the wrong server
		most = min(most, 5*time.Second)
	}
	wakeup.Await(redisconn.Wait{
		Hold: hold, Most: most, Wake: wake,
		Poll: min(max(l.TTL()/10, 50*time.Millisecond), 5*time.Second),
	})
	return wakeup, nil
}

// forget ends the subscription: what it waited for has happened, or it is
// closed. It is called with mu held.
func (l *RedisLock) forget() {
	if l.wakeup != nil {
		l.wakeup.Cancel()
		l.wakeup = nil
	}
}

// Close gives back the lock's share of the connections, once the requests that
// are under way have ended. It does not unlock. The other methods return
// ErrClosed then.
func (l *RedisLock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.forget()
	l.redis.Release()
	return nil
}

// request makes a request, with all its attempts, in bounded time: one that
// hangs leaves time for others before the deadline of a lease.
func (l *RedisLock) request(ask func(context.Context) error) error {
	if l.TTL() < time.Millisecond {
		return fmt.Errorf("expiry of %v, want at least a millisecond", l.Expiry)
	}
	if l.redis == nil {
		return errors.New("it was not made by NewRedisLock, NewRedisLockPool or RedisLocks")
	}
	if strings.ContainsRune(l.Prefix, 0) || isCounter(l.key()) {
		return fmt.Errorf("prefix %q can't be used with this id", l.Prefix)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.redis.Retain()
	l.mu.Unlock()
	defer l.redis.Release()
	ctx, cancel := context.WithTimeout(context.Background(), min(l.TTL()/4, 5*time.Second))
	defer cancel()
	return ask(ctx)
}

func (l *RedisLock) eval(replicas int, script *redisconn.Script, args ...any) (r []int64, err error) {
	err = l.request(func(ctx context.Context) error {
		r, err = l.redis.Eval(ctx, replicas, script, args...)
		return err
	})
	return r, err
}

// ms is the TTL for Redis, which must not be shorter than for the lease.
func (l *RedisLock) ms() int64 { return int64((l.TTL()-1)/time.Millisecond) + 1 }

func (l *RedisLock) key() string { return l.Prefix + l.id }

// counter is the helper key, always in the key's Cluster slot.
func (l *RedisLock) counter() string {
	key := l.key()
	if !strings.ContainsAny(key, "{}") {
		return "{" + key + "}:token"
	}
	// A key with braces may have a hash tag of its own, or braces that are none
	// and can't be wrapped. A leading zero byte changes neither the tag nor the
	// CRC16 of the whole, and no key has one.
	return "\x00" + key
}

// channel carries wake-ups.
func (l *RedisLock) channel() string { return "gone:" + l.key() }

func (l *RedisLock) failed(what string, err error) error {
	return fmt.Errorf("gone: redis lock %q: %s: %w", l.id, what, err)
}

func (l *RedisLock) foreign() error {
	return fmt.Errorf("gone: redis lock %q: the key has a foreign value", l.key())
}
