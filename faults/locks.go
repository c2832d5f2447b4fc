package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	redigo "github.com/gomodule/redigo/redis"
	"github.com/redis/go-redis/v9"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goredislock"
)

// A Service is the lock service of a run. What can be done to it is its own.
type Service interface {
	// place tells nodes the kind, a key of openers, and where it is.
	place() (kind, addr string)
	stop()
}

// openers are how a node process opens its locks.
var openers = map[string]func(NodeConfig) gone.LockFactory{
	"":         redigoLocks,
	"go-redis": goRedisLocks(func(o redis.UniversalOptions) redis.UniversalClient { return redis.NewClient(o.Simple()) }),
	"sentinel": goRedisLocks(func(o redis.UniversalOptions) redis.UniversalClient { return redis.NewFailoverClient(o.Failover()) }),
	"cluster":  goRedisLocks(func(o redis.UniversalOptions) redis.UniversalClient { return redis.NewClusterClient(o.Cluster()) }),
	"etcd":     etcdLocks,
	"postgres": postgresLocks,
}

// redigoLocks are the built-in ones, and those of a user's pool where there is a
// password.
func redigoLocks(cfg NodeConfig) gone.LockFactory {
	if cfg.Password == "" {
		return gone.RedisLocks("redis://"+cfg.Service, cfg.lock)
	}
	pool := &redigo.Pool{
		MaxActive: 16, MaxIdle: 16, Wait: true, MaxConnLifetime: connectionAge,
		DialContext: func(ctx context.Context) (redigo.Conn, error) {
			return redigo.DialContext(ctx, "tcp", cfg.Service, redigo.DialPassword(cfg.Password),
				redigo.DialConnectTimeout(time.Second), redigo.DialReadTimeout(time.Second), redigo.DialWriteTimeout(time.Second))
		},
	}
	return func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLockPool(pool, id, value)
		if err != nil {
			return nil, err
		}
		cfg.lock(l)
		return l, nil
	}
}

// goRedisLocks are those of a client of go-redis.
func goRedisLocks(client func(redis.UniversalOptions) redis.UniversalClient) func(NodeConfig) gone.LockFactory {
	return func(cfg NodeConfig) gone.LockFactory {
		return goredislock.New(client(redis.UniversalOptions{
			Addrs: strings.Split(cfg.Service, ","), ConnMaxLifetime: connectionAge, MasterName: watched,
			DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second,
		}), cfg.lock)
	}
}

// lock gives a lock what the scenario wants of it.
func (cfg NodeConfig) lock(l *gone.RedisLock) {
	l.Expiry, l.RestartGuard = cfg.TTL, cfg.Guard
	if cfg.Replicas > 0 {
		l.Replicas = cfg.Replicas
	}
}

// newLock makes locks that log every call. All the extras stay.
func (n *node) newLock(id, value string) (gone.GoneLock, error) {
	l, err := n.open(id, value)
	if err != nil {
		return nil, err
	}
	calls := &lockCalls{lock: l.(fullLock), n: n, id: id}
	calls.acquisition.Store(n.calls.Add(1))
	if r, ok := l.(*gone.RedisLock); ok { // it has extras that are the library's own
		return loggedRedis{r, calls}, nil
	}
	return loggedLock{calls.lock, calls}, nil
}

// A fullLock has all extras that others can have.
type fullLock interface {
	gone.GoneLock
	gone.Expirer
	gone.Fencer
	gone.Waiter
	io.Closer
}

type loggedRedis struct {
	*gone.RedisLock
	calls *lockCalls
}

func (l loggedRedis) Lock() error   { return l.calls.Lock() }
func (l loggedRedis) Extend() error { return l.calls.Extend() }
func (l loggedRedis) Unlock()       { l.calls.Unlock() }

// Ticket notes whom the lock may be passed on to.
func (l loggedRedis) Ticket() string {
	ticket := l.RedisLock.Ticket()
	l.calls.n.log.Add(Event{Kind: Ticket, ID: l.calls.id, From: l.calls.from(), Text: ticket})
	return ticket
}

func (l loggedRedis) Pass(ticket, value string) error {
	ret := l.calls.call(PassCall, ticket)
	err := l.RedisLock.Pass(ticket, value)
	ret(PassRet, outcomeOf(err))
	l.calls.over = l.calls.over || err == nil
	return err
}

type loggedLock struct {
	fullLock
	calls *lockCalls
}

func (l loggedLock) Lock() error   { return l.calls.Lock() }
func (l loggedLock) Extend() error { return l.calls.Extend() }
func (l loggedLock) Unlock()       { l.calls.Unlock() }

// Check is that of locks that have it.
func (l loggedLock) Check(ctx context.Context) error {
	if c, ok := l.fullLock.(gone.Checker); ok {
		return c.Check(ctx)
	}
	_, err := l.GetValue()
	if errors.Is(err, gone.ErrNoHolder) {
		return nil
	}
	return err
}

// lockCalls makes the calls of a lock that are logged.
type lockCalls struct {
	lock fullLock
	n    *node
	id   string
	// acquisition names what one secret of the lock stands for: from the first
	// attempt to the one after a grant or a release. Lock, Unlock and Pass alone, which
	// are called one after the other, tell: an Extend may end when its hold is long over.
	acquisition atomic.Int64
	over        bool
}

func (l *lockCalls) from() string { return fmt.Sprintf("%d/%d", os.Getpid(), l.acquisition.Load()) }

func (l *lockCalls) call(k Kind, text string) (ret func(k Kind, text string)) {
	e := Event{Kind: k, ID: l.id, Token: l.lock.FencingToken(), From: l.from(), N: int(l.n.calls.Add(1)), Text: text}
	l.n.log.Add(e)
	return func(k Kind, text string) {
		if k == LockRet {
			e.Token = l.lock.FencingToken()
		}
		e.Kind, e.Text = k, text
		l.n.log.Add(e)
	}
}

func (l *lockCalls) Lock() error {
	if l.over {
		l.acquisition.Store(l.n.calls.Add(1))
	}
	ret := l.call(LockCall, "")
	err := l.lock.Lock()
	outcome := outcomeOf(err)
	ret(LockRet, outcome)
	l.over = err == nil || released(outcome)
	return err
}

func (l *lockCalls) Extend() error {
	ret := l.call(ExtendCall, "")
	err := l.lock.Extend()
	ret(ExtendRet, outcomeOf(err))
	return err
}

func (l *lockCalls) Unlock() {
	ret := l.call(UnlockCall, "")
	l.lock.Unlock()
	ret(UnlockRet, "")
	l.over = true
}

// released reports whether Lock itself has released what it may have obtained.
func released(outcome string) bool { return strings.Contains(outcome, "too few replicas") }

// outcomeOf is the first word of a lock's result, then the error.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, gone.ErrLeaseExpired):
		return "lost (lease) " + err.Error()
	case errors.Is(err, gone.ErrLockLost):
		return "lost " + err.Error()
	case errors.Is(err, gone.ErrLockHeld):
		return "held"
	}
	return "unknown " + err.Error()
}
