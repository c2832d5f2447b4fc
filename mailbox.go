package gone

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A mailbox is the bounded way from senders to the handler of one tenure. It
// decides the fate of every message that reaches the node for that tenure.
//
// Invariants: a message is received only by a hand-over on the unbuffered
// channel that the handler reads, while the lease is not over. One goroutine at
// a time offers one message there: the pump, or a sender on this node when
// nobody else waits. One sequence number of a flow has one fate, however many
// copies arrive. After shut the fates never change, and they can still be asked
// for.
type mailbox struct {
	id    string
	token uint64
	exit  context.Context
	data  chan []byte
	left  func() time.Duration // of the lease; asked before each hand-over
	reply replier

	mu       sync.Mutex
	over     bool
	queue    parcels
	pumping  bool // somebody has the pump's role, …
	solo     bool // … a sender on this node, with a message that is not queued
	pumps    sync.WaitGroup
	offered  *parcel       // the pump's, while it waits for the handler
	kick     chan struct{} // makes the pump look again; capacity 1
	timer    *time.Timer   // kicks; set whenever the pump waits
	now      time.Time     // as the pump knows it; a few hand-overs old
	verdicts []verdict     // not reported yet; the pump's
	spare    *parcel       // a list of parcels that are not used
	spares   int           // its length
	ended    sync.Once
	flows    map[origin]*inflow
	latest   *inflow   // the one that was used last
	span     int       // numbers that all flows remember
	forgot   time.Time // when idle ones were looked for
}

// Bounds of what waits in one mailbox. A single message may exceed the bytes.
// Senders on this node wait with their own data, as goroutines do.
const (
	mailboxMessages = 16 << 10
	mailboxBytes    = 16 << 20
	mailboxFlows    = 16 << 10
	mailboxSpan     = 1 << 20          // sequence numbers remembered for all flows, …
	inflowShare     = 64               // … but so many for each in any case
	mailboxSpare    = 1 << 10          // parcels kept for use
	inflowSpan      = 64 << 10         // sequence numbers remembered for one flow
	inflowIdle      = 10 * time.Minute // before a flow may make room for another
	inflowFresh     = 30 * time.Second // while a sender may still wonder
	expireEvery     = 2 * time.Millisecond
	verdictsMost    = 64 // before they are reported although there are more to come
)

// replier sends fates to where messages came from.
type replier interface {
	// reply reports verdicts on messages of one inflow.
	reply(in *inflow, current uint64, vs []verdict)
	overTo(addr string, to wire.Return, current uint64, received []uint64)
}

// A verdict is the fate of one message of a remote sender.
type verdict struct {
	in  *inflow
	seq uint64
	s   wire.Status
}

func newMailbox(exit context.Context, id string, token uint64, left func() time.Duration, reply replier) *mailbox {
	return &mailbox{
		id: id, token: token, exit: exit, left: left, reply: reply,
		data:  make(chan []byte),
		kick:  make(chan struct{}, 1),
		flows: map[origin]*inflow{},
	}
}

// A parcel is a message that waits for the handler.
type parcel struct {
	payload   []byte // for a sender on this node, the sender's
	expires   time.Time
	withdrawn bool
	orphan    bool    // must not be received, as the one before was not
	after     *parcel // has to be received first, and has no fate yet
	follower  *parcel // the reverse of after
	fate      wire.Status
	prev      *parcel
	next      *parcel

	in   *inflow // where it came from; nil for a sender on this node
	seq  uint64
	done chan wire.Status // capacity 1; for a sender on this node
}

type parcels struct {
	head, tail *parcel
	n, bytes   int       // of remote senders
	earliest   time.Time // no parcel expires before
}

// pushFront is push before all others.
func (q *parcels) pushFront(p *parcel) {
	rest := *q
	*q = parcels{}
	q.push(p)
	if rest.head != nil {
		p.next, rest.head.prev = rest.head, p
		q.tail, q.earliest = rest.tail, earlier(p.expires, rest.earliest)
		q.n, q.bytes = q.n+rest.n, q.bytes+rest.bytes
	}
}

func (q *parcels) push(p *parcel) {
	p.prev, p.next = q.tail, nil
	if q.head == nil || p.expires.Before(q.earliest) {
		q.earliest = p.expires
	}
	if q.head == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	if p.in != nil {
		q.n++
		q.bytes += len(p.payload)
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
	if p.in != nil {
		q.n--
		q.bytes -= len(p.payload)
	}
}

// An origin is one remote sender's flow. The incarnation alone would do, were it
// not known to all that the sender has ever spoken to; the address is vouched
// for where there are keys.
type origin struct {
	from wire.Return
	addr string
}

// An inflow is what is known of an origin in this tenure.
type inflow struct {
	origin
	low   uint64
	last  uint64 // highest sequence number seen
	seen  time.Time
	fates []fate // of low, low+1, …
}

// A fate is what has become of one number.
type fate struct {
	s wire.Status // 0: not arrived
	p *parcel     // while it is Pending
}

// settle forgets what the sender has settled, and returns how many numbers
// that were.
func (f *inflow) settle(low uint64) int {
	if low <= f.low {
		return 0
	}
	n := int(min(low-f.low, uint64(len(f.fates))))
	f.low = low
	if rest := f.fates[n:]; len(rest) > 64 {
		f.fates = rest // append will make room once for many
	} else {
		f.fates = f.fates[:copy(f.fates, rest)]
	}
	return n
}

func (f *inflow) get(seq uint64) fate {
	if i := seq - f.low; i < uint64(len(f.fates)) {
		return f.fates[i]
	}
	return fate{}
}

// set returns how many numbers more are remembered now.
func (f *inflow) set(seq uint64, to fate) (more int) {
	if seq < f.low { // settled meanwhile: nobody will ask
		return 0
	}
	for ; uint64(len(f.fates)) <= seq-f.low; more++ {
		f.fates = append(f.fates, fate{})
	}
	f.fates[seq-f.low] = to
	return more
}

func (f *inflow) received() (seqs []uint64) {
	for i := range f.fates {
		if f.fates[i].s == wire.Received {
			seqs = append(seqs, f.low+uint64(i))
		}
	}
	return seqs
}

// inflow finds or makes the flow of an item. It returns nil when seq is settled
// or not one of an honest sender's, and when too much is remembered already. It
// is called with mu held.
func (m *mailbox) inflow(from uint64, addr []byte, it *wire.Item, now time.Time) *inflow {
	key := wire.Return{To: from, Flow: it.Flow}
	f := m.latest
	if f == nil || f.from != key || f.addr != string(addr) {
		if f = m.flows[origin{key, string(addr)}]; f == nil {
			if len(m.flows) >= mailboxFlows && !m.forgetIdle(now) {
				return nil
			}
			f = &inflow{origin: origin{key, string(addr)}, low: 1}
			m.flows[f.origin] = f
		}
		m.latest = f
	}
	f.seen = now
	m.span -= f.settle(it.Low)
	if it.Seq < f.low || it.Seq-f.low >= inflowSpan {
		return nil
	}
	span := int(it.Seq-f.low) + 1
	more := func() bool { return span-len(f.fates) > max(mailboxSpan-m.span, 0) }
	if span > inflowShare && more() {
		if m.forgetIdle(now); more() {
			return nil
		}
	}
	f.last = max(f.last, it.Seq)
	return f
}

// forgetIdle makes room, and reports whether there is any for a new flow. A
// sender that was silent for so long has given up whatever it had sent.
func (m *mailbox) forgetIdle(now time.Time) bool {
	if now.Sub(m.forgot) < time.Second {
		return false
	}
	m.forgot = now
	for key, f := range m.flows {
		if now.Sub(f.seen) > inflowIdle && !slices.ContainsFunc(f.fates, func(f fate) bool { return f.p != nil }) {
			m.span -= len(f.fates)
			delete(m.flows, key)
		}
	}
	m.latest = nil
	return len(m.flows) < mailboxFlows
}

// asked answers one item of a sender; 0 is no answer. A nil mailbox is that of
// a tenure that is not known.
func (m *mailbox) asked(from uint64, addr []byte, it *wire.Item, shared bool, now time.Time) wire.Status {
	switch {
	case m == nil && it.Kind != wire.Settled:
		return wire.Stranger
	case m == nil:
		return 0
	}
	switch it.Kind {
	case wire.Data:
		return m.arrived(from, addr, it, shared, now)
	case wire.Ask:
		return m.ask(from, addr, it, now)
	case wire.Cancel:
		return m.cancel(from, addr, it, now)
	case wire.Settled:
		m.settled(from, addr, it)
	}
	return 0
}

// arrived takes a Data item. It returns the fate to be reported, or 0 when it
// is open or of no interest.
func (m *mailbox) arrived(from uint64, addr []byte, it *wire.Item, shared bool, now time.Time) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, now)
	if f == nil {
		return 0
	}
	known := f.get(it.Seq)
	if known.s == 0 {
		known = m.accept(f, it, shared, now)
		m.span += f.set(it.Seq, known)
	}
	if known.s == wire.Pending {
		return 0
	}
	return known.s
}

func (m *mailbox) accept(f *inflow, it *wire.Item, shared bool, now time.Time) fate {
	if m.over {
		return fate{s: wire.NotHere}
	}
	var after *parcel
	if it.After != 0 {
		before := f.get(it.Seq - it.After)
		if after = before.p; before.s != wire.Received && (after == nil || after.follower != nil) {
			return fate{s: wire.Busy}
		}
	}
	switch m.direct(it.Payload) {
	case wire.Received:
		return fate{s: wire.Received}
	case wire.NotHere:
		return fate{s: wire.NotHere}
	}
	if it.Budget == 0 || m.full(len(it.Payload)) {
		return fate{s: wire.Busy}
	}
	p := m.parcel()
	p.in, p.seq, p.payload = f, it.Seq, it.Payload
	if shared { // a waiting payload must not keep a whole frame alive
		p.payload = append([]byte(nil), it.Payload...)
	}
	if after != nil {
		p.after, after.follower = after, p
	}
	// A budget of more than a day is as good as a day.
	p.expires = now.Add(time.Duration(min(it.Budget, 24*3600*1000)) * time.Millisecond)
	m.enqueue(p)
	return fate{wire.Pending, p}
}

// parcel returns a blank parcel.
func (m *mailbox) parcel() *parcel {
	p := m.spare
	if p == nil {
		return &parcel{}
	}
	m.spare, p.next = p.next, nil
	m.spares--
	return p
}

// direct hands over to a handler that is receiving right now. NotHere: it must
// not receive any more; Busy: it is not receiving.
func (m *mailbox) direct(payload []byte) wire.Status {
	if m.queue.head != nil || m.pumping {
		return wire.Busy
	}
	if m.left() <= 0 {
		return wire.NotHere
	}
	select {
	case m.data <- payload:
		return wire.Received
	default:
		return wire.Busy
	}
}

func (m *mailbox) full(n int) bool {
	return m.queue.n >= mailboxMessages || m.queue.n > 0 && m.queue.bytes+n > mailboxBytes
}

func (m *mailbox) enqueue(p *parcel) {
	earlier := m.queue.head != nil && p.expires.Before(m.queue.earliest)
	m.queue.push(p)
	switch {
	case !m.pumping:
		m.pumping = true
		m.pumps.Add(1)
		go m.pump()
	case earlier || m.solo:
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
	m.mu.Lock()
	for {
		p := m.next()
		if p == nil && len(m.verdicts) > 0 {
			m.mu.Unlock()
			m.report()
			m.mu.Lock()
			continue // there may be more by now
		}
		if p == nil {
			break
		}
		m.offered = p
		expires := m.queue.earliest
		m.mu.Unlock()

		payload := p.payload
		if p.in == nil { // the handler owns what it receives
			payload = append([]byte(nil), payload...)
		}
		taken := m.offer(payload, nil, expires)

		m.mu.Lock()
		m.offered = nil
		switch {
		case taken:
			m.judge(p, wire.Received)
		case p.withdrawn:
			m.judge(p, wire.Expired)
		}
	}
	m.pumping = false
	m.mu.Unlock()
}

// next returns the parcel to be offered, nil when none waits. It is called by
// the pump, which offers nothing meanwhile, with mu held.
func (m *mailbox) next() *parcel {
	if m.queue.head == nil {
		return nil
	}
	if m.over = m.over || m.left() <= 0; m.over {
		m.refuse()
		return nil
	}
	if len(m.verdicts) == 0 { // at first, and whenever it was slow
		m.now = time.Now()
	}
	if !m.now.Before(m.queue.earliest) {
		m.expire(m.now)
	}
	for m.queue.head != nil && m.queue.head.orphan {
		m.judge(m.queue.head, wire.Expired)
	}
	return m.queue.head
}

// offer hands over a payload when the handler receives. It returns false when
// there may be something else to do: after a kick, the end of until, or of the
// caller. It is for whoever has the pump's role.
func (m *mailbox) offer(payload []byte, caller <-chan struct{}, until time.Time) bool {
	select {
	case m.data <- payload:
		return true
	default:
	}
	if n := len(m.verdicts); n > 0 {
		// A handler that is quick is back by now, and then one frame can carry
		// many verdicts. But none waits for a handler that is slow.
		if n < verdictsMost {
			runtime.Gosched()
			if m.exit.Err() == nil && len(m.kick) == 0 {
				select {
				case m.data <- payload:
					return true
				default:
				}
			}
		}
		m.report()
	}
	// The timer takes the offer back at the deadline even before anybody gets
	// to close Exit, as when a paused process goes on. What has expired is not
	// worth a look at all that waits each time.
	d := min(m.left(), max(time.Until(until), expireEvery))
	if d <= 0 {
		return false
	}
	if m.timer == nil {
		m.timer = time.AfterFunc(d, m.look)
	} else {
		m.timer.Reset(d)
	}
	select {
	case m.data <- payload:
		return true
	case <-m.exit.Done(): // from here on the handler can't take it
	case <-m.kick:
	case <-caller:
	}
	return false
}

// decide takes a parcel out of the queue and notes its fate.
func (m *mailbox) decide(p *parcel, s wire.Status) {
	m.queue.remove(p)
	p.fate = s
	if p.after != nil {
		p.after.follower, p.after = nil, nil
	}
	if f := p.follower; f != nil {
		f.after, p.follower = nil, nil
		f.orphan = s != wire.Received
	}
	if p.in != nil {
		m.span += p.in.set(p.seq, fate{s: s})
	}
}

// judge decides, and reports to the sender: a remote one's verdict is kept for
// report. It is called by the pump, with mu held.
func (m *mailbox) judge(p *parcel, s wire.Status) {
	m.decide(p, s)
	if p.in == nil {
		p.done <- s // now it is the sender's
		return
	}
	m.verdicts = append(m.verdicts, verdict{p.in, p.seq, s})
	m.free(p)
}

// free keeps a parcel for use.
func (m *mailbox) free(p *parcel) {
	if m.spares < mailboxSpare {
		*p = parcel{done: p.done, next: m.spare}
		m.spare = p
		m.spares++
	}
}

// report sends the verdicts, those for one sender together. It is called by the
// pump without mu: it may write to sockets.
func (m *mailbox) report() {
	vs := m.verdicts
	for len(vs) > 0 {
		n := 1
		for n < len(vs) && vs[n].in == vs[0].in {
			n++
		}
		m.reply.reply(vs[0].in, m.token, vs[:n])
		vs = vs[n:]
	}
	clear(m.verdicts)
	if m.verdicts = m.verdicts[:0]; cap(m.verdicts) > 2*verdictsMost {
		m.verdicts = nil
	}
}

// refuse empties the queue of a mailbox that is over.
func (m *mailbox) refuse() {
	for m.queue.head != nil {
		m.judge(m.queue.head, wire.NotHere)
	}
}

// expire removes what has waited too long. It is called by the pump, which
// offers nothing meanwhile, with mu held.
func (m *mailbox) expire(now time.Time) {
	m.queue.earliest = now.Add(time.Hour)
	for p, next := m.queue.head, (*parcel)(nil); p != nil; p = next {
		next = p.next
		if !p.orphan && now.Before(p.expires) {
			m.queue.earliest = earlier(m.queue.earliest, p.expires)
			continue
		}
		m.judge(p, wire.Expired)
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
func (m *mailbox) ask(from uint64, addr []byte, it *wire.Item, now time.Time) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, now)
	if f == nil {
		return 0
	}
	if s := f.get(it.Seq).s; s != 0 {
		return s
	}
	if m.over {
		m.span += f.set(it.Seq, fate{s: wire.NotHere})
		return wire.NotHere
	}
	return wire.Missing
}

// cancel withdraws one sequence number, also one that has yet to arrive.
func (m *mailbox) cancel(from uint64, addr []byte, it *wire.Item, now time.Time) wire.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.inflow(from, addr, it, now)
	if f == nil {
		return 0
	}
	switch known := f.get(it.Seq); known.s {
	case 0:
		m.span += f.set(it.Seq, fate{s: wire.Expired})
		return wire.Expired
	case wire.Pending:
		s := m.withdraw(known.p)
		if s != 0 {
			m.free(known.p)
		}
		return s
	default:
		return known.s
	}
}

// settled notes that a sender knows the end of this tenure.
func (m *mailbox) settled(from uint64, addr []byte, it *wire.Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flows[origin{wire.Return{To: from, Flow: it.Flow}, string(addr)}]; f != nil {
		m.span -= f.settle(it.Low)
	}
}

// local hands over data of a sender on this node and returns its fate. The
// handler gets a copy. A sender that finds nobody before it offers its data
// itself until somebody comes behind it; others wait for the pump.
func (m *mailbox) local(ctx context.Context, data []byte, deadline time.Time, try bool) wire.Status {
	m.mu.Lock()
	if m.over {
		m.mu.Unlock()
		return wire.NotHere
	}
	if m.queue.head != nil || m.pumping {
		if try {
			m.mu.Unlock()
			return wire.Busy
		}
		p := m.note(data, deadline)
		m.enqueue(p)
		m.mu.Unlock()
		return m.await(ctx, p)
	}
	data = append([]byte(nil), data...)
	s := m.direct(data)
	if s != wire.Busy || try {
		m.mu.Unlock()
		return s
	}
	m.pumping, m.solo = true, true
	m.pumps.Add(1)
	m.mu.Unlock()

	for s == wire.Busy {
		switch {
		case m.offer(data, ctx.Done(), deadline):
			s = wire.Received
		case ctx.Err() != nil || !time.Now().Before(deadline):
			s = wire.Expired
		default:
			m.mu.Lock()
			if m.over || m.left() <= 0 {
				s = wire.NotHere
			} else if m.queue.head != nil {
				p := m.note(data, deadline)
				m.queue.pushFront(p)
				m.solo = false
				go m.pump()
				m.mu.Unlock()
				return m.await(ctx, p)
			}
			m.mu.Unlock()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.solo = false
	if m.pumping = m.queue.head != nil; m.pumping {
		go m.pump()
	} else {
		m.pumps.Done()
	}
	return s
}

// note makes a parcel of a sender on this node. It is called with mu held.
func (m *mailbox) note(data []byte, deadline time.Time) *parcel {
	p := m.parcel()
	if p.done == nil {
		p.done = make(chan wire.Status, 1)
	}
	p.payload, p.expires = data, deadline
	return p
}

// await waits for the fate of a parcel of a sender on this node.
func (m *mailbox) await(ctx context.Context, p *parcel) wire.Status {
	var s wire.Status
	select {
	case s = <-p.done:
	case <-ctx.Done():
		m.mu.Lock()
		if p.fate == 0 {
			s = m.withdraw(p)
		}
		m.mu.Unlock()
		if s == 0 {
			s = <-p.done // it has been decided, or is about to be
		}
	}
	m.mu.Lock()
	m.free(p)
	m.mu.Unlock()
	return s
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
		m.refuse()
		m.spare, m.spares = nil, mailboxSpare // none is kept any more
		m.mu.Unlock()
		m.report()
		if m.timer != nil {
			m.timer.Stop()
		}
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
