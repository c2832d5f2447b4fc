package gone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Diggs/go-one/internal/lease"
	"github.com/Diggs/go-one/internal/mailbox"
)

// A RunHandler is the goroutine of which one runs on the cluster. It should return soon
// after r.Exit has closed. While it is healthy it loops over r.Messages or r.Batches, or
// calls r.Extend every third of r.TTL.
type RunHandler func(r *GoneRunner)

// A GoneRunner is what [Gone.RunOne] returns and what a handler is given. The two differ:
// the one from RunOne stands for the node's part in the competition for an id, the
// handler's for one tenure.
//
// One that a test makes by hand belongs to no node. It receives from Data and Inbox alone,
// not through Messages or Batches; Extend calls that of Lock, or succeeds; Context ends
// with Exit; and a send returns an error that wraps ErrNotDelivered.
type GoneRunner struct {
	// Lock is the lock of the id. Only Extend of the GoneRunner moves the
	// tenure's deadline; the lock's own does not.
	Lock GoneLock
	// Data is unbuffered: a message is received when the handler takes it from
	// here, and only then does its sender get nil. The handler owns what it took. On
	// the runner that RunOne returned nothing ever arrives.
	Data <-chan []byte
	// Inbox is another door to the same queue: each message is received once, from
	// here or from Data. A request that is received from Data gets an empty reply.
	Inbox <-chan *Message
	// Exit of a handler's runner closes when the tenure must end: the lock is
	// lost, the deadline has passed, the id is handed over to another node, or
	// the runner or its node was closed. Exit of the runner that
	// RunOne returned closes when that was closed and its handler has returned.
	Exit <-chan struct{}

	c     *candidate      // nil when made by hand
	lease *lease.Lease    // nil for RunOne's
	box   *mailbox.Box    // nil without a node
	ctx   context.Context // ends when Exit closes
	held  context.Context // ends with the lease
	token uint64
	take  func(most int, into []mailbox.Delivery) []mailbox.Delivery
}

// ID returns the id that was given to RunOne.
func (r *GoneRunner) ID() string {
	if r.c == nil {
		return ""
	}
	return r.c.id
}

// Context returns a context that ends when Exit closes. [context.Cause] says why:
// ErrLockLost, ErrLeaseExpired, ErrClosed, ErrYielded or ErrHandlerReturned.
func (r *GoneRunner) Context() context.Context {
	if r.ctx == nil {
		return exitContext{context.Background(), r.Exit}
	}
	return r.ctx
}

// FencingToken returns a number that increases strictly from one tenure of the id to the
// next, on any node. A resource that refuses a lower one than it has seen is safe from a
// handler that was paused past its deadline. It is 0 when the lock has no tokens, and on
// the runner that RunOne returned.
func (r *GoneRunner) FencingToken() uint64 { return r.token }

// TTL returns how long the lock service keeps the lock without an Extend. The handler has
// a tenth less. Extend every third of it.
func (r *GoneRunner) TTL() time.Duration { return ttlOf(r.Lock) }

// Deadline returns when Exit closes unless an Extend comes before. It has passed when the
// lease is over, and is zero on the runner that RunOne returned, which has no lease.
func (r *GoneRunner) Deadline() time.Time {
	if r.lease == nil {
		return time.Time{}
	}
	return time.Now().Add(r.lease.Left())
}

// Extend tells the cluster that the handler is healthy: the lock lasts for its TTL from
// now. Extend retries errors that leave open whether the lock is held, until the
// deadline. The error wraps ErrLockLost when the lock or the lease is lost; otherwise Exit
// has closed for another reason, and the lock may or may not have been extended. After
// Exit has closed, a handler that needs time to clean up may go on to extend. Extend may
// be called concurrently.
func (r *GoneRunner) Extend() error {
	switch {
	case r.c == nil && r.Lock == nil:
		return nil
	case r.c == nil:
		return r.Lock.Extend()
	case r.lease == nil:
		return fmt.Errorf("%w: Extend is for the runner that the handler was given", ErrLockLost)
	}
	quiet, _ := r.lease.Quiet()
	began := time.Now()
	err := r.lease.Extend(r.ctx)
	if told := r.c.node.observe.Extended; told != nil {
		told(Extended{r.c.id, r.token, time.Since(began), err})
	}
	if quiet > r.lease.TTL()/2 && !errors.Is(err, ErrLockLost) {
		r.c.reportPace(quiet)
	}
	return err
}

// SendData is [Gone.SendData] to this id. A handler that sends to itself waits
// for itself, as on any unbuffered channel.
func (r *GoneRunner) SendData(data []byte) error {
	return r.SendDataContext(context.Background(), data)
}

// SendDataContext is [Gone.SendDataContext] to this id.
func (r *GoneRunner) SendDataContext(ctx context.Context, data []byte) error {
	if r.c == nil {
		return errByHand
	}
	return r.c.node.send(ctx, r.c.id, data)
}

// Request is [Gone.Request] to this id. A handler's own is refused at once, with
// ErrNotDelivered: it would wait for itself.
func (r *GoneRunner) Request(ctx context.Context, data []byte) (reply []byte, err error) {
	switch {
	case r.c == nil:
		return nil, errByHand
	case r.lease != nil:
		ctx = context.WithValue(ctx, insideOf{}, r.c.id)
	}
	return r.c.node.request(ctx, r.c.id, data)
}

// Close ends this node's part in the competition for the id. It does not wait,
// so a handler may call it; Exit of the runner that RunOne returned closes when
// the handler and the lock's Unlock have returned. It always returns nil.
func (r *GoneRunner) Close() error {
	if r.c != nil {
		r.c.stop(ErrClosed)
	}
	return nil
}

// An exitContext is that of a runner that was made by hand. It needs no goroutine
// that somebody would have to end.
type exitContext struct {
	context.Context
	exit <-chan struct{}
}

func (c exitContext) Done() <-chan struct{} { return c.exit }

func (c exitContext) Err() error {
	select {
	case <-c.exit:
		return context.Canceled
	default:
		return nil
	}
}

var errByHand = because(ErrNotDelivered, errors.New("gone: a runner that was made by hand has no node"))
