package locktest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// A tester is one test, with an id of its own: its name.
type tester struct {
	*testing.T
	Service
}

func (t *tester) id() string {
	name := t.Name()
	return name[max(0, len(name)-gone.MaxIDLength):]
}

// lock makes a lock that is released and closed with the test.
func (t *tester) lock(ttl time.Duration, value string) gone.GoneLock {
	t.Helper()
	return t.lockOf(t.id(), ttl, value)
}

func (t *tester) lockOf(id string, ttl time.Duration, value string) gone.GoneLock {
	t.Helper()
	l, err := t.Locks(ttl)(id, value)
	if err != nil {
		t.Fatalf("the lock of id %q with value %q can't be made: %v", id, value, err)
	}
	t.Cleanup(func() {
		l.Unlock()
		closeLock(l)
	})
	return l
}

func closeLock(l gone.GoneLock) {
	if c, ok := l.(io.Closer); ok {
		_ = c.Close()
	}
}

// pair makes two locks that compete.
func (t *tester) pair(ttl time.Duration) (a, b gone.GoneLock) {
	t.Helper()
	return t.lock(ttl, addr), t.lock(ttl, other)
}

// states are the errors that say how it is; all others leave it open.
var states = []error{gone.ErrLockHeld, gone.ErrLockLost, gone.ErrNoHolder}

func isKnown(err error) bool {
	for _, e := range states {
		if errors.Is(err, e) {
			return true
		}
	}
	return err == nil
}

// ask makes a call, and makes it again while its outcome is unknown.
func (t *tester) ask(what string, call func() error) (err error) {
	t.Helper()
	for end := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		if err = t.within(what, call); isKnown(err) {
			return err
		}
		if time.Now().After(end) {
			t.Fatalf("%s has had no outcome for %v, though it was called again and again; the last error: %v", what, bound, err)
		}
	}
}

// within makes a call, which has to return.
func (t *tester) within(what string, call func() error) error {
	t.Helper()
	ok, err := t.returns(what, call)
	if !ok {
		t.FailNow()
	}
	return err
}

// returns is within for other goroutines than the test's.
func (t *tester) returns(what string, call func() error) (ok bool, err error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		return true, err
	case <-time.After(bound):
		t.Errorf("%s has not returned within %v", what, bound)
		return false, nil
	}
}

// gets fails unless the lock is obtained. Where the service was too slow to confirm an
// attempt, what it may have left in the way has to expire first.
func (t *tester) gets(l gone.GoneLock, when string) {
	t.Helper()
	began, slow := time.Now(), false
	for {
		err := t.ask("Lock", func() error {
			err := l.Lock()
			slow = slow || !isKnown(err)
			return err
		})
		if err == nil {
			return
		}
		if !slow || ttlOf(l) > soon || time.Since(began) > bound {
			t.Fatalf("Lock of a lock that %s: %v", when, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ttlOf(l gone.GoneLock) time.Duration {
	if e, ok := l.(gone.Expirer); ok {
		return e.TTL()
	}
	return gone.DefaultExpiry
}

// extends fails unless the lock is still held.
func (t *tester) extends(l gone.GoneLock, when string) {
	t.Helper()
	if err := t.ask("Extend", l.Extend); err != nil {
		t.Fatalf("Extend of a lock that %s: %v", when, err)
	}
}

// held fails unless Lock says that another holds it.
func (t *tester) held(l gone.GoneLock, when string) {
	t.Helper()
	t.is(t.ask("Lock", l.Lock), gone.ErrLockHeld, "Lock of a lock that "+when)
}

// lost fails unless Extend says that it is not held.
func (t *tester) lost(l gone.GoneLock, when string) {
	t.Helper()
	t.is(t.ask("Extend", l.Extend), gone.ErrLockLost, "Extend of a lock that "+when)
}

// is fails unless err wraps want, and no other state of a lock.
func (t *tester) is(err, want error, what string) {
	t.Helper()
	for _, e := range states {
		if errors.Is(err, e) != (e == want) {
			t.Fatalf("%s returned %q, want an error that wraps %q and no other of these", what, text(err), want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return "nil"
	}
	return err.Error()
}

// holder fails unless the lock is held by one with a value.
func (t *tester) holder(l gone.GoneLock, want string) {
	t.Helper()
	var got string
	err := t.ask("GetValue", func() (err error) {
		got, err = l.GetValue()
		return err
	})
	if got != want || err != nil {
		t.Fatalf("GetValue returned %q and %q, want the holder's value %q", got, text(err), want)
	}
}

// nobody fails unless there is no holder.
func (t *tester) nobody(l gone.GoneLock, when string) {
	t.Helper()
	err := t.ask("GetValue", func() error {
		_, err := l.GetValue()
		return err
	})
	t.is(err, gone.ErrNoHolder, "GetValue of a lock that "+when)
}

// expires waits until another gets the lock, which must not be before its hold was
// sure to be over.
func (t *tester) expires(l gone.GoneLock, ttl time.Duration, sent time.Time, what string) {
	t.Helper()
	t.eventually("another gets a lock whose TTL is "+ttl.String(), func() bool {
		err := t.ask("Lock", l.Lock)
		if err != nil {
			t.is(err, gone.ErrLockHeld, "Lock of a lock that another holds")
		}
		return err == nil
	})
	if d := time.Since(sent); d < lasts(ttl) {
		t.Errorf("another got it %v after %s, before its TTL of %v had run out", d, what, ttl)
	}
}

// lasts is how long at least what has a TTL is there. A service that is held up after it
// has read its clock ends it early; so a lease is over a tenth of the TTL before its lock.
func lasts(ttl time.Duration) time.Duration { return ttl - ttl/10 }

// eventually polls for a condition. What is late is late by more than the TTLs here.
func (t *tester) eventually(what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", 2*bound, what)
		}
	}
}

// waits gets a lock as a node does: it tries, waits, and tries again.
func (t *tester) waits(l gone.GoneLock, what string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*bound)
	defer cancel()
	for l.Lock() != nil && !t.Failed() {
		if err := waitFree(ctx, l); ctx.Err() != nil {
			t.Errorf("who waits has not got the lock within %v of when %s (%v)", 2*bound, what, err)
			return
		}
		time.Sleep(time.Millisecond) // it may return early, again and again
	}
}

// waitFree polls as a node does where the lock can't say when to look again.
func waitFree(ctx context.Context, l gone.GoneLock) error {
	if w, ok := l.(gone.Waiter); ok && w.WaitFree(ctx) == nil {
		return nil
	}
	select {
	case <-time.After(time.Second/2 + rand.N(time.Second)):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// token is that of the hold that a lock has obtained, 0 where locks have none.
func token(l gone.GoneLock) uint64 {
	if f, ok := l.(gone.Fencer); ok {
		return f.FencingToken()
	}
	return 0
}

// above fails unless the token of a hold is above that of the one before.
func (t *tester) above(l gone.GoneLock, before uint64, when string) {
	t.Helper()
	if now := token(l); now <= before && (now != 0 || before != 0) {
		t.Errorf("the token of the hold %s is %d, and that of the one before was %d: it must be above it", when, now, before)
	}
}
