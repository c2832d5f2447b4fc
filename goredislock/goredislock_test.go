package goredislock_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goredislock"
	"github.com/redis/go-redis/v9"
)

// services are those that nobody breaks.
func services(t *testing.T) map[string]redis.UniversalClient {
	one := sharedBy(t, "one server", func(t testing.TB) *server { return start(t) })
	single := redis.NewClient(&redis.Options{Addr: one.addr, ConnMaxLifetime: 10 * time.Second})
	t.Cleanup(func() { _ = single.Close() })
	return map[string]redis.UniversalClient{
		"one server": single,
		"Sentinel":   sharedBy(t, "Sentinel", startWatched).client(t),
		"Cluster":    sharedBy(t, "Cluster", startSharded).client(t),
	}
}

func lock(t testing.TB, locks gone.LockFactory, id string) *goredislock.Lock {
	t.Helper()
	l, err := locks(id, "tcp://127.0.0.1:1")
	must(t, err)
	t.Cleanup(func() {
		l.(*goredislock.Lock).Unlock()
		_ = l.(*goredislock.Lock).Close()
	})
	return l.(*goredislock.Lock)
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// hand releases a lock, and returns how long another that waited took to get it.
func hand(t testing.TB, from, to *goredislock.Lock) time.Duration {
	t.Helper()
	is(t, to.Lock(), gone.ErrLockHeld)
	released := make(chan time.Time, 1)
	timer := time.AfterFunc(100*time.Millisecond, func() {
		from.Unlock()
		released <- time.Now()
	})
	defer timer.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for to.Lock() != nil {
		must(t, to.WaitFree(ctx))
	}
	return time.Since(<-released)
}

// All slots have their locks, and a release is heard from any of them.
func TestAReleaseWakesAWaiterOnEveryService(t *testing.T) {
	for name, client := range services(t) {
		t.Run(name, func(t *testing.T) {
			locks := goredislock.New(client, func(l *goredislock.Lock) { l.Expiry = 5 * time.Minute })
			var late int
			for i := range 12 {
				id := fmt.Sprint("wakes ", i)
				a, b := lock(t, locks, id), lock(t, locks, id)
				must(t, a.Lock())
				if hand(t, a, b) > 2*time.Second { // a poll is due every five
					late++
				}
			}
			if late > 6 {
				t.Errorf("%d of 12 hand-overs took two seconds or more", late)
			}
		})
	}
}

// An endpoint is an address that can come to lead elsewhere, as that of a
// Kubernetes Service or a managed Redis does: connections that there are stay.
type endpoint struct {
	net.Listener
	to atomic.Pointer[server]
}

func startEndpoint(t testing.TB, to *server) *endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	e := &endpoint{Listener: l}
	e.to.Store(to)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", e.to.Load().addr)
			if err != nil {
				_ = down.Close()
				continue
			}
			end := sync.OnceFunc(func() {
				_ = down.Close()
				_ = up.Close()
			})
			context.AfterFunc(ctx, end)
			for to, from := range map[net.Conn]net.Conn{up: down, down: up} {
				wg.Go(func() {
					defer end()
					_, _ = io.Copy(to, from)
				})
			}
		}
	})
	return e
}

func TestAnEndpointThatMovesIsFollowedWithinSeconds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		demote   []any
		lifetime time.Duration // needed only where the old server goes on
	}{
		"demoted, and cut off":  {[]any{"REPLICAOF", "127.0.0.1", 1}, 0},
		"no replica follows it": {[]any{"CONFIG", "SET", "min-replicas-to-write", 1}, 0},
		"it goes on":            {[]any{"PING"}, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, young := start(t), start(t)
			e := startEndpoint(t, old)
			client := redis.NewClient(&redis.Options{Addr: e.Addr().String(), ConnMaxLifetime: c.lifetime})
			t.Cleanup(func() { _ = client.Close() })
			locks := goredislock.New(client, func(l *goredislock.Lock) { l.Expiry = ttl })
			l := lock(t, locks, "a")
			must(t, l.Lock())
			var wg sync.WaitGroup
			for range 4 { // more connections than one
				wg.Go(func() { _, _ = l.GetValue() })
			}
			wg.Wait()
			e.to.Store(young)
			old.do(t, c.demote...)
			began := time.Now()
			eventually(t, 5*time.Second, "it is locked in the new server", func() bool {
				_ = l.Lock()
				return young.do(t, "EXISTS", "a") == int64(1)
			})
			t.Logf("it was after %v", time.Since(began))
			_, err := l.GetValue()
			must(t, err)
		})
	}
}

func TestReplicasIsOneWhereAReplicaMayTakeItsMastersPlace(t *testing.T) {
	o := func() *redis.FailoverOptions {
		return &redis.FailoverOptions{MasterName: "main", SentinelAddrs: []string{"127.0.0.1:1"}}
	}
	for want, client := range map[int][]redis.UniversalClient{
		0: {redis.NewClient(&redis.Options{})},
		1: {redis.NewFailoverClient(o()), redis.NewFailoverClusterClient(o()), redis.NewClusterClient(&redis.ClusterOptions{})},
	} {
		for _, c := range client {
			if n := lock(t, goredislock.New(c), "a").Replicas; n != want {
				t.Errorf("%T: Replicas is %d, want %d", c, n, want)
			}
			if n := lock(t, goredislock.New(c, func(l *goredislock.Lock) { l.Replicas = 2 }), "a").Replicas; n != 2 {
				t.Errorf("%T: Replicas is %d, want what configure says", c, n)
			}
			_ = c.Close()
		}
	}
}

func TestAClientThatCanKeepNoLockIsRefused(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	var none *redis.Client
	for why, c := range map[string]redis.UniversalClient{
		"a second holder":   ring,
		"not nil":           none,
		"of type <nil>":     nil,
		"of type struct { ": struct{ *redis.Client }{},
	} {
		if _, err := goredislock.New(c)("a", "v"); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want %q", err, why)
		}
	}
}

func TestAClientOfOneServerThatMeetsAClusterNamesIt(t *testing.T) {
	c := sharedBy(t, "Cluster", startSharded)
	client := redis.NewClient(&redis.Options{Addr: c.masters[0].addr})
	defer client.Close()
	var refused int
	for i := range 12 {
		l := lock(t, goredislock.New(client), fmt.Sprint("meets ", i))
		if _, err := l.GetValue(); !errors.Is(err, gone.ErrNoHolder) {
			refused++
			if !strings.Contains(err.Error(), "use a redis.ClusterClient") {
				t.Error(err)
			}
		}
	}
	if refused == 0 {
		t.Error("no slot was another master's")
	}
}

func TestNothingIsLeftOfTheLocksThatAreClosed(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := redis.NewClient(&redis.Options{Addr: s.addr})
	defer client.Close()
	locks := goredislock.New(client)
	a, b := lock(t, locks, "a"), lock(t, locks, "a")
	must(t, a.Lock())
	is(t, b.Lock(), gone.ErrLockHeld)
	waited := make(chan error, 1)
	go func() {
		for b.WaitFree(context.Background()) == nil {
		}
		waited <- nil
	}()
	listening := func() string { return s.do(t, "CLIENT", "LIST", "TYPE", "pubsub").(string) }
	eventually(t, 20*time.Second, "it listens", func() bool { return listening() != "" })
	must(t, b.Close())
	must(t, a.Close())
	<-waited
	eventually(t, 20*time.Second, "nobody listens", func() bool { return listening() == "" })
	must(t, client.Ping(context.Background()).Err())
}
