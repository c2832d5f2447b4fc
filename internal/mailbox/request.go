package mailbox

import (
	"context"
	"errors"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// Why a reply is not given.
var (
	// ErrAnswered: it had one.
	ErrAnswered = errors.New("mailbox: answered already")
	// ErrNobody: its sender has given up or is gone, or the tenure has ended.
	ErrNobody = errors.New("mailbox: nobody waits for the reply any more")
	// ErrTooLarge: the sender was told that there is no reply.
	ErrTooLarge = errors.New("mailbox: reply too large")
	// ErrCrowded: so was it, as too much is on its way there already.
	ErrCrowded = errors.New("mailbox: too many replies on their way")
)

// takenAfter is when the sender of a request is told that the handler has it,
// where the reply has not come before. If the handler's node dies, the sender
// then knows that it was received.
const takenAfter = 5 * time.Millisecond

// mostOpen bounds the requests of a tenure that wait for their replies.
const mostOpen = 64 << 10

// A Request is a message that the handler has received, and whose sender waits
// for a reply. It gets one, or NoReply when its sender waits no longer or the
// tenure is finished.
type Request struct {
	box     *Box
	from    Origin   // nil: a sender on this node, …
	own     *Message // … who waits with it
	number  uint64
	expires time.Time
	since   time.Time

	// Guarded by the box's mu.
	opened bool    // the pump knows that the handler has it
	early  *Answer // that came before, for own
	over   error   // why there is no reply any more
	ctx    context.Context
	cancel context.CancelFunc
}

// asked is what identifies a request within a tenure.
type asked struct {
	from   any
	number uint64
}

func (r *Request) asked() asked {
	if r.from == nil {
		return asked{r.own, 0}
	}
	return asked{r.from, r.number}
}

// Context ends at the sender's deadline, when nobody waits for the reply any more,
// and when the lock is lost. It outlasts Exit otherwise: a handler that is to end may
// still want to answer what it has received.
func (r *Request) Context() context.Context {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	if r.ctx == nil {
		r.ctx, r.cancel = context.WithDeadline(r.box.held, r.expires)
		if r.over != nil {
			r.cancel()
		}
	}
	return r.ctx
}

// Reply gives the sender a reply, or what the handler failed with. The payload is
// the caller's again when it returns.
func (r *Request) Reply(payload []byte, failed bool) (err error) {
	a := Answer{wire.Received, payload, failed}
	if len(payload) > r.box.room.Largest(r.box.ID) {
		a, err = Answer{Status: wire.NoReply}, ErrTooLarge
	}
	r.box.mu.Lock()
	if over := r.over; over != nil {
		r.box.mu.Unlock()
		return over
	}
	r.closeLocked(ErrAnswered)
	if r.from == nil {
		defer r.box.mu.Unlock()
		a.Reply = r.box.room.copy(a.Reply)
		if r.opened {
			r.own.done <- a
		} else {
			r.early = &a
		}
		return err
	}
	r.box.mu.Unlock()
	if err != nil {
		r.box.reportOne(r.noReply())
		return err
	}
	err = r.from.Reply(r.number, payload, failed)
	r.box.reportOne(result{Origin: r.from, number: r.number})
	return err
}

// closeLocked ends the request; whoever calls it tells the sender.
func (r *Request) closeLocked(why error) {
	r.over = why
	delete(r.box.open.requests, r.asked())
	if r.cancel != nil {
		r.cancel()
	}
}

// abandonLocked ends the request without a reply.
func (r *Request) abandonLocked() {
	r.closeLocked(ErrNobody)
	if r.from == nil {
		r.own.done <- Answer{Status: wire.NoReply}
		return
	}
	r.box.results = append(r.box.results, r.noReply())
}

// noReply is the result for a sender on another node.
func (r *Request) noReply() result { return result{r.from, r.number, 1, wire.NoReply, false} }

// open is what the handler has received and not answered.
type open struct {
	requests map[asked]*Request
	untold   []*Request // whose senders do not know that; and some that were answered
}

// full reports whether a message is a request for which there is no room.
func (o *open) full(m *Message) bool { return m.Asks && len(o.requests) >= mostOpen }

// openLocked notes that the handler has received the request of m, which is not in
// the queue any more. It may have replied already.
func (b *Box) openLocked(m *Message, r *Request) {
	m.request, r.opened = r, true
	if r.early != nil {
		m.done <- *r.early
	}
	if r.over == nil {
		if b.open.requests == nil {
			b.open.requests = map[asked]*Request{}
		}
		b.open.requests[r.asked()] = r
		if m.withdrawn { // too late
			r.abandonLocked()
		} else if r.from != nil {
			r.since = time.Now()
			if b.open.untold = append(b.open.untold, r); len(b.open.untold) == 1 {
				b.room.takes.add(b, takenAfter)
			}
		}
	}
	if r.from != nil { // a local sender has its own back by now
		b.room.Free(m)
	}
}

// tellTaken has senders told that the handler has their requests.
func (b *Box) tellTaken() {
	b.mu.Lock()
	before := time.Now().Add(-takenAfter)
	rest := b.open.untold[:0]
	for _, r := range b.open.untold {
		switch {
		case r.over != nil:
		case r.since.After(before):
			rest = append(rest, r)
		default:
			b.results = append(b.results, result{r.from, r.number, 1, wire.Taken, false})
		}
	}
	clear(b.open.untold[len(rest):])
	b.open.untold = rest
	if len(rest) > 0 {
		b.room.takes.add(b, max(rest[0].since.Sub(before), time.Millisecond))
	}
	b.mu.Unlock()
	b.report()
}

// Finish answers what the handler, which has returned, has not. The box was shut
// before.
func (b *Box) Finish() {
	b.mu.Lock()
	for _, r := range b.open.requests {
		r.abandonLocked()
	}
	b.mu.Unlock()
	b.report()
}
