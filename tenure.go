package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/lease"
)

// A candidate competes for one id on behalf of one node, and runs the handler
// while it holds the lock:
//
//	waiting → holding → stopping → released or lost → waiting …
//
// It knows the lock and the handler. What a tenure means to the rest of the
// node is behind stage.
type candidate struct {
	id      string
	lock    GoneLock
	handler RunHandler
	node    *node
	before  *candidate // of this id, until it has ended; the node's

	ctx    context.Context // ends when the candidate is closed
	stop   context.CancelCauseFunc
	runner GoneRunner // what RunOne returns; its Exit closes when the candidate has ended
	finish context.CancelCauseFunc

	gate    gate
	current atomic.Pointer[tenure] // that runs; nil: none
	running atomic.Bool            // the handler
	paced   atomic.Bool            // reportPace has been called
	luck    luck                   // of run
}

// A node is what the candidates of one node share.
type node struct {
	stage
	now   func() time.Duration
	log   *slog.Logger
	count *counters
	addr  func() string
	send  func(ctx context.Context, id string, data []byte) error

	request func(ctx context.Context, id string, data []byte) ([]byte, error)
	yield   func(r *GoneRunner) error
	away    func() bool // it is to run nothing
}

// stage is where the node learns of tenures and of the end of a candidate.
type stage interface {
	// begin opens the way for data to a runner. Data is handed over until its
	// context ends or nothing is left.
	begin(r *GoneRunner, left func() time.Duration) (end func())
	ended(c *candidate)
}

// A sleeper is a [Waiter] that needs no goroutine for those who wait: wake is
// called once when WaitFree would have returned. It must not block.
type sleeper interface {
	whenFree(wake func()) error
}

// counters are what Stats shows.
type counters struct {
	tenures, lost, panics, overdue atomic.Uint64
	held                           atomic.Int64
}

// luck is how a candidate has fared.
type luck struct {
	fails, faults backoff
	troubles      []string      // kinds, since the id was last found held, or a tenure begun
	slept         time.Duration // when the last wait began
	early         time.Duration // what a wake-up at once had to wait for
}

const (
	pauseFirst = 10 * time.Millisecond // between tenures, and after errors of the lock
	pauseMost  = 10 * time.Second

	graceMost = time.Minute // for a handler to return after Exit, before it is reported
)

var errTooLate = errors.New("gone: the lock was acquired too late")

func newCandidate(id string, lock GoneLock, handler RunHandler, n *node, before *candidate) *candidate {
	c := &candidate{id: id, lock: lock, handler: handler, node: n, before: before}
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	c.runner = GoneRunner{Lock: lock, c: c}
	c.runner.ctx, c.finish = context.WithCancelCause(context.Background())
	c.runner.Exit = c.runner.ctx.Done()
	return c
}

// run competes until the candidate is closed. While its lock can wake it up, or its
// gate is shut, it has returned: thousands may wait, without a goroutine and its stack.
func (c *candidate) run() {
	for c.ctx.Err() == nil {
		if !c.gate.open() {
			if c.park() {
				return
			}
			continue
		}
		sent := c.node.now()
		err := c.attempt()
		if err == nil && c.ctx.Err() == nil && !c.tenure(sent) {
			c.luck.fails = backoff{}
		}
		c.gate.done()
		switch {
		case c.ctx.Err() != nil:
		case err == nil:
			c.rest(&c.luck.fails)
		case errors.Is(err, ErrLockHeld):
			if c.sleep() {
				return
			}
			c.wait()
		default:
			c.gate.again()
			c.rest(&c.luck.faults)
		}
	}
	c.leave()
}

// attempt tries to get the lock.
func (c *candidate) attempt() error {
	err := c.lock.Lock()
	switch {
	case err == nil:
		c.luck.faults, c.luck.early = backoff{}, 0
	case errors.Is(err, ErrLockHeld):
		c.luck.faults, c.luck.troubles = backoff{}, nil
	default:
		c.trouble(err)
	}
	return err
}

func (c *candidate) rest(b *backoff) { _ = sleepCtx(c.ctx, b.next()) }

// leave ends the candidate.
func (c *candidate) leave() {
	// An attempt with an unknown outcome may have left the lock taken.
	c.lock.Unlock()
	closeLock(c.lock)
	c.finish(context.Cause(c.ctx))
	c.node.ended(c)
}

// sleep reports whether run will be called again when the lock may be free, or
// the candidate is closed.
func (c *candidate) sleep() bool {
	lock, ok := c.lock.(sleeper)
	if !ok {
		return false
	}
	c.luck.slept = c.node.now()
	var once sync.Once // who goes on: a wake-up, or the caller where it can't sleep
	wake := func() {
		once.Do(func() {
			go func() {
				c.woken()
				c.run()
			}()
		})
	}
	unhook := context.AfterFunc(c.ctx, wake)
	rouse := func() {
		unhook()
		wake()
	}
	if c.gate.wait(true, rouse) && lock.whenFree(rouse) == nil {
		return true
	}
	asleep := true
	once.Do(func() { asleep = false })
	unhook()
	return asleep
}

// wait returns when the lock may be free. A lock without wake-ups is polled.
func (c *candidate) wait() {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if !c.gate.wait(true, cancel) {
		return
	}
	c.luck.slept = c.node.now()
	if w, ok := c.lock.(Waiter); ok && w.WaitFree(ctx) == nil {
		c.woken()
		return
	}
	c.luck.early = c.poll()
	_ = sleepCtx(ctx, jitter(c.luck.early))
}

// woken ends a wait. A wake-up at once is welcome, but must not become a hot
// loop: early is what the last one had to wait for, 0 when it came later.
func (c *candidate) woken() {
	if c.node.now()-c.luck.slept > time.Millisecond {
		c.luck.early = 0
		return
	}
	c.luck.early = min(max(2*c.luck.early, time.Millisecond), c.poll())
	_ = sleepCtx(c.ctx, jitter(c.luck.early))
}

func (c *candidate) poll() time.Duration { return min(ttlOf(c.lock)/10, time.Second) }

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
	returned chan struct{} // closed when the handler has
	exit     context.CancelCauseFunc
	close    func() // ends the stage's part
	heir     atomic.Pointer[heir]
	over     chan struct{} // closed when its lock is released
	mourned  bool          // its loss has been logged
}

// begin starts the handler, unless the lease is over already.
func (c *candidate) begin(sent time.Duration) *tenure {
	ctx, exit := context.WithCancelCause(context.WithValue(c.ctx, insideOf{}, c.id))
	held, over := context.WithCancel(context.WithoutCancel(ctx))
	l := lease.New(c.lock, ttlOf(c.lock), sent, c.node.now, func(cause error) {
		exit(cause)
		over()
	})
	if l.Left() == 0 {
		c.trouble(fmt.Errorf("%w, after %v with a TTL of %v", errTooLate, c.node.now()-sent, l.TTL()))
		c.lock.Unlock()
		return nil
	}
	c.luck.troubles = nil
	r := &GoneRunner{Lock: c.lock, Exit: ctx.Done(), c: c, lease: l, ctx: ctx, held: held}
	if f, ok := c.lock.(Fencer); ok {
		r.token = f.FencingToken()
	}
	t := &tenure{GoneRunner: r, began: c.node.now(), returned: make(chan struct{}), over: make(chan struct{}), exit: exit}
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
	grace := min(t.lease.Margin(), graceMost)
	select {
	case <-t.returned:
		return
	case <-time.After(grace):
	}
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

// jitter spreads d over [d/2, 3d/2).
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d)
}

// sleepCtx waits for d or the end of ctx, whose error it returns.
func sleepCtx(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A backoff grows from pauseFirst to pauseMost while things keep failing.
type backoff struct{ pause time.Duration }

// next is the pause to make now, with jitter.
func (b *backoff) next() time.Duration {
	b.pause = min(max(2*b.pause, pauseFirst), pauseMost)
	return b.pause/2 + rand.N(b.pause/2)
}
