package locktest

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gone "github.com/Diggs/go-one"
)

// promises are those of every lock.
var promises = []check{
	{promise: "Lock says held while another holds and does not wait", keeps: heldByAnother},
	{promise: "Lock succeeds again and gives the full TTL anew", keeps: lockAgain},
	{promise: "a hold lasts for the TTL and then ends", keeps: holdEnds},
	{promise: "Extend makes a hold last for the TTL from then", keeps: extendLasts},
	{promise: "Extend says lost and takes nothing when it does not hold", keeps: extendTakesNothing},
	{promise: "Extend says lost when another holds and leaves it alone", keeps: extendLeavesAnother},
	{promise: "after a loss it may compete again", keeps: competesAgain},
	{promise: "Unlock makes the lock free at once", keeps: unlockFrees},
	{promise: "Unlock without a hold is harmless", keeps: unlockWithoutHold},
	{promise: "Unlock leaves the hold of a successor with the same value", keeps: unlockLeavesSuccessor},
	{promise: "GetValue returns the holder's value on every node", keeps: valueEverywhere},
	{promise: "any id and any value will do", keeps: anyIDAndValue},
	{promise: "ids do not touch each other", keeps: idsApart},
	{promise: "one holds whatever the number that compete", keeps: oneHolds},
	{promise: "the methods of one lock may be called concurrently", keeps: concurrently},
}

func heldByAnother(t *tester) {
	a, b := t.pair(never)
	t.gets(a, "is free")
	t.held(b, "another holds")
	t.extends(a, "is held, after another has tried to get it")
}

func lockAgain(t *tester) {
	a, b := t.pair(soon)
	t.gets(a, "is free")
	var sent time.Time
	for range 5 {
		time.Sleep(soon / 10)
		sent = time.Now()
		t.gets(a, "it holds already, as after an answer that was lost")
	}
	t.expires(b, soon, sent, "the last Lock")
}

func holdEnds(t *tester) {
	a, b := t.lock(soon, addr), t.lock(never, other)
	sent := time.Now()
	t.gets(a, "is free")
	t.expires(b, soon, sent, "Lock")
	t.holder(a, other)
}

func extendLasts(t *tester) {
	a, b := t.pair(soon)
	t.gets(a, "is free")
	sent := time.Now()
	for end := sent.Add(2 * soon); time.Now().Before(end); time.Sleep(soon / 10) {
		began, now := sent, time.Now()
		if err := t.ask("Extend", a.Extend); err == nil {
			sent = now
		} else if t.is(err, gone.ErrLockLost, "Extend"); time.Since(began) < lasts(soon) {
			t.Fatalf("Extend says lost %v after the last one, before the TTL of %v had run out", time.Since(began), soon)
		} else { // this test was held up for too long
			sent = time.Now()
			t.gets(a, "has expired")
		}
	}
	t.expires(b, soon, sent, "the last Extend")
}

func extendTakesNothing(t *tester) {
	a, b := t.pair(soon)
	t.lost(a, "was never held")
	t.nobody(b, "nobody has got, after Extend of one that does not hold it")
	t.gets(a, "is free")
	t.eventually("a hold that nobody extends is over", func() bool {
		_, err := b.GetValue()
		return errors.Is(err, gone.ErrNoHolder)
	})
	t.lost(a, "has expired")
	t.nobody(b, "has expired, after Extend")
}

func extendLeavesAnother(t *tester) {
	a, b := t.lock(soon, addr), t.lock(never, other)
	sent := time.Now()
	t.gets(a, "is free")
	t.expires(b, soon, sent, "Lock")
	t.lost(a, "another holds")
	t.lost(a, "another holds, for the second time")
	t.holder(a, other)
	t.extends(b, "is held, after its predecessor's Extend")
}

func competesAgain(t *tester) {
	a, b := t.pair(never)
	short := t.lock(soon, addr)
	sent := time.Now()
	t.gets(short, "is free")
	t.expires(b, soon, sent, "Lock")
	t.lost(short, "another holds")
	t.held(short, "another holds")
	b.Unlock()
	t.gets(a, "was released")
}

func unlockFrees(t *tester) {
	a, b := t.pair(never)
	for range 3 {
		t.gets(a, "is free")
		a.Unlock()
		t.lost(a, "it has released")
		t.gets(b, "was released")
		b.Unlock()
	}
}

func unlockWithoutHold(t *tester) {
	a, b := t.pair(never)
	a.Unlock()
	t.gets(a, "is free")
	b.Unlock()
	t.held(b, "another holds, after Unlock of one that does not hold it")
	b.Unlock()
	t.extends(a, "is held, after Unlock of one that does not hold it")
	a.Unlock()
	t.gets(b, "was released")
	a.Unlock()
	a.Unlock()
	t.extends(b, "is held, after its predecessor has released twice more")
}

func unlockLeavesSuccessor(t *tester) {
	predecessor, successor := t.lock(soon, addr), t.lock(never, addr)
	sent := time.Now()
	t.gets(predecessor, "is free")
	t.expires(successor, soon, sent, "Lock")
	predecessor.Unlock()
	t.extends(successor, "is held, after Unlock of a predecessor with the same value")
	t.lost(predecessor, "its successor holds, with the same value")
}

func valueEverywhere(t *tester) {
	a, b := t.pair(never)
	t.nobody(a, "nobody holds")
	t.nobody(b, "nobody holds")
	t.gets(b, "is free")
	t.holder(a, other)
	t.holder(b, other)
	t.extends(b, "is held")
	t.holder(a, other)
	b.Unlock()
	t.nobody(a, "was released")
}

func anyIDAndValue(t *tester) {
	ids := []string{
		"with spaces  and\ttabs", "{", "}", "{}", "{x}y", "x{y", "x}y{z}", "{{x}}", "ünï€code 🙂", "\x01\xff\n\r",
		"a:b*c?[d]", "%s%d", "/", "a/b", "a/b/", "../a", "'; --", strings.Repeat("long", gone.MaxIDLength/4),
	}
	values := []string{"with spaces  1 2 3 ", " ", "0", "tcp://[::1]:1", "\x00\xff\n", "%s\r\n", strings.Repeat("v", 500)}
	locks := map[string]gone.GoneLock{}
	for i, id := range ids {
		value := values[i%len(values)]
		locks[id] = t.lockOf(id, never, value)
		t.gets(locks[id], "is free")
		t.gets(locks[id], "it holds already")
		t.holder(t.lockOf(id, never, addr), value)
	}
	for id, l := range locks {
		t.extends(l, "is held")
		l.Unlock()
		t.gets(t.lockOf(id, never, addr), "was released")
	}
}

func idsApart(t *tester) {
	ids := []string{"", "/", "/x", "x", "X", " ", "\xff", "%", "_"}
	for _, end := range ids {
		t.gets(t.lockOf("locktest"+end, never, end+"."), "is free")
	}
	for _, end := range ids {
		l := t.lockOf("locktest"+end, never, other)
		t.held(l, "another holds")
		t.holder(l, end+".")
	}
}

func oneHolds(t *tester) {
	var holders, holds atomic.Int32
	var last atomic.Uint64
	var wg sync.WaitGroup
	for range 8 {
		l := t.lock(never, addr)
		wg.Go(func() {
			for range 25 {
				err := l.Lock()
				if !isKnown(err) { // the service is slow
					l.Unlock()
					continue
				}
				if err != nil {
					if !errors.Is(err, gone.ErrLockHeld) {
						t.Errorf("Lock while others compete: %v", err)
					}
					continue
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d hold it at the same time", n)
				}
				holds.Add(1)
				t.above(l, last.Swap(token(l)), "of one of many that compete")
				if err := l.Extend(); err != nil && isKnown(err) {
					t.Errorf("Extend of a lock that is held: %v", err)
				}
				holders.Add(-1)
				l.Unlock()
			}
		})
	}
	wg.Wait()
	if holds.Load() == 0 {
		t.Error("nobody ever held it")
	}
}

func concurrently(t *tester) {
	a, b := t.pair(never)
	calls := []func(){
		func() { _ = a.Lock() },
		func() { _ = a.Extend() },
		func() { a.Unlock() },
		func() { _, _ = a.GetValue() },
	}
	if w, ok := a.(gone.Waiter); ok {
		calls = append(calls, func() { waitBriefly(w.WaitFree) })
	}
	if f, ok := a.(gone.Fencer); ok {
		calls = append(calls, func() {
			f.FencingToken()
			_, _, _ = f.Holder()
		})
	}
	if p, ok := a.(gone.Passer); ok {
		calls = append(calls, func() { _ = p.Pass(b.(gone.Passer).Ticket(), other) })
	}
	if r, ok := a.(gone.Roster); ok {
		calls = append(calls, func() { _ = r.Enter("note", never) }, func() { _ = r.Leave() }, func() { _, _ = r.Entered() })
	}
	var wg sync.WaitGroup
	for _, call := range calls {
		for range 2 {
			wg.Go(func() {
				for range 25 {
					call()
				}
			})
		}
	}
	wg.Wait()
	a.Unlock()
	t.gets(b, "was released, after many concurrent calls")
}
