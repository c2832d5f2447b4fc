package gone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A lease is the right to run until a deadline that only a confirmed Lock or
// Extend moves. It knows the lock and the clock, nothing else.
//
// Invariants: the deadline is (moment before the request was sent) + TTL −
// margin, so it passes on this node before the lock expires in the service,
// whatever the network does. Once over, a lease stays over.
type lease struct {
	lock   GoneLock
	ttl    time.Duration
	margin time.Duration
	now    func() time.Duration // boottime, or the bubble's time in tests

	over chan struct{} // closed when the deadline passed or the lock is lost

	deadline atomic.Int64 // on the clock of now; 0 once over

	mu    sync.Mutex
	cause error // why it is over
	timer *time.Timer
	ended func(cause error) // called once, when over
}

// newLease starts the lease of a lock that was acquired by a request sent at
// sent. It may be over already.
func newLease(lock GoneLock, sent time.Duration, now func() time.Duration, ended func(error)) *lease {
	ttl := ttlOf(lock)
	l := &lease{
		lock: lock, ttl: ttl, margin: ttl / 10, now: now,
		over: make(chan struct{}), ended: ended,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline.Store(int64(sent + ttl - l.margin))
	l.timer = time.AfterFunc(time.Duration(l.deadline.Load())-now(), func() { l.fire() })
	return l
}

// expired reports whether the lease is over, and ends it when its deadline has
// passed: a process that was paused learns it from whoever asks first, not
// from a timer that may fire later.
func (l *lease) expired() bool {
	d := time.Duration(l.deadline.Load())
	now := l.now()
	if d > now {
		return false
	}
	return d == 0 || l.fire()
}

// fire is expired for the timer, which it sets again when an Extend has moved
// the deadline or the two clocks differ a little.
func (l *lease) fire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.overLocked() {
		return true
	}
	l.timer.Reset(l.left())
	return false
}

func (l *lease) overLocked() bool {
	if l.cause == nil && l.left() <= 0 {
		l.endLocked(ErrLeaseExpired)
	}
	return l.cause != nil
}

// end ends the lease, unless it is over. It is also how a tenure stops its
// timer once its handler has returned.
func (l *lease) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(cause)
}

func (l *lease) endLocked(cause error) {
	if l.cause != nil {
		return
	}
	l.cause = cause
	l.deadline.Store(0)
	l.timer.Stop()
	close(l.over)
	l.ended(cause)
}

// err is why the lease is over, nil while it is not.
func (l *lease) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// extend asks the lock service until it says yes or no, or the deadline
// passes. An error that says neither is no reason to stop: only when the
// deadline has passed is it returned, with ErrLeaseExpired. When exit closes it
// returns early, and when exit was closed before it asks only once: a handler
// that cleans up may keep its lock, but does not wait for a better day.
func (l *lease) extend(exit context.Context) error {
	var unknown error
	once := exit.Err() != nil
	if once {
		exit = context.Background()
	}
	for pause := l.ttl / 200; ; pause = min(2*pause, l.ttl/10) {
		if l.expired() {
			return l.why(unknown)
		}
		sent := l.now()
		reply := make(chan error, 1)
		// In a goroutine of its own, so that a request that hangs holds up
		// neither the caller nor the deadline.
		go func() { reply <- l.lock.Extend() }()
		select {
		case err := <-reply:
			switch {
			case err == nil:
				return l.move(sent)
			case errors.Is(err, ErrLockLost):
				l.end(err)
				return err
			}
			unknown = err
		case <-l.over:
			return l.why(unknown)
		case <-exit.Done():
		}
		if !once {
			_ = sleepCtx(exit, jitter(pause))
		}
		if once || exit.Err() != nil && l.err() == nil {
			return errors.Join(context.Cause(exit), unknown)
		}
	}
}

// move sets the deadline that a request sent at sent has earned. Replies of
// concurrent Extends may come in any order; the latest deadline stays.
func (l *lease) move(sent time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := int64(sent + l.ttl - l.margin); !l.overLocked() && d > l.deadline.Load() {
		l.deadline.Store(d)
	}
	return l.cause
}

// left is the time to the deadline.
func (l *lease) left() time.Duration {
	return time.Duration(l.deadline.Load()) - l.now()
}

func (l *lease) why(last error) error {
	cause := l.err()
	if last != nil {
		return fmt.Errorf("%w (last attempt: %w)", cause, last)
	}
	return cause
}

// jitter spreads d over [d/2, 3d/2).
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d)
}

// sleepCtx waits for d or the end of ctx, whose error it returns.
func sleepCtx(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
