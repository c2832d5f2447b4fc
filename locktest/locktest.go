// Package locktest checks whether a lock service keeps the promises that gone builds
// on. Run it in a test of your [gone.GoneLock]:
//
//	func TestMyLockKeepsThePromisesOfALock(t *testing.T) {
//		locktest.Run(t, locktest.Service{Locks: func(ttl time.Duration) gone.LockFactory {
//			return mylock.New(addr, ttl)
//		}})
//	}
//
// This checks what the comments of [gone.GoneLock] and of its extras demand while all is
// well. The hooks of a [Service] make things go wrong, one at a time. What a service has
// no hook for is skipped, and the output says so. [Proxy] has three of the hooks for any
// service that is reached over a socket.
//
// The suite takes half a minute on a quiet machine; most of that is waiting. It measures no
// speed: its limits leave room for a busy machine.
package locktest

import (
	"slices"
	"sync"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// A Service is the lock service under test. Nobody else may use it meanwhile. Hooks are
// called one at a time, from the goroutine of a test. The function that a hook returns
// undoes what the hook did, and is called once.
type Service struct {
	// Locks returns the factory of a node, for locks with a TTL. A hold may last a
	// little longer than its TTL, for example if the service counts in seconds.
	Locks func(ttl time.Duration) gone.LockFactory

	// IDs sets how many ids are held at the same time; 0 means 1,000.
	IDs int

	// Stop makes the service silent or unreachable. The service forgets nothing.
	Stop func(t testing.TB) (start func())
	// Slow delays each answer.
	Slow func(t testing.TB, by time.Duration) (undo func())
	// LoseReplies lets the service do what it is asked, and loses its replies. It need
	// not apply to new connections.
	LoseReplies func(t testing.TB) (undo func())
	// Restart kills the service and starts it again, with what it knew.
	Restart func(t testing.TB)
	// Forget makes the service lose all that it knows of all ids, as a restart without
	// a disk does.
	Forget func(t testing.TB)
	// Advance moves the clock of the service forward, and no node's.
	Advance func(t testing.TB, by time.Duration)
	// SetBack moves the clock of the service back, and no node's.
	SetBack func(t testing.TB, by time.Duration)
	// Delete removes the hold of an id, as a person may with the service's own
	// tools.
	Delete func(t testing.TB, id string)
	// Spoil replaces the hold of an id with something that no lock has written; Delete
	// removes it.
	Spoil func(t testing.TB, id string)
}

const (
	addr  = "tcp://127.0.0.1:6381"
	other = "tcp://127.0.0.1:6382"

	never = 10 * time.Minute // this TTL does not run out
	brief = 4 * time.Second  // this one leaves time for some requests that fail
	soon  = time.Second      // this one runs out while a test waits

	bound = 20 * time.Second // of a call or a wait that is to take no time, on a busy machine
)

// A check is one promise.
type check struct {
	promise string
	keeps   func(*tester)
	// what it is about, where not every lock or service has it
	has func(Service, gone.GoneLock) (what string, ok bool)
}

// Run runs a test for each promise, and returns when all have ended. Those with
// nothing going wrong run at the same time, the others one after the other.
func Run(t *testing.T, s Service) {
	probe := (&tester{T: t, Service: s}).lock(never, addr)
	run := func(t *testing.T, c check) {
		t.Run(c.promise, func(t *testing.T) {
			if c.has != nil {
				if what, ok := c.has(s, probe); !ok {
					t.Skipf("not checked: there is no %s", what)
				}
			}
			c.keeps(&tester{T: t, Service: s})
		})
	}
	t.Run("while all is well", func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, c := range slices.Concat(promises, extras, passing, rosters) {
			wg.Go(func() { run(t, c) }) // not t.Parallel, which has them wait for a processor
		}
	})
	t.Run("with many ids", func(t *testing.T) { run(t, manyIDs) })
	t.Run("two nodes", func(t *testing.T) { run(t, twoNodes) })
	t.Run("while things go wrong", func(t *testing.T) {
		for _, c := range faults {
			run(t, c)
		}
	})
}
