package gone

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/lease"
)

const graceMost = time.Minute // for a handler to return after Exit, before it is reported

var errTooLate = errors.New("gone: the lock was acquired too late")

// tenure runs the handler once, with a lock that a request sent at sent has
// acquired, and reports whether it failed: the handler returned or panicked of
// its own accord, and soon, or all was over in no time. To lose the lock later
// is not the handler's failure.
func (c *candidate) tenure(sent time.Duration) (failed bool) {
	t := c.begin(sent)
	if t == nil {
		return true // so as not to take it again and again
	}
	c.await(t)
	return c.end(t)
}

// insideOf is the key of the id in a tenure's context.
type insideOf struct{}

// A tenure is what its end needs to know.
type tenure struct {
	*GoneRunner
	began    time.Duration
	since    time.Time
	returned chan struct{} // closed when the handler has
	exit     context.CancelCauseFunc
	close    func() // ends the stage's part
	heir     atomic.Pointer[heir]
	over     chan struct{}             // closed when its lock is released
	mourned  bool                      // its loss has been logged
	overdue  atomic.Pointer[time.Time] // since when its handler has been told to return; nil where it has time
}

// begin starts the handler, unless the lease is over already.
func (c *candidate) begin(sent time.Duration) *tenure {
	ctx, exit := context.WithCancelCause(context.WithValue(c.ctx, insideOf{}, c.id))
	held, over := context.WithCancel(context.WithoutCancel(ctx))
	l := lease.New(extender{c.lock, &c.node.count.lock.extend}, ttlOf(c.lock), sent, c.node.now, func(cause error) {
		exit(cause)
		over()
	})
	if l.Left() == 0 {
		c.trouble(fmt.Errorf("%w, after %v with a TTL of %v", errTooLate, c.node.now()-sent, l.TTL()))
		c.unlock()
		return nil
	}
	c.luck.troubles = nil
	r := &GoneRunner{Lock: c.lock, Exit: ctx.Done(), c: c, lease: l, ctx: ctx, held: held}
	if f, ok := c.lock.(Fencer); ok {
		r.token = f.FencingToken()
	}
	t := &tenure{GoneRunner: r, began: c.node.now(), since: time.Now(), returned: make(chan struct{}), over: make(chan struct{}), exit: exit}
	left := func() time.Duration {
		if ctx.Err() != nil {
			return 0
		}
		return l.Left()
	}
	t.close = c.node.begin(r, left)
	c.node.count.tenures.Add(1)
	c.node.count.held.Add(1)
	c.running.Store(true)
	c.current.Store(t)
	if told := c.node.observe.Began; told != nil {
		told(t.show())
	}
	away := c.node.away()
	if away { // Drain may have looked for a tenure before there was this one
		exit(ErrYielded)
	}
	go func() {
		defer close(t.returned) // also when the handler calls runtime.Goexit
		defer c.rescue()
		if !away {
			c.handler(r)
		}
	}()
	c.node.log.Info("gone: tenure begins", "id", c.id, "token", r.token)
	return t
}

// await returns when the handler has. One that ignores Exit is reported. Its
// node stays out of the race for the id meanwhile.
func (c *candidate) await(t *tenure) {
	select {
	case <-t.returned:
		return
	case <-t.Exit:
	}
	c.reportLoss(t)
	told, grace := time.Now(), min(t.lease.Margin(), graceMost)
	select {
	case <-t.returned:
		return
	case <-time.After(grace):
	}
	t.overdue.Store(&told)
	c.node.count.overdue.Add(1)
	c.node.log.Warn("gone: handler ignores Exit: this node competes again when it has returned",
		"id", c.id, "token", t.token, "since", grace, "cause", context.Cause(t.ctx))
	<-t.returned
}

// end ends a tenure whose handler has returned, and reports whether it failed.
func (c *candidate) end(t *tenure) (failed bool) {
	c.running.Store(false)
	c.current.Store(nil)
	t.exit(ErrHandlerReturned)
	t.close()

	// Stop, then release: nothing of this tenure runs any more.
	t.lease.End(ErrHandlerReturned)
	over := t.lease.Err() // another cause when it was over before
	lost := errors.Is(over, ErrLockLost)
	if !lost || errors.Is(over, ErrLeaseExpired) { // a lapsed lock may still be this tenure's
		c.release(t)
	}
	c.node.count.held.Add(-1)
	close(t.over)
	cause := context.Cause(t.ctx)
	if lost {
		c.node.count.lost.Add(1)
	}
	c.reportLoss(t)
	ran := c.node.now() - t.began
	p := PastTenure{ID: c.id, Token: t.token, Since: t.since, Ended: time.Now(), Cause: cause.Error()}
	c.node.past.add(p)
	if t.box != nil {
		t.box.Tell()
	}
	if told := c.node.observe.Ended; told != nil {
		told(p)
	}
	if errors.Is(cause, ErrYielded) {
		c.luck.fails = backoff{}
		if h := t.heir.Load(); h != nil && h.ticket == "" { // others come first
			_ = sleepCtx(c.ctx, yieldFor)
		}
	}
	c.node.log.Info("gone: tenure ends", "id", c.id, "token", t.token, "cause", cause, "ran", ran.Round(time.Millisecond))
	return !errors.Is(cause, ErrYielded) && ran < t.lease.Margin() || ran <= t.lease.TTL() && errors.Is(cause, ErrHandlerReturned)
}

// rescue keeps a panic of the handler from ending the process.
func (c *candidate) rescue() {
	if p := recover(); p != nil {
		c.node.count.panics.Add(1)
		c.node.log.Error("gone: handler panicked", "id", c.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}
