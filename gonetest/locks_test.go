package gonetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

const ttl = 8 * time.Second

var errTimeout = errors.New("timeout")

func is(t testing.TB, err error, want ...error) {
	t.Helper()
	for _, e := range want {
		if !errors.Is(err, e) {
			t.Errorf("got error %v, want one that wraps %v", err, e)
		}
	}
}

// unknown fails unless an error leaves open what became of the lock.
func unknown(t testing.TB, err error) {
	t.Helper()
	if err == nil || errors.Is(err, gone.ErrLockHeld) || errors.Is(err, gone.ErrLockLost) || errors.Is(err, gone.ErrNoHolder) {
		t.Errorf("got error %v, want one that leaves it open", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A fencer is a lock with all extras.
type fencer interface {
	gone.GoneLock
	gone.Fencer
	gone.Waiter
}

// withLocks runs a test with two locks of one id, in a bubble.
func withLocks(t *testing.T, test func(t *testing.T, s *gonetest.Locks, a, b fencer)) {
	synctest.Test(t, func(t *testing.T) {
		s := gonetest.NewLocks()
		a, err := s.Factory(ttl)("id", "a")
		must(t, err)
		b, err := s.Factory(ttl)("id", "b")
		must(t, err)
		test(t, s, a.(fencer), b.(fencer))
	})
}

func TestAnAnswerThatIsLostLeavesALockThatTheNextCallFinds(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		lost := 0
		s.Intercept(func(c gonetest.Call, serve func() error) error {
			if c.ID != "id" || c.Value != "a" {
				return serve()
			}
			_ = serve()
			lost++
			return errTimeout
		})
		is(t, a.Lock(), errTimeout)
		is(t, b.Lock(), gone.ErrLockHeld)
		time.Sleep(ttl - 1)
		s.Intercept(nil)
		must(t, a.Lock())
		token := a.FencingToken()
		time.Sleep(ttl - 1) // it lasts for the TTL from the second call
		if value, theirs, err := b.Holder(); value != "a" || theirs != token || err != nil || lost != 1 {
			t.Errorf("held by %q with token %d, %v, want a's %d; %d lost", value, theirs, err, token, lost)
		}
		must(t, a.Extend())
	})
}

func TestAHoldOfALockThatNeverHeardOfItIsReleasedByUnlock(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		s.Intercept(func(c gonetest.Call, serve func() error) error {
			err := serve()
			if c.Method == "Lock" && c.Value == "a" {
				return errTimeout
			}
			return err
		})
		is(t, a.Lock(), errTimeout)
		a.Unlock()
		must(t, b.Lock())
	})
}

func TestARequestThatComesLateIsNoHoldOfItsLock(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		var late func() error
		s.Intercept(func(_ gonetest.Call, serve func() error) error {
			late = serve
			return errTimeout
		})
		is(t, a.Lock(), errTimeout)
		s.Intercept(nil)
		a.Unlock()
		must(t, a.Lock())
		a.Unlock()
		must(t, late())
		is(t, a.Extend(), gone.ErrLockLost)
		is(t, b.Lock(), gone.ErrLockHeld)
		time.Sleep(ttl)
		must(t, b.Lock())
	})
}

func TestACopyOfARequestThatComesLateIsNotTheHoldThatWasForgotten(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, _ fencer) {
		var late func() error
		s.Intercept(func(_ gonetest.Call, serve func() error) error {
			late = serve
			return serve()
		})
		must(t, a.Lock())
		s.Intercept(nil)
		s.Forget("id")
		must(t, late())
		is(t, a.Extend(), gone.ErrLockLost) // its token is not the one that holds
	})
}

func TestInAnOutageRequestsHangAndLeaveTheirOutcomeOpen(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		must(t, a.Lock())
		s.Outage(true)
		for _, ask := range []func() error{
			a.Lock, b.Lock, a.Extend,
			func() error { a.Unlock(); return errTimeout },
			func() error { _, err := b.GetValue(); return err },
		} {
			began := time.Now()
			unknown(t, ask())
			if d := time.Since(began); d != ttl/4 {
				t.Errorf("it took %v", d)
			}
		}
		must(t, b.WaitFree(t.Context())) // until it expires, as nothing was extended
		time.AfterFunc(time.Second, func() { s.Outage(false) })
		must(t, b.Lock())
	})
}

func TestWhatTheServiceForgetsIsLostAndTheNextTokenIsHigher(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		must(t, a.Lock())
		before := a.FencingToken()
		s.Forget("id")
		is(t, a.Extend(), gone.ErrLockLost)
		must(t, b.Lock())
		if now := b.FencingToken(); now <= before {
			t.Errorf("token %d after %d", now, before)
		}
	})
}

func TestWhoTakesALockHoldsItUntilItIsReleasedOrExpires(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		must(t, a.Lock())
		before := a.FencingToken()
		taken := s.Take("id", "c")
		is(t, a.Extend(), gone.ErrLockLost)
		if value, token, err := b.Holder(); value != "c" || token <= before || err != nil {
			t.Errorf("held by %q with token %d, %v", value, token, err)
		}
		is(t, a.Lock(), gone.ErrLockHeld)
		time.Sleep(gone.DefaultExpiry - 1)
		must(t, taken.Extend())
		time.AfterFunc(time.Second, taken.Unlock)
		must(t, b.WaitFree(t.Context()))
		must(t, b.Lock())
		s.Take("id", "c")
		time.Sleep(gone.DefaultExpiry)
		must(t, a.Lock())
	})
}

func TestHoldsExpireByTheClockOfTheService(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		must(t, a.Lock())
		s.Advance(ttl - 1)
		is(t, b.Lock(), gone.ErrLockHeld)
		began := time.Now()
		time.AfterFunc(0, func() { s.Advance(1) })
		must(t, b.WaitFree(t.Context()))
		if d := time.Since(began); d > 1 {
			t.Errorf("it took %v", d)
		}
		must(t, b.Lock())
		is(t, a.Extend(), gone.ErrLockLost)
	})
}

func TestOnlyExtendsThatHaveExtendedAreCounted(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		is(t, a.Extend(), gone.ErrLockLost)
		must(t, a.Lock())
		for range 3 {
			must(t, a.Extend())
		}
		is(t, b.Extend(), gone.ErrLockLost)
		s.Intercept(func(gonetest.Call, func() error) error { return errTimeout })
		is(t, a.Extend(), errTimeout)
		if n := s.Extends("id"); n != 3 {
			t.Errorf("%d", n)
		}
	})
}

func TestWaitHeldWaitsForAnotherThanTheHolderThatIsKnown(t *testing.T) {
	withLocks(t, func(t *testing.T, s *gonetest.Locks, a, b fencer) {
		must(t, a.Lock())
		must(t, b.WaitHeld(t.Context())) // it has asked nobody yet
		_, err := b.GetValue()
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), ttl/2)
		defer cancel()
		is(t, b.WaitHeld(ctx), context.DeadlineExceeded)
		s.Take("id", "c")
		must(t, b.WaitHeld(t.Context()))
	})
}
