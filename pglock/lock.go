package pglock

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
)

// A Lock is a [gone.GoneLock] in a PostgreSQL, with all the extras.
//
// The fields are set by the configure of [New], and must be the same on all nodes.
type Lock struct {
	// Expiry is the TTL of the lock, at least a millisecond. 0 means
	// [gone.DefaultExpiry].
	Expiry time.Duration
	// Schema and Table are where the lock is kept. "" means [DefaultSchema] and
	// [DefaultTable]. [Migrate] makes them.
	Schema, Table string

	id, value string
	db        *database
	in        *table

	taking sync.Mutex // Lock and Unlock: one at a time, as they come

	mu      sync.Mutex
	hold    hold
	attempt string    // a secret with which a Lock may have succeeded, or may yet
	free    time.Time // when the hold that made Lock fail ends, unless it is extended
	seen    int64     // the token of the hold that Holder found last, 0: none
	closed  bool
}

// A hold is the last that Lock obtained.
type hold struct {
	secret string // "" when it is over
	token  int64
}

const maxValue = 512 // bytes

// New returns a factory of locks in the database of a pool. Each configure is called
// for each lock, perhaps concurrently, before it is used.
//
// Only the pool's settings are used: address, user, TLS, hooks, tracer. All locks of a
// pool share connections of their own: at most 4, or what the pool allows, and one more
// for wake-ups while any of them waits. So an application that has used up its pool
// keeps its locks. The pool may be closed before them.
func New(pool *pgxpool.Pool, configure ...func(*Lock)) gone.LockFactory {
	if pool == nil {
		return func(string, string) (gone.GoneLock, error) { return nil, errNoPool }
	}
	return func(id, value string) (gone.GoneLock, error) {
		l := configured(configure)
		l.id, l.value = id, value
		err := l.check()
		if err != nil {
			return nil, err
		}
		if l.db, err = databaseOf(pool); err != nil {
			return nil, fmt.Errorf("gone: pg lock %q: %w", id, err)
		}
		return l, nil
	}
}

func (l *Lock) check() (err error) {
	switch {
	case l.id == "" || len(l.id) > gone.MaxIDLength:
		return fmt.Errorf("gone: pg lock: id of %d bytes, want 1 to %d", len(l.id), gone.MaxIDLength)
	case l.value == "" || len(l.value) > maxValue:
		return fmt.Errorf("gone: pg lock %q: value of %d bytes, want 1 to %d", l.id, len(l.value), maxValue)
	case l.TTL() < time.Millisecond:
		return fmt.Errorf("gone: pg lock %q: expiry of %v, want at least a millisecond", l.id, l.Expiry)
	}
	l.in, err = l.table()
	return err
}

// TTL is Expiry, or [gone.DefaultExpiry].
func (l *Lock) TTL() time.Duration { return cmp.Or(l.Expiry, gone.DefaultExpiry) }

// Lock implements [gone.GoneLock].
func (l *Lock) Lock() error {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	// With the same secret until the outcome is known, so that a hold whose answer was
	// lost is recognised.
	secret := cmp.Or(l.hold.secret, l.attempt, rand.Text())
	l.mu.Unlock()
	a, err := l.acquire(secret)
	if err == nil && a.verdict == "over" {
		secret = rand.Text()
		a, err = l.acquire(secret)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil:
		l.attempt = secret
		return l.failed("lock", err)
	case a.verdict == "taken":
		l.hold, l.attempt = hold{secret, a.token}, ""
		return nil
	}
	l.hold.secret = ""
	l.free = time.Now().Add(min(a.remaining, l.TTL()))
	return fmt.Errorf("%w: pg lock %q", gone.ErrLockHeld, l.id)
}

// An answer is the server's to acquire.
type answer struct {
	token     int64
	remaining time.Duration
	verdict   string
}

func (l *Lock) acquire(secret string) (a answer, err error) {
	n, err := l.ask(l.in.acquire, func(row pgx.Rows) error {
		var us int64
		err := row.Scan(&a.token, &us, &a.verdict, nil)
		a.remaining = time.Duration(us) * time.Microsecond
		return err
	}, []byte(l.id), []byte(l.value), secret, l.ms(), l.in.channel)
	switch {
	case err == nil && n == 0: // others were quicker
		a.verdict = "held"
	case err == nil && a.verdict == "overlong": // its holder may be dead
		_, err = l.ask(l.in.cut, ignore, []byte(l.id), a.token)
	}
	return a, err
}

// Extend implements [gone.GoneLock].
func (l *Lock) Extend() error {
	l.mu.Lock()
	hold, closed := l.hold, l.closed
	l.mu.Unlock()
	if closed {
		return l.failed("extend", gone.ErrClosed)
	}
	if hold.secret == "" {
		return fmt.Errorf("%w: pg lock %q is not held", gone.ErrLockLost, l.id)
	}
	rows, err := l.ask(l.in.extend, ignore, []byte(l.id), hold.secret, hold.token)
	switch {
	case err != nil:
		return l.failed("extend", err)
	case rows > 0:
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold == hold { // and not one that a Lock has obtained meanwhile
		l.hold.secret = ""
	}
	return fmt.Errorf("%w: pg lock %q is another's or gone", gone.ErrLockLost, l.id)
}

// Unlock implements [gone.GoneLock]. While the server does not answer it tries again,
// for a quarter of the TTL or 5 s; then the lock is left to expire.
func (l *Lock) Unlock() {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	secret := cmp.Or(l.hold.secret, l.attempt)
	l.hold.secret, l.attempt = "", ""
	l.mu.Unlock()
	if secret == "" {
		return
	}
	_ = l.within(context.Background(), func(ctx context.Context) error {
		for pause := 10 * time.Millisecond; ; pause *= 2 {
			_, err := l.db.ask(ctx, l.in.release, ignore, []byte(l.id), secret, l.in.channel)
			if err == nil || refused(err) || sleep(ctx, pause) != nil {
				return err
			}
		}
	})
}

// Ticket implements [gone.Passer].
func (l *Lock) Ticket() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ticket := cmp.Or(l.hold.secret, l.attempt)
	if ticket == "" {
		ticket = rand.Text()
		l.attempt = ticket
	}
	return ticket
}

// passFor is how long the one that a lock was passed to has to take it.
const passFor = 2 * time.Second

// Pass implements [gone.Passer]. The lock with the ticket has 2 s to be locked.
func (l *Lock) Pass(ticket, value string) error {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold.secret == "" {
		return fmt.Errorf("%w: pg lock %q is not held", gone.ErrLockLost, l.id)
	}
	n, err := l.ask(l.in.pass, ignore, []byte(l.id), hold.secret, hold.token, []byte(value), ticket, passFor.Milliseconds(), l.in.channel)
	if err != nil {
		return l.failed("pass", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold.secret, l.attempt = "", ""
	if n == 0 {
		return fmt.Errorf("%w: pg lock %q is another's or gone", gone.ErrLockLost, l.id)
	}
	return nil
}

// GetValue implements [gone.GoneLock].
func (l *Lock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

// FencingToken implements [gone.Fencer].
func (l *Lock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(l.hold.token)
}

// Holder implements [gone.Fencer].
func (l *Lock) Holder() (value string, token uint64, err error) {
	var (
		bytes []byte
		found *int64
	)
	_, err = l.ask(l.in.holder, func(row pgx.Rows) error {
		var standby bool
		if err := row.Scan(&standby, &bytes, &found); err != nil {
			return err
		}
		if standby { // what it knows may be old
			return errStandby
		}
		return nil
	}, []byte(l.id))
	if err != nil {
		return "", 0, l.failed("read", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = 0
	if found == nil {
		return "", 0, fmt.Errorf("%w: pg lock %q", gone.ErrNoHolder, l.id)
	}
	l.seen = *found
	return string(bytes), uint64(l.seen), nil
}

// WaitFree implements [gone.Waiter]: it returns on a release, when the hold that made
// Lock fail has ended, or for a poll where there are no wake-ups.
func (l *Lock) WaitFree(ctx context.Context) error {
	l.mu.Lock()
	until := l.free
	l.mu.Unlock()
	return l.wait(ctx, &wait{until: until})
}

// WaitHeld implements [gone.Waiter].
func (l *Lock) WaitHeld(ctx context.Context) error {
	l.mu.Lock()
	seen := l.seen
	l.mu.Unlock()
	return l.wait(ctx, &wait{held: true, seen: seen})
}

func (l *Lock) wait(ctx context.Context, w *wait) error {
	woken := make(chan struct{})
	w.id, w.ttl, w.wake = l.id, l.TTL(), func() { close(woken) }
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return l.failed("wait", gone.ErrClosed)
	}
	watch := l.db.watch(l.in)
	l.mu.Unlock()
	watch.await(w)
	select {
	case <-ctx.Done():
		watch.abandon(w)
		return ctx.Err()
	case <-woken:
		return nil
	}
}

// Check reports what would keep the lock from working: no table, no right to use it, a
// server that only reads. It changes nothing.
func (l *Lock) Check(ctx context.Context) error {
	none := []byte{} // no id
	err := l.within(ctx, func(ctx context.Context) error {
		attempt := l.in.acquire
		attempt.sql = "EXPLAIN " + attempt.sql
		_, err := l.db.ask(ctx, attempt, ignore, none, none, "", l.ms(), l.in.channel)
		if err == nil { // asks for the same rights as those that are left
			_, err = l.db.ask(ctx, l.in.release, ignore, none, "", l.in.channel)
		}
		return err
	})
	if err != nil {
		return l.failed("check", err)
	}
	return nil
}

// Close gives back the lock's share of the connections, once the requests that are under
// way have ended. It does not unlock. Afterwards the other methods return an error that
// wraps [gone.ErrClosed].
func (l *Lock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.db.release()
	}
	return nil
}

// ask sends one statement.
func (l *Lock) ask(s statement, each func(pgx.Rows) error, args ...any) (n int64, err error) {
	err = l.within(context.Background(), func(ctx context.Context) error {
		n, err = l.db.ask(ctx, s, each, args...)
		return err
	})
	return n, err
}

func ignore(pgx.Rows) error { return nil }

// within makes a request, with all its attempts, in bounded time: one that hangs leaves
// time for others before the deadline of a lease.
func (l *Lock) within(ctx context.Context, request func(context.Context) error) error {
	if l.db == nil {
		return errors.New("it was not made by New")
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return gone.ErrClosed
	}
	l.db.retain()
	l.mu.Unlock()
	defer l.db.release()
	ctx, cancel := context.WithTimeout(ctx, min(l.TTL()/4, 5*time.Second))
	defer cancel()
	return request(ctx)
}

// ms is the TTL for the server.
func (l *Lock) ms() int64 { return milliseconds(l.TTL()) }

// milliseconds is a TTL for the server, which must not be shorter than for gone.
func milliseconds(ttl time.Duration) int64 { return int64((ttl-1)/time.Millisecond) + 1 }

func (l *Lock) failed(what string, err error) error {
	return fmt.Errorf("gone: pg lock %q: %s: %w", l.id, what, err)
}
