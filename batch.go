package gone

import (
	"context"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A batch is a run of messages of one call to one tenure, pipelined: none is
// received without the one before it.
type batch struct {
	f        *flow
	ring     []message   // the i-th message is at i modulo the length
	posted   int         // how many have got a number
	received int         // how many of these, from the front
	stop     wire.Status // why no more are posted; 0: they are
	unsent   bool        // that is why: there was no room

	// The flow's mu guards these.
	failed uint64        // the first that was not received; 0 for none
	until  uint64        // the number whose fate the caller waits for
	wake   chan struct{} // it is known, or one was not received; capacity 1
}

// batchWindow is how many messages of a batch are under way at most.
const batchWindow = windowMessages

// sendBatch makes one attempt for msgs. It returns how many were received, the
// fate of the first that was not, and whether that one never left.
func (f *flow) sendBatch(ctx context.Context, msgs [][]byte, deadline time.Time) (n int, fate wire.Status, unsent bool) {
	b := &batch{f: f, ring: make([]message, min(len(msgs), batchWindow)), wake: make(chan struct{}, 1)}
	for b.received < len(msgs) {
		if b.stop == 0 {
			b.post(ctx, msgs, deadline)
		}
		if b.received == b.posted { // nothing is under way
			return b.received, b.stop, b.unsent
		}
		if !b.await(ctx) {
			return b.withdraw()
		}
	}
	return b.received, wire.Received, false
}

func (b *batch) at(i int) *message { return &b.ring[i%len(b.ring)] }

// post posts as many as there is room for, and waits for room only if nothing
// is under way.
func (b *batch) post(ctx context.Context, msgs [][]byte, deadline time.Time) {
	var p *peer
	now := time.Now()
	for b.posted < len(msgs) && b.posted-b.received < len(b.ring) {
		m := b.at(b.posted)
		*m = message{data: msgs[b.posted], deadline: deadline, batch: b}
		if b.posted > b.received {
			m.after = b.at(b.posted - 1).seq
			if !b.f.try(len(m.data)) {
				break
			}
		} else if b.stop = b.f.enter(ctx, len(m.data), deadline); b.stop != 0 {
			b.unsent = b.f.unanswered()
			return
		}
		to, s := b.f.post(m, now)
		if s != 0 {
			b.f.leave(len(m.data))
			b.stop = s
			break
		}
		p = to
		b.posted++
	}
	if p != nil {
		p.flush()
	}
}

// await waits until a good part of what is under way has been received, so that
// the next frame has many, too. False: the next one was not, or ctx has ended.
func (b *batch) await(ctx context.Context) bool {
	m := b.at(b.received + (b.posted-b.received)/4)
	b.f.mu.Lock()
	if m.fate != 0 || b.failed != 0 { // known, or refused with all behind a failure: the next one counts
		m = b.at(b.received)
	}
	b.until = m.seq
	wait := m.fate == 0
	b.f.mu.Unlock()
	if wait {
		select {
		case <-b.wake:
		case <-ctx.Done():
		}
	}
	return b.count() && ctx.Err() == nil
}

// count counts what was received, and reports whether the next one may be.
func (b *batch) count() bool {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	for b.received < b.posted && b.at(b.received).fate == wire.Received {
		b.f.leave(len(b.at(b.received).data))
		b.received++
	}
	if b.failed != 0 {
		b.stop = wire.Busy // what follows would be refused
	}
	return b.received == b.posted || b.at(b.received).fate == 0
}

// withdraw takes back what is under way, of which nothing can be received, or
// should be, and returns what sendBatch does.
func (b *batch) withdraw() (n int, fate wire.Status, unsent bool) {
	b.f.mu.Lock()
	b.until = 0 // from now on, each fate matters
	b.f.mu.Unlock()
	var rest []*message
	for i := b.received; i < b.posted; i++ {
		rest = append(rest, b.at(i))
	}
	b.f.cancel(rest...)
	for _, m := range rest {
		for b.f.pending(m) {
			<-b.wake
		}
	}
	b.count()
	for i := b.received; i < b.posted; i++ {
		b.f.leave(len(b.at(i).data))
	}
	if b.received < b.posted {
		m := b.at(b.received)
		return b.received, m.fate, m.unsent
	}
	return b.received, wire.Expired, false // for the rest, ctx has ended
}

// settled is told the fate of a message. It is called with the flow's mu held.
func (b *batch) settled(m *message) {
	if m.fate != wire.Received && (b.failed == 0 || m.seq < b.failed) {
		b.failed = m.seq
	}
	if m.fate != wire.Received || m.seq >= b.until {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
}
