package gonetest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// An Option changes a default of [Runner].
type Option func(*settings)

type settings struct {
	id    string
	ttl   time.Duration
	token uint64
}

// ID sets the id that is run; the default is "id".
func ID(id string) Option { return func(s *settings) { s.id = id } }

// TTL sets the TTL of the lock; the default is [gone.DefaultExpiry].
func TTL(d time.Duration) Option { return func(s *settings) { s.ttl = d } }

// Token sets the fencing token of the tenure; the default is 1.
func Token(n uint64) Option { return func(s *settings) { s.token = n } }

// A Tenure is one call of a handler, as the test sees it. Its methods may be
// called concurrently.
type Tenure struct {
	Locks *Locks // the lock service; what it does to the id it does to the tenure

	t      testing.TB
	runner *gone.GoneRunner // the handler's
	node   *gone.GoneRunner // RunOne's: its Exit closes when the handler has returned
	ahead  atomic.Int64     // of the clock of the lease
}

// Runner calls a handler once, in a goroutine of its own, with a runner like that of a
// node in a cluster. The lease, and the order and results of messages, are the real ones;
// the lock service is [Locks], and there is no network. Runner returns when the handler is
// about to be called. The test may be in a bubble of testing/synctest.
//
// When the test ends, Exit closes, if it has not yet, and the handler must return. If it
// does not, or panics, the test fails.
func Runner(t testing.TB, handler gone.RunHandler, opts ...Option) *Tenure {
	t.Helper()
	set := settings{id: "id", token: 1}
	for _, o := range opts {
		o(&set)
	}
	c := Cluster(t, 0)
	r := &Tenure{Locks: c.Locks, t: t}
	c.Locks.token = set.token - 1
	began := time.Now()
	g := c.start(c.Locks.Factory(set.ttl), func() time.Duration {
		return time.Since(began) + time.Duration(r.ahead.Load())
	})
	runners := make(chan *gone.GoneRunner, 1)
	var once sync.Once
	node, err := g.RunOne(set.id, func(own *gone.GoneRunner) {
		once.Do(func() {
			// There is no other tenure after this one.
			context.AfterFunc(own.Context(), func() { _ = own.Close() })
			defer r.rescue()
			runners <- own
			handler(own)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	r.node, r.runner = node, <-runners
	return r
}

func (r *Tenure) rescue() {
	if p := recover(); p != nil {
		r.t.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
	}
}

// Send is [gone.GoneRunner.SendData] from another node. If the handler returns or has
// returned, the error wraps ErrNotDelivered and ErrNoHolder.
func (r *Tenure) Send(data []byte) error {
	return r.bounded(context.Background(), func(ctx context.Context) error { return r.node.SendDataContext(ctx, data) })
}

// Request is [gone.GoneRunner.Request] from another node. If the handler returns without a
// reply, the error wraps ErrOutcomeUnknown and ErrNoReply, or is that of Send if the
// handler had not received the request.
func (r *Tenure) Request(ctx context.Context, data []byte) (reply []byte, err error) {
	err = r.bounded(ctx, func(ctx context.Context) (err error) {
		reply, err = r.node.Request(ctx, data)
		return err
	})
	return reply, err
}

// bounded has a send not wait for a tenure that does not come.
func (r *Tenure) bounded(ctx context.Context, send func(context.Context) error) error {
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.node.Context(), cancel)()
	err := send(within)
	if ctx.Err() != nil || !errors.Is(err, context.Canceled) {
		return err
	}
	what, why := gone.ErrNotDelivered, gone.ErrNoHolder
	if errors.Is(err, gone.ErrOutcomeUnknown) {
		what, why = gone.ErrOutcomeUnknown, gone.ErrNoReply
	}
	return fmt.Errorf("%w: %w: the handler has returned", what, why)
}

// Runner returns what the handler was given.
func (r *Tenure) Runner() *gone.GoneRunner { return r.runner }

// Extends returns how often the lease was extended.
func (r *Tenure) Extends() int { return r.Locks.Extends(r.runner.ID()) }

// FailExtends makes the lock service answer each Extend with an error: with one that wraps
// ErrLockLost the lock is lost, others leave that open. Nil ends it. It replaces what
// [Locks.Intercept] was given.
func (r *Tenure) FailExtends(err error) {
	r.Locks.Intercept(func(c Call, serve func() error) error {
		if c.Method == "Extend" && err != nil {
			return err
		}
		return serve()
	})
}

// End closes Exit with one of three causes: ErrClosed, as when the node closes;
// ErrLockLost, as when another has taken the lock and an Extend has said so, which ends
// all faults of the lock service; or ErrLeaseExpired, as when the process was suspended
// for the TTL.
func (r *Tenure) End(cause error) {
	r.t.Helper()
	switch cause {
	case gone.ErrClosed:
		_ = r.runner.Close()
	case gone.ErrLockLost:
		r.Locks.heal() // or Extend would try again and again
		r.Locks.Take(r.runner.ID(), "tcp://another.test:1")
		_ = r.runner.Extend()
	case gone.ErrLeaseExpired:
		r.ahead.Add(int64(r.runner.TTL()))
		r.runner.Deadline() // whoever asks first finds out
	default:
		r.t.Fatalf("no tenure ends for %v", cause)
	}
}

// Done returns a channel that closes when the handler has returned and everything that was
// sent to it has a result.
func (r *Tenure) Done() <-chan struct{} { return r.node.Exit }
