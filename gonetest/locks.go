package gonetest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// Locks is a lock service in memory. Its locks have all the extras of a
// [gone.GoneLock] and keep its contract, whatever the test makes the service do. Its
// methods may be called concurrently. One that is used in a bubble of testing/synctest
// must be made there.
type Locks struct {
	mu      sync.Mutex
	holds   map[string]*hold           // by id; those that have expired, too
	extends map[string]int             // by id
	rosters map[string]map[string]note // by id and value
	faults
	ahead   time.Duration // of time.Now
	token   uint64        // the last
	changed chan struct{} // closed when who waits is to look again
}

// faults are what the test has the service do.
type faults struct {
	down      bool
	cut       map[string]bool // by the locks' value
	intercept func(Call, func() error) error
}

// A hold of an id lasts until it expires.
type hold struct {
	acquisition
	value string
	until time.Time
}

// An acquisition is what a lock knows a hold by.
type acquisition struct {
	secret string // "" when it is over
	token  uint64
}

// A note is of a lock that has entered a roster.
type note struct {
	text  string
	until time.Time
}

// NewLocks returns a lock service that holds nothing.
func NewLocks() *Locks {
	return &Locks{
		holds: map[string]*hold{}, extends: map[string]int{}, rosters: map[string]map[string]note{},
		changed: make(chan struct{}),
	}
}

// Factory returns a factory of locks with a TTL; 0 means [gone.DefaultExpiry].
func (s *Locks) Factory(ttl time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) { return s.lock(id, value, ttl), nil }
}

func (s *Locks) lock(id, value string, ttl time.Duration) *lock {
	if ttl <= 0 {
		ttl = gone.DefaultExpiry
	}
	return &lock{s: s, id: id, value: value, ttl: ttl, taking: make(chan struct{}, 1)}
}

// A Call is a request from a lock to the service.
type Call struct {
	Method string // Lock, Extend, Unlock, Pass, Enter, Leave, Entered, or GetValue, which is for Holder, too
	ID     string
	Value  string // of the lock: the address of its node
}

// Intercept puts f between the locks and the service, in place of the one before;
// nil is none. The lock's method returns what f returns. Serve has the service do
// what it is asked, and returns its answer. So
//
//	return errors.New("timeout")                 // is a request that is lost,
//	_ = serve(); return errors.New("timeout")    // an answer that is lost, and
//	time.Sleep(time.Second); return serve()      // one that is slow.
//
// F is called concurrently. It must return in the end.
func (s *Locks) Intercept(f func(c Call, serve func() error) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = f
}

// Outage stops the service from answering, or lets it answer again. During an outage a
// request waits for a quarter of the lock's TTL, at most 5 s, and then ends with an error
// that leaves its outcome open; it was not served.
func (s *Locks) Outage(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = on
	s.changeLocked()
}

// Advance moves the clock of the service forward, and no node's: holds expire, and their
// holders do not know.
func (s *Locks) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
	s.changeLocked()
}

// Forget makes the service forget an id: whoever holds it has lost it, and the next one
// gets it. Tokens keep increasing.
func (s *Locks) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, id)
	s.changeLocked()
}

// Take gives an id to another holder with a value, whoever holds it, for
// [gone.DefaultExpiry]. It returns the new holder's lock, for the test to extend or
// release.
func (s *Locks) Take(id, value string) gone.GoneLock {
	l := s.lock(id, value, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, id)
	l.hold, _ = s.takeLocked(l, rand.Text())
	return l
}

// Extends returns how often a hold of an id was extended.
func (s *Locks) Extends(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.extends[id]
}

// cutOff has nothing reach the service of locks with these values.
func (s *Locks) cutOff(values map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = values
	s.changeLocked()
}

// heal ends all faults, so that nodes can close in no time.
func (s *Locks) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults{}
	s.changeLocked()
}

func (s *Locks) changeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// holdLocked returns the hold of an id and how long it lasts, nil if there is none.
func (s *Locks) holdLocked(id string) (h *hold, left time.Duration) {
	if h = s.holds[id]; h != nil {
		left = h.until.Sub(s.nowLocked())
	}
	if left <= 0 {
		return nil, 0
	}
	return h, left
}

func (s *Locks) nowLocked() time.Time { return time.Now().Add(s.ahead) }

func (s *Locks) takeLocked(l *lock, secret string) (acquisition, error) {
	h, _ := s.holdLocked(l.id)
	switch {
	case h == nil:
		s.token++
		h = &hold{acquisition: acquisition{secret, s.token}, value: l.value}
		s.holds[l.id] = h
		s.changeLocked()
	case h.secret != secret:
		return acquisition{}, l.failed(gone.ErrLockHeld)
	}
	h.until = s.nowLocked().Add(l.ttl)
	return h.acquisition, nil
}

// A lock is that of an id, with all extras.
type lock struct {
	s         *Locks
	id, value string
	ttl       time.Duration
	// Held by Lock and Unlock, of which there is one at a time. It is no Mutex, as
	// who waits for one stops the time of a bubble.
	taking chan struct{}

	mu    sync.Mutex  // never held with s.mu
	hold  acquisition // the last that Lock obtained
	tried string      // a secret with which a Lock may have succeeded, or may yet
	seen  uint64      // the token of the holder that was asked for last
}

var errNoAnswer = errors.New("the lock service does not answer")

func (l *lock) failed(err error) error { return fmt.Errorf("%w: gonetest lock %q", err, l.id) }

// call has a request served, if it arrives, with the service's mu held.
func (l *lock) call(method string, served func() error) error {
	if err := l.reach(); err != nil {
		return err
	}
	l.s.mu.Lock()
	f := l.s.intercept
	l.s.mu.Unlock()
	serve := func() error {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		return served()
	}
	if f == nil {
		return serve()
	}
	return f(Call{method, l.id, l.value}, serve)
}

// reach waits until the service answers.
func (l *lock) reach() error {
	enough := time.NewTimer(min(l.ttl/4, 5*time.Second))
	defer enough.Stop()
	for {
		l.s.mu.Lock()
		away, changed := l.s.down || l.s.cut[l.value], l.s.changed
		l.s.mu.Unlock()
		if !away {
			return nil
		}
		select {
		case <-changed:
		case <-enough.C:
			return l.failed(errNoAnswer)
		}
	}
}

func (l *lock) TTL() time.Duration { return l.ttl }

func (l *lock) Lock() error {
	l.taking <- struct{}{}
	defer func() { <-l.taking }()
	l.mu.Lock()
	// The same until it is known how that ended, so that a hold whose answer was
	// lost is recognised.
	secret := cmp.Or(l.hold.secret, l.tried, rand.Text())
	l.mu.Unlock()
	var got acquisition
	err := l.call("Lock", func() (err error) {
		got, err = l.s.takeLocked(l, secret)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.hold, l.tried = got, ""
	case errors.Is(err, gone.ErrLockHeld):
		l.hold.secret = ""
	default:
		l.tried = secret
	}
	return err
}

func (l *lock) Extend() error {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	err := l.call("Extend", func() error {
		h, _ := l.s.holdLocked(l.id)
		if h == nil || h.acquisition != hold {
			return l.failed(gone.ErrLockLost)
		}
		h.until = l.s.nowLocked().Add(l.ttl)
		l.s.extends[l.id]++
		return nil
	})
	if errors.Is(err, gone.ErrLockLost) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.hold == hold { // and not one that a Lock has obtained meanwhile
			l.hold.secret = ""
		}
	}
	return err
}

func (l *lock) Unlock() {
	l.taking <- struct{}{}
	defer func() { <-l.taking }()
	l.mu.Lock()
	secret := cmp.Or(l.hold.secret, l.tried)
	l.hold.secret, l.tried = "", ""
	l.mu.Unlock()
	if secret == "" {
		return
	}
	_ = l.call("Unlock", func() error {
		if h, _ := l.s.holdLocked(l.id); h != nil && h.secret == secret {
			delete(l.s.holds, l.id)
			l.s.changeLocked()
		}
		return nil
	})
}

// Ticket implements [gone.Passer].
func (l *lock) Ticket() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried = cmp.Or(l.hold.secret, l.tried, rand.Text())
	return l.tried
}

// passFor is for how long what was passed is kept for the one it was passed to.
const passFor = 2 * time.Second

// Pass implements [gone.Passer].
func (l *lock) Pass(ticket, value string) error {
	l.taking <- struct{}{}
	defer func() { <-l.taking }()
	l.mu.Lock()
	secret := l.hold.secret
	l.mu.Unlock()
	err := l.call("Pass", func() error {
		h, _ := l.s.holdLocked(l.id)
		switch {
		case h != nil && h.secret == ticket: // a second request
			return nil
		case h == nil || h.secret != secret:
			return l.failed(gone.ErrLockLost)
		}
		l.s.token++
		l.s.holds[l.id] = &hold{acquisition{ticket, l.s.token}, value, l.s.nowLocked().Add(passFor)}
		l.s.changeLocked()
		return nil
	})
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hold.secret, l.tried = "", ""
	}
	return err
}

// Enter implements [gone.Roster].
func (l *lock) Enter(text string, ttl time.Duration) error {
	return l.call("Enter", func() error {
		if l.s.rosters[l.id] == nil {
			l.s.rosters[l.id] = map[string]note{}
		}
		l.s.rosters[l.id][l.value] = note{text, l.s.nowLocked().Add(ttl)}
		return nil
	})
}

// Leave implements [gone.Roster].
func (l *lock) Leave() error {
	return l.call("Leave", func() error {
		delete(l.s.rosters[l.id], l.value)
		return nil
	})
}

// Entered implements [gone.Roster].
func (l *lock) Entered() (notes map[string]string, err error) {
	err = l.call("Entered", func() error {
		notes = map[string]string{}
		for value, n := range l.s.rosters[l.id] {
			if n.until.After(l.s.nowLocked()) {
				notes[value] = n.text
			} else {
				delete(l.s.rosters[l.id], value)
			}
		}
		return nil
	})
	return notes, err
}

func (l *lock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

func (l *lock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hold.token
}

func (l *lock) Holder() (value string, token uint64, err error) {
	var is hold
	err = l.call("GetValue", func() error {
		h, _ := l.s.holdLocked(l.id)
		if h == nil {
			return l.failed(gone.ErrNoHolder)
		}
		is = *h
		return nil
	})
	if err != nil { // an interceptor may have it served yet
		return "", 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = is.token
	return is.value, is.token, nil
}

func (l *lock) WaitFree(ctx context.Context) error {
	return l.wait(ctx, func(h *hold) bool { return h == nil })
}

// WaitHeld waits for another than the one that Holder has named last.
func (l *lock) WaitHeld(ctx context.Context) error {
	l.mu.Lock()
	seen := l.seen
	l.mu.Unlock()
	return l.wait(ctx, func(h *hold) bool { return h != nil && h.token != seen })
}

// wait returns when the hold, nil where there is none, is as wanted.
func (l *lock) wait(ctx context.Context, wanted func(*hold) bool) error {
	for ctx.Err() == nil {
		l.s.mu.Lock()
		h, left := l.s.holdLocked(l.id)
		ok, changed := wanted(h), l.s.changed
		l.s.mu.Unlock()
		if ok {
			return nil
		}
		var expired <-chan time.Time
		if h != nil {
			expired = time.After(left)
		}
		select {
		case <-changed:
		case <-expired:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}
