package gone_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/locktest"
)

func TestRedisLockKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	t.Run("by address", func(t *testing.T) {
		t.Parallel()
		s := startRedis(t)
		p := locktest.NewProxy(t, s.addr)
		locktest.Run(t, locktest.Service{
			Locks:       func(ttl time.Duration) gone.LockFactory { return locksAt(p.Addr, ttl) },
			Stop:        p.Stop,
			Slow:        p.Slow,
			LoseReplies: p.LoseReplies,
			Forget:      func(testing.TB) { s.do("FLUSHALL") },
			Delete:      func(_ testing.TB, id string) { s.do("DEL", id) },
			Spoil:       func(_ testing.TB, id string) { s.do("SET", id, "what somebody else keeps here") },
		})
	})
	t.Run("by a pool of one connection with password and database", func(t *testing.T) {
		t.Parallel()
		s := startRedis(t)
		s.do("ACL", "SETUSER", "node", "on", ">sesame", "allkeys", "allchannels", "allcommands")
		pool := s.pool(redis.DialUsername("node"), redis.DialPassword("sesame"), redis.DialDatabase(3))
		pool.MaxActive, pool.Wait = 1, false
		locktest.Run(t, locktest.Service{Locks: poolLocks(pool), IDs: 100})
	})
	t.Run("by a user with the smallest rights", func(t *testing.T) {
		t.Parallel()
		s := startRedis(t)
		s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">sesame", "~*", "&gone:*").AddFlat(smallestRights).
			Add("+info", "+hset", "+hdel", "+hgetall")...) // for Check and for the roster
		locktest.Run(t, locktest.Service{Locks: poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("sesame")))})
		if log := fmt.Sprintf("%q", s.do("ACL", "LOG")); log != "[]" {
			t.Errorf("something was denied: %s", log)
		}
	})
	t.Run("with a replica that confirms", func(t *testing.T) {
		t.Parallel()
		s, _ := startReplicated(t)
		locktest.Run(t, locktest.Service{Locks: func(ttl time.Duration) gone.LockFactory {
			return func(id, value string) (gone.GoneLock, error) {
				l, err := gone.NewRedisLock(s.addr, id, value)
				if err == nil {
					l.Expiry, l.Replicas = ttl, 1
				}
				return l, err
			}
		}})
	})
	t.Run("by its four methods alone", func(t *testing.T) {
		t.Parallel()
		s := startRedis(t)
		locktest.Run(t, locktest.Service{Locks: func(ttl time.Duration) gone.LockFactory {
			return func(id, value string) (gone.GoneLock, error) {
				l, err := s.locks(ttl)(id, value)
				return struct{ gone.GoneLock }{l}, err
			}
		}})
	})
}

func TestALockInMemoryKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	s := gonetest.NewLocks()
	locktest.Run(t, locktest.Service{
		Locks: s.Factory,
		Stop: func(testing.TB) func() {
			s.Outage(true)
			return func() { s.Outage(false) }
		},
		Slow: func(_ testing.TB, by time.Duration) func() {
			s.Intercept(func(_ gonetest.Call, serve func() error) error {
				err := serve()
				time.Sleep(by)
				return err
			})
			return func() { s.Intercept(nil) }
		},
		LoseReplies: func(testing.TB) func() {
			s.Intercept(func(_ gonetest.Call, serve func() error) error {
				_ = serve()
				return net.ErrClosed
			})
			return func() { s.Intercept(nil) }
		},
		Advance: func(_ testing.TB, by time.Duration) { s.Advance(by) },
		Delete:  func(_ testing.TB, id string) { s.Forget(id) },
	})
}
