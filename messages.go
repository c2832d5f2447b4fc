package gone

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/mailbox"
)

// A Message is what the handler has received. Its methods may be called
// concurrently, also after the handler has gone on to the next one.
type Message struct {
	Data []byte // the handler's

	of      *GoneRunner
	from    string // identity; empty: this node
	said    []byte // for [Propagator]
	request *mailbox.Request
}

// set makes it the message of a delivery.
func (m *Message) set(r *GoneRunner, d mailbox.Delivery) {
	m.Data, m.of, m.from, m.said, m.request = d.Data, r, d.From, d.Context, d.Request
}

// Context returns r.Context() for a message that wants no reply. That of a request ends
// at the sender's deadline, when the sender gives up, when the handler has answered or
// returned, or when the lock is lost. It outlasts Exit: on Close a handler can still
// answer what it has received.
func (m *Message) Context() context.Context {
	if m.of == nil {
		return context.Background()
	}
	ctx := m.of.Context()
	if m.request != nil {
		ctx = m.request.Context()
	}
	if m.of.c == nil {
		return ctx
	}
	return m.of.c.node.observe.extract(ctx, m.said)
}

// From returns the advertised address of the sender's node.
func (m *Message) From() string {
	if m.from == "" && m.of != nil {
		return m.of.c.node.addr()
	}
	return addrOf(m.from)
}

// WantsReply reports whether the sender waits for a reply: it used
// [Gone.Request].
func (m *Message) WantsReply() bool { return m.request != nil }

// Reply gives the sender its reply; data is the caller's again when it returns.
// If the sender wants no reply, Reply does nothing and returns nil. It may be called
// from any goroutine, in any order of messages, also while the tenure is stopping. A
// request that the handler has not answered when it returns ends with ErrNoReply.
//
// Nil does not mean that the sender has the reply. The error wraps ErrTooLarge when data
// exceeds [WithMaxMessageSize], and ErrBusy when too much is on its way to the sender's
// node; then the sender gets ErrNoReply. It wraps ErrNoReply when the sender no longer
// waits, and none of these when there was a reply or a failure before.
func (m *Message) Reply(data []byte) error { return m.answer(data, false) }

// Fail is Reply with an error: the sender gets a [HandlerError] with its text.
func (m *Message) Fail(err error) error { return m.answer(fmt.Append(nil, err), true) }

func (m *Message) answer(data []byte, failed bool) error {
	if m.request == nil {
		return nil
	}
	switch err := m.request.Reply(data, failed); {
	case err == nil:
		return nil
	case errors.Is(err, mailbox.ErrTooLarge):
		return fmt.Errorf("%w: reply of %d bytes", ErrTooLarge, len(data))
	case errors.Is(err, mailbox.ErrCrowded):
		return because(ErrBusy, errCrowded)
	case errors.Is(err, mailbox.ErrNobody):
		return because(ErrNoReply, errNobody)
	}
	return errAnswered
}

var (
	errCrowded  = errors.New("gone: too many replies are on their way to the sender's node")
	errNobody   = errors.New("gone: nobody waits for it any more")
	errAnswered = errors.New("gone: the message has been answered already")
)

// Messages is the loop of a handler. A message is received, and its sender is told so,
// when the loop yields it.
//
//	for m := range r.Messages() {
//		…
//	}
//
// The loop extends the lease every third of the TTL for as long as it comes round,
// without holding up messages while the lock service is slow. A body that hangs does not
// extend, and loses the lease at its deadline. The loop ends when Exit closes, and at
// once on the runner that RunOne returned; [context.Cause] of r.Context() says why.
func (r *GoneRunner) Messages() iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		r.loop(1, func(ds []mailbox.Delivery) bool {
			m := &Message{}
			m.set(r, ds[0])
			return yield(m)
		})
	}
}

// Batches is [GoneRunner.Messages] for a handler that takes many at once: each step
// yields all messages that wait, at most max, and waits for one if there is none. The
// slice and its messages are valid until the next step; messages that want a reply stay
// valid.
func (r *GoneRunner) Batches(max int) iter.Seq[[]*Message] {
	return func(yield func([]*Message) bool) {
		var batch []*Message
		r.loop(max, func(ds []mailbox.Delivery) bool {
			for i, d := range ds {
				switch {
				case i == len(batch):
					batch = append(batch, &Message{})
				case batch[i].request != nil: // whoever replies has it
					batch[i] = &Message{}
				}
				batch[i].set(r, d)
			}
			return yield(batch[:len(ds)])
		})
	}
}

// loop calls body with what waits, at most most deliveries at once, and keeps the
// lease.
func (r *GoneRunner) loop(most int, body func([]mailbox.Delivery) bool) {
	if r.lease == nil || most < 1 {
		return
	}
	pulse := r.keepAlive()
	defer pulse.stop()
	for ds := []mailbox.Delivery(nil); ; {
		pulse.idle.Store(true)
		ds = r.take(most, ds[:0])
		pulse.round()
		if len(ds) == 0 || !body(ds) {
			return
		}
	}
}

// A heartbeat extends the lease for as long as a loop comes round.
type heartbeat struct {
	idle  atomic.Bool // the loop waits for messages
	came  atomic.Bool // it came round since the last Extend
	owed  atomic.Bool // an Extend is, when it does
	again chan struct{}
	stop  func()
}

// round takes note that the loop comes round.
func (h *heartbeat) round() {
	h.idle.Store(false)
	h.came.Store(true)
	if h.owed.CompareAndSwap(true, false) {
		select {
		case h.again <- struct{}{}:
		default:
		}
	}
}

func (r *GoneRunner) keepAlive() *heartbeat {
	done := make(chan struct{})
	h := &heartbeat{again: make(chan struct{}, 1), stop: func() { close(done) }}
	h.idle.Store(true)
	// The lease may have been extended long before the loop begins.
	extended := time.Now().Add(r.lease.Left() + r.lease.Margin() - r.lease.TTL())
	go func() {
		for {
			timer := time.NewTimer(time.Until(extended.Add(r.lease.TTL() / 3)))
			select {
			case <-timer.C:
			case <-h.again:
			case <-r.Exit:
			case <-done:
			}
			timer.Stop()
			select {
			case <-r.Exit:
				return
			case <-done:
				return
			default:
			}
			if h.owed.Store(true); !h.idle.Load() && !h.came.Load() {
				// The body has been busy for all this time. When it comes
				// round it says so.
				extended = time.Now()
				continue
			}
			h.owed.Store(false)
			h.came.Store(false)
			extended = time.Now()
			_ = r.Extend() // what it has to say Exit says, too
		}
	}()
	return h
}
