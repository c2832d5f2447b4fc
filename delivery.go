package gone

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Diggs/go-one/internal/wire"
)

// A delivery is the sending half of a node: it numbers messages, waits for
// their fate and asks again when an answer is missing.
//
// The rule that keeps a message from being received twice: it is addressed to
// one tenure under one sequence number until that tenure has refused it, and
// only then to another. Within a tenure copies are harmless, as the receiver
// gives all of them one fate.
type delivery struct {
	transport *transport

	mu    sync.RWMutex
	flows map[uint64]*flow
	last  uint64 // number of the newest flow
}

const (
	// Bounds of what one node has under way to one tenure; others wait for
	// their turn. A message counts for at least flowBytes / flowMessages.
	flowMessages = 2048
	flowBytes    = 4 << 20
	// flowSpan bounds how far the newest number is ahead of the oldest open
	// one; the receiver remembers twice as much.
	flowSpan = inflowSpan / 2

	// Without an answer for askFirst the flow asks; then in growing intervals.
	askFirst = 200 * time.Millisecond
	askMost  = 2 * time.Second
	// After so many unanswered questions the holder counts as silent.
	silentAfter = 2

	// A withdrawal waits so long for its answer before the outcome is unknown.
	withdrawGrace = 50 * time.Millisecond

	// A flow that is over still confirms that it knows.
	flowAfterlife = time.Minute
)

// unknown is the fate of a message of which nobody can tell. The other fates
// are those that a receiver reports.
const unknown wire.Status = 0xff

// A message is one attempt: one number in one flow. Its data is the caller's
// until the fate is known.
type message struct {
	data     []byte
	deadline time.Time
	try      bool

	seq       uint64
	peer      *peer
	pos       position
	unsent    bool // it was withdrawn before it left
	copies    int
	asks      int
	askAt     time.Time
	withdrawn time.Time        // when a Cancel was sent
	done      chan wire.Status // capacity 1
}

// A flow is the numbered sequence of messages from this node to one tenure.
type flow struct {
	wire.Target
	addr string
	d    *delivery
	// silence is told when the holder has stopped answering, and when it
	// answers again.
	silence func(f *flow, silent bool)

	room *semaphore.Weighted // of flowBytes
	ctx  context.Context     // ends when the flow is over
	over context.CancelFunc

	mu      sync.Mutex
	peer    *peer
	low     uint64     // everything below is settled
	open    []*message // low, low+1, …; nil: settled
	asked   int        // rounds of questions since an answer
	current uint64     // token of the id's tenure there, as a refusal said
	timer   *time.Timer
	wakeAt  time.Time // when timer fires; zero: not set
}

// newFlow makes the flow to a tenure.
func (d *delivery) newFlow(id, addr string, token uint64, silence func(*flow, bool)) (*flow, error) {
	p, err := d.transport.peer(addr)
	if err != nil {
		return nil, err
	}
	f := &flow{
		addr: addr, d: d, silence: silence, peer: p, low: 1,
		room: semaphore.NewWeighted(flowBytes),
	}
	f.ctx, f.over = context.WithCancel(context.Background())
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	f.Target = wire.Target{Flow: d.last, Token: token, ID: id}
	d.flows[f.Flow] = f
	return f, nil
}

func (d *delivery) flow(number uint64) *flow {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.flows[number]
}

// send makes one attempt through the flow and returns its fate. When ctx ends,
// or the message's deadline passes, it withdraws the message.
func (f *flow) send(ctx context.Context, m *message) wire.Status {
	cost := min(max(int64(len(m.data)), flowBytes/flowMessages), flowBytes)
	if !f.room.TryAcquire(cost) {
		wait, cancel := context.WithDeadline(ctx, m.deadline)
		defer cancel()
		defer context.AfterFunc(f.ctx, cancel)()
		if f.room.Acquire(wait, cost) != nil {
			if f.ctx.Err() != nil {
				return wire.NotHere
			}
			return wire.Expired
		}
	}
	defer f.room.Release(cost)

	if s, ok := f.post(m); !ok {
		return s
	}
	select {
	case s := <-m.done:
		return s
	case <-ctx.Done():
	}
	f.mu.Lock()
	f.withdraw(m, time.Now())
	f.arm(m.withdrawn.Add(withdrawGrace))
	f.mu.Unlock()
	return <-m.done
}

// post gives m a number and appends it to the peer's frame. False: it did not,
// and the fate says why.
func (f *flow) post(m *message) (wire.Status, bool) {
	now := time.Now()
	f.mu.Lock()
	if f.ctx.Err() != nil {
		f.mu.Unlock()
		return wire.NotHere, false
	}
	if len(f.open) >= flowSpan {
		f.mu.Unlock()
		return wire.Busy, false
	}
	m.seq = f.low + uint64(len(f.open))
	f.open = append(f.open, m)
	p := f.write(m, now)
	f.arm(earlier(m.askAt, m.deadline))
	f.mu.Unlock()
	if p != nil {
		p.flush()
	}
	return 0, true
}

// write appends the data of m, and returns the peer to flush. It is called
// with mu held, so that the numbers are in order on the wire.
func (f *flow) write(m *message, now time.Time) *peer {
	m.askAt = now.Add(askFirst)
	p, w := f.begin()
	if w == nil {
		return nil // as if lost
	}
	m.copies++
	budget := uint64(0)
	if !m.try {
		// The refusal has to be back before the deadline.
		left := m.deadline.Sub(now)
		left -= min(max(left/20, 2*time.Millisecond), 200*time.Millisecond)
		budget = uint64(max(left.Milliseconds(), 1))
	}
	m.peer = p
	m.pos = p.position(w.Data(&f.Target, f.low, m.seq, budget, m.data))
	p.end()
	return p
}

// begin opens the peer's frame. The peer may have been closed while idle; then
// there is a new one.
func (f *flow) begin() (*peer, *wire.Writer) {
	for range 2 {
		if w := f.peer.begin(); w != nil {
			return f.peer, w
		}
		p, err := f.d.transport.peer(f.addr)
		if err != nil {
			break
		}
		f.peer = p
	}
	return nil, nil
}

// settle gives m its fate. It is called with mu held; once for each m.
func (f *flow) settle(m *message, s wire.Status) {
	f.open[m.seq-f.low] = nil
	n := 0
	for n < len(f.open) && f.open[n] == nil {
		n++
	}
	f.low += uint64(n)
	f.open = f.open[n:]
	m.done <- s
}

func (f *flow) get(seq uint64) *message {
	if i := seq - f.low; i < uint64(len(f.open)) {
		return f.open[i]
	}
	return nil
}

// withdraw takes m back when it is still here, else it asks the receiver to.
// It is called with mu held.
func (f *flow) withdraw(m *message, now time.Time) {
	if f.get(m.seq) != m || !m.withdrawn.IsZero() {
		return
	}
	m.withdrawn = now
	if m.recall() {
		f.settle(m, wire.Expired)
		return
	}
	if p, w := f.begin(); w != nil {
		w.Cancel(&f.Target, f.low, m.seq)
		p.end()
		p.flush()
	}
}

// recall takes m back when it has not left this node.
func (m *message) recall() bool {
	m.unsent = m.copies == 0 || m.copies == 1 && m.peer.withdraw(m.pos)
	return m.unsent
}

// arm sees to it that tick runs at t. It is called with mu held.
func (f *flow) arm(t time.Time) {
	if !f.wakeAt.IsZero() && !t.Before(f.wakeAt) {
		return
	}
	f.wakeAt = t
	if f.timer == nil {
		f.timer = time.AfterFunc(time.Until(t), f.tick)
	} else {
		f.timer.Reset(time.Until(t))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tick enforces deadlines and asks for answers that are missing.
func (f *flow) tick() {
	now := time.Now()
	f.mu.Lock()
	f.wakeAt = time.Time{}
	if len(f.open) == 0 {
		f.mu.Unlock()
		return
	}
	wake := now.Add(askMost)
	var ask []*message
	for _, m := range append([]*message(nil), f.open...) {
		if m == nil {
			continue
		}
		if m.withdrawn.IsZero() && !now.Before(m.deadline) {
			if f.withdraw(m, now); f.get(m.seq) == nil {
				continue
			}
		}
		if !m.withdrawn.IsZero() {
			end := m.withdrawn.Add(withdrawGrace)
			if !now.Before(end) {
				f.settle(m, unknown)
				continue
			}
			wake = earlier(wake, end)
		} else {
			wake = earlier(wake, m.deadline)
		}
		if !now.Before(m.askAt) {
			ask = append(ask, m)
			m.asks++
			m.askAt = now.Add(min(askFirst<<min(m.asks, 10), askMost))
		}
		wake = earlier(wake, m.askAt)
	}
	f.ask(ask)
	silent := f.asked > silentAfter
	f.arm(wake)
	f.mu.Unlock()
	if silent {
		f.silence(f, true)
	}
}

// ask asks for the status of what has been under way for long. It is called
// with mu held.
func (f *flow) ask(ms []*message) {
	if len(ms) == 0 {
		return
	}
	f.asked++
	if p, w := f.begin(); w != nil {
		for _, m := range ms {
			w.Ask(&f.Target, f.low, m.seq)
		}
		p.end()
		p.flush()
	}
}

// replied takes a Reply item.
func (f *flow) replied(seq, current uint64, s wire.Status) {
	f.mu.Lock()
	recovered := f.hear()
	f.current = current
	m := f.get(seq)
	var p *peer
	switch {
	case m == nil || s == wire.Pending:
	case s == wire.Missing:
		// A copy that comes late gets the fate of this one.
		if m.withdrawn.IsZero() {
			p = f.write(m, time.Now())
		}
	case s == wire.Stranger && (m.copies > 1 || m.asks > 0 || !m.withdrawn.IsZero()):
		// A process that was started anew on the address can't tell what became
		// of other copies.
		f.settle(m, unknown)
	default:
		if s == wire.NotHere {
			f.end()
		}
		f.settle(m, s)
	}
	f.mu.Unlock()
	if p != nil {
		p.flush()
	}
	if recovered {
		f.silence(f, false)
	}
}

// hear notes that the holder answers, and reports whether it was silent. It is
// called with mu held.
func (f *flow) hear() (recovered bool) {
	recovered = f.asked > silentAfter
	f.asked = 0
	return recovered
}

// ended takes an Over item: what is not among the received never will be.
func (f *flow) ended(received wire.Seqs) {
	f.mu.Lock()
	f.hear()
	for seq := range received.All {
		if m := f.get(seq); m != nil {
			f.settle(m, wire.Received)
		}
	}
	for _, m := range append([]*message(nil), f.open...) {
		if m != nil {
			f.settle(m, wire.NotHere)
		}
	}
	f.end()
	low := f.low
	p, w := f.begin()
	if w != nil {
		w.Settled(&f.Target, low)
		p.end()
	}
	f.mu.Unlock()
	if w != nil {
		p.flush()
	}
}

// end makes every send to come go elsewhere. It is called with mu held.
func (f *flow) end() {
	if f.ctx.Err() == nil {
		f.over()
		time.AfterFunc(flowAfterlife, f.forget)
	}
}

// retire ends a flow whose tenure is not the current one any more, and takes
// back what has not left. For the rest the old holder is asked on.
func (f *flow) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end()
	for _, m := range append([]*message(nil), f.open...) {
		if m != nil && m.recall() {
			f.settle(m, wire.NotHere)
		}
	}
}

// silent reports whether the holder has stopped answering.
func (f *flow) silent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked > silentAfter
}

// probe asks about a number that has not been used, to hear anything at all.
func (f *flow) probe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p, w := f.begin(); w != nil {
		w.Ask(&f.Target, f.low, f.low+uint64(len(f.open)))
		p.end()
		p.flush()
	}
}

// hint is the token of the id's tenure on that node, as a refusal said; 0 for
// none.
func (f *flow) hint() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

func (f *flow) forget() {
	f.mu.Lock()
	open := len(f.open)
	f.mu.Unlock()
	if open > 0 {
		time.AfterFunc(flowAfterlife, f.forget)
		return
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	delete(f.d.flows, f.Flow)
}

// replied takes one item that answers this node.
func (d *delivery) replied(it *wire.Item) {
	if f := d.flow(it.Flow); f != nil {
		switch it.Kind {
		case wire.Reply:
			f.replied(it.Seq, it.Current, it.Status)
		case wire.Over:
			f.ended(it.Seqs)
		}
	}
}

// close withdraws everything that is under way.
func (d *delivery) close() {
	d.mu.RLock()
	flows := make([]*flow, 0, len(d.flows))
	for _, f := range d.flows {
		flows = append(flows, f)
	}
	d.mu.RUnlock()
	now := time.Now()
	for _, f := range flows {
		f.mu.Lock()
		f.over()
		for _, m := range append([]*message(nil), f.open...) {
			if m != nil {
				f.withdraw(m, now)
			}
		}
		f.arm(now.Add(withdrawGrace))
		f.mu.Unlock()
	}
}

// idle reports whether nothing is under way.
func (f *flow) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open) == 0
}
