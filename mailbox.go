package gone

import (
	"context"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A mailbox is the bounded way from senders to the handler of one tenure. It
// decides the fate of every message that reaches the node for that tenure.
//
// Invariants: a message is received only by a hand-over on the unbuffered
// channel that the handler reads, while the lease is not over. One sequence
// number of a flow has one fate, however many copies arrive. After shut the
// fates never change, and they can still be asked for.
type mailbox struct {
	id     string
	token  uint64
	data   chan []byte
	left   func() time.Duration // of the lease; asked before each hand-over
	reply  replier
	window // of the senders on this node; ends with Exit

	mu      sync.Mutex
	over    bool
	queue   parcels
	pumping bool
	offered *parcel       // the pump's, while it waits for the handler
	kick    chan struct{} // makes the pump look again; capacity 1
	pumps   sync.WaitGroup
	ended   sync.Once
	flows   map[wire.Return]*inflow
}

// Bounds of what waits in one mailbox. A single message may exceed the bytes.
const (
	mailboxMessages = 16 << 10
	mailboxBytes    = 16 << 20
	mailboxFlows    = 16 << 10
	inflowSpan      = 64 << 10         // sequence numbers remembered for one flow
	inflowIdle      = 10 * time.Minute // before a flow may make room for another
	inflowFresh     = 30 * time.Second // while a sender may still wonder
	expireEvery     = 2 * time.Millisecond
)

// replier sends fates to where messages came from.
type replier interface {
	reply(addr string, to wire.Return, current, seq uint64, s wire.Status)
	overTo(addr string, to wire.Return, current uint64, received []uint64)
}

func newMailbox(exit context.Context, id string, token uint64, left func() time.Duration, reply replier) *mailbox {
	return &mailbox{
		id: id, token: token, left: left, reply: reply,
		window: newWindow(exit),
		data:   make(chan []byte),
		kick:   make(chan struct{}, 1),
		flows:  map[wire.Return]*inflow{},
	}
}

// A parcel is a message that waits for the handler.
type parcel struct {
	payload   []byte
	expires   time.Time
	withdrawn bool
	after     *parcel // must be received first; nil once it is, or if any order will do
	fate      wire.Status
	prev      *parcel
	next      *parcel

	in   *inflow // where it came from; nil for a sender on this node
	seq  uint64
	done chan wire.Status // capacity 1; for a sender on this node
}

// orphan reports whether p must not be received, as the one before was not.
func (p *parcel) orphan() bool {
	return p.after != nil && p.after.fate != 0 && p.after.fate != wire.Received
}

type parcels struct {
	head, tail *parcel
	n, bytes   int
	earliest   time.Time // no parcel expires before
}

func (q *parcels) push(p *parcel) {
	p.prev, p.next = q.tail, nil
	if q.head == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	q.n++
	q.bytes += len(p.payload)
	if q.n == 1 || p.expires.Before(q.earliest) {
		q.earliest = p.expires
	}
}

func (q *parcels) remove(p *parcel) {
	if p.prev == nil {
		q.head = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		q.tail = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
	q.n--
	q.bytes -= len(p.payload)
}

// An inflow is what is known of one remote sender's flow into this tenure.
type inflow struct {
	from wire.Return
	addr string
	low  uint64
	last uint64 // highest sequence number seen
	seen time.Time
	fate []wire.Status      // of low, low+1, …; 0: not arrived
	wait map[uint64]*parcel // those that are Pending
}

// settle forgets what the sender has settled.
func (f *inflow) settle(low uint64) {
	if low <= f.low {
		return
	}
	n := low - f.low
	f.low = low
	if n >= uint64(len(f.fate)) {
		f.fate = f.fate[:0]
		return
	}
	f.fate = f.fate[:copy(f.fate, f.fate[n:])]
}

func (f *inflow) get(seq uint64) wire.Status {
	if i := seq - f.low; i < uint64(len(f.fate)) {
		return f.fate[i]
	}
	return 0
}

func (f *inflow) set(seq uint64, s wire.Status) {
	if seq < f.low { // settled meanwhile: nobody will ask
		return
	}
	for uint64(len(f.fate)) <= seq-f.low {
		f.fate = append(f.fate, 0)
	}
	f.fate[seq-f.low] = s
}

func (f *inflow) received() (seqs []uint64) {
	for i, s := range f.fate {
		if s == wire.Received {
			seqs = append(seqs, f.low+uint64(i))
		}
	}
	return seqs
}

// inflow finds or makes the flow of an item. It returns nil when seq is settled
// or not one of an honest sender's, and when too many senders are remembered.
// It is called with mu held.
func (m *mailbox) inflow(from uint64, addr []byte, it *wire.Item, now time.Time) *inflow {
	key := wire.Return{To: from, Flow: it.Flow}
	f := m.flows[key]
	if f == nil {
		if len(m.flows) >= mailboxFlows && !m.forgetIdle(now) {
			return nil
		}
		f = &inflow{from: key, addr: string(addr), low: 1, wait: map[uint64]*parcel{}}
		m.flows[key] = f
	}
	f.seen = now
	f.settle(it.Low)
	if it.Seq < f.low || it.Seq-f.low >= inflowSpan {
		return nil
	}
	f.last = max(f.last, it.Seq)
	return f
}

// forgetIdle makes room for new flows. A sender that was silent for so long
// has given up whatever it had sent.
func (m *mailbox) forgetIdle(now time.Time) bool {
	for key, f := range m.flows {
		if len(f.wait) == 0 && now.Sub(f.seen) > inflowIdle {
			delete(m.flows, key)
		}
	}
	return len(m.flows) < mailboxFlows
}

// arrived takes a Data item. It returns the fate to be reported, or 0 when it
// is open or of no interest.
func (m *mailbox) arrived(from uint64, addr []byte, it *wire.Item, shared bool) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, time.Now())
	if f == nil {
		return 0
	}
	s := f.get(it.Seq)
	switch {
	case s == wire.Pending:
		return 0
	case s != 0:
		return s
	}
	s = m.accept(f, it, shared)
	f.set(it.Seq, s)
	if s == wire.Pending {
		return 0
	}
	return s
}

func (m *mailbox) accept(f *inflow, it *wire.Item, shared bool) wire.Status {
	if m.over || m.left() <= 0 {
		return wire.NotHere
	}
	var after *parcel
	if it.After != 0 {
		switch f.get(it.Seq - it.After) {
		case wire.Received:
		case wire.Pending:
			after = f.wait[it.Seq-it.After]
		default:
			return wire.Busy
		}
	}
	if m.direct(it.Payload) {
		return wire.Received
	}
	if it.Budget == 0 || m.full(len(it.Payload)) {
		return wire.Busy
	}
	p := &parcel{payload: it.Payload, after: after, in: f, seq: it.Seq}
	if shared { // a waiting payload must not keep a whole frame alive
		p.payload = append([]byte(nil), it.Payload...)
	}
	// A budget of more than a day is as good as a day.
	p.expires = time.Now().Add(time.Duration(min(it.Budget, 24*3600*1000)) * time.Millisecond)
	f.wait[p.seq] = p
	m.enqueue(p)
	return wire.Pending
}

// direct hands over to a handler that is receiving right now.
func (m *mailbox) direct(payload []byte) bool {
	if m.queue.head != nil || m.pumping {
		return false
	}
	select {
	case m.data <- payload:
		return true
	default:
		return false
	}
}

func (m *mailbox) full(n int) bool {
	return m.queue.n >= mailboxMessages || m.queue.n > 0 && m.queue.bytes+n > mailboxBytes
}

func (m *mailbox) enqueue(p *parcel) {
	earlier := m.queue.n > 0 && p.expires.Before(m.queue.earliest)
	m.queue.push(p)
	switch {
	case !m.pumping:
		m.pumping = true
		m.pumps.Add(1)
		go m.pump()
	case earlier:
		m.look()
	}
}

func (m *mailbox) look() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// pump hands over what is queued, in order, until nothing is left.
func (m *mailbox) pump() {
	defer m.pumps.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m.mu.Lock()
		left := m.left()
		m.over = m.over || left <= 0
		m.expire()
		p := m.queue.head
		if p != nil && p.orphan() {
			m.decide(p, wire.Expired)
			m.mu.Unlock()
			m.report(p, wire.Expired)
			continue
		}
		if p == nil || m.over {
			m.pumping = false
			refused := m.refuse()
			m.mu.Unlock()
			m.report(refused, wire.NotHere)
			return
		}
		// The timer takes the offer back at the deadline even before anybody
		// gets to close Exit, as when a paused process goes on.
		// What has expired is not worth a look at all that waits each time.
		timer.Reset(min(left, max(time.Until(m.queue.earliest), expireEvery)))
		m.offered = p
		m.mu.Unlock()

		taken := false
		select {
		case m.data <- p.payload:
			taken = true
		case <-m.ctx.Done(): // from here on the handler can't take it
		case <-m.kick:
		case <-timer.C:
		}

		m.mu.Lock()
		m.offered = nil
		s := wire.Expired
		if taken {
			s = wire.Received
		}
		if taken || p.withdrawn {
			m.decide(p, s)
		}
		m.mu.Unlock()
		if taken || p.withdrawn {
			m.report(p, s)
		}
	}
}

// decide takes a parcel out of the queue and notes its fate.
func (m *mailbox) decide(p *parcel, s wire.Status) {
	m.queue.remove(p)
	p.after, p.fate = nil, s
	if p.in != nil {
		delete(p.in.wait, p.seq)
		p.in.set(p.seq, s)
	}
}

// report tells the senders of a list of parcels their fate. It is called
// without mu: it may write to sockets.
func (m *mailbox) report(list *parcel, s wire.Status) {
	for p := list; p != nil; p = p.next {
		if p.in == nil {
			p.done <- s
		} else {
			m.reply.reply(p.in.addr, p.in.from, m.token, p.seq, s)
		}
	}
}

// refuse empties the queue of a mailbox that is over and returns the parcels.
func (m *mailbox) refuse() *parcel {
	if !m.over {
		return nil
	}
	var list *parcel
	for m.queue.head != nil {
		p := m.queue.head
		m.decide(p, wire.NotHere)
		p.next = list
		list = p
	}
	return list
}

// expire removes what has waited too long. It is called by the pump, which
// offers nothing meanwhile, with mu held.
func (m *mailbox) expire() {
	now := time.Now()
	if m.queue.head == nil || now.Before(m.queue.earliest) {
		return
	}
	var drop *parcel
	m.queue.earliest = now.Add(time.Hour)
	for p, next := m.queue.head, (*parcel)(nil); p != nil; p = next {
		next = p.next
		if !p.orphan() && now.Before(p.expires) {
			m.queue.earliest = earlier(m.queue.earliest, p.expires)
			continue
		}
		m.decide(p, wire.Expired)
		p.next = drop
		drop = p
	}
	if drop != nil {
		m.mu.Unlock()
		m.report(drop, wire.Expired)
		m.mu.Lock()
	}
}

// withdraw takes back a parcel that has no fate yet. One that is being offered
// is the pump's to take back, or to report as received; then its fate is 0 for
// the moment. It is called with mu held.
func (m *mailbox) withdraw(p *parcel) wire.Status {
	if p == m.offered {
		p.withdrawn = true
		m.look()
		return 0
	}
	m.decide(p, wire.Expired)
	return wire.Expired
}

// ask returns the status of one sequence number.
func (m *mailbox) ask(from uint64, addr []byte, it *wire.Item) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, time.Now())
	if f == nil {
		return 0
	}
	if s := f.get(it.Seq); s != 0 {
		return s
	}
	if m.over {
		f.set(it.Seq, wire.NotHere)
		return wire.NotHere
	}
	return wire.Missing
}

// cancel withdraws one sequence number, also one that has yet to arrive.
func (m *mailbox) cancel(from uint64, addr []byte, it *wire.Item) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, time.Now())
	if f == nil {
		return 0
	}
	switch s := f.get(it.Seq); s {
	case 0:
		f.set(it.Seq, wire.Expired)
		return wire.Expired
	case wire.Pending:
		return m.withdraw(f.wait[it.Seq])
	default:
		return s
	}
}

// settled notes that a sender knows the end of this tenure.
func (m *mailbox) settled(from uint64, it *wire.Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flows[wire.Return{To: from, Flow: it.Flow}]; f != nil {
		f.settle(it.Low)
	}
}

// local offers data of a sender on this node and waits for its fate. The
// handler gets a copy.
func (m *mailbox) local(ctx context.Context, data []byte, deadline time.Time, try bool) wire.Status {
	if !m.try(len(data)) {
		if try {
			return wire.Busy
		}
		if s := m.enter(ctx, len(data), deadline); s != wire.Received {
			return s
		}
	}
	defer m.leave(len(data))
	data = append([]byte(nil), data...)

	m.mu.Lock()
	if m.over || m.left() <= 0 {
		m.mu.Unlock()
		return wire.NotHere
	}
	if m.direct(data) {
		m.mu.Unlock()
		return wire.Received
	}
	if try || m.full(len(data)) {
		m.mu.Unlock()
		return wire.Busy
	}
	p := &parcel{payload: data, expires: deadline, done: make(chan wire.Status, 1)}
	m.enqueue(p)
	m.mu.Unlock()
	select {
	case s := <-p.done:
		return s
	case <-ctx.Done():
	}
	m.mu.Lock()
	if p.fate == 0 && m.withdraw(p) != 0 {
		m.mu.Unlock()
		return wire.Expired
	}
	m.mu.Unlock()
	return <-p.done // it has been decided, or is about to be
}

// open reports whether the handler may still receive something.
func (m *mailbox) open() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.over && m.left() > 0
}

// shut ends the hand-over for good: what waits is refused, and every remote
// sender that may still wonder is told what was received.
func (m *mailbox) shut() {
	m.ended.Do(func() {
		m.mu.Lock()
		m.over = true
		m.mu.Unlock()
		m.look()
		m.pumps.Wait()
		m.mu.Lock()
		refused := m.refuse()
		m.mu.Unlock()
		m.report(refused, wire.NotHere)
		m.tell()
	})
}

// tell reports the end of the tenure to all senders that have not confirmed to
// know it, and returns how many they are.
func (m *mailbox) tell() (open int) {
	type notice struct {
		f        *inflow
		received []uint64
	}
	var notices []notice
	m.mu.Lock()
	for _, f := range m.flows {
		if f.low > f.last {
			continue
		}
		notices = append(notices, notice{f, f.received()})
		// One that was silent for long may be gone: it is told, not waited for.
		if time.Since(f.seen) < inflowFresh {
			open++
		}
	}
	m.mu.Unlock()
	for _, n := range notices {
		m.reply.overTo(n.f.addr, n.f.from, 0, n.received)
	}
	return open
}
