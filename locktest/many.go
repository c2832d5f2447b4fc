package locktest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/pprof"
	"strconv"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// manyIDs is about what grows with their number.
var manyIDs = check{promise: "many have their holders and leave nothing behind", keeps: manyHolders}

func manyHolders(t *tester) {
	n := cmp.Or(t.IDs, 1000)
	// What is started below, and only that, bears a label.
	before := labelled(t.Name())
	pprof.Do(context.Background(), pprof.Labels(label, t.Name()), func(context.Context) { t.holdAll(n) })
	// Connections that all locks share may stay.
	t.eventually("locks that were released and closed leave fewer than 50 goroutines behind,", func() bool {
		return labelled(t.Name())-before < 50
	})
}

// holdAll has n locks pass from one node to another.
func (t *tester) holdAll(n int) {
	a, b := make([]gone.GoneLock, n), make([]gone.GoneLock, n)
	here, there := t.Locks(never), t.Locks(never) // a node has one
	var err [2]error
	for i := range n {
		id := fmt.Sprint("locktest ", i)
		a[i], err[0] = here(id, addr)
		b[i], err[1] = there(id, other)
		if err := errors.Join(err[:]...); err != nil {
			t.Fatal(err)
		}
	}
	t.each(n, func(i int) { t.expect(a[i].Lock, nil, "Lock of a lock that is free") })
	t.each(n, func(i int) { t.expect(b[i].Lock, gone.ErrLockHeld, "Lock of a lock that another holds") })
	var waiters sync.WaitGroup
	for i := range n {
		waiters.Go(func() {
			_ = waitFree(t.Context(), b[i])
			t.waits(b[i], "it was released, one of many")
		})
	}
	t.each(n, func(i int) { t.expect(a[i].Extend, nil, "Extend of a lock that is held") })
	t.each(n, func(i int) { a[i].Unlock() })
	waiters.Wait()
	t.each(n, func(i int) { b[i].Unlock() })
	t.each(n, func(i int) {
		closeLock(a[i])
		closeLock(b[i])
	})
}

// each calls f for the numbers below n, some at a time, and ends the test if one
// has failed.
func (t *tester) each(n int, f func(i int)) {
	t.Helper()
	const atOnce = 32
	var wg sync.WaitGroup
	for first := range atOnce {
		wg.Go(func() {
			for i := first; i < n && !t.Failed(); i += atOnce {
				f(i)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// expect is ask and is for other goroutines than the test's.
func (t *tester) expect(call func() error, want error, what string) {
	var err error
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = call(); isKnown(err) {
			break
		}
	}
	if !errors.Is(err, want) {
		t.Errorf("%s, returned %q, want %q", what, text(err), text(want))
	}
}

const label = "gone/locktest"

var goroutines = regexp.MustCompile(`(?m)^(\d+) @.*\n# labels: (.*)$`)

// labelled counts the goroutines that bear a label, as do those that they start.
func labelled(value string) (n int) {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
	for _, m := range goroutines.FindAllSubmatch(all.Bytes(), -1) {
		if bytes.Contains(m[2], fmt.Appendf(nil, "%q:%q", label, value)) {
			k, _ := strconv.Atoi(string(m[1]))
			n += k
		}
	}
	return n
}
