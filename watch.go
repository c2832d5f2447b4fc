package gone

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Watch yields who holds the id, at once and whenever that changes, until ctx ends or the
// loop is left. While nobody does the error wraps ErrNoHolder; while the lock service
// can't say, it says why, once. It ends with ErrClosed when the node is closed. What
// lasts for less time than a poll of the lock takes may be left out.
//
//	for h, err := range g.Watch(ctx, id) {
//		…
//	}
func (g *Gone) Watch(ctx context.Context, id string) iter.Seq2[Holder, error] {
	return func(yield func(Holder, error) bool) {
		if err := checkID(id); err != nil {
			yield(Holder{}, err)
			return
		}
		lock, err := g.newLock(id, g.end.identity)
		if err != nil {
			yield(Holder{}, err)
			return
		}
		defer closeLock(lock)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(g.ctx, cancel)()
		w := watch{g: g, id: id, lock: lock}
		for ctx.Err() == nil {
			h, err, news := w.look()
			if news && !yield(h, err) || errors.Is(err, ErrClosed) {
				return
			}
			w.wait(ctx)
		}
		if g.ctx.Err() != nil {
			yield(Holder{}, ErrClosed)
		}
	}
}

// A watch is one Watch.
type watch struct {
	g      *Gone
	id     string
	lock   GoneLock
	looked bool
	last   Holder
	err    error         // in place of last
	pause  time.Duration // after a wake-up at once
}

// look asks who holds the id, and reports whether that is news. Close waits for that, but
// not for the body of a loop, which may be what calls it.
func (w *watch) look() (h Holder, err error, news bool) {
	if !w.g.enter() {
		return h, ErrClosed, true
	}
	defer w.g.leave()
	identity, token, err := w.g.count.holder(w.lock)
	if err == nil {
		h = w.g.show(w.id, identity, token)
	}
	same := w.looked && h == w.last && (err == nil) == (w.err == nil) && errors.Is(err, ErrNoHolder) == errors.Is(w.err, ErrNoHolder)
	w.looked, w.last, w.err = true, h, err
	return h, err, !same
}

// wait returns when it is worth looking again. That an id is free is no wake-up for who
// does not compete for it, so there is a poll behind the wake-ups.
func (w *watch) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, jitter(min(ttlOf(w.lock)/10, time.Second)))
	defer cancel()
	began := time.Now()
	if lock, ok := w.lock.(Waiter); ok && (w.err == nil || errors.Is(w.err, ErrNoHolder)) && lock.WaitHeld(ctx) == nil {
		if time.Since(began) > lookFirst {
			w.pause = 0
			return
		}
		// A wake-up at once is welcome, but must not become a hot loop.
		w.pause = min(max(2*w.pause, lookFirst), lookMost)
		_ = sleepCtx(ctx, w.pause)
		return
	}
	<-ctx.Done()
}
