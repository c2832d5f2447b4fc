package locktest

import (
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// hook makes what a check needs of a service.
func hook(name string, is func(Service) bool) func(Service, gone.GoneLock) (string, bool) {
	return func(s Service, _ gone.GoneLock) (string, bool) { return "hook " + name, is(s) }
}

var (
	hasStop    = hook("Stop", func(s Service) bool { return s.Stop != nil })
	hasSlow    = hook("Slow", func(s Service) bool { return s.Slow != nil })
	hasLose    = hook("LoseReplies", func(s Service) bool { return s.LoseReplies != nil })
	hasRestart = hook("Restart", func(s Service) bool { return s.Restart != nil })
	hasForget  = hook("Forget", func(s Service) bool { return s.Forget != nil })
	hasAdvance = hook("Advance", func(s Service) bool { return s.Advance != nil })
	hasSetBack = hook("SetBack", func(s Service) bool { return s.SetBack != nil })
	hasDelete  = hook("Delete", func(s Service) bool { return s.Delete != nil })
	hasSpoil   = hook("Spoil", func(s Service) bool { return s.Spoil != nil && s.Delete != nil })
)

// and needs both.
func and(a, b func(Service, gone.GoneLock) (string, bool)) func(Service, gone.GoneLock) (string, bool) {
	return func(s Service, l gone.GoneLock) (string, bool) {
		if what, ok := a(s, l); !ok {
			return what, false
		}
		return b(s, l)
	}
}

// faults are the promises that hold while things go wrong.
var faults = []check{
	{promise: "each call ends and leaves it open when the service does not answer", has: hasStop, keeps: stopped},
	{promise: "who waits while the service does not answer gets the lock afterwards", has: hasStop, keeps: waitsWhileStopped},
	{promise: "a hold that was obtained slowly lasts for its TTL", has: hasSlow, keeps: slow},
	{promise: "Lock succeeds again when its reply was lost", has: hasLose, keeps: lostLock},
	{promise: "Extend succeeds again when its reply was lost", has: hasLose, keeps: lostExtend},
	{promise: "Unlock releases what a Lock whose reply was lost has taken", has: hasLose, keeps: lostThenUnlock},
	{promise: "Unlock whose reply was lost leaves what comes after it alone", has: hasLose, keeps: lostUnlock},
	{promise: "Pass whose reply was lost can be repeated and harms nobody", has: and(hasLose, hasPass), keeps: lostPass},
	{promise: "Enter and Leave can be repeated when their replies were lost", has: and(hasLose, hasRoster), keeps: lostEntry},
	{promise: "a restart forgets no holder and no token", has: hasRestart, keeps: restarted},
	{promise: "when all is forgotten Extend says lost and tokens go on to increase", has: hasForget, keeps: forgotten},
	{promise: "a service whose clock leaps forward lets holds go and tokens increase", has: hasAdvance, keeps: advanced},
	{promise: "a service whose clock is set back lets a dead holder's lock go in its TTL", has: hasSetBack, keeps: setBack},
	{promise: "who enters again is listed when all was forgotten", has: and(hasForget, hasRoster), keeps: forgottenEntry},
	{promise: "a clock that is set back keeps no entry that nobody renews", has: and(hasSetBack, hasRoster), keeps: entryOfThePast},
	{promise: "Extend says lost and recreates nothing when the hold was deleted", has: hasDelete, keeps: deleted},
	{promise: "what no lock has written is nobody's hold", has: hasSpoil, keeps: spoilt},
}

// open fails unless an error leaves it open how it is.
func (t *tester) open(err error, what string) {
	t.Helper()
	if isKnown(err) {
		t.Errorf("%s returned %q, want an error that wraps none of held, lost and no holder: nobody knows", what, text(err))
	}
}

func stopped(t *tester) {
	a, b := t.pair(brief)
	c, d := t.lockOf(t.id()+"2", brief, addr), t.lockOf(t.id()+"2", brief, other)
	t.gets(a, "is free")
	e := t.lockOf(t.id()+"3", brief, addr)
	t.gets(c, "is free")
	t.gets(e, "is free")
	t.held(b, "another holds")
	start := sync.OnceFunc(t.Stop(t))
	t.Cleanup(start) // before the locks' own
	var wg sync.WaitGroup
	calls := map[string]func() error{
		"Lock": b.Lock, "Extend": a.Extend, "GetValue": func() error { _, err := d.GetValue(); return err },
	}
	if p, ok := e.(gone.Passer); ok {
		calls["Pass"] = func() error { return p.Pass("a ticket", other) }
	}
	if r, ok := d.(gone.Roster); ok {
		calls["Enter"], calls["Leave"] = func() error { return r.Enter("note", brief) }, r.Leave
		calls["Entered"] = func() error { _, err := r.Entered(); return err }
	}
	for what, call := range calls {
		wg.Go(func() {
			if ok, err := t.returns(what, call); ok {
				t.open(err, what+" of a service that does not answer")
			}
		})
	}
	wg.Go(func() { t.returns("Unlock", func() error { c.Unlock(); return nil }) })
	if w, ok := d.(gone.Waiter); ok {
		wg.Go(func() {
			t.returns("WaitFree", func() error {
				waitBriefly(w.WaitFree)
				return nil
			})
		})
	}
	wg.Wait()
	start()
	a.Unlock()
	c.Unlock()
	t.waits(b, "the service has answered again")
	t.waits(d, "the service has answered again")
}

func waitsWhileStopped(t *tester) {
	a, b := t.pair(brief)
	t.gets(a, "is free")
	t.held(b, "another holds")
	got := make(chan struct{})
	go func() {
		defer close(got)
		t.waits(b, "the service has answered again")
	}()
	start := t.Stop(t)
	time.Sleep(brief / 2)
	start()
	a.Unlock()
	<-got
}

func slow(t *tester) {
	a, b := t.pair(brief)
	undo := t.Slow(t, brief/20)
	t.gets(a, "is free, of a service that is slow")
	t.held(b, "another holds, of a service that is slow")
	t.holder(b, addr)
	sent := time.Now()
	t.extends(a, "is held, of a service that is slow")
	undo()
	t.expires(b, brief, sent, "a slow Extend")
}

// losing makes a call whose reply is lost. It may return when that is known, or try
// again by itself.
func (t *tester) losing(l gone.GoneLock, what string, call func() error) error {
	t.Helper()
	_ = t.ask("GetValue", func() error { // over a connection that is there
		_, err := l.GetValue()
		return err
	})
	undo := sync.OnceFunc(t.LoseReplies(t))
	defer undo()
	time.AfterFunc(soon, undo)
	return t.within(what+" whose reply is lost", call)
}

func lostLock(t *tester) {
	a, b := t.pair(never)
	if err := t.losing(a, "Lock", a.Lock); isKnown(err) && err != nil {
		t.Fatalf("Lock of a lock that is free, with its reply lost, returned %q: nobody else holds it", err)
	}
	t.gets(a, "an earlier Lock may have taken, as its reply was lost")
	t.held(b, "another holds")
	t.extends(a, "is held, after a Lock whose reply was lost")
	if _, ok := b.(gone.Fencer); ok {
		t.holderToken(b, token(a))
	}
}

func lostExtend(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	if err := t.losing(a, "Extend", a.Extend); isKnown(err) && err != nil {
		t.Fatalf("Extend of a lock that is held, with its reply lost, returned %q: nobody has taken it", err)
	}
	t.extends(a, "is held, after an Extend whose reply was lost")
	t.held(b, "another holds")
}

func lostThenUnlock(t *tester) {
	a, b := t.pair(never)
	_ = t.losing(a, "Lock", a.Lock)
	a.Unlock()
	t.waits(b, "an Unlock after a Lock whose reply was lost")
	a.Unlock()
	t.extends(b, "is held, after another Unlock of its predecessor")
}

func lostUnlock(t *tester) {
	a, b := t.pair(brief)
	successor := t.lock(never, addr)
	t.gets(a, "is free")
	_ = t.losing(a, "Unlock", func() error { a.Unlock(); return nil })
	t.waits(successor, "an Unlock whose reply was lost")
	a.Unlock()
	t.extends(successor, "is held, after another Unlock of its predecessor")
	t.held(b, "another holds")
}

func restarted(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	before := token(a)
	t.Restart(t)
	t.extends(a, "is held, after a restart of the service")
	t.held(b, "another holds, after a restart of the service")
	go a.Unlock()
	t.waits(b, "it was released, after a restart of the service")
	t.above(b, before, "after a restart of the service")
}

func forgotten(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	before := token(a)
	t.Forget(t)
	t.lost(a, "the service has forgotten")
	t.nobody(a, "the service has forgotten")
	t.successor(a, b, before, "after the service has forgotten all")
}

// successor has another get the lock, whose predecessor must leave it alone.
func (t *tester) successor(a, b gone.GoneLock, before uint64, when string) {
	t.Helper()
	t.gets(b, "is free, "+when)
	t.above(b, before, when)
	t.lost(a, "another holds, "+when)
	a.Unlock()
	t.extends(b, "is held, after Unlock of its predecessor, "+when)
}

func advanced(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	before := token(a)
	t.Advance(t, time.Hour)
	t.waits(b, "the service's clock leapt beyond the TTL")
	t.successor(a, b, before, "after the service's clock leapt beyond the TTL")
}

func setBack(t *tester) {
	a, b := t.pair(brief)
	sent := time.Now()
	t.gets(a, "is free")
	before := token(a)
	t.SetBack(t, time.Hour)
	t.expires(b, brief, sent, "Lock, with the service's clock set back")
	t.successor(a, b, before, "after the service's clock was set back")
}

func deleted(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	before := token(a)
	t.Delete(t, t.id())
	t.lost(a, "somebody has deleted")
	t.nobody(b, "somebody has deleted, after Extend")
	t.successor(a, b, before, "after somebody has deleted the hold before")
}

func spoilt(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	t.Spoil(t, t.id())
	for what, call := range map[string]func() error{
		"Extend": a.Extend, "Lock": b.Lock, "GetValue": func() error { _, err := b.GetValue(); return err },
	} {
		if t.within(what, call) == nil {
			t.Errorf("%s succeeded, though what is in the hold's place was written by no lock", what)
		}
	}
	a.Unlock()
	t.Delete(t, t.id())
	t.waits(b, "what was in its place has been deleted")
}
