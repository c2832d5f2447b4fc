package mailbox

import (
	"context"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// An Answer is the end of a message of a sender on this node.
type Answer struct {
	Status wire.Status
	Reply  []byte
	Failed bool // the reply is what the handler failed with
}

// received reports whether a message of a sender on this node does not wait for
// the handler any more.
func (m *Message) received() bool { return m.request != nil || len(m.done) > 0 }

// Hand hands over data of a sender on this node, if the handler is receiving
// right now, and what else the sender has to say. The handler gets a copy of the data.
func (b *Box) Hand(data, context []byte) bool {
	took := b.hand(data, context)
	b.pace()
	return took
}

func (b *Box) hand(data, context []byte) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over || !b.idleLocked() || b.left() <= 0 {
		return false
	}
	took, _ := b.tryLocked(nil, Delivery{Data: b.room.copy(data), Context: context})
	return took
}

// A Call is a message of a sender on this node.
type Call struct {
	Data      []byte
	Context   []byte // what else it has to say; nil: nothing
	Deadline  time.Time
	Try, Asks bool // it is for a handler that is receiving right now; it wants a reply
}

// Send hands over a message for which Hand was too early, or which asks for a reply, and
// returns its end.
func (b *Box) Send(ctx context.Context, call Call) Answer {
	b.mu.Lock()
	if b.over {
		b.mu.Unlock()
		return Answer{Status: wire.Ended}
	}
	if call.Try && (b.queue.head != nil || b.pump.takers == 0) {
		b.mu.Unlock()
		return Answer{Status: wire.Busy}
	}
	m := b.room.local(call)
	b.queue.push(m)
	b.room.tick.By(b.queue.earliest)
	if b.pump.busy || b.pump.takers > 0 || b.pump.took {
		b.onLocked()
		b.mu.Unlock()
	} else {
		b.pump.busy = true
		b.mu.Unlock()
		b.run(m, ctx.Done())
	}
	defer b.pace()
	return b.await(ctx, m)
}

// await waits for the end of a message of a sender on this node.
func (b *Box) await(ctx context.Context, m *Message) (a Answer) {
	var late <-chan time.Time
	if m.Asks { // in the queue its time is looked after
		timer := time.NewTimer(time.Until(m.Expires))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case a = <-m.done:
		b.room.Free(m)
		return a
	case <-late:
	case <-ctx.Done():
	case <-b.room.withdrawn:
	}
	b.mu.Lock()
	switch {
	case len(m.done) > 0:
	case m.request == nil:
		b.withdrawLocked(m)
	case m.request.over == nil:
		m.request.abandonLocked()
	}
	b.mu.Unlock()
	a = <-m.done
	b.room.Free(m)
	return a
}
