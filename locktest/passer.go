package locktest

import (
	"errors"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// passing are the promises of a lock that can be handed over.
var passing = []check{
	{promise: "what is passed can be locked with the ticket alone", has: hasPass, keeps: passTakesATicket},
	{promise: "what is passed lasts for the TTL of its new holder", has: hasPass, keeps: passLasts},
	{promise: "what is passed to one that does not come is free after some seconds", has: hasPass, keeps: passToNobody},
	{promise: "Pass says lost and changes nothing when there is nothing to pass", has: hasPass, keeps: passNothing},
}

// third competes with both.
const third = "tcp://127.0.0.1:6383"

// kept is for how long what was passed is kept for who has the ticket, at least.
const kept = time.Second

// passes fails unless a lock that is held is passed to another.
func (t *tester) passes(from, to gone.GoneLock, value string) {
	t.Helper()
	if err := t.pass(from, to.(gone.Passer).Ticket(), value); err != nil {
		t.Fatalf("Pass of a lock that is held: %v", err)
	}
}

func (t *tester) pass(from gone.GoneLock, ticket, value string) error {
	t.Helper()
	return t.ask("Pass", func() error { return from.(gone.Passer).Pass(ticket, value) })
}

func passTakesATicket(t *tester) {
	a, b := t.pair(never)
	strangers := map[string]gone.GoneLock{
		"another": t.lock(never, third), "one with the value, but no ticket,": t.lock(never, other), "who has passed it": a,
	}
	for range 3 {
		t.gets(a, "is free")
		before := token(a)
		t.held(b, "another holds, with a ticket or without")
		sent := time.Now()
		t.passes(a, b, other)
		for who, l := range strangers {
			switch err := t.ask("Lock", l.Lock); {
			case err != nil:
				t.is(err, gone.ErrLockHeld, "Lock of a lock that was passed to another")
			case time.Since(sent) < kept:
				t.Fatalf("%s has got a lock %v after it was passed to one with a ticket", who, time.Since(sent))
			default: // this test was held up for too long
				l.Unlock()
			}
		}
		t.lost(a, "it has passed on")
		t.gets(b, "was passed to it")
		t.above(b, before, "that was passed")
		a.Unlock()
		t.extends(b, "was passed to it, after its predecessor's Unlock")
		t.holder(a, other)
		if _, ok := a.(gone.Fencer); ok {
			t.holderToken(a, token(b))
		}
		b.Unlock()
	}
}

func passLasts(t *tester) {
	a, b, c := t.lock(never, addr), t.lock(brief, other), t.lock(never, third)
	t.gets(a, "is free")
	t.passes(a, b, other)
	sent := time.Now()
	t.gets(b, "was passed to it")
	t.expires(c, brief, sent, "Lock of what was passed")
}

func passToNobody(t *tester) {
	a, b := t.pair(never)
	c := t.lock(never, third)
	t.gets(a, "is free")
	before := token(a)
	t.held(c, "another holds")
	var wg sync.WaitGroup
	defer wg.Wait()
	sent := time.Now()
	wg.Go(func() { t.waits(c, "it was passed to one that does not come") })
	t.passes(a, b, other)
	wg.Wait()
	if d := time.Since(sent); d < kept {
		t.Errorf("another has got a lock %v after it was passed to one with a ticket", d)
	}
	t.above(c, before, "after one that was passed")
	t.held(b, "was passed to it, and is another's by now")
	c.Unlock()
	t.gets(b, "was released, with a ticket that is over")
	t.extends(b, "is held, with a ticket that is over")
}

func passNothing(t *tester) {
	a, b := t.pair(never)
	c, short := t.lock(never, third), t.lock(soon, addr)
	lost := func(l gone.GoneLock, when string) {
		t.Helper()
		t.is(t.pass(l, c.(gone.Passer).Ticket(), third), gone.ErrLockLost, "Pass of a lock that "+when)
	}
	lost(a, "was never held")
	t.nobody(b, "nobody has got, after Pass of one that does not hold it")
	sent := time.Now()
	t.gets(short, "is free")
	t.eventually("a hold that nobody extends is over", func() bool {
		_, err := b.GetValue()
		return errors.Is(err, gone.ErrNoHolder) && time.Since(sent) > soon
	})
	lost(short, "has expired")
	t.nobody(b, "has expired, after Pass")
	t.gets(b, "is free, after Pass of one that does not hold it")
	lost(short, "another holds, after it has expired")
	lost(a, "another holds")
	t.held(c, "another holds, after Pass of one that does not hold it")
	t.holder(a, other)
	t.extends(b, "is held, after Pass of one that does not hold it")
	b.Unlock()
	lost(b, "it has released")
	t.gets(a, "was released")
}

// lostPass leaves open whether the lock was passed, which another Pass may find out.
func lostPass(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	before, ticket := token(a), b.(gone.Passer).Ticket()
	err := t.losing(a, "Pass", func() error { return a.(gone.Passer).Pass(ticket, other) })
	if isKnown(err) && err != nil {
		t.Fatalf("Pass of a lock that is held, with its reply lost, returned %q: nobody has taken it", err)
	}
	again := func(when string) {
		t.Helper()
		if err := t.pass(a, ticket, other); err != nil {
			t.is(err, gone.ErrLockLost, "Pass of a lock "+when)
		}
	}
	again("that an earlier Pass may have passed, as its reply was lost")
	t.gets(b, "was passed to it, by a Pass whose reply was lost")
	t.above(b, before, "that was passed")
	again("that it has passed, and that the other holds by now")
	a.Unlock()
	t.extends(b, "was passed to it, after another Pass and Unlock of its predecessor")
	t.holder(a, other)
}
