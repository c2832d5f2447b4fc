package gone_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// A service's roster and what it passes on, over the real thing.
func TestALockIsPassedOnToItsTicketAlone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	lock := func(value string) *gone.RedisLock {
		l, err := s.locks(time.Minute)("a", value)
		must(t, err)
		r := l.(*gone.RedisLock)
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	a, b, c := lock("tcp://127.0.0.1:1"), lock("tcp://127.0.0.1:2"), lock("tcp://127.0.0.1:3")
	if err := a.Pass(b.Ticket(), "tcp://127.0.0.1:2"); !errors.Is(err, gone.ErrLockLost) {
		t.Errorf("passed what was not held: %v", err)
	}
	must(t, a.Lock())
	before := a.FencingToken()
	must(t, a.Pass(b.Ticket(), "tcp://127.0.0.1:2"))
	if err := c.Lock(); !errors.Is(err, gone.ErrLockHeld) {
		t.Errorf("another: %v", err)
	}
	if err := a.Extend(); !errors.Is(err, gone.ErrLockLost) {
		t.Errorf("who has passed it on: %v", err)
	}
	a.Unlock()
	if v, token, err := c.Holder(); err != nil || v != "tcp://127.0.0.1:2" || token <= before {
		t.Errorf("%s %d %v", v, token, err)
	}
	must(t, b.Lock())
	if b.FencingToken() <= before {
		t.Errorf("token %d after %d", b.FencingToken(), before)
	}
	if ms := s.do("PTTL", "a").(int64); ms < 50_000 {
		t.Errorf("TTL of %d ms", ms)
	}
	// To one that does not come.
	must(t, b.Pass(c.Ticket(), "tcp://127.0.0.1:3"))
	eventually(t, 3*time.Second, "it is free again", func() bool { return a.Lock() == nil })
}

func TestARosterListsWhoHasEntered(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for _, name := range []string{"gone", "a{b}c", "x y"} {
		lock := func(value string) gone.Roster {
			l, err := s.locks(time.Minute)(name, value)
			must(t, err)
			t.Cleanup(func() { _ = l.(*gone.RedisLock).Close() })
			return l.(gone.Roster)
		}
		a, b := lock("tcp://127.0.0.1:1 key"), lock("tcp://127.0.0.1:2")
		is := func(want string) {
			t.Helper()
			notes, err := a.Entered()
			if got := fmt.Sprint(notes); err != nil || got != want {
				t.Errorf("%s, %v, want %s", got, err, want)
			}
		}
		is("map[]")
		must(t, a.Enter(`{"a": 1}`, time.Minute))
		must(t, b.Enter("", 3*time.Second))
		is(`map[tcp://127.0.0.1:1 key:{"a": 1} tcp://127.0.0.1:2:]`)
		eventually(t, 10*time.Second, "one that does not enter again is gone", func() bool {
			notes, err := b.Entered()
			return err == nil && len(notes) == 1
		})
		must(t, b.Enter("two", time.Minute))
		must(t, a.Leave())
		is("map[tcp://127.0.0.1:2:two]")
	}
}

// The service's clock was set back by an hour since a node, which is dead, had entered.
func TestARosterListsNobodyForLongerThanItsTTL(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l, err := s.locks(time.Minute)("gone", "tcp://127.0.0.1:1")
	must(t, err)
	defer l.(*gone.RedisLock).Close()
	roster := l.(gone.Roster)
	must(t, roster.Enter("a", time.Hour))
	before := s.do("HGET", "{gone}:nodes", "tcp://127.0.0.1:1")
	must(t, roster.Enter("b", 10*time.Second))
	after := s.do("HGET", "{gone}:nodes", "tcp://127.0.0.1:1")
	end, _, _ := strings.Cut(fmt.Sprintf("%s", before), " ")
	_, rest, _ := strings.Cut(fmt.Sprintf("%s", after), " ")
	s.do("HSET", "{gone}:nodes", "tcp://127.0.0.1:1", end+" "+rest)
	if notes, err := roster.Entered(); err != nil || len(notes) > 0 {
		t.Errorf("%v, %v", notes, err)
	}
}

// Where nobody asks for the list, nodes that have crashed are forgotten when others come.
func TestARosterThatNobodyReadsDoesNotGrow(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	lock := func(i int) gone.Roster {
		l, err := s.locks(time.Minute)("gone", fmt.Sprint("tcp://127.0.0.1:", i))
		must(t, err)
		t.Cleanup(func() { _ = l.(*gone.RedisLock).Close() })
		return l.(gone.Roster)
	}
	for i := range 10 {
		must(t, lock(1+i).Enter("crashed", time.Millisecond))
		time.Sleep(2 * time.Millisecond)
	}
	if n := s.do("HLEN", "{gone}:nodes").(int64); n > 1 {
		t.Errorf("%d are kept", n)
	}
}
