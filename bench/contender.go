package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	redsyncgoredis "github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/gomodule/redigo/redis"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	gone "github.com/Diggs/go-one"
)

// A contender is one way to lock in a service, used as its documentation shows, for
// one server, with its defaults where it has any.
type contender struct {
	name   string
	module string
	// poll is how far the looks of a waiter lie apart, at most; 0 where waiters
	// are woken.
	poll time.Duration
	// settle is for how long a waiter has to wait at least before it can be woken.
	settle time.Duration
	// key is what a lock's TTL can be read from in Redis.
	key  func(id string) string
	open func(l *line, ttl time.Duration) (node, error)
}

// A node is one process's share of a lock service.
type node interface {
	lock(id string) lock
	close()
}

// A lock is the lock of one id on one node. It is used by one goroutine at a
// time.
type lock interface {
	acquire() error // does not wait
	wait(ctx context.Context) error
	extend() error // errors.ErrUnsupported where the library does it by itself
	release() error
}

// extendsItself is of locks that do.
type extendsItself struct{}

func (extendsItself) extend() error { return errors.ErrUnsupported }

// Names that the claims compare.
const (
	nameGone    = "gone"
	nameBare    = "bare redigo"
	nameRueidis = "rueidislock"
)

var contenders = []contender{
	{name: nameGone, key: itself, open: openGone},
	{name: nameBare, module: "github.com/gomodule/redigo", poll: barePoll, key: itself, open: openBare},
	{name: "redislock", module: "github.com/bsm/redislock", poll: redislockPoll, key: itself, open: openRedislock},
	{name: "redsync", module: "github.com/go-redsync/redsync/v4", poll: redsyncPoll, key: itself, open: openRedsync},
	{name: nameRueidis, module: "github.com/redis/rueidis", key: func(id string) string { return "rueidislock:0:" + id }, open: openRueidislock},
}

func itself(id string) string { return id }

// gone: its lock of a service by itself, without a Gone.

type goneNode struct {
	locks gone.LockFactory
	made  []goneLock
	end   func() // of its way to the service
}

type goneLock struct{ lockInService }

type lockInService interface {
	gone.GoneLock
	gone.Waiter
	io.Closer
}

// openGone makes a pool for the node, as locks with one address share what a process has.
func openGone(l *line, ttl time.Duration) (node, error) {
	pool := l.pool()
	locks := func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLockPool(pool, id, value)
		if err == nil {
			l.Expiry = ttl
		}
		return l, err
	}
	return &goneNode{locks: locks, end: func() { _ = pool.Close() }}, nil
}

func (n *goneNode) lock(id string) lock {
	l, err := n.locks(id, "tcp://127.0.0.1:1")
	if err != nil {
		panic(err) // the id is one of ours
	}
	n.made = append(n.made, goneLock{l.(lockInService)})
	return n.made[len(n.made)-1]
}

func (n *goneNode) close() {
	for _, l := range n.made {
		_ = l.Close()
	}
	n.end()
}

func (l goneLock) acquire() error { return l.Lock() }
func (l goneLock) extend() error  { return l.Extend() }

func (l goneLock) wait(ctx context.Context) error {
	for {
		err := l.Lock()
		if !errors.Is(err, gone.ErrLockHeld) {
			return err
		}
		if err := l.WaitFree(ctx); err != nil {
			return err
		}
	}
}

func (l goneLock) release() error {
	l.Unlock()
	return nil
}

// bare redigo: the least that is a lock. One command takes it, a script gives
// it back if it is still the caller's.

const barePoll = 10 * time.Millisecond

var (
	compareAndDelete = redis.NewScript(1, `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)
	compareAndExpire = redis.NewScript(1, `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("PEXPIRE", KEYS[1], ARGV[2]) end return 0`)

	errRefused = errors.New("not the caller's")
)

type bareNode struct {
	pool *redis.Pool
	ttl  time.Duration
}

type bareLock struct {
	*bareNode
	id, secret string
}

func openBare(l *line, ttl time.Duration) (node, error) { return &bareNode{l.pool(), ttl}, nil }

func (n *bareNode) lock(id string) lock { return &bareLock{bareNode: n, id: id} }
func (n *bareNode) close()              { _ = n.pool.Close() }

func (l *bareLock) acquire() error {
	conn := l.pool.Get()
	defer conn.Close()
	secret := rand.Text()
	_, err := redis.String(conn.Do("SET", l.id, secret, "NX", "PX", l.ttl.Milliseconds()))
	if err == nil {
		l.secret = secret
	}
	return err
}

func (l *bareLock) wait(ctx context.Context) error {
	for {
		if err := l.acquire(); !errors.Is(err, redis.ErrNil) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(barePoll):
		}
	}
}

func (l *bareLock) extend() error {
	return l.run(compareAndExpire, l.id, l.secret, l.ttl.Milliseconds())
}
func (l *bareLock) release() error { return l.run(compareAndDelete, l.id, l.secret) }

func (l *bareLock) run(script *redis.Script, args ...any) error {
	conn := l.pool.Get()
	defer conn.Close()
	n, err := redis.Int(script.Do(conn, args...))
	if err == nil && n != 1 {
		err = errRefused
	}
	return err
}

// clientModule is what redislock and redsync reach Redis with.
const clientModule = "github.com/redis/go-redis/v9"

// redislock on go-redis, with the retry strategy that its documentation shows.

const redislockPoll = 100 * time.Millisecond

type redislockNode struct {
	client *goredis.Client
	locker *redislock.Client
	ttl    time.Duration
}

type redislockLock struct {
	*redislockNode
	id   string
	held *redislock.Lock
}

func goRedis(l *line) *goredis.Client {
	return goredis.NewClient(&goredis.Options{
		Addr:   l.addr,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
	})
}

func openRedislock(l *line, ttl time.Duration) (node, error) {
	client := goRedis(l)
	return &redislockNode{client, redislock.New(client), ttl}, nil
}

func (n *redislockNode) lock(id string) lock { return &redislockLock{redislockNode: n, id: id} }
func (n *redislockNode) close()              { _ = n.client.Close() }

func (l *redislockLock) acquire() error { return l.obtain(context.Background(), nil) }

func (l *redislockLock) wait(ctx context.Context) error {
	return l.obtain(ctx, &redislock.Options{RetryStrategy: redislock.LinearBackoff(redislockPoll)})
}

func (l *redislockLock) obtain(ctx context.Context, opt *redislock.Options) (err error) {
	l.held, err = l.locker.Obtain(ctx, l.id, l.ttl, opt)
	return err
}

func (l *redislockLock) extend() error  { return l.held.Refresh(context.Background(), l.ttl, nil) }
func (l *redislockLock) release() error { return l.held.Release(context.Background()) }

// redsync on go-redis, with one Redis. It gives up after 32 tries, so a waiter
// has to call again.

const redsyncPoll = 250 * time.Millisecond

type redsyncNode struct {
	client *goredis.Client
	sync   *redsync.Redsync
	ttl    time.Duration
}

type redsyncLock struct{ mutex *redsync.Mutex }

func openRedsync(l *line, ttl time.Duration) (node, error) {
	client := goRedis(l)
	return &redsyncNode{client, redsync.New(redsyncgoredis.NewPool(client)), ttl}, nil
}

func (n *redsyncNode) lock(id string) lock {
	return redsyncLock{n.sync.NewMutex(id, redsync.WithExpiry(n.ttl))}
}

func (n *redsyncNode) close() { _ = n.client.Close() }

func (l redsyncLock) acquire() error { return l.mutex.TryLock() }

func (l redsyncLock) wait(ctx context.Context) error {
	for {
		err := l.mutex.LockContext(ctx)
		var taken *redsync.ErrTaken
		if ctx.Err() != nil || !errors.As(err, &taken) && !errors.Is(err, redsync.ErrFailed) {
			return err
		}
	}
}

func (l redsyncLock) extend() error  { return agreed(l.mutex.Extend()) }
func (l redsyncLock) release() error { return agreed(l.mutex.Unlock()) }

func agreed(ok bool, err error) error {
	if err == nil && !ok {
		err = errRefused
	}
	return err
}

// rueidislock with one key and without notices of its own changes, as in its
// own benchmark; its default of three keys is for three Redis. With one there is
// no next one to try after 20 ms, which would be an error on a busy machine. It
// extends by itself, here at a third of the TTL as the others are made to.

type rueidislockNode struct{ locker rueidislock.Locker }

type rueidislockLock struct {
	extendsItself
	*rueidislockNode
	id   string
	free context.CancelFunc
}

func openRueidislock(l *line, ttl time.Duration) (node, error) {
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{
			InitAddress:       []string{l.addr},
			ForceSingleClient: true,
			DialCtxFn: func(ctx context.Context, _ string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return l.dial(ctx)
			},
		},
		KeyValidity:    ttl,
		ExtendInterval: ttl / extends,
		KeyMajority:    1,
		NoLoopTracking: true,
		TryNextAfter:   stall,
	})
	if err != nil {
		return nil, err
	}
	return &rueidislockNode{locker}, nil
}

func (n *rueidislockNode) lock(id string) lock { return &rueidislockLock{rueidislockNode: n, id: id} }
func (n *rueidislockNode) close()              { n.locker.Close() }

func (l *rueidislockLock) acquire() (err error) {
	_, l.free, err = l.locker.TryWithContext(context.Background(), l.id)
	return err
}

func (l *rueidislockLock) wait(ctx context.Context) (err error) {
	_, l.free, err = l.locker.WithContext(ctx, l.id)
	return err
}

func (l *rueidislockLock) release() error {
	l.free()
	return nil
}
