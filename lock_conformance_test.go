package gone_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

func TestRedisLockKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	t.Run("by address", func(t *testing.T) {
		s := startRedis(t)
		conforms(t, func(ttl time.Duration) gone.LockFactory { return s.locks(ttl) })
	})
	t.Run("by a pool of one connection with password and database", func(t *testing.T) {
		s := startRedis(t)
		s.do("ACL", "SETUSER", "node", "on", ">sesame", "allkeys", "allchannels", "allcommands")
		pool := s.pool(redis.DialUsername("node"), redis.DialPassword("sesame"), redis.DialDatabase(3))
		pool.MaxActive, pool.Wait = 1, false
		conforms(t, poolLocks(pool))
	})
	t.Run("by a user with the smallest rights", func(t *testing.T) {
		s := startRedis(t)
		s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">sesame", "~*", "&gone:*").AddFlat(smallestRights)...)
		conforms(t, poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("sesame"))))
		if log := fmt.Sprintf("%q", s.do("ACL", "LOG")); log != "[]" {
			t.Errorf("something was denied: %s", log)
		}
	})
	t.Run("with a replica that confirms", func(t *testing.T) {
		s, _ := startReplicated(t)
		conforms(t, func(ttl time.Duration) gone.LockFactory {
			return func(id, value string) (gone.GoneLock, error) {
				l, err := gone.NewRedisLock(s.addr, id, value)
				if err == nil {
					l.Expiry, l.Replicas = ttl, 1
				}
				return l, err
			}
		})
	})
	t.Run("by its four methods alone", func(t *testing.T) {
		s := startRedis(t)
		conforms(t, func(ttl time.Duration) gone.LockFactory {
			return func(id, value string) (gone.GoneLock, error) {
				l, err := s.locks(ttl)(id, value)
				return struct{ gone.GoneLock }{l}, err
			}
		})
	})
}

func TestALockInMemoryKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	conforms(t, gonetest.NewLocks().Factory)
}

// locksWith makes the locks of one service with a TTL.
type locksWith func(ttl time.Duration) gone.LockFactory

// conforms checks every promise in the comments of GoneLock and its extras. The
// service is used by nobody else.
func conforms(t *testing.T, service locksWith) {
	const (
		addr  = "tcp://127.0.0.1:6381"
		other = "tcp://127.0.0.1:6382"

		never = time.Minute            // this TTL does not run out
		soon  = 300 * time.Millisecond // this one does; a quarter of it is the time of a request, with a replica's answer
	)
	run := func(name string, f func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}
	newLock := func(t *testing.T, ttl time.Duration, id, value string) gone.GoneLock {
		t.Helper()
		l, err := service(ttl)(id, value)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			l.Unlock()
			if c, ok := l.(io.Closer); ok {
				_ = c.Close()
			}
		})
		return l
	}
	// pair makes two locks that compete for an id of the test's own.
	pair := func(t *testing.T, ttl time.Duration) (a, b gone.GoneLock) {
		return newLock(t, ttl, t.Name(), addr), newLock(t, ttl, t.Name(), other)
	}
	// ask makes a call, and makes it again while its outcome is unknown.
	ask := func(t *testing.T, call func() error) (err error) {
		t.Helper()
		eventually(t, 10*time.Second, "the outcome is known", func() bool {
			err = call()
			return err == nil || errors.Is(err, gone.ErrLockHeld) || errors.Is(err, gone.ErrLockLost) || errors.Is(err, gone.ErrNoHolder)
		})
		return err
	}
	// is fails unless err wraps want and no other state of a lock.
	is := func(t *testing.T, err, want error) {
		t.Helper()
		for _, e := range []error{gone.ErrLockHeld, gone.ErrLockLost, gone.ErrNoHolder} {
			if errors.Is(err, e) != (e == want) {
				t.Fatalf("got error %v, want one that wraps %q only", err, want)
			}
		}
	}
	holder := func(t *testing.T, l gone.GoneLock, want string) {
		t.Helper()
		var got string
		must(t, ask(t, func() (err error) {
			got, err = l.GetValue()
			return err
		}))
		if got != want {
			t.Fatalf("the holder's value is %q, want %q", got, want)
		}
	}
	// free waits until another gets the lock, and returns when that was.
	free := func(t *testing.T, l gone.GoneLock) time.Time {
		t.Helper()
		eventually(t, 10*time.Second, "the lock is free", func() bool {
			err := ask(t, l.Lock)
			if err != nil {
				is(t, err, gone.ErrLockHeld)
			}
			return err == nil
		})
		return time.Now()
	}

	run("Lock says held while another holds and does not wait", func(t *testing.T) {
		a, b := pair(t, never)
		must(t, ask(t, a.Lock))
		began := time.Now()
		is(t, ask(t, b.Lock), gone.ErrLockHeld)
		if d := time.Since(began); d > never/2 {
			t.Errorf("it took %v", d)
		}
		must(t, ask(t, a.Extend))
	})
	run("Lock succeeds again and gives the full TTL anew", func(t *testing.T) {
		a, b := pair(t, soon)
		must(t, ask(t, a.Lock))
		var sent time.Time
		for range 5 {
			time.Sleep(soon / 10)
			sent = time.Now()
			must(t, ask(t, a.Lock))
		}
		if d := free(t, b).Sub(sent); d < soon {
			t.Errorf("another got it %v after the last Lock, before its TTL had run out", d)
		}
	})
	run("a hold lasts for the TTL and then ends", func(t *testing.T) {
		a, b := newLock(t, soon, t.Name(), addr), newLock(t, never, t.Name(), other)
		sent := time.Now()
		must(t, ask(t, a.Lock))
		if d := free(t, b).Sub(sent); d < soon {
			t.Errorf("another got it after %v", d)
		}
		holder(t, a, other)
	})
	run("Extend makes a hold last for the TTL from then", func(t *testing.T) {
		a, b := pair(t, soon)
		must(t, ask(t, a.Lock))
		sent := time.Now()
		for end := sent.Add(2 * soon); time.Now().Before(end); time.Sleep(soon / 10) {
			began, now := sent, time.Now()
			if err := ask(t, a.Extend); err == nil {
				sent = now
			} else if is(t, err, gone.ErrLockLost); time.Since(began) < soon {
				t.Fatalf("lost %v after the last Extend", time.Since(began))
			} else { // this test was held up for too long
				sent = time.Now()
				must(t, ask(t, a.Lock))
			}
		}
		if d := free(t, b).Sub(sent); d < soon {
			t.Errorf("another got it %v after the last Extend", d)
		}
	})
	run("Extend says lost and takes nothing when it does not hold", func(t *testing.T) {
		a, b := pair(t, soon)
		is(t, ask(t, a.Extend), gone.ErrLockLost)
		must(t, ask(t, a.Lock))
		eventually(t, 10*time.Second, "the hold expires", func() bool {
			_, err := b.GetValue()
			return errors.Is(err, gone.ErrNoHolder)
		})
		is(t, ask(t, a.Extend), gone.ErrLockLost)
		_, err := b.GetValue()
		is(t, err, gone.ErrNoHolder)
	})
	run("Extend says lost when another holds and leaves it alone", func(t *testing.T) {
		a, _ := pair(t, soon)
		b := newLock(t, never, t.Name(), other)
		must(t, ask(t, a.Lock))
		free(t, b)
		is(t, ask(t, a.Extend), gone.ErrLockLost)
		is(t, ask(t, a.Extend), gone.ErrLockLost)
		holder(t, a, other)
		must(t, ask(t, b.Extend))
	})
	run("after a loss it may compete again", func(t *testing.T) {
		a, b := pair(t, never)
		short := newLock(t, soon, t.Name(), addr)
		must(t, ask(t, short.Lock))
		free(t, b)
		is(t, ask(t, short.Extend), gone.ErrLockLost)
		is(t, ask(t, short.Lock), gone.ErrLockHeld)
		b.Unlock()
		must(t, ask(t, a.Lock))
	})
	run("Unlock makes the lock free at once", func(t *testing.T) {
		a, b := pair(t, never)
		for range 3 {
			must(t, ask(t, a.Lock))
			a.Unlock()
			is(t, ask(t, a.Extend), gone.ErrLockLost)
			must(t, ask(t, b.Lock))
			b.Unlock()
		}
	})
	run("Unlock without a hold is harmless", func(t *testing.T) {
		a, b := pair(t, never)
		a.Unlock()
		must(t, ask(t, a.Lock))
		b.Unlock()
		is(t, ask(t, b.Lock), gone.ErrLockHeld)
		b.Unlock()
		must(t, ask(t, a.Extend))
		a.Unlock()
		must(t, ask(t, b.Lock))
		a.Unlock()
		a.Unlock()
		must(t, ask(t, b.Extend))
	})
	run("Unlock leaves the hold of a successor with the same value", func(t *testing.T) {
		predecessor := newLock(t, soon, t.Name(), addr)
		successor := newLock(t, never, t.Name(), addr)
		must(t, ask(t, predecessor.Lock))
		free(t, successor)
		predecessor.Unlock()
		must(t, ask(t, successor.Extend))
		is(t, ask(t, predecessor.Extend), gone.ErrLockLost)
	})
	run("GetValue returns the holder's value on every node", func(t *testing.T) {
		a, b := pair(t, never)
		for _, l := range []gone.GoneLock{a, b} {
			_, err := l.GetValue()
			is(t, err, gone.ErrNoHolder)
		}
		must(t, ask(t, b.Lock))
		holder(t, a, other)
		holder(t, b, other)
		must(t, ask(t, b.Extend))
		holder(t, a, other)
		b.Unlock()
		_, err := a.GetValue()
		is(t, err, gone.ErrNoHolder)
	})
	run("any id and any value will do", func(t *testing.T) {
		ids := []string{
			"with spaces  and\ttabs", "{", "}", "{}", "{x}y", "x{y", "x}y{z}", "{{x}}", "ünï€code 🙂", "\x01\xff\n\r",
			"a:b*c?[d]", "%s%d", strings.Repeat("long", gone.MaxIDLength/4),
		}
		values := []string{"with spaces  1 2 3 ", " ", "0", "tcp://[::1]:1", "\x00\xff\n", "%s\r\n", strings.Repeat("v", 500)}
		locks := map[string]gone.GoneLock{}
		for i, id := range ids {
			value := values[i%len(values)]
			locks[id] = newLock(t, never, id, value)
			must(t, locks[id].Lock())
			must(t, locks[id].Lock())
			holder(t, newLock(t, never, id, addr), value)
		}
		for id, l := range locks {
			must(t, ask(t, l.Extend))
			l.Unlock()
			must(t, newLock(t, never, id, addr).Lock())
		}
	})
	run("one holds whatever the number that compete", func(t *testing.T) {
		var holders, holds atomic.Int32
		var last atomic.Uint64
		var wg sync.WaitGroup
		for range 8 {
			l := newLock(t, never, t.Name(), addr)
			wg.Go(func() {
				for range 25 {
					err := l.Lock()
					if err != nil {
						if !errors.Is(err, gone.ErrLockHeld) {
							t.Errorf("Lock: %v", err)
						}
						continue
					}
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d hold it", n)
					}
					holds.Add(1)
					if f, ok := l.(gone.Fencer); ok {
						if token := f.FencingToken(); token <= last.Swap(token) {
							t.Errorf("token %d is not above those before", token)
						}
					}
					if err := l.Extend(); err != nil {
						t.Errorf("Extend: %v", err)
					}
					holders.Add(-1)
					l.Unlock()
				}
			})
		}
		wg.Wait()
		if holds.Load() == 0 {
			t.Error("nobody ever held it")
		}
	})
	run("the methods of one lock may be called concurrently", func(t *testing.T) {
		a, b := pair(t, never)
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { _ = a.Lock() },
			func() { _ = a.Extend() },
			func() { a.Unlock() },
			func() { _, _ = a.GetValue() },
			func() {
				if w, ok := a.(gone.Waiter); ok {
					ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
					defer cancel()
					_ = w.WaitFree(ctx)
					_ = w.WaitHeld(ctx)
				}
			},
			func() {
				if f, ok := a.(gone.Fencer); ok {
					f.FencingToken()
					_, _, _ = f.Holder()
				}
			},
		} {
			for range 2 {
				wg.Go(func() {
					for range 25 {
						f()
					}
				})
			}
		}
		wg.Wait()
		a.Unlock()
		must(t, ask(t, b.Lock)) // nothing is left behind
	})

	probe := newLock(t, never, t.Name(), addr)
	if probe, ok := probe.(gone.Expirer); ok {
		run("TTL is what was asked for", func(t *testing.T) {
			if ttl := probe.TTL(); ttl != never {
				t.Errorf("%v, want %v", ttl, never)
			}
		})
	}
	if _, ok := probe.(gone.Fencer); ok {
		run("tokens increase from hold to hold and not within one", func(t *testing.T) {
			a, b := pair(t, never)
			var last uint64
			for range 20 {
				for _, l := range []gone.GoneLock{a, b} {
					must(t, ask(t, l.Lock))
					token := l.(gone.Fencer).FencingToken()
					if token <= last {
						t.Fatalf("token %d after %d", token, last)
					}
					last = token
					must(t, ask(t, l.Lock))
					must(t, ask(t, l.Extend))
					for _, n := range []gone.GoneLock{a, b} {
						_, theirs, err := n.(gone.Fencer).Holder()
						must(t, err)
						if theirs != token || l.(gone.Fencer).FencingToken() != token {
							t.Fatalf("token %d became %d, and is %d for others", token, l.(gone.Fencer).FencingToken(), theirs)
						}
					}
					l.Unlock()
				}
			}
		})
		run("the token of an expired hold is below its successor's", func(t *testing.T) {
			a, b := pair(t, soon)
			must(t, ask(t, a.Lock))
			before := a.(gone.Fencer).FencingToken()
			free(t, b)
			if now := b.(gone.Fencer).FencingToken(); now <= before {
				t.Errorf("token %d after %d", now, before)
			}
		})
		run("Holder says no holder when there is none", func(t *testing.T) {
			a, _ := pair(t, never)
			_, _, err := a.(gone.Fencer).Holder()
			is(t, err, gone.ErrNoHolder)
		})
	}
	if _, ok := probe.(gone.Waiter); ok {
		wait := func(t *testing.T, l gone.GoneLock, until func(gone.Waiter, context.Context) error, ok func() bool) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), never/2)
			defer cancel()
			for !ok() {
				must(t, until(l.(gone.Waiter), ctx))
			}
		}
		got := func(l gone.GoneLock) func() bool {
			return func() bool { return l.Lock() == nil }
		}
		run("WaitFree returns when the lock is released", func(t *testing.T) {
			a, b := pair(t, never)
			must(t, ask(t, a.Lock))
			is(t, ask(t, b.Lock), gone.ErrLockHeld)
			go a.Unlock()
			wait(t, b, gone.Waiter.WaitFree, got(b))
		})
		run("WaitFree returns when the hold expires", func(t *testing.T) {
			a, b := pair(t, soon)
			must(t, ask(t, a.Lock))
			wait(t, b, gone.Waiter.WaitFree, got(b))
		})
		run("WaitHeld returns when there is a new holder", func(t *testing.T) {
			a, b := pair(t, never)
			locked := make(chan error, 1)
			go func() { locked <- a.Lock() }()
			wait(t, b, gone.Waiter.WaitHeld, func() bool {
				_, err := b.GetValue()
				return err == nil
			})
			must(t, <-locked)
		})
		run("waiting ends with its context and returns its error", func(t *testing.T) {
			a, b := pair(t, never)
			must(t, ask(t, a.Lock))
			is(t, ask(t, b.Lock), gone.ErrLockHeld)
			for _, f := range []func(gone.Waiter, context.Context) error{gone.Waiter.WaitFree, gone.Waiter.WaitHeld} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				var err error
				for err == nil && !t.Failed() {
					err = f(b.(gone.Waiter), ctx) // it may return early before
				}
				if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
					t.Errorf("got error %v with the context's being %v", err, ctx.Err())
				}
				cancel()
			}
		})
	}
	if _, ok := probe.(io.Closer); ok {
		run("Close does not unlock and harms no other lock", func(t *testing.T) {
			a, b := pair(t, never)
			c := newLock(t, never, t.Name(), addr)
			must(t, ask(t, a.Lock))
			for range 2 {
				must(t, a.(io.Closer).Close())
			}
			is(t, ask(t, b.Lock), gone.ErrLockHeld)
			holder(t, c, addr)
		})
	}
}
