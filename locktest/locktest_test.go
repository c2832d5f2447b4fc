package locktest_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/locktest"
)

// wrongLock names the wrong lock that a process of these tests checks.
const wrongLock = "GONE_WRONG_LOCK"

// A fencer is gonetest's lock, which is right.
type fencer interface {
	gone.GoneLock
	gone.Fencer
}

// A passer can be handed over as well, and a lister has a roster.
type (
	passer interface {
		fencer
		gone.Passer
	}
	lister interface {
		gone.GoneLock
		gone.Roster
	}
)

type (
	recreating struct{ fencer } // Extend takes a lock that is free
	forgetful  struct {         // does not recognise a hold of its own
		fencer
		again func() fencer
	}
	careless struct { // releases whoever holds it
		fencer
		release func()
	}
	counting struct { // counts its holds by itself
		fencer
		n *atomic.Uint64
	}
	hasty     struct{ fencer } // takes silence for a loss
	releasing struct{ passer } // has nobody in mind when it passes
	relay     struct {         // goes on with the token that was passed
		passer
		passed *atomic.Uint64
	}
	immortal struct{ lister } // stays on the list
)

func (l recreating) Extend() error {
	err := l.fencer.Extend()
	if errors.Is(err, gone.ErrLockLost) && l.fencer.Lock() == nil {
		return nil
	}
	return err
}

func (l *forgetful) Lock() error {
	l.fencer = l.again()
	return l.fencer.Lock()
}

func (l careless) Unlock() { l.release() }

func (l counting) Lock() error {
	err := l.fencer.Lock()
	if err == nil {
		l.n.Add(1)
	}
	return err
}

func (l counting) FencingToken() uint64 { return l.n.Load() }

func (l hasty) Extend() error {
	if err := l.fencer.Extend(); err != nil {
		return fmt.Errorf("%w: %w", gone.ErrLockLost, err)
	}
	return nil
}

func (l releasing) Pass(string, string) error {
	if err := l.passer.Extend(); err != nil {
		return err
	}
	l.passer.Unlock()
	return nil
}

func (l relay) Pass(ticket, value string) error {
	err := l.passer.Pass(ticket, value)
	if err == nil {
		l.passed.Add(1)
	}
	return err
}

func (l relay) FencingToken() uint64 { return l.passer.FencingToken() - l.passed.Load() }

func (l immortal) Enter(note string, _ time.Duration) error {
	return l.lister.Enter(note, 24*time.Hour)
}

// passed are the hand-overs of all relays.
var passed atomic.Uint64

var wrongLocks = map[string]struct {
	make     func(s *gonetest.Locks, id string, lock func() fencer) gone.GoneLock
	run      string // the part that finds it
	sentence string
}{
	"recreates": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return recreating{lock()} }, "while_all_is_well",
		`Extend of a lock that was never held returned "nil", want an error that wraps "gone: lock lost" and no other of these`,
	},
	"forgets its own hold": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return &forgetful{lock(), lock} }, "while_all_is_well/Lock_",
		`Lock of a lock that it holds already, as after an answer that was lost: gone: lock held`,
	},
	"releases another's": {
		func(s *gonetest.Locks, id string, lock func() fencer) gone.GoneLock {
			return careless{lock(), func() { s.Forget(id) }}
		}, "while_all_is_well",
		`Extend of a lock that is held, after Unlock of a predecessor with the same value: gone: lock lost`,
	},
	"counts by itself": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock {
			return counting{lock(), new(atomic.Uint64)}
		}, "while_all_is_well",
		`the token of the hold after one that has expired is 1, and that of the one before was 1: it must be above it`,
	},
	"takes silence for a loss": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return hasty{lock()} }, "while_things_go_wrong/each_call",
		`want an error that wraps none of held, lost and no holder: nobody knows`,
	},
	"lets a third between": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return releasing{lock().(passer)} }, "while_all_is_well/what_is_passed_can",
		`after it was passed to one with a ticket`,
	},
	"passes its token": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock {
			return relay{lock().(passer), &passed}
		}, "while_all_is_well/what_is_passed_can",
		`the token of the hold that was passed is 1, and that of the one before was 1: it must be above it`,
	},
	"never leaves the list": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return immortal{lock().(lister)} }, "while_all_is_well/an_entry",
		`who has entered for a TTL of 1s is still listed after 20s`,
	},
	"grants half the TTL": {
		func(_ *gonetest.Locks, _ string, lock func() fencer) gone.GoneLock { return lock() }, "while_all_is_well",
		`, before its TTL of 1s had run out`,
	},
}

func TestAWrongLockFailsWithASentenceThatSaysWhatItDid(t *testing.T) {
	for name, wrong := range wrongLocks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWrongLock$/"+wrong.run, "-test.timeout=1m")
			cmd.Env = append(os.Environ(), wrongLock+"="+name)
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(string(out), wrong.sentence) {
				t.Errorf("it ended with %v and without %q:\n%s", err, wrong.sentence, out)
			}
		})
	}
}

// TestWrongLock checks a wrong lock in a process of its own; the test above has it
// fail there.
func TestWrongLock(t *testing.T) {
	name := os.Getenv(wrongLock)
	if name == "" {
		return
	}
	s := gonetest.NewLocks()
	locktest.Run(t, locktest.Service{
		Locks: func(ttl time.Duration) gone.LockFactory {
			if name == "grants half the TTL" {
				ttl /= 2
			}
			return func(id, value string) (gone.GoneLock, error) {
				lock := func() fencer {
					l, err := s.Factory(ttl)(id, value)
					if err != nil {
						t.Error(err)
					}
					return l.(fencer)
				}
				return wrongLocks[name].make(s, id, lock), nil
			}
		},
		Stop: func(testing.TB) func() {
			s.Outage(true)
			return func() { s.Outage(false) }
		},
	})
}
