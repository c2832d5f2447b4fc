package gone

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
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
	now     func() time.Duration
	log     *slog.Logger
	count   *counters
	past    *history
	observe *observers
	addr    func() string
	send    func(ctx context.Context, id string, data []byte) error

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
)

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
	err := c.node.count.lock.lock.note(c.lock.Lock())
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
	c.unlock()
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
