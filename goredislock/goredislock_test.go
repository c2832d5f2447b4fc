package goredislock_test

import (
	"context"
	"errors"
	"fmt"
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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
			locks := goredislock.New(client)
			var late int
			for i := range 12 {
				id := fmt.Sprint("wakes ", i)
				a, b := lock(t, locks, id), lock(t, locks, id)
				must(t, a.Lock())
				if hand(t, a, b) > time.Second { // a poll takes three
					late++
				}
			}
			if late > 3 {
				t.Errorf("%d of 12 hand-overs took a second or more", late)
			}
		})
	}
}
