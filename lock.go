package gone

import (
	"context"
	"io"
	"time"
)

// GoneLock is the lock of one id in a lock service. [RedisLock] is one; any
// service with leases can be another. Package locktest checks one against what is
// written here.
//
// Its methods may be called concurrently and must return in bounded time, a part of
// the TTL, so that one that hangs leaves time for others. Each can be repeated: after
// an error that says neither held nor lost nor no holder the outcome is unknown, and
// the same call is made again. What the service has not said is unknown: silence,
// overload, missing rights, a value that no lock has written.
type GoneLock interface {
	// Lock returns nil when this lock holds the id, for its TTL from the moment
	// the service granted it. The error wraps ErrLockHeld when another holds
	// it. It does not wait. After an unknown outcome it must succeed again if
	// the first call had succeeded, and give the full TTL anew. The TTL may be
	// longer in the service, as where that counts in seconds, and never shorter.
	Lock() error
	// Extend returns nil when the hold lasts for the TTL from now. The error
	// wraps ErrLockLost when the lock is another's or gone, and only then: it
	// must never take a lock that it does not hold.
	Extend() error
	// Unlock releases this tenure's hold, and no other's: also one that a Lock with
	// an unknown outcome may have obtained. It is harmless when there is none.
	Unlock()
	// GetValue returns the value that the holder gave to its LockFactory. The
	// error wraps ErrNoHolder when there is no holder.
	GetValue() (string, error)
}

// LockFactory makes the lock of an id. The value is what GetValue is to return
// on every node while this lock holds the id: the node's address, with
// [WithCurve] followed by a space and its public key. It is called once for each
// RunOne of an id that this node does not run yet, about once for each id that is
// sent to from this node, or asked for with [Gone.Holder], and once for the roster;
// perhaps concurrently.
type LockFactory func(id, value string) (GoneLock, error)

// DefaultExpiry is the TTL of a lock that does not say otherwise.
const DefaultExpiry = 30 * time.Second

// The optional extras of a GoneLock. A lock with the four methods alone works:
// it is taken to expire after [DefaultExpiry], is polled, and has no fencing
// tokens. io.Closer is an extra as well: Close is called when the lock is no
// longer used; an Extend may be under way still whose answer nobody waits for,
// as its lease had ended.
type (
	// Expirer is a lock that knows its TTL, which must not change during a hold.
	Expirer interface {
		TTL() time.Duration
	}

	// Fencer is a lock with fencing tokens. They are never 0 and increase
	// strictly from one hold of the id to the next, on any node, whatever the
	// service forgets; a lock whose service can't promise that says so.
	Fencer interface {
		// FencingToken is the token of the hold that Lock obtained last.
		FencingToken() uint64
		// Holder is GetValue together with the token of the hold.
		Holder() (value string, token uint64, err error)
	}

	// Waiter is a lock that can tell when it is worth looking again. One
	// goroutine at a time calls one of them. Both methods may return early, and
	// must not return later than a poll would; they return the context's error
	// when it ends.
	Waiter interface {
		// WaitFree returns when the lock may be free: released or expired.
		WaitFree(ctx context.Context) error
		// WaitHeld returns when the lock may have a new holder.
		WaitHeld(ctx context.Context) error
	}

	// Passer is a lock that can be handed over to one that waits for it, so that
	// nobody else comes between.
	Passer interface {
		// Ticket is the secret with which this lock's next Lock is made.
		Ticket() string
		// Pass is Unlock in favour of one other lock, which has this ticket and this
		// value: for some seconds, at least one, nobody else can lock the id, and that
		// lock's hold has a new token. GetValue may return its value meanwhile, or say
		// that there is no holder. The error wraps ErrLockLost when there was nothing to
		// pass, and then nothing has changed.
		Pass(ticket, value string) error
	}

	// Roster is a lock whose service lists, for each id, the values of the locks that
	// have entered. A node makes one lock for it, with the name of the cluster as its id,
	// which it never locks.
	Roster interface {
		// Enter lists this lock's value with a note for a TTL from now.
		Enter(note string, ttl time.Duration) error
		// Leave has it listed no longer.
		Leave() error
		// Entered returns the notes of all that are listed, by value.
		Entered() (map[string]string, error)
	}

	// Checker is a lock that can say what is wrong with its service. Check returns
	// nil, or an error that names what keeps the lock from being granted; the error
	// wraps ErrDegraded when it works nevertheless. It returns soon after the context
	// has ended, and changes nothing. A node's first RunOne calls it, and [Gone.Check].
	Checker interface {
		Check(ctx context.Context) error
	}
)

func ttlOf(l GoneLock) time.Duration {
	if e, ok := l.(Expirer); ok {
		if ttl := e.TTL(); ttl > 0 {
			return ttl
		}
	}
	return DefaultExpiry
}

func closeLock(l GoneLock) {
	if c, ok := l.(io.Closer); ok {
		_ = c.Close()
	}
}
