package locktest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// extra reports whether a lock has an extra; what says what it lacks otherwise.
func extra[E any](what string) func(Service, gone.GoneLock) (string, bool) {
	return func(_ Service, l gone.GoneLock) (string, bool) {
		_, ok := l.(E)
		return what, ok
	}
}

var (
	hasTTL    = extra[gone.Expirer]("TTL: gone takes it to be " + gone.DefaultExpiry.String())
	hasToken  = extra[gone.Fencer]("FencingToken and Holder")
	hasWait   = extra[gone.Waiter]("WaitFree and WaitHeld: gone polls")
	hasClose  = extra[io.Closer]("Close")
	hasPass   = extra[gone.Passer]("Ticket and Pass: whoever comes first takes what a node hands over")
	hasRoster = extra[gone.Roster]("Enter, Leave and Entered: nodes do not see each other, and ids are not spread")
)

// extras are the promises of the optional ones.
var extras = []check{
	{promise: "TTL is what was asked for", has: hasTTL, keeps: ttlAsAsked},
	{promise: "tokens increase from hold to hold and not within one", has: hasToken, keeps: tokensIncrease},
	{promise: "the token of an expired hold is below its successor's", has: hasToken, keeps: tokenAfterExpiry},
	{promise: "Holder says no holder when there is none", has: hasToken, keeps: holderOfNone},
	{promise: "WaitFree returns when the lock is released", has: hasWait, keeps: waitReleased},
	{promise: "WaitFree returns when the hold expires", has: hasWait, keeps: waitExpired},
	{promise: "WaitFree misses no release", has: hasWait, keeps: waitEachRelease},
	{promise: "WaitHeld returns when there is a new holder", has: hasWait, keeps: waitNewHolder},
	{promise: "waiting ends with its context and returns its error", has: hasWait, keeps: waitEnds},
	{promise: "Close does not unlock and harms no other lock", has: hasClose, keeps: closeHarmsNone},
}

func ttlAsAsked(t *tester) {
	for _, want := range []time.Duration{soon, never} {
		if ttl := t.lock(want, addr).(gone.Expirer).TTL(); ttl != want {
			t.Errorf("TTL returned %v, want %v, for which the lock was made", ttl, want)
		}
	}
}

func tokensIncrease(t *tester) {
	a, b := t.pair(never)
	var last uint64
	for range 20 {
		for _, l := range []gone.GoneLock{a, b} {
			t.gets(l, "is free")
			now := token(l)
			if now <= last { // 0 is none
				t.Fatalf("the token of a hold is %d, and that of the one before was %d: it must be above it", now, last)
			}
			last = now
			t.gets(l, "it holds already")
			t.extends(l, "is held")
			if still := token(l); still != now {
				t.Fatalf("the token of a hold was %d and has become %d: it must stay", now, still)
			}
			t.holderToken(a, now)
			t.holderToken(b, now)
			l.Unlock()
		}
	}
}

// holderToken fails unless a lock says which token the holder has.
func (t *tester) holderToken(l gone.GoneLock, want uint64) {
	t.Helper()
	var got uint64
	err := t.ask("Holder", func() (err error) {
		_, got, err = l.(gone.Fencer).Holder()
		return err
	})
	if err != nil || got != want {
		t.Fatalf("Holder returned token %d and %q, want the holder's token %d", got, text(err), want)
	}
}

func tokenAfterExpiry(t *tester) {
	a, b := t.pair(soon)
	sent := time.Now()
	t.gets(a, "is free")
	t.expires(b, soon, sent, "Lock")
	t.above(b, token(a), "after one that has expired")
}

func holderOfNone(t *tester) {
	l := t.lock(never, addr)
	err := t.ask("Holder", func() error {
		_, _, err := l.(gone.Fencer).Holder()
		return err
	})
	t.is(err, gone.ErrNoHolder, "Holder of a lock that nobody holds")
}

func waitReleased(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	t.held(b, "another holds")
	go a.Unlock()
	t.waits(b, "it was released")
}

func waitExpired(t *tester) {
	a, b := t.pair(soon)
	t.gets(a, "is free")
	t.waits(b, "its hold began, whose TTL is "+soon.String())
}

// waitEachRelease has releases race with those who begin to wait.
func waitEachRelease(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	for range 25 {
		go a.Unlock()
		t.waits(b, "it was released")
		if t.Failed() {
			return
		}
		a, b = b, a
	}
}

func waitNewHolder(t *tester) {
	a, b := t.pair(never)
	ctx, cancel := context.WithTimeout(context.Background(), 2*bound)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { t.waits(a, "it was made") })
	for {
		if _, err := b.GetValue(); err == nil {
			return
		}
		if err := b.(gone.Waiter).WaitHeld(ctx); ctx.Err() != nil {
			t.Fatalf("WaitHeld has not returned within %v of a new holder's Lock (%v)", 2*bound, err)
		}
	}
}

func waitBriefly(wait func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_ = wait(ctx)
}

func waitEnds(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	t.held(b, "another holds")
	for name, wait := range map[string]func(context.Context) error{
		"WaitFree": b.(gone.Waiter).WaitFree,
		"WaitHeld": b.(gone.Waiter).WaitHeld,
	} {
		t.endsWithContext(name, wait)
	}
}

// endsWithContext fails unless a wait returns its context's error when that ends.
func (t *tester) endsWithContext(name string, wait func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := t.within(name, func() (err error) {
		for err == nil && !t.Failed() {
			err = wait(ctx) // it may return early before
		}
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() == nil {
		t.Errorf("%s returned %q while its context's error was %q", name, text(err), text(ctx.Err()))
	}
}

func closeHarmsNone(t *tester) {
	a, b := t.pair(never)
	c := t.lock(never, addr)
	t.gets(a, "is free")
	for range 2 {
		if err := a.(io.Closer).Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	t.held(b, "another holds, which was closed and not unlocked")
	t.holder(c, addr)
}
