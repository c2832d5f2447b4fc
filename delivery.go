package gone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	spare     sync.Pool // of messages

	mu     sync.RWMutex
	flows  map[uint64]*flow
	last   uint64 // number of the newest flow
	closed bool
}

const (
	// flowSpan bounds how far the newest number is ahead of the oldest open
	// one; the receiver remembers twice as much.
	flowSpan = inflowSpan / 2

	// Without an answer for askFirst the flow asks; then in growing intervals.
	askFirst = 200 * time.Millisecond
	askMost  = 2 * time.Second
	// Without any answer for so long the holder counts as silent.
	silentAfter = time.Second
	// A flow that was not used for so long asks the lock service first: its
	// holder may have died or been paused. And where the holder was not heard of
	// for so long it is asked before it is sent data: one that ends waits only
	// for those that it knows of to confirm. Much less than inflowFresh.
	flowFresh = 5 * time.Second
	// Without any answer for so long the receiver may soon have forgotten what
	// it was sent, and then it could neither tell nor be sent it again.
	giveUp = inflowIdle / 2

	// A withdrawal waits so long for its answer before the outcome is unknown.
	withdrawGrace = 200 * time.Millisecond

	// A flow that is over still confirms that it knows.
	flowAfterlife = time.Minute
)

// unknown is the fate of a message of which nobody can tell. The other fates
// are those that a receiver reports.
const unknown wire.Status = 0xff

// stale is the fate of a message that was not sent because its flow was left for
// another, or was quiet for so long that its tenure may have ended meanwhile.
const stale wire.Status = 0xfe

// A message is one attempt: one number in one flow. Its data is the caller's
// until the fate is known; then the flow does not touch the message any more.
type message struct {
	data     []byte
	deadline time.Time
	try      bool

	seq       uint64
	after     uint64 // of the message before it in its batch; 0: none
	batch     *batch
	peer      *peer
	pos       position // of what was written last
	unsent    bool     // it was withdrawn before it left
	copies    int      // of the data
	waited    bool     // what was written had not left lately
	asks      int
	askAt     time.Time
	asked     time.Time        // first question since the data was written; zero: none
	withdrawn time.Time        // when a Cancel was sent
	fate      wire.Status      // 0: not known
	done      chan wire.Status // capacity 1; nil for one of a batch
}

// message makes a message, or takes one that was used before.
func (d *delivery) message(data []byte, deadline time.Time, try bool) *message {
	m, _ := d.spare.Get().(*message)
	if m == nil {
		m = &message{done: make(chan wire.Status, 1)}
	}
	m.data, m.deadline, m.try = data, deadline, try
	return m
}

// free takes back a message whose fate is known.
func (d *delivery) free(m *message) {
	*m = message{done: m.done}
	d.spare.Put(m)
}

// A flow is the numbered sequence of messages from this node to one tenure.
type flow struct {
	wire.Target
	addr string
	d    *delivery
	// silence is told when the holder has stopped answering, and when it
	// answers again.
	silence func(f *flow, silent bool)

	window
	over context.CancelCauseFunc // of the window; with ErrNoHolder when the holder says so

	mu      sync.Mutex
	peer    *peer
	trouble error      // why there is none any more
	low     uint64     // everything below is settled
	open    []*message // low, low+1, …; nil: settled
	used    time.Time  // when something was sent or heard
	heard   time.Time  // when the holder was, of the tenure
	unheard time.Time  // since when an answer is due; zero: none is
	absent  bool       // the holder answers that it does not know the tenure
	current uint64     // token of the id's tenure there, as a refusal said
	timer   *time.Timer
	wakeAt  time.Time // when timer fires; zero: not set
}

// A window bounds what one node has under way to one tenure; others wait for
// their turn.
type window struct {
	room *semaphore.Weighted // of windowBytes
	ctx  context.Context     // ends with the tenure, as far as is known
}

// A message counts for at least windowBytes / windowMessages.
const (
	windowMessages = 2048
	windowBytes    = 4 << 20
)

func newWindow(ctx context.Context) window {
	return window{semaphore.NewWeighted(windowBytes), ctx}
}

func cost(n int) int64 {
	return min(max(int64(n), windowBytes/windowMessages), windowBytes)
}

// try takes room for n bytes, if there is enough.
func (w window) try(n int) bool { return w.room.TryAcquire(cost(n)) }

// enter waits for room for n bytes. A fate says why it did not get it.
func (w window) enter(ctx context.Context, n int, deadline time.Time) wire.Status {
	if w.try(n) {
		return 0
	}
	wait, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	switch {
	case w.room.Acquire(wait, cost(n)) == nil:
		return 0
	case w.ctx.Err() != nil:
		return w.left()
	}
	return wire.Expired
}

// left is the fate of what finds the tenure over, as its holder said, or left
// for another.
func (w window) left() wire.Status {
	if context.Cause(w.ctx) == ErrNoHolder {
		return wire.NotHere
	}
	return stale
}

// leave gives room for n bytes back.
func (w window) leave(n int) { w.room.Release(cost(n)) }

// newFlow makes the flow to a tenure.
func (d *delivery) newFlow(id, addr string, token uint64, silence func(*flow, bool)) (*flow, error) {
	p, err := d.transport.peer(addr)
	if err != nil {
		return nil, err
	}
	ctx, over := context.WithCancelCause(context.Background())
	f := &flow{
		addr: addr, d: d, silence: silence, window: newWindow(ctx), over: over,
		peer: p, low: 1, used: time.Now(),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrClosed
	}
	d.last++
	f.Target = wire.Target{Flow: d.last, Token: token, ID: id}
	d.flows[f.Flow] = f
	return f, nil
}

// flow returns the flow of a number, nil when it is not known any more.
func (d *delivery) flow(number uint64) *flow {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.flows[number]
}

// send makes one attempt through the flow and returns its fate. When ctx ends,
// or the message's deadline passes, it withdraws the message.
func (f *flow) send(ctx context.Context, m *message, now time.Time) wire.Status {
	if !f.try(len(m.data)) {
		if m.try {
			return wire.Busy
		}
		if s := f.enter(ctx, len(m.data), m.deadline); s != 0 {
			m.unsent = f.unanswered()
			return s
		}
		now = time.Now()
	}
	defer f.leave(len(m.data))
	p, s := f.post(m, now)
	if s != 0 {
		return s
	}
	p.flush()
	if done := ctx.Done(); done != nil { // a select is dear
		select {
		case s := <-m.done:
			return s
		case <-done:
		}
		f.cancel(m)
	}
	return <-m.done
}

// cancel withdraws messages, whose fates are then known soon.
func (f *flow) cancel(ms ...*message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for _, m := range ms {
		f.withdraw(m, now)
	}
	f.arm(now.Add(withdrawGrace))
}

// pending reports whether the fate of m is not known.
func (f *flow) pending(m *message) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return m.fate == 0
}

// post gives m a number and appends it to the frame of the peer that it
// returns, for its flush to send. With a fate, which says why, it did not.
func (f *flow) post(m *message, now time.Time) (*peer, wire.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.ctx.Err() != nil:
		return nil, f.left()
	case len(f.open) == 0 && now.Sub(f.used) > flowFresh:
		return nil, stale
	case len(f.open) >= flowSpan:
		return nil, wire.Busy
	}
	m.seq = f.low + uint64(len(f.open))
	f.open = append(f.open, m)
	f.expect(now)
	f.write(m, now)
	f.arm(earlier(m.askAt, m.deadline))
	return f.peer, 0
}

// write appends the data of m, or the question whether it may be sent, and
// returns the peer to flush. It is called with mu held, so that the numbers are
// in order on the wire.
func (f *flow) write(m *message, now time.Time) *peer {
	m.askAt = now.Add(askFirst)
	if m.batch != nil && m.batch.failed != 0 && m.seq > m.batch.failed {
		return nil // it must not be received any more
	}
	p, w := f.begin()
	if w == nil {
		return nil // as if lost
	}
	m.peer = p
	if f.Token == 0 || now.Sub(f.heard) > flowFresh { // the answer Missing lets it go
		w.Ask(&f.Target, f.low, m.seq)
		m.asked = now
		m.pos = p.position(0)
		p.end()
		return p
	}
	if m.copies++; !m.asked.IsZero() {
		// Other questions may be under way, and are not to be asked once more
		// before they are answered.
		m.askAt = m.askAt.Add(min(now.Sub(m.asked), askMost))
		m.asked = time.Time{}
	}
	budget := uint64(0)
	if !m.try {
		// The refusal has to be back before the deadline.
		left := m.deadline.Sub(now)
		left -= min(max(left/20, 2*time.Millisecond), 200*time.Millisecond)
		budget = uint64(max(left.Milliseconds(), 1))
	}
	m.pos = p.position(w.Data(&f.Target, f.low, m.seq, budget, f.gap(m), m.data))
	p.end()
	return p
}

// gap is how far behind the message is that m must follow; 0 when that one has
// been received, or there is none.
func (f *flow) gap(m *message) uint64 {
	if m.after != 0 && f.get(m.after) != nil {
		return m.seq - m.after
	}
	return 0
}

// begin opens the peer's frame. The peer may have been closed while idle; then
// there is a new one.
func (f *flow) begin() (*peer, *wire.Writer) {
	for range 2 {
		if w := f.peer.begin(); w != nil {
			return f.peer, w
		}
		p, err := f.d.transport.peer(f.addr)
		if f.trouble = err; err != nil {
			break
		}
		f.peer = p
	}
	return nil, nil
}

// settle gives m its fate. It is called with mu held; once for each m.
func (f *flow) settle(m *message, s wire.Status) {
	f.open[m.seq-f.low] = nil
	f.trim()
	m.fate = s
	if m.batch != nil {
		m.batch.settled(m)
	} else {
		m.done <- s
	}
}

// trim raises low above what is settled.
func (f *flow) trim() {
	n := 0
	for n < len(f.open) && f.open[n] == nil {
		n++
	}
	f.low += uint64(n)
	f.open = f.open[n:]
}

// unsettled returns the messages without a fate, also while they are settled. It
// is called with mu held.
func (f *flow) unsettled() []*message {
	return slices.DeleteFunc(slices.Clone(f.open), func(m *message) bool { return m == nil })
}

func (f *flow) get(seq uint64) *message {
	if i := seq - f.low; i < uint64(len(f.open)) {
		return f.open[i]
	}
	return nil
}

// withdraw takes m back when it is still here, which it reports, else it asks
// the receiver to. It is called with mu held.
func (f *flow) withdraw(m *message, now time.Time) bool {
	if f.get(m.seq) != m || !m.withdrawn.IsZero() {
		return false
	}
	m.withdrawn = now
	if m.recall() {
		f.settle(m, wire.Expired)
		return true
	}
	f.expect(now)
	if p, w := f.begin(); w != nil {
		w.Cancel(&f.Target, f.low, m.seq)
		p.end()
		p.flush()
	}
	return false
}

// waits reports whether nothing of m has left this node.
func (m *message) waits() bool { return m.copies <= 1 && m.peer != nil && m.peer.waits(m.pos) }

// recall takes m back when its data has not left this node.
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
	wake := now.Add(askMost)
	var ask []*message
	for _, m := range f.unsettled() {
		if f.ctx.Err() != nil && m.withdrawn.IsZero() && m.recall() {
			// It was just being tried when the flow ended.
			f.settle(m, f.left())
			continue
		}
		if m.copies > 0 && !f.unheard.IsZero() && now.Sub(f.unheard) >= giveUp {
			if m.recall() {
				f.settle(m, stale)
			} else {
				f.settle(m, unknown)
			}
			continue
		}
		if m.withdrawn.IsZero() && !now.Before(m.deadline) {
			if f.withdraw(m, now) {
				continue
			}
		}
		if !m.withdrawn.IsZero() {
			end := m.withdrawn.Add(withdrawGrace)
			if !now.Before(end) {
				// It may have been on its way to a connection that refused it.
				if m.recall() {
					f.settle(m, wire.Expired)
				} else {
					f.settle(m, unknown)
				}
				continue
			}
			wake = earlier(wake, end)
		} else {
			wake = earlier(wake, m.deadline)
		}
		if !now.Before(m.askAt) {
			if waits := m.waits(); waits || m.waited {
				// It has not left, or has only just.
				m.waited = waits
				m.askAt = now.Add(askFirst)
			} else {
				ask = append(ask, m)
				m.asks++
				m.askAt = now.Add(min(askFirst<<min(m.asks, 10), askMost))
			}
		}
		wake = earlier(wake, m.askAt)
	}
	silent := f.silent(now)
	if silent {
		f.peer.renew()
	}
	if !f.unheard.IsZero() && !silent {
		if len(f.open) == 0 { // what was not answered has been given up
			f.probe()
			wake = earlier(wake, now.Add(askFirst))
		}
		wake = earlier(wake, f.unheard.Add(silentAfter))
	}
	f.ask(ask, now)
	if silent && errors.Is(f.peer.refused(), ErrRefused) { // senders are not to wait for their deadlines
		f.takeBack() // at the end, as what is settled is the sender's
	}
	if len(f.open) > 0 || !f.unheard.IsZero() && !silent {
		f.arm(wake)
	}
	f.mu.Unlock()
	if silent {
		f.silence(f, true)
	}
}

// ask asks for the status of what has been under way for long. It is called
// with mu held.
func (f *flow) ask(ms []*message, now time.Time) {
	if len(ms) == 0 {
		return
	}
	f.expect(now)
	if p, w := f.begin(); w != nil {
		for _, m := range ms {
			w.Ask(&f.Target, f.low, m.seq)
			if m.asked.IsZero() {
				m.asked = now
			}
		}
		p.end()
		p.flush()
	}
}

// replied takes a Reply item, and returns the peer to flush, if any.
func (f *flow) replied(seq, current uint64, s wire.Status, now time.Time) (p *peer) {
	f.mu.Lock()
	f.current = current
	m := f.get(seq)
	news := f.hear(now, s == wire.Stranger) || s == wire.Stranger && current != 0
	switch {
	case m == nil || s == wire.Pending:
	case s == wire.Missing:
		// A copy that comes late gets the fate of this one. What was asked before
		// the data was written does not count.
		if m.withdrawn.IsZero() && !m.asked.IsZero() {
			p = f.write(m, now)
		}
	case s == wire.Stranger && (m.copies > 1 || m.copies == 1 && (m.asks > 0 || !m.withdrawn.IsZero())):
		// A process that was started anew on the address can't tell what became
		// of other copies.
		f.settle(m, unknown)
	default:
		if s == wire.NotHere {
			f.end(ErrNoHolder)
		}
		f.settle(m, s)
	}
	f.mu.Unlock()
	if news {
		f.silence(f, false)
	}
	return p
}

// expect notes that an answer is due. It is called with mu held.
func (f *flow) expect(now time.Time) {
	f.used = now
	if f.unheard.IsZero() {
		f.unheard = now
	}
}

// hear notes that the holder answers, and reports whether it was mute and is
// not any more. It is called with mu held.
func (f *flow) hear(now time.Time, absent bool) (recovered bool) {
	mute := f.absent || f.silent(now)
	f.used, f.unheard, f.absent = now, time.Time{}, absent
	if f.heard = now; absent {
		f.heard = time.Time{}
	}
	return mute && !absent
}

// silent reports whether the holder has stopped answering. It is called with
// mu held.
func (f *flow) silent(now time.Time) bool {
	return !f.unheard.IsZero() && now.Sub(f.unheard) >= silentAfter
}

// unanswered reports whether the holder does not answer, as far as is known.
func (f *flow) unanswered() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard.IsZero() || f.silent(time.Now())
}

// ended takes an Over item: what is not among the received never will be.
func (f *flow) ended(received wire.Seqs, now time.Time) {
	f.mu.Lock()
	for seq := range received.All {
		if m := f.get(seq); m != nil {
			f.settle(m, wire.Received)
		}
	}
	for _, m := range f.unsettled() {
		f.settle(m, wire.NotHere)
	}
	f.end(ErrNoHolder)
	f.hear(now, false)
	p := f.confirm()
	f.mu.Unlock()
	if p != nil {
		p.flush()
	}
}

// confirm appends what is settled, so that the holder waits for nothing, and
// returns the peer to flush. It is called with mu held.
func (f *flow) confirm() *peer {
	p, w := f.begin()
	if w != nil {
		w.Settled(&f.Target, f.low)
		p.end()
	}
	return p
}

// end makes every send to come go elsewhere. It is called with mu held.
func (f *flow) end(why error) {
	if f.ctx.Err() == nil {
		f.over(why)
		time.AfterFunc(flowAfterlife, f.forget)
	}
}

// retire ends a flow whose tenure is not the current one any more, and takes
// back what has not left. For the rest the old holder is asked on.
func (f *flow) retire() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(nil)
	f.takeBack()
}

// takeBack takes back what has not left. It is called with mu held.
func (f *flow) takeBack() {
	for _, m := range f.unsettled() {
		if m.recall() {
			f.settle(m, stale)
		}
	}
}

// mute says why nothing should be sent for now, and asks again. Nil: nothing is
// known against it.
func (f *flow) mute() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	var why error
	switch {
	case f.silent(now):
		why = f.because()
	case f.absent:
		why = ErrNoHolder
	default:
		f.used = now
		return nil
	}
	f.peer.renew()
	f.probe()
	return why
}

// probe asks about a number that no message will have, to hear anything at
// all. It is called with mu held.
func (f *flow) probe() {
	if p, w := f.begin(); w != nil {
		w.Ask(&f.Target, f.low, f.low+uint64(len(f.open)))
		p.end()
		p.flush()
		f.open = append(f.open, nil)
		f.trim()
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

// close withdraws everything that is under way.
func (d *delivery) close() {
	now := time.Now()
	for _, f := range d.shut() {
		f.mu.Lock()
		f.over(nil)
		for _, m := range f.unsettled() {
			f.withdraw(m, now)
		}
		f.arm(now.Add(withdrawGrace))
		f.mu.Unlock()
	}
}

// settle tells every holder that nothing is under way any more.
func (d *delivery) settle() {
	for _, f := range d.shut() {
		f.mu.Lock()
		p := f.confirm()
		f.mu.Unlock()
		if p != nil {
			p.flush()
		}
	}
}

// shut returns the flows, to which no more are added.
func (d *delivery) shut() []*flow {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return slices.Collect(maps.Values(d.flows))
}

// unreachable says that the holder did not answer, and why as far as is known.
func (f *flow) unreachable() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.because()
}

// because is unreachable with mu held.
func (f *flow) because() error {
	why := f.trouble
	if why == nil {
		why = f.peer.refused()
	}
	addr, _, _ := strings.Cut(f.addr, " ")
	err := fmt.Errorf("%w: %q at %s", ErrUnreachable, f.ID, addr)
	if why == nil {
		return err
	}
	return because(err, why)
}

// idle reports whether nothing is under way.
func (f *flow) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open) == 0
}
