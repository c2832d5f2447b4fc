// Package mailbox is the last step to the handler of a tenure: the bounded FIFO
// of what waits for it. It knows the lease, but neither peers nor addresses.
//
// With a box's mu only the lease, timers and the channels that the handler reads are
// used. No mu is held when results are reported.
package mailbox

import (
	"context"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// A Box is the way to the handler of one tenure. It decides the result of every
// message that reaches the node for it.
//
// Invariants: a message is received only when the handler takes it, from Data, from
// its inbox or with Take, while the lease is not over. What is taken from Data alone
// is answered by that; a request that is taken as a whole waits for its reply. One
// goroutine at a time has the role of the pump, which offers one message at both
// doors: a sender on this node whose message waits, or one that is there for that. It
// lets go when somebody comes to Take. After Shut nothing is received any more.
type Box struct {
	ID    string
	Token uint64
	Data  chan []byte // unbuffered

	inbox inbox
	exit  context.Context
	held  context.Context      // ends with the lease
	left  func() time.Duration // of the lease; asked before each hand-over
	room  *Room

	mu      sync.Mutex
	over    bool
	queue   queue
	pump    pump
	open    open
	results []result // not reported yet
	dirty   bool     // the room will report them
	taken   taken

	reported time.Time // when reportOne did

	reporting sync.Mutex    // before mu
	telling   chan struct{} // has a place for who tells Observe, before mu
	ended     sync.Once
}

// pump is what concerns the role.
type pump struct {
	busy    bool          // somebody has it
	free    chan struct{} // closed when nobody has; nil: nobody waits for that
	offered *Message      // while it waits for the handler
	kick    chan struct{} // makes it look again; capacity 1
	takers  int           // who wait to Take
	took    bool          // somebody has: what comes waits a little for the next time
	unheard bool          // the room will look whether nobody has come to Take
	turn    chan struct{} // makes one of them look again; capacity 1
}

// Arrive takes a message from another node, and returns its result if that is
// known at once, else 0. Try is for a handler that is receiving right now. The
// payload must not be changed any more; one that shares its buffer with much else
// is copied, so as not to keep that alive.
func (b *Box) Arrive(m *Message, try, shared bool) (s wire.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over || b.left() <= 0:
		return wire.Ended
	case m.Chain != nil && m.Chain.Broken(m.Number), b.open.full(m):
		return wire.Busy
	}
	if shared {
		m.Payload = b.room.copy(m.Payload)
	}
	if m.Batch == 0 && b.idleLocked() && !b.crowdedLocked() {
		switch took, r := b.tryLocked(m, b.delivery(m, m.Payload)); {
		case r != nil:
			b.openLocked(m, r)
			return 0
		case took:
			return wire.Received
		}
	}
	switch {
	case try && (b.queue.head != nil || b.pump.takers == 0),
		b.queue.n >= mostMessages,
		b.queue.n > 0 && b.queue.bytes+m.size() > mostBytes:
		if m.Chain != nil {
			m.Chain.Break(m.Number)
		}
		return wire.Busy
	}
	b.enqueueLocked(m)
	return 0
}

// delivery is data of a message as the handler gets it.
func (b *Box) delivery(m *Message, data []byte) Delivery {
	d := Delivery{Data: data, Context: m.Context}
	if m.Origin != nil {
		d.From = m.Origin.From()
	}
	if m.Asks {
		d.Request = &Request{box: b, from: m.Origin, own: m, number: m.Number, expires: m.Expires}
	}
	return d
}

// tryLocked hands over what is of a message, as in takenLocked, if the handler is
// receiving right now. It returns the request, if there is one that waits for its reply
// now.
func (b *Box) tryLocked(m *Message, d Delivery) (took bool, r *Request) {
	select {
	case b.Data <- d.Data:
		took = true
	default:
		if took = b.inbox.try(d); took {
			r = d.Request
		}
	}
	if took {
		b.takenLocked(m, len(d.Data))
	}
	return took, r
}

// idleLocked reports whether nobody waits before a new message. What the pump
// offers is in the queue.
func (b *Box) idleLocked() bool { return b.queue.head == nil && b.pump.takers == 0 }

func (b *Box) enqueueLocked(m *Message) {
	b.queue.push(m)
	b.room.tick.By(b.queue.earliest)
	b.onLocked()
}

// onLocked sees to it that what waits is offered.
func (b *Box) onLocked() {
	switch {
	case b.pump.busy || b.queue.head == nil:
	case b.pump.takers > 0:
		poke(b.pump.turn)
	case !b.pump.took:
		b.pump.busy = true
		go b.run(nil, nil)
	case !b.pump.unheard:
		b.pump.unheard = true
		b.room.calls.add(b, callAfter)
	}
}

// call offers on the other doors what nobody has come to Take.
func (b *Box) call() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pump.unheard, b.pump.took = false, false
	b.onLocked()
}

// poke makes who waits on c look again.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run has the role of the pump: it hands over what waits, in order, until own
// has its result or caller is closed, or, without one, until nothing is left. It
// lets go earlier for somebody who comes to Take.
func (b *Box) run(own *Message, caller <-chan struct{}) {
	b.mu.Lock()
	for {
		if b.crowdedLocked() {
			b.mu.Unlock()
			b.Tell()
			b.mu.Lock()
		}
		var m *Message
		if b.pump.takers == 0 && (own == nil || !own.received()) {
			m = b.nextLocked()
		}
		if m == nil && len(b.results) == 0 {
			break
		}
		if m == nil {
			b.mu.Unlock()
			b.report()
			b.mu.Lock()
			continue // there may be more by now
		}
		switch took, r := b.offer(m, caller); {
		case took:
			b.receivedLocked(m, r)
		case m.withdrawn:
			b.decideLocked(m, wire.Expired)
		case ended(caller):
			caller = nil
			if !own.received() {
				b.decideLocked(own, wire.Expired)
			}
		}
	}
	b.pump.busy = false
	if b.pump.free != nil {
		close(b.pump.free)
		b.pump.free = nil
	}
	b.onLocked()
	b.mu.Unlock()
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// offer hands over the next payload of m, which nextLocked has just returned, when
// the handler receives, and returns the request that waits for its reply from then
// on. It returns false when there may be something else to do. It is called with mu
// held, which it leaves while it waits.
func (b *Box) offer(m *Message, caller <-chan struct{}) (took bool, r *Request) {
	data := m.Payload
	switch { // the handler owns what it receives, and keeps nothing else alive by it
	case m.Batch > 0:
		data = b.room.copy(wire.NextOfBatch(&data))
	case m.Origin == nil:
		data = b.room.copy(data)
	}
	d := b.delivery(m, data)
	if took, r = b.tryLocked(m, d); took {
		return took, r
	}
	b.soonLocked()
	b.pump.offered = m
	b.mu.Unlock()
	took, whole := b.inbox.wait(d, b.Data, b.exit.Done(), b.pump.kick, caller)
	b.mu.Lock()
	b.pump.offered = nil
	if took {
		b.takenLocked(m, len(data))
	}
	if whole {
		return took, d.Request
	}
	return took, nil
}

// nextLocked returns the message to be offered, nil if none may be.
func (b *Box) nextLocked() *Message {
	for b.queue.head != nil {
		m := b.queue.head
		if b.over = b.over || b.left() <= 0; b.over {
			b.decideLocked(m, wire.Ended)
			continue
		}
		if m.Chain != nil && m.Chain.Broken(m.Number) || b.open.full(m) {
			b.decideLocked(m, wire.Busy)
			continue
		}
		return m
	}
	return nil
}

// receivedLocked notes that the handler has the next payload of m, and is to reply
// to r if there is one.
func (b *Box) receivedLocked(m *Message, r *Request) {
	if r != nil {
		b.queue.remove(m)
		b.openLocked(m, r)
		return
	}
	if m.Batch > 0 {
		if b.queue.cut(m); m.left() > 0 {
			return
		}
	}
	b.decideLocked(m, wire.Received)
}

// decideLocked takes a message out of the queue and notes its result.
func (b *Box) decideLocked(m *Message, s wire.Status) {
	b.queue.remove(m)
	if m.Chain != nil && s != wire.Received {
		m.Chain.Break(m.Number)
	}
	if m.Origin == nil {
		m.done <- Answer{Status: s} // now it is the sender's
		return
	}
	batch, count := m.Batch > 0, uint64(1)
	if batch {
		count = uint64(m.got)
	}
	if n := len(b.results); n > 0 && !batch {
		if r := &b.results[n-1]; r.Origin == m.Origin && r.s == s && !r.batch && r.number+r.count == m.Number {
			r.count++
			b.room.Free(m)
			return
		}
	}
	b.results = append(b.results, result{m.Origin, m.Number, count, s, batch})
	b.room.Free(m)
}

// Cancel takes a message of an origin back, if it waits. Those that waited
// longest are mostly cancelled first, and are found at once.
func (b *Box) Cancel(o Origin, number uint64) {
	b.mu.Lock()
	if r := b.open.requests[asked{o, number}]; r != nil {
		r.abandonLocked()
	} else {
		m := b.queue.head
		for m != nil && (m.Origin != o || m.Number != number) {
			m = m.next
		}
		if m != nil {
			b.withdrawLocked(m)
		}
	}
	b.mu.Unlock()
	b.report()
}

// Drop takes back all that waits of an origin that is gone. Nobody waits for its
// replies.
func (b *Box) Drop(o Origin) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, r := range b.open.requests {
		if a.from == o {
			r.closeLocked(ErrNobody)
		}
	}
	for m := b.queue.head; m != nil; {
		next := m.next
		if m.Origin == o {
			b.withdrawLocked(m)
		}
		m = next
	}
}

// withdrawLocked takes back a message. One that is being offered is the pump's
// to take back, unless it has been received.
func (b *Box) withdrawLocked(m *Message) {
	if m == b.pump.offered {
		m.withdrawn = true
		poke(b.pump.kick)
		return
	}
	b.decideLocked(m, wire.Expired)
}

// expire takes back what has waited too long, and returns when something may
// have again.
func (b *Box) expire(now time.Time) (next time.Time) {
	b.mu.Lock()
	if b.queue.head == nil || now.Before(b.queue.earliest) {
		defer b.mu.Unlock()
		if b.queue.head != nil {
			next = b.queue.earliest
		}
		return next
	}
	for m := b.queue.head; m != nil; {
		after := m.next
		if !now.Before(m.Expires) {
			b.withdrawLocked(m)
		} else {
			next = pulse.Earliest(next, m.Expires)
		}
		m = after
	}
	if b.queue.earliest = next; b.queue.head != nil && next.IsZero() { // the one on offer
		b.queue.earliest = now
	}
	b.mu.Unlock()
	b.report()
	return next
}

// Take waits until something does, and appends what waits, at most most payloads,
// to into: they are received. It appends nothing when the tenure is over.
func (b *Box) Take(most int, into []Delivery) []Delivery {
	b.pace()
	b.mu.Lock()
	for b.exit.Err() == nil && (b.pump.busy || b.nextLocked() == nil) && !b.over {
		b.pump.takers++
		poke(b.pump.kick)
		b.mu.Unlock()
		b.reportOne() // what was refused
		select {
		case <-b.pump.turn:
		case <-b.exit.Done():
		}
		b.mu.Lock()
		b.pump.takers--
	}
	b.pump.took = true
	for most > 0 && b.exit.Err() == nil {
		m := b.nextLocked()
		if m == nil {
			break
		}
		before := len(into)
		into = b.takeLocked(m, most, into)
		most -= len(into) - before
	}
	b.onLocked()
	b.mu.Unlock()
	b.reportOne()
	return into
}

// takeLocked takes m, or up to most payloads of it.
func (b *Box) takeLocked(m *Message, most int, into []Delivery) []Delivery {
	if m.Batch == 0 {
		data := m.Payload
		if m.Origin == nil {
			data = b.room.copy(data)
		}
		d := b.delivery(m, data)
		b.takenLocked(m, len(data))
		b.receivedLocked(m, d.Request)
		return append(into, d)
	}
	for ; most > 0 && m.left() > 0; most-- {
		data := b.queue.cut(m)
		if most == 1 { // who takes one at a time owns it, as in offer
			data = b.room.copy(data)
		}
		b.takenLocked(m, len(data))
		into = append(into, b.delivery(m, data))
	}
	if m.left() == 0 {
		b.decideLocked(m, wire.Received)
	}
	return into
}

// Open reports whether the handler may still receive something.
func (b *Box) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.over && b.left() > 0
}

// Waiting is how many messages of other nodes wait, and their bytes.
func (b *Box) Waiting() (n, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.n, b.queue.bytes
}

// Counts is what the handler has received.
func (b *Box) Counts() Counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken.Counts
}

// Left is what the lease has left.
func (b *Box) Left() time.Duration { return b.left() }

// Shut ends the hand-over for good: what waits is refused. When it returns, all
// results have been reported.
func (b *Box) Shut() {
	b.ended.Do(func() {
		b.mu.Lock()
		b.over = true
		for b.pump.busy {
			free := make(chan struct{})
			b.pump.free = free
			b.mu.Unlock()
			poke(b.pump.kick)
			<-free
			b.mu.Lock()
		}
		b.nextLocked()
		poke(b.pump.turn)
		b.mu.Unlock()
		b.report()
		b.room.end(b)
	})
}
