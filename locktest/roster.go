package locktest

import (
	"fmt"
	"maps"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
)

// rosters are the promises of a list of who has entered.
var rosters = []check{
	{promise: "a roster lists the notes of those who have entered until they leave", has: hasRoster, keeps: rosterLists},
	{promise: "an entry lasts for its TTL and then ends", has: hasRoster, keeps: entryEnds},
	{promise: "a roster takes any note and any value", has: hasRoster, keeps: anyNote},
	{promise: "rosters do not touch each other, nor the lock of the same id", has: hasRoster, keeps: rostersApart},
	{promise: "a roster lists many", has: hasRoster, keeps: rosterOfMany},
}

// enters fails unless a lock's value is put on the list.
func (t *tester) enters(l gone.GoneLock, note string, ttl time.Duration) {
	t.Helper()
	if err := t.ask("Enter", func() error { return l.(gone.Roster).Enter(note, ttl) }); err != nil {
		t.Fatalf("Enter: %v", err)
	}
}

func (t *tester) leaves(l gone.GoneLock) {
	t.Helper()
	if err := t.ask("Leave", l.(gone.Roster).Leave); err != nil {
		t.Fatalf("Leave: %v", err)
	}
}

func (t *tester) entered(l gone.GoneLock) (notes map[string]string) {
	t.Helper()
	err := t.ask("Entered", func() (err error) {
		notes, err = l.(gone.Roster).Entered()
		return err
	})
	if err != nil {
		t.Fatalf("Entered: %v", err)
	}
	return notes
}

// lists fails unless the list is as wanted.
func (t *tester) lists(l gone.GoneLock, want map[string]string, when string) {
	t.Helper()
	if got := t.entered(l); !maps.Equal(got, want) {
		t.Fatalf("Entered returned %.300q %s, want %.300q", got, when, want)
	}
}

type notes = map[string]string

func rosterLists(t *tester) {
	a, b := t.pair(never)
	c := t.lock(never, third)
	t.lists(a, notes{}, "when nobody had entered")
	t.leaves(a)
	t.enters(a, "a", never)
	t.enters(b, "b", never)
	for _, l := range []gone.GoneLock{a, b, c} {
		t.lists(l, notes{addr: "a", other: "b"}, "when two had entered")
	}
	t.enters(a, "a", never)
	t.enters(b, "changed", never)
	t.lists(c, notes{addr: "a", other: "changed"}, "when both had entered again, one with another note")
	t.leaves(a)
	t.leaves(c)
	t.lists(a, notes{other: "changed"}, "when one had left")
	t.leaves(a)
	t.enters(a, "back", never)
	t.lists(b, notes{addr: "back", other: "changed"}, "when it had come back")
	t.leaves(t.lock(never, addr))
	t.lists(a, notes{other: "changed"}, "when one had left by another lock with its value")
	t.enters(a, "back", never)
	t.lists(b, notes{addr: "back", other: "changed"}, "when it had come back once more")
}

func entryEnds(t *tester) {
	a, b := t.pair(never)
	t.enters(b, "stays", never)
	t.enters(a, "has long", never)
	listed := func() bool { return len(t.entered(b)) == 2 }
	var sent time.Time
	for range 2 {
		for range 10 {
			sent = time.Now()
			t.enters(a, "has little", soon)
			time.Sleep(soon / 5)
			if !listed() && time.Since(sent) < lasts(soon) {
				t.Fatalf("who has entered again and again is not listed %v after the last Enter, before its TTL of %v had run out", time.Since(sent), soon)
			}
		}
		for listed() {
			if time.Since(sent) > bound {
				t.Fatalf("who has entered for a TTL of %v is still listed after %v", soon, bound)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if d := time.Since(sent); d < lasts(soon) {
			t.Errorf("who has entered is not listed any more after %v, before its TTL of %v had run out", d, soon)
		}
		t.lists(a, notes{other: "stays"}, "when the TTL of one had run out")
	}
}

func anyNote(t *tester) {
	want := notes{
		addr: "", other: strings.Repeat(`{"held": 17}`, 700), "with spaces  1 2 ": " 1 2 ", "tcp://[::1]:1 'key'\"": "\x00\xff\n\r\\",
		"\x01\xff\n\\000\\": "ünï€code 🙂 %s", strings.Repeat("v", 500): "'; --",
	}
	for value, note := range want {
		t.enters(t.lock(never, value), note, never)
	}
	t.lists(t.lock(never, third), want, "when these had entered")
}

func rostersApart(t *tester) {
	ids := []string{"", "/", "/x", "x", "X", " ", "\xff", "%", "_", "\\", "{", "{x}", "}", "\x01"}
	locks := map[string]gone.GoneLock{}
	for _, end := range ids {
		l := t.lockOf("locktest roster"+end, never, addr)
		locks[end] = l
		t.enters(l, end+".", never)
		t.nobody(l, "nobody has got, whose id has a roster")
	}
	for end, l := range locks {
		t.lists(l, notes{addr: end + "."}, "when each of many rosters was entered by one")
		t.gets(l, "is free")
	}
	for end, l := range locks {
		t.lists(l, notes{addr: end + "."}, "when each of the locks was held")
		t.leaves(l)
		t.lists(l, notes{}, "when the only one had left")
		t.extends(l, "is held, after Leave of the roster of the same id")
		t.enters(l, end+"!", never)
		l.Unlock()
		t.nobody(l, "was released, whose id has a roster")
		t.lists(l, notes{addr: end + "!"}, "when the lock of the same id had been released")
	}
}

func rosterOfMany(t *tester) {
	const n = 100
	locks, want := make([]gone.GoneLock, n), notes{}
	for i := range locks {
		value := fmt.Sprint("tcp://127.0.0.1:", i+1)
		locks[i], want[value] = t.lock(never, value), value
	}
	t.each(n, func(i int) {
		t.expect(func() error { return locks[i].(gone.Roster).Enter(fmt.Sprint("tcp://127.0.0.1:", i+1), never) }, nil, "Enter of one of many")
	})
	t.lists(t.lock(never, addr), want, "when many had entered")
	t.each(n, func(i int) { t.expect(locks[i].(gone.Roster).Leave, nil, "Leave of one of many") })
	t.lists(locks[0], notes{}, "when many had left")
}

// lostEntry has the replies to a roster's requests get lost.
func lostEntry(t *tester) {
	a, b := t.pair(never)
	_ = t.losing(a, "Enter", func() error { return a.(gone.Roster).Enter("a", never) })
	t.enters(a, "again", never)
	t.lists(b, notes{addr: "again"}, "when one had entered again, after an Enter whose reply was lost")
	_ = t.losing(a, "Leave", a.(gone.Roster).Leave)
	t.leaves(a)
	t.lists(b, notes{}, "when one had left again, after a Leave whose reply was lost")
}

// forgottenEntry has who enters again be listed again.
func forgottenEntry(t *tester) {
	a, b := t.pair(never)
	t.enters(a, "a", never)
	t.enters(b, "b", never)
	t.Forget(t)
	t.enters(a, "a", never)
	t.lists(b, notes{addr: "a"}, "when one had entered again, after the service has forgotten all")
}

// entryOfThePast has a clock go back under an entry that nobody renews.
func entryOfThePast(t *tester) {
	a, b := t.pair(never)
	t.enters(a, "a", soon)
	t.SetBack(t, 24*time.Hour)
	t.enters(b, "b", never)
	t.eventually("an entry that nobody renews is over, though the service's clock was set back", func() bool {
		return maps.Equal(t.entered(b), notes{other: "b"})
	})
	t.enters(a, "a", never)
	t.lists(b, notes{addr: "a", other: "b"}, "when one had entered again, after the service's clock was set back")
}
