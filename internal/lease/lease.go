// Package lease is the right to run until a deadline that only a confirmed
// Lock or Extend moves. It knows how to ask for more and the clock, nothing else.
package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Package gone shows these as its own.
var (
	// ErrLost: the lock is another's or gone.
	ErrLost = errors.New("gone: lock lost")
	// ErrExpired: the deadline passed before an Extend was confirmed.
	ErrExpired = fmt.Errorf("%w: lease expired", ErrLost)
)

// An Extender is the lock. Extend returns nil when the lock lasts for its TTL
// from the call, and an error that wraps ErrLost when it does not; any other
// error leaves that open.
type Extender interface{ Extend() error }

// A Lease belongs to one hold of a lock. Its methods may be called
// concurrently.
//
// Invariants: the deadline is (moment before the request was sent) + TTL −
// margin, so it passes on this node before the lock expires in the service,
// whatever the network does. Once over, a lease stays over.
type Lease struct {
	lock Extender
	ttl  time.Duration
	now  func() time.Duration // boottime, or the bubble's time in tests

	over chan struct{} // closed when the deadline passed or the lock is lost

	deadline atomic.Int64 // on the clock of now; 0 once over

	mu    sync.Mutex
	asked bool          // Extend has been called before it was over
	quiet time.Duration // since then no Extend has begun or returned, on the clock of now
	cause error         // why it is over
	timer *time.Timer
	ended func(cause error) // called once, when over
}

// New starts the lease of a lock that was acquired by a request sent at sent,
// on the clock of now. It may be over already. When it is over, ended is called
// once, with the cause; it must not call the lease.
func New(lock Extender, ttl, sent time.Duration, now func() time.Duration, ended func(error)) *Lease {
	l := &Lease{lock: lock, ttl: ttl, now: now, over: make(chan struct{}), ended: ended}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline.Store(l.earned(sent))
	l.quiet = now()
	l.timer = time.AfterFunc(time.Duration(l.deadline.Load())-now(), func() { l.fire() })
	return l
}

// earned is the deadline that comes of a request sent at sent.
func (l *Lease) earned(sent time.Duration) int64 { return int64(sent + l.ttl - l.Margin()) }

// TTL is how long the lock lasts from a confirmed request.
func (l *Lease) TTL() time.Duration { return l.ttl }

// Margin is how much earlier than the lock the lease ends.
func (l *Lease) Margin() time.Duration { return l.ttl / 10 }

// Left is the time to the deadline, 0 when the lease is over. It ends the lease
// when its deadline has passed: a process that was paused learns it from
// whoever asks first, not from a timer that may fire later.
func (l *Lease) Left() time.Duration {
	for {
		if d := l.left(); d > 0 {
			return d
		}
		if l.fire() {
			return 0
		}
		// An Extend has just moved the deadline.
	}
}

func (l *Lease) left() time.Duration { return time.Duration(l.deadline.Load()) - l.now() }

// fire ends the lease at its deadline and reports whether it is over. It sets
// the timer again when an Extend has moved the deadline or the two clocks
// differ a little.
func (l *Lease) fire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.overLocked() {
		return true
	}
	l.timer.Reset(l.left())
	return false
}

func (l *Lease) overLocked() bool {
	if l.cause == nil && l.left() <= 0 {
		l.endLocked(ErrExpired)
	}
	return l.cause != nil
}

// End ends the lease, unless it is over. It is also how a tenure stops its
// timer once its handler has returned.
func (l *Lease) End(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(cause)
}

func (l *Lease) endLocked(cause error) {
	if l.cause != nil {
		return
	}
	l.cause = cause
	l.deadline.Store(0)
	l.timer.Stop()
	close(l.over)
	l.ended(cause)
}

// Err is why the lease is over, nil while it is not.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Quiet is how long no Extend has begun or returned, and whether any was called
// before the lease was over. The time inside Extend is the lock service's, what
// is between two is the holder's.
func (l *Lease) Quiet() (d time.Duration, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now() - l.quiet, l.asked
}

func (l *Lease) ask() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet, l.asked = l.now(), l.asked || !l.overLocked()
}

// Extend asks the lock service until it says yes or no, or the deadline
// passes. An error that says neither is no reason to stop: only when the
// deadline has passed is it returned, with ErrExpired. When exit closes it
// returns early, and when exit was closed before it asks only once: a handler
// that cleans up may keep its lock, but does not wait for a better day.
func (l *Lease) Extend(exit context.Context) error {
	l.ask()
	defer l.ask()
	var unknown error
	once := exit.Err() != nil
	if once {
		exit = context.Background()
	}
	for pause := l.ttl / 200; ; pause = min(2*pause, l.ttl/10) {
		if l.Left() == 0 {
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
			case errors.Is(err, ErrLost):
				l.End(err)
				return err
			}
			unknown = err
		case <-l.over:
			return l.why(unknown)
		case <-exit.Done():
		}
		if !once {
			select {
			case <-time.After(pause/2 + rand.N(max(pause, 1))): // not all nodes at once
			case <-exit.Done():
			}
		}
		if once || exit.Err() != nil && l.Err() == nil {
			return errors.Join(context.Cause(exit), unknown)
		}
	}
}

// move sets the deadline that a request sent at sent has earned. Replies of
// concurrent Extends may come in any order; the latest deadline stays.
func (l *Lease) move(sent time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := l.earned(sent); !l.overLocked() && d > l.deadline.Load() {
		l.deadline.Store(d)
	}
	return l.cause
}

func (l *Lease) why(last error) error {
	cause := l.Err()
	if last != nil {
		return fmt.Errorf("%w (last attempt: %w)", cause, last)
	}
	return cause
}
