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
// Its methods may be called concurrently. Each must return within a part of the TTL, so
// that one that hangs leaves time for others. Each can be repeated: an error that wraps
// none of ErrLockHeld, ErrLockLost and ErrNoHolder leaves the outcome unknown, and gone
// makes the same call again. What the service has not said is unknown: silence, overload,
// missing rights, a value that no lock has written.
type GoneLock interface {
	// Lock returns nil when this lock holds the id, for its TTL from the moment the
	// service granted it. It does not wait: the error wraps ErrLockHeld when another
	// holds the id. If a call with an unknown outcome had succeeded, the next one must
	// succeed as well, and give the full TTL anew. In the service the TTL may be
	// longer, for example because it counts in seconds, but never shorter.
	Lock() error
	// Extend returns nil when the hold lasts for the TTL from now. The error
	// wraps ErrLockLost when the lock is another's or gone, and only then: it
	// must never take a lock that it does not hold.
	Extend() error
	// Unlock releases this tenure's hold and no other's. That includes one that a Lock
	// with an unknown outcome may have obtained. It is harmless when there is none.
	Unlock()
	// GetValue returns the value that the holder gave to its LockFactory. The
	// error wraps ErrNoHolder when there is no holder.
	GetValue() (string, error)
}

// A LockFactory makes the lock of an id. The value is what GetValue must return on every
// node while this lock holds the id: the node's address and, with [WithCurve], a space
// and its public key. The factory is called once for each RunOne of an id that this node
// does not run yet, about once for each id that this node sends to or asks about with
// [Gone.Holder], and once for the roster; perhaps concurrently.
type LockFactory func(id, value string) (GoneLock, error)

// DefaultExpiry is the default TTL of a lock.
const DefaultExpiry = 30 * time.Second

// The optional extras of a GoneLock. A lock with the four methods alone works: gone takes
// it to expire after [DefaultExpiry], polls it, and has no fencing tokens. io.Closer is an
// extra as well: gone calls Close when it no longer uses the lock. An Extend whose lease
// has ended may still be under way then; nobody waits for its answer.
type (
	// Expirer is a lock that knows its TTL, which must not change during a hold.
	Expirer interface {
		TTL() time.Duration
	}

	// Fencer is a lock with fencing tokens. They are never 0, and increase strictly
	// from one hold of the id to the next, on any node, even if the service forgets. A
	// lock whose service can't promise that must say so.
	Fencer interface {
		// FencingToken returns the token of the hold that Lock obtained last.
		FencingToken() uint64
		// Holder returns what GetValue does, and the token of the hold.
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
		// Ticket returns the secret that this lock's next Lock will use.
		Ticket() string
		// Pass is Unlock in favour of the lock with this ticket and this value: for
		// some seconds, at least one, nobody else can lock the id. That lock's hold has
		// a new token. Meanwhile GetValue may return its value, or say that there is no
		// holder. The error wraps ErrLockLost when there was nothing to pass; then
		// nothing has changed.
		Pass(ticket, value string) error
	}

	// Roster is a lock whose service lists, for each id, the values of the locks that
	// have entered. A node makes one lock for it, with the name of the cluster as its id,
	// which it never locks.
	Roster interface {
		// Enter lists this lock's value with a note, for ttl from now.
		Enter(note string, ttl time.Duration) error
		// Leave removes it from the list.
		Leave() error
		// Entered returns the notes of all that are listed, by value.
		Entered() (map[string]string, error)
	}

	// Checker is a lock that can say what is wrong with its service. Check returns
	// nil, or an error that names what keeps the lock from being granted. The error
	// wraps ErrDegraded when the lock works nevertheless. Check returns soon after the
	// context has ended, and changes nothing. A node's first RunOne and [Gone.Check]
	// call it.
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
