package gone

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/redisconn"
)

// A RedisLock is a [GoneLock] in one Redis (5 or later), with all the extras.
//
// The key is the id itself, after a Prefix if there is one, and its value is "<value> <fencing token> <secret>",
// so that "redis-cli GET <id>" shows the holder's address. An empty value counts
// as none. A helper key in the id's Cluster slot keeps the last token for a day;
// tokens also follow the server's clock, so they keep increasing when the helper
// key is lost. A key that would live for longer than its holder's TTL, as when the
// server's clock is set back, is cut to that TTL by whoever competes for it.
//
// All locks of a process that name one Redis address, or one pool, share its
// connections: at most 16, or what that pool allows, and one more for wake-ups
// while any of them waits. A connection is used for 10 s at most, and given up at any
// answer that a wrong server may have given. So when the address comes to lead to another
// server, the lock follows within seconds. If the old server goes on granting, two may
// hold the lock until then, for no longer than the TTL and those 10 s. The process
// publishes every 5 s, and keeps the connection for wake-ups as long as it hears that on
// it. So those that wait follow within 20 s, or, where PUBLISH is denied, when the TTL has
// run out.
//
// A Redis user needs the keys "<id>" and "{<id>}:token" ("\x00<id>" where the id
// has braces), the channel "gone:<id>", and EVALSHA, EVAL, GETRANGE, EXISTS,
// TIME, PSETEX, PEXPIRE, PTTL, DEL, PUBLISH, SUBSCRIBE, UNSUBSCRIBE and PING.
// Without the channel waiters poll. A roster needs the key "{<cluster>}:nodes"
// ("\x00\x00<cluster>" where the name has braces), and HSET, HDEL and HGETALL. In all
// names the Prefix comes before the id or the cluster. Check also asks for INFO, and does
// without if it is refused.
//
// The fields must not be changed while the lock is used.
type RedisLock struct {
	// Expiry sets the TTL of the lock in Redis, at least a millisecond. 0 means
	// [DefaultExpiry].
	Expiry time.Duration

	// Prefix sets what comes before the id in the names of the key, the helper key
	// and the channel, for a Redis that is shared. It must be the same on all nodes.
	Prefix string

	// RestartGuard is for a Redis that may restart without its data and so forget
	// who holds a lock. Until that Redis has been up for the TTL and a second, no free
	// lock is granted: the error of Lock wraps ErrLockHeld and says how long to wait.
	// All nodes should have the same Expiry. The guard does not notice a FLUSHALL or
	// a failover. The Redis user needs INFO.
	RestartGuard bool

	// Replicas sets how many replicas must confirm (WAIT) what Lock or Extend has
	// written before they return nil, so that a failover to one of these forgets
	// nothing. When too few confirm in time, Lock releases what it got, and both
	// return an error that says neither held nor lost. The Redis user needs WAIT.
	Replicas int

	id, value string
	redis     *redisconn.Client

	taking sync.Mutex // Lock and Unlock: one at a time, as they come

	mu     sync.Mutex
	known  redisKnown
	wakeup *redisconn.Subscription // from the first wait to what it waited for
	closed bool
}

// redisKnown is what a lock has learned of holds.
type redisKnown struct {
	hold    redisHold      // the last that Lock obtained
	attempt string         // a secret with which a Lock may have succeeded, or may yet
	other   redisconn.News // of the hold that made Lock fail
}

type redisHold struct {
	secret string // "" when it is over
	token  uint64
}

// is what the key of a hold ends with.
func (h redisHold) is() string { return " " + strconv.FormatUint(h.token, 10) + " " + h.secret }

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

// isHelper reports whether a key is where the last token of an id is kept, or a
// roster.
func isHelper(key string) bool {
	return strings.HasPrefix(key, "{") && (strings.HasSuffix(key, "}:token") || strings.HasSuffix(key, "}:nodes"))
}

// TTL returns Expiry, or [DefaultExpiry] if that is 0.
func (l *RedisLock) TTL() time.Duration {
	if l.Expiry == 0 {
		return DefaultExpiry
	}
	return l.Expiry
}

// Lock implements [GoneLock].
func (l *RedisLock) Lock() error {
	l.taking.Lock()
	defer l.taking.Unlock()
	err := l.acquire()
	if errors.Is(err, redisconn.ErrUnconfirmed) {
		l.release() // before another Lock takes it for its own
	}
	return err
}

// acquire is called with taking held.
func (l *RedisLock) acquire() error {
	l.mu.Lock()
	// With the same secret until the outcome is known, so that a hold whose
	// reply was lost is recognised.
	secret := cmp.Or(l.known.hold.secret, l.known.attempt)
	l.mu.Unlock()
	if secret == "" {
		secret = l.newSecret()
	}
	guard := 0
	if l.RestartGuard {
		guard = 1
	}
	r, err := l.eval(l.Replicas, acquireScript, l.counter(), l.value, secret, l.ms(), l.channel(), guard)
	if err == nil && r[0] == -3 {
		secret = l.newSecret()
		r, err = l.eval(l.Replicas, acquireScript, l.counter(), l.value, secret, l.ms(), l.channel(), guard)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.known.attempt = secret
		return l.failed("lock", err)
	case r[0] > 0:
		l.known.hold, l.known.attempt = redisHold{secret, uint64(r[0])}, ""
		l.forget()
		return nil
	}
	l.known.hold.secret = ""
	if len(r) < 3 {
		return l.foreign()
	}
	left := time.Duration(r[1]) * time.Millisecond
	if left < 0 || left > l.TTL() {
		left = l.TTL() // a key that someone made without a TTL, or with any
	}
	l.known.other = redisconn.News{Token: uint64(r[2]), Until: time.Now().Add(left)}
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
	hold, closed := l.known.hold, l.closed
	l.mu.Unlock()
	if closed {
		return l.failed("extend", ErrClosed)
	}
	if hold.secret == "" {
		return fmt.Errorf("%w: redis lock %q is not held", ErrLockLost, l.id)
	}
	// With the token: a copy of Lock's request that comes late must not look
	// like this hold.
	r, err := l.eval(l.Replicas, extendScript, hold.is(), l.ms(), l.channel(), redisconn.FormatNews(hold.token, l.ms()))
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
	if l.known.hold == hold { // and not one that a Lock has obtained meanwhile
		l.known.hold.secret = ""
	}
	if r[0] == 0 {
		return fmt.Errorf("%w: redis lock %q is another's", ErrLockLost, l.id)
	}
	return fmt.Errorf("%w: redis lock %q is gone", ErrLockLost, l.id)
}

// Unlock implements [GoneLock]. While Redis does not answer it tries again, for a
// quarter of the TTL or 5 s; then the lock is left to expire. Replicas have half of that
// to confirm; where they do not, it tries once more, as another may be the server by now.
func (l *RedisLock) Unlock() {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.release()
}

// release is called with taking held.
func (l *RedisLock) release() {
	l.mu.Lock()
	secret, token := cmp.Or(l.known.hold.secret, l.known.attempt), l.known.hold.token
	l.known.hold.secret, l.known.attempt = "", ""
	l.mu.Unlock()
	if secret == "" {
		return
	}
	_ = l.request(context.Background(), func(ctx context.Context) error {
		for pause := 10 * time.Millisecond; ; pause *= 2 {
			_, err := l.redis.Eval(ctx, l.Replicas, releaseScript, l.key(), secret, l.channel(), redisconn.FormatNews(token, 0))
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
	return l.known.hold.token
}

// Holder implements [Fencer].
func (l *RedisLock) Holder() (value string, token uint64, err error) {
	var s string
	err = l.request(context.Background(), func(ctx context.Context) (err error) {
		s, err = l.redis.Get(ctx, l.key(), 1024) // bounded, as the key may be anybody's
		return err
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

// forgetFree takes note that nobody waits any more.
func (l *RedisLock) forgetFree() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
}

// held is the hold that made Lock fail, or one that is over.
func (l *RedisLock) held() redisconn.News {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known.other.Until.IsZero() {
		return redisconn.News{Until: time.Now()}
	}
	return l.known.other
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

// Close gives back the lock's share of the connections, once the requests that are under
// way have ended. It does not unlock. The other methods return ErrClosed afterwards.
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
func (l *RedisLock) request(ctx context.Context, ask func(context.Context) error) error {
	if l.TTL() < time.Millisecond {
		return fmt.Errorf("expiry of %v, want at least a millisecond", l.Expiry)
	}
	if l.redis == nil {
		return errors.New("it was not made by one of the functions NewRedisLock… or RedisLocks")
	}
	if strings.ContainsRune(l.Prefix, 0) || isHelper(l.key()) {
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
	ctx, cancel := context.WithTimeout(ctx, min(l.TTL()/4, 5*time.Second))
	defer cancel()
	return ask(ctx)
}

func (l *RedisLock) eval(replicas int, script *redisconn.Script, args ...any) (r []int64, err error) {
	err = l.request(context.Background(), func(ctx context.Context) error {
		r, err = l.redis.Eval(ctx, replicas, script, l.key(), args...)
		return l.named(err)
	})
	return r, err
}

// ms is the TTL for Redis.
func (l *RedisLock) ms() int64 { return milliseconds(l.TTL()) }

// milliseconds is a TTL for Redis, which must not be shorter than for gone.
func milliseconds(ttl time.Duration) int64 { return int64((ttl-1)/time.Millisecond) + 1 }

func (l *RedisLock) key() string { return l.Prefix + l.id }

// counter is the helper key for tokens.
func (l *RedisLock) counter() string { return l.helper("token", "\x00") }

// helper is a further key, always in the key's Cluster slot.
func (l *RedisLock) helper(name, braced string) string {
	key := l.key()
	if !strings.ContainsAny(key, "{}") {
		return "{" + key + "}:" + name
	}
	// A key with braces may have a hash tag of its own, or braces that are none
	// and can't be wrapped. Leading zero bytes change neither the tag nor the
	// CRC16 of the whole, and no key has one.
	return braced + key
}

// channel carries wake-ups.
func (l *RedisLock) channel() string { return "gone:" + l.key() }

func (l *RedisLock) failed(what string, err error) error {
	return fmt.Errorf("gone: redis lock %q: %s: %w", l.id, what, err)
}

func (l *RedisLock) foreign() error {
	return fmt.Errorf("gone: redis lock %q: the key has a foreign value", l.key())
}
