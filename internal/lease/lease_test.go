package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The locks of these tests expire after leaseTTL, so Exit closes after
// leaseDeadline unless something moves it.
const (
	leaseTTL      = 10 * time.Second
	leaseMargin   = leaseTTL / 10
	leaseDeadline = leaseTTL - leaseMargin
)

var errUnknown = errors.New("i/o timeout")

var (
	errClosed   = errors.New("closed")
	errReturned = errors.New("the handler returned")
)

// onExtend is a lock.
type onExtend func() error

func (do onExtend) Extend() error { return do() }

func always() error { return nil }

// A bubbleClock is the clock of a synctest bubble, and of a machine that may
// have slept: timers stand still meanwhile, the clock does not.
type bubbleClock struct {
	start time.Time
	slept atomic.Int64
}

func newBubbleClock() *bubbleClock { return &bubbleClock{start: time.Now()} }

func (c *bubbleClock) now() time.Duration {
	return time.Since(c.start) + time.Duration(c.slept.Load())
}

func (c *bubbleClock) sleep(d time.Duration) { c.slept.Add(int64(d)) }

// grant starts a lease that was asked for just now. Its Exit is the context.
func grant(c *bubbleClock, lock Extender) (*Lease, context.Context) {
	ctx, exit := context.WithCancelCause(context.Background())
	return New(lock, leaseTTL, c.now(), c.now, exit), ctx
}

// open checks that Exit has not closed. It and the next two may be used in
// handlers, so they don't end their goroutine.
func open(t *testing.T, exit context.Context) {
	t.Helper()
	synctest.Wait()
	if exit.Err() != nil {
		t.Errorf("Exit has closed: %v", context.Cause(exit))
	}
}

// closed checks that Exit has closed by now, and why.
func closed(t *testing.T, exit context.Context, cause error) {
	t.Helper()
	synctest.Wait()
	if got := context.Cause(exit); !errors.Is(got, cause) {
		t.Errorf("Exit closed for %v, want %v", got, cause)
	}
}

// lapsesAt waits for Exit and checks that it closes at the deadline.
func lapsesAt(t *testing.T, c *bubbleClock, exit context.Context, deadline time.Duration) {
	t.Helper()
	<-exit.Done()
	if now := c.now(); now != deadline {
		t.Errorf("Exit closed at %v, want %v", now, deadline)
	}
	closed(t, exit, ErrExpired)
}

func TestDeadlineOfALockCountsFromBeforeItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		ctx, exit := context.WithCancelCause(t.Context())
		sent := c.now()
		time.Sleep(4 * time.Second) // the reply takes its time
		New(onExtend(always), leaseTTL, sent, c.now, exit)
		lapsesAt(t, c, ctx, leaseDeadline)
	})
}

func TestDeadlineOfAnExtendCountsFromBeforeItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		l, exit := grant(c, onExtend(func() error {
			time.Sleep(4 * time.Second)
			return nil
		}))
		time.Sleep(3 * time.Second)
		if err := l.Extend(exit); err != nil {
			t.Fatal(err)
		}
		lapsesAt(t, c, exit, 3*time.Second+leaseDeadline)
	})
}

func TestDeadlineOfARetriedExtendCountsFromBeforeTheRequestThatWasConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var sent time.Duration
		tries := 0
		l, exit := grant(c, onExtend(func() error {
			sent = c.now()
			time.Sleep(time.Second)
			if tries++; tries < 4 {
				return errUnknown
			}
			return nil
		}))
		if err := l.Extend(exit); err != nil {
			t.Fatal(err)
		}
		if sent == 0 {
			t.Fatal("the first request was confirmed")
		}
		lapsesAt(t, c, exit, sent+leaseDeadline)
	})
}

func TestALockWhoseReplyTookTheWholeLeaseIsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		ctx, exit := context.WithCancelCause(t.Context())
		sent := c.now()
		time.Sleep(leaseDeadline)
		if l := New(onExtend(always), leaseTTL, sent, c.now, exit); l.Left() > 0 {
			t.Error("the lease is not over")
		}
		closed(t, ctx, ErrExpired)
	})
}

func TestExitClosesAtTheDeadlineWhileAnExtendHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		hang := make(chan struct{})
		defer close(hang)
		l, exit := grant(c, onExtend(func() error { <-hang; return nil }))
		time.Sleep(8 * time.Second)
		reply := make(chan error)
		go func() { reply <- l.Extend(exit) }()
		lapsesAt(t, c, exit, leaseDeadline)
		if err := <-reply; !errors.Is(err, ErrExpired) {
			t.Errorf("Extend: %v", err)
		}
		if now := c.now(); now != leaseDeadline {
			t.Errorf("Extend returned at %v", now)
		}
	})
}

func TestALateReplyDoesNotReviveALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		replied := make(chan struct{})
		l, exit := grant(c, onExtend(func() error {
			time.Sleep(leaseDeadline + leaseMargin/2) // before the lock itself has expired
			close(replied)
			return nil
		}))
		if err := l.Extend(exit); !errors.Is(err, ErrExpired) {
			t.Fatalf("Extend: %v", err)
		}
		<-replied
		synctest.Wait()
		if l.Left() > 0 {
			t.Error("the lease was revived")
		}
		closed(t, exit, ErrExpired)
	})
}

func TestAReplyAtTheVeryDeadlineIsLate(t *testing.T) {
	for range 50 { // who comes first at one instant is for the scheduler
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			l, exit := grant(c, onExtend(func() error {
				time.Sleep(leaseDeadline)
				return nil
			}))
			if err := l.Extend(exit); !errors.Is(err, ErrExpired) {
				t.Errorf("Extend: %v", err)
			}
			closed(t, exit, ErrExpired)
		})
	}
}

func TestTransientErrorsAreRetriedInsideExtendUntilTheDeadline(t *testing.T) {
	for range 50 { // the pauses are random
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			tries := 0
			l, exit := grant(c, onExtend(func() error { tries++; return errUnknown }))
			err := l.Extend(exit)
			if now := c.now(); now != leaseDeadline {
				t.Errorf("Extend gave up at %v, want %v", now, leaseDeadline)
			}
			if !errors.Is(err, ErrExpired) || !errors.Is(err, ErrLost) || !errors.Is(err, errUnknown) {
				t.Errorf("Extend: %v, want that the lease expired and why", err)
			}
			// The pauses grow from a twentieth of a second to a second.
			if tries < 10 || tries > 40 {
				t.Errorf("%d requests", tries)
			}
			closed(t, exit, ErrExpired)
		})
	}
}

func TestExtendIsNoHotLoopRightBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		tries := 0
		l, exit := grant(c, onExtend(func() error {
			if tries++; tries > 100 {
				return ErrLost // an end at last
			}
			return errUnknown
		}))
		time.Sleep(leaseDeadline - 1)
		if err := l.Extend(exit); !errors.Is(err, ErrExpired) || tries != 1 {
			t.Errorf("Extend: %v, after %d requests", err, tries)
		}
	})
}

func TestNoErrorAloneMeansLost(t *testing.T) {
	for _, said := range []error{errUnknown, errClosed, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			var exit context.Context
			tries := 0
			l, exit := grant(c, onExtend(func() error {
				if tries++; tries == 1 {
					return said
				}
				if exit.Err() != nil {
					t.Errorf("Exit closed after %v", said)
				}
				return nil
			}))
			if err := l.Extend(exit); err != nil || tries != 2 {
				t.Errorf("after %v: %v at try %d", said, err, tries)
			}
			open(t, exit)
			l.End(errReturned)
		})
	}
}

func TestLostMeansExitNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		lost := fmt.Errorf("%w: another's", ErrLost)
		tries := 0
		l, exit := grant(c, onExtend(func() error {
			time.Sleep(time.Second)
			if tries++; tries == 2 {
				return lost
			}
			return errUnknown
		}))
		err := l.Extend(exit)
		if !errors.Is(err, ErrLost) || errors.Is(err, ErrExpired) {
			t.Errorf("Extend: %v", err)
		}
		closed(t, exit, lost)
		if l.Left() > 0 || tries != 2 {
			t.Errorf("%v left, after %d requests", l.Left(), tries)
		}
		if now := c.now(); now > 2*time.Second+leaseTTL/50 {
			t.Errorf("Exit closed at %v", now)
		}
	})
}

func TestALeaseThatIsOverStaysOverAndAsksNobody(t *testing.T) {
	for _, end := range []error{ErrExpired, ErrLost, errReturned} {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			asked := 0
			l, exit := grant(c, onExtend(func() error { asked++; return nil }))
			l.End(end)
			if err := l.Extend(exit); !errors.Is(err, end) || asked != 0 {
				t.Errorf("Extend: %v, after %d requests, want %v", err, asked, end)
			}
			l.End(errors.New("another cause"))
			closed(t, exit, end)
			if err := l.Err(); err != end || l.Left() > 0 {
				t.Errorf("over because of %v, %v left", err, l.Left())
			}
		})
	}
}

func TestExtendNoticesThatTheMachineSleptPastTheDeadline(t *testing.T) {
	t.Run("before the request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			asked := false
			l, exit := grant(c, onExtend(func() error { asked = true; return nil }))
			c.sleep(leaseDeadline)
			if err := l.Extend(exit); !errors.Is(err, ErrExpired) || asked {
				t.Errorf("Extend: %v, asked %v", err, asked)
			}
			closed(t, exit, ErrExpired)
		})
	})
	t.Run("during the request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			l, exit := grant(c, onExtend(func() error { c.sleep(leaseDeadline); return nil }))
			if err := l.Extend(exit); !errors.Is(err, ErrExpired) {
				t.Errorf("Extend: %v", err)
			}
			closed(t, exit, ErrExpired)
		})
	})
	t.Run("between two requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			tries := 0
			l, exit := grant(c, onExtend(func() error {
				if tries++; tries == 1 {
					c.sleep(leaseDeadline)
					return errUnknown
				}
				return nil
			}))
			if err := l.Extend(exit); !errors.Is(err, ErrExpired) || tries != 1 {
				t.Errorf("Extend: %v at try %d", err, tries)
			}
			closed(t, exit, ErrExpired)
		})
	})
}

func TestWhoeverAsksNoticesThatTheMachineSleptPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		l, exit := grant(c, onExtend(always))
		c.sleep(leaseDeadline - 1)
		if l.Left() == 0 {
			t.Fatal("over before the deadline")
		}
		open(t, exit)
		c.sleep(1)
		if l.Left() > 0 {
			t.Fatal("not over at the deadline")
		}
		closed(t, exit, ErrExpired)
		if c.now() != leaseDeadline {
			t.Error("time passed meanwhile")
		}
	})
}

// Timers and the lease's clock are not the same clock.
func TestADeadlineIsNotReachedBeforeItsOwnClockSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		slow := func() time.Duration { return time.Since(start) / 2 }
		ctx, exit := context.WithCancelCause(t.Context())
		New(onExtend(always), leaseTTL, slow(), slow, exit)
		<-ctx.Done()
		if now := slow(); now < leaseDeadline || now > leaseDeadline+time.Millisecond {
			t.Errorf("Exit closed at %v", now)
		}
	})
}

func TestTheLatestOfConcurrentExtendsCountsWhateverTheOrderOfReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		l, exit := grant(c, onExtend(func() error {
			if c.now() == time.Second {
				time.Sleep(5 * time.Second) // overtaken by the second
			}
			return nil
		}))
		var wg sync.WaitGroup
		for _, at := range []time.Duration{1, 2} {
			wg.Go(func() {
				time.Sleep(at * time.Second)
				if err := l.Extend(exit); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		lapsesAt(t, c, exit, 2*time.Second+leaseDeadline)
	})
}

func TestManyConcurrentExtends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var mu sync.Mutex
		asked := 0
		var latest time.Duration // sent and confirmed
		l, exit := grant(c, onExtend(func() error {
			sent := c.now()
			time.Sleep(rand.N(2 * time.Second))
			mu.Lock()
			defer mu.Unlock()
			if asked++; asked%3 == 0 {
				return errUnknown
			}
			latest = max(latest, sent)
			return nil
		}))
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 20 {
					if err := l.Extend(exit); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if latest < leaseTTL {
			t.Fatalf("extended until %v only", latest)
		}
		lapsesAt(t, c, exit, latest+leaseDeadline)
	})
}

func TestLossEndsEveryConcurrentExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		hang := make(chan struct{})
		defer close(hang)
		var asked atomic.Int32
		l, exit := grant(c, onExtend(func() error {
			if asked.Add(1) == 3 {
				time.Sleep(time.Second)
				return ErrLost
			}
			<-hang
			return nil
		}))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := l.Extend(exit); !errors.Is(err, ErrLost) || errors.Is(err, ErrExpired) {
					t.Errorf("Extend: %v", err)
				}
			})
		}
		wg.Wait()
		if now := c.now(); now != time.Second {
			t.Errorf("all knew at %v", now)
		}
	})
}

func TestAnExtendUnderWayReturnsWhenExitClosesAsPlanned(t *testing.T) {
	for name, reply := range map[string]func() error{
		"while its request hangs": func() error { time.Sleep(leaseTTL); return nil },
		"between two requests":    func() error { return errUnknown },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer time.Sleep(leaseTTL) // until nothing hangs
				c := newBubbleClock()
				l, _ := grant(c, onExtend(reply))
				exit, close := context.WithCancelCause(t.Context())
				time.AfterFunc(5*time.Second, func() { close(errClosed) })
				err := l.Extend(exit)
				if now := c.now(); now != 5*time.Second {
					t.Errorf("Extend returned at %v", now)
				}
				if !errors.Is(err, errClosed) || errors.Is(err, ErrLost) {
					t.Errorf("Extend: %v", err)
				}
				if l.Left() == 0 {
					t.Error("the lease is over: the handler could not clean up under its lock")
				}
			})
		})
	}
}

// planned is an Exit that has closed although the lease goes on.
func planned(t *testing.T) context.Context {
	exit, close := context.WithCancelCause(t.Context())
	close(errClosed)
	return exit
}

func TestAHandlerThatCleansUpCanExtendAfterAPlannedExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		l, lapse := grant(c, onExtend(always))
		for range 10 {
			time.Sleep(5 * time.Second)
			if err := l.Extend(planned(t)); err != nil {
				t.Fatal(err)
			}
		}
		lapsesAt(t, c, lapse, 50*time.Second+leaseDeadline)
	})
}

func TestAfterAPlannedExitExtendAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		tries := 0
		l, lapse := grant(c, onExtend(func() error { tries++; return errUnknown }))
		if err := l.Extend(planned(t)); !errors.Is(err, errUnknown) || tries != 1 || c.now() != 0 {
			t.Errorf("Extend: %v after %d requests at %v", err, tries, c.now())
		}
		open(t, lapse)
		lapsesAt(t, c, lapse, leaseDeadline)
	})
}

func TestAfterAPlannedExitLostIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		l, lapse := grant(c, onExtend(func() error { return ErrLost }))
		if err := l.Extend(planned(t)); !errors.Is(err, ErrLost) {
			t.Errorf("Extend: %v", err)
		}
		closed(t, lapse, ErrLost)
	})
}

func TestAfterAPlannedExitAHangingRequestHoldsExtendNoLongerThanTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Hour) // until nothing hangs
		c := newBubbleClock()
		l, lapse := grant(c, onExtend(func() error { time.Sleep(time.Hour); return nil }))
		if err := l.Extend(planned(t)); !errors.Is(err, ErrExpired) || c.now() != leaseDeadline {
			t.Errorf("Extend: %v at %v", err, c.now())
		}
		closed(t, lapse, ErrExpired)
	})
}

func TestTheEndIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var told atomic.Int32
		l := New(onExtend(always), leaseTTL, c.now(), c.now, func(error) { told.Add(1) })
		time.Sleep(leaseDeadline) // the timer, too, is about to fire
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { l.Left() })
			wg.Go(func() { l.End(ErrLost) })
		}
		wg.Wait()
		time.Sleep(leaseTTL)
		if n := told.Load(); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestTheLeaseKnowsHowLongItsHolderHasNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		slow := time.Duration(0)
		l, exit := grant(c, onExtend(func() error { time.Sleep(slow); return nil }))
		check := func(want time.Duration, wantAsked bool) {
			t.Helper()
			if d, asked := l.Quiet(); d != want || asked != wantAsked {
				t.Errorf("quiet for %v, asked %v, want %v, %v", d, asked, want, wantAsked)
			}
		}
		time.Sleep(3 * time.Second)
		check(3*time.Second, false)
		slow = 5 * time.Second // the lock service's time, not the holder's
		if err := l.Extend(exit); err != nil {
			t.Fatal(err)
		}
		check(0, true)
		time.Sleep(time.Second)
		check(time.Second, true)
		l.End(errReturned)
		check(time.Second, true)
	})
}

func TestWhoAsksWhenTheLeaseIsOverHasNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, exit := grant(newBubbleClock(), onExtend(always))
		time.Sleep(leaseTTL)
		if err := l.Extend(exit); !errors.Is(err, ErrExpired) {
			t.Error(err)
		}
		if _, asked := l.Quiet(); asked {
			t.Error("asked")
		}
	})
}
