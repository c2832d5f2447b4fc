package goredislock_test

import (
	"context"
	"net"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goredislock"
	"github.com/Diggs/go-one/locktest"
	"github.com/redis/go-redis/v9"
)

func TestTheLockKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	serviceOf := func(client redis.UniversalClient, configure ...func(*goredislock.Lock)) locktest.Service {
		return locktest.Service{
			Locks: func(ttl time.Duration) gone.LockFactory {
				return goredislock.New(client, append(configure, func(l *goredislock.Lock) { l.Expiry = ttl })...)
			},
			IDs:    100,
			Delete: func(t testing.TB, id string) { must(t, client.Del(context.Background(), id).Err()) },
			Spoil: func(t testing.TB, id string) {
				must(t, client.Set(context.Background(), id, "what somebody else keeps here", 0).Err())
			},
		}
	}
	t.Run("one server", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		addr, err := net.ResolveTCPAddr("tcp", s.addr)
		must(t, err)
		p := locktest.NewProxy(t, addr)
		client := redis.NewClient(&redis.Options{Addr: p.Addr.String()})
		defer client.Close()
		service := serviceOf(client)
		service.Stop, service.Slow, service.LoseReplies = p.Stop, p.Slow, p.LoseReplies
		service.Forget = func(t testing.TB) { s.do(t, "FLUSHALL") }
		service.Delete = func(t testing.TB, id string) { s.do(t, "DEL", id) }
		service.Spoil = func(t testing.TB, id string) { s.do(t, "SET", id, "what somebody else keeps here") }
		locktest.Run(t, service)
	})
	t.Run("a replica that confirms", func(t *testing.T) {
		t.Parallel()
		s := start(t)
		start(t).follow(t, s)
		locktest.Run(t, serviceOf(s.Client, func(l *goredislock.Lock) { l.Replicas = 1 }))
	})
	t.Run("Sentinel", func(t *testing.T) {
		t.Parallel()
		locktest.Run(t, serviceOf(sharedBy(t, "Sentinel", startWatched).client(t)))
	})
	t.Run("Cluster", func(t *testing.T) {
		t.Parallel()
		locktest.Run(t, serviceOf(sharedBy(t, "Cluster", startSharded).client(t)))
	})
}
