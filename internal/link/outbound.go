package link

import (
	"runtime"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// outbound is what goes to the other side. Writers append items to the open
// frame; one of them at a time has the role of the flusher, who owns the
// connection and sends frame after frame until none may leave. So a lone writer
// sends at once, and many share frames.
//
// Frames are numbered from 1. A frame is kept until it is acknowledged:
//
//	first ≤ … sent … < next ≤ … waiting … < first+len(queue) = the open frame
//
// Next goes back to first to send again. Given is the highest number that the
// carrier has, perhaps, taken.
type outbound struct {
	w     wire.Writer // the open frame
	queue []kept
	first uint64
	next  uint64
	given uint64
	size  int // bytes of queue
	small int // frames of queue that are sent and bear few requests

	greeting
	ack, bye bool
	held     time.Time // since when the open frame waits for others to join it
	overdue  bool      // it does not any more
	flight
	role
}

// greeting is what is to be said.
type greeting struct{ hello, welcome bool }

// A kept frame is closed, and not acknowledged.
type kept struct {
	bytes []byte
	small bool
	bye   bool
}

// flight is how the sent frames fare.
type flight struct {
	resend  time.Duration // after so long without an acknowledgement
	resent  time.Time     // when they were last, or first
	rewound uint64        // the frame from which they were, because of a gap
	stall   time.Duration
	stalled time.Time // since when the carrier takes nothing; zero: it does
	retry   time.Time // not before; zero: at once
}

// role is that of the flusher.
type role struct {
	flushing bool
	busy     []byte // the frame that the carrier is being given
	renew    bool   // it is to connect anew
	hangUp   bool   // it is to close the connection
	sent     time.Time
	spare    [][]byte // buffers
	control  []byte   // of frames that are not kept
}

// A Position is where an item waits to be sent.
type Position struct {
	frame uint64
	at    int
}

// Begin locks the link and returns the open frame to append requests to. It
// returns nil, without the lock, when the link has ended or is silent, so that
// whoever is told of that knows all that waits, or when too much waits.
func (l *Link) Begin() *wire.Writer {
	l.mu.Lock()
	if l.state == ended || l.silent || l.in.closed || l.out.crowdedLocked(l.mesh) {
		l.mu.Unlock()
		return nil
	}
	return &l.out.w
}

func (o *outbound) crowdedLocked(m *Mesh) bool {
	return o.size >= linkBytes || o.size >= FrameSize && int(m.kept.Load()) >= m.Bytes
}

// Room closes the open frame, which [Link.Begin] has returned, if it would be full with n
// bytes more: for what goes before an item, so that both together do not make a frame
// larger than an item alone can.
func (l *Link) Room(n int) {
	if o := &l.out; !o.w.Empty() && o.w.Len()+n > FrameSize {
		o.sealLocked(l.mesh)
	}
}

// BeginAnswer is Begin for answers and what else must not get lost: if a link keeps
// twice as much as it should because the other side acknowledges nothing, it
// ends.
func (l *Link) BeginAnswer() *wire.Writer {
	l.mu.Lock()
	if l.out.size >= 2*linkBytes || l.out.size >= FrameSize && int(l.mesh.kept.Load()) >= 2*l.mesh.Bytes {
		l.endLocked(errFlooded)
	}
	if l.state == ended || l.out.bye {
		l.mu.Unlock()
		return nil
	}
	return &l.out.w
}

// BeginReply is BeginAnswer for what may be large, and is not worth the link: where
// too much waits it returns nil and says so.
func (l *Link) BeginReply() (w *wire.Writer, crowded bool) {
	l.mu.Lock()
	switch {
	case l.state == ended || l.out.bye:
	case l.out.crowdedLocked(l.mesh):
		crowded = true
	default:
		return &l.out.w, false
	}
	l.mu.Unlock()
	return nil, crowded
}

// Position is that of an item that was appended at an offset since Begin.
func (l *Link) Position(at int) Position {
	return Position{l.out.first + uint64(len(l.out.queue)), at}
}

// End unlocks the link, and reports whether Flush would do anything.
func (l *Link) End() (flush bool) {
	if l.out.w.Len() >= FrameSize {
		l.out.sealLocked(l.mesh)
	}
	flush = !l.out.restsLocked()
	l.mu.Unlock()
	return flush
}

// restsLocked reports whether there is nothing for another flusher to do.
func (o *outbound) restsLocked() bool {
	return o.flushing || o.hangUp || !o.retry.IsZero() ||
		!o.held.IsZero() && o.waits() && !o.ack && o.greeting == (greeting{})
}

// sealLocked closes the open frame.
func (o *outbound) sealLocked(m *Mesh) {
	f := kept{bytes: o.w.Bytes(), small: o.w.Requests && o.w.Len() < FrameSize}
	o.queue = append(o.queue, f)
	o.size += len(f.bytes)
	m.kept.Add(int64(len(f.bytes)))
	var buf []byte
	if n := len(o.spare); n > 0 {
		buf, o.spare = o.spare[n-1], o.spare[:n-1]
	}
	o.w.Reset(buf)
	o.held, o.overdue = time.Time{}, false
}

// byeLocked appends the last frame.
func (o *outbound) byeLocked(m *Mesh) {
	if !o.w.Empty() {
		o.sealLocked(m)
	}
	o.bye = true
	o.sealLocked(m)
	o.queue[len(o.queue)-1].bye = true
}

// dropLocked lets go of all that is kept, as the link has ended. What given says
// stays.
func (o *outbound) dropLocked(m *Mesh) {
	m.kept.Add(-int64(o.size))
	o.first += uint64(len(o.queue))
	o.next = o.first
	o.queue, o.size, o.small, o.spare = nil, 0, 0, nil
	o.w.Reset(nil)
}

// Recall takes a Request or Batch back, if it has certainly not left this
// process and now never will. If it returns false nobody here can tell whether
// it arrives: only the other side's answer does. When the link has ended there
// will be none, and the outcome is unknown.
func (l *Link) Recall(p Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &l.out
	if l.state == ended || p.frame <= o.given {
		return p.frame > o.given
	}
	if i := p.frame - o.first; i < uint64(len(o.queue)) {
		wire.Withdraw(o.queue[i].bytes, p.at)
	} else {
		wire.Withdraw(o.w.Bytes(), p.at)
	}
	return true
}

// acknowledgeLocked lets go of what the other side has taken, and reports
// whether something may leave because of it.
func (l *Link) acknowledgeLocked(h wire.Header, now time.Time) bool {
	o := &l.out
	if l.state == ended || h.Ack > o.given {
		return false
	}
	said := false
	if h.Ack >= o.first {
		for o.first <= h.Ack {
			f := o.queue[0]
			o.queue[0] = kept{}
			o.queue = o.queue[1:]
			o.first++
			o.size -= len(f.bytes)
			l.mesh.kept.Add(-int64(len(f.bytes)))
			if f.small {
				o.small--
			}
			if f.bye {
				l.endLocked(errClosed)
				return false
			}
			if len(o.spare) < 4 && cap(f.bytes) <= 2*FrameSize && (len(o.busy) == 0 || &o.busy[0] != &f.bytes[0]) {
				o.spare = append(o.spare, f.bytes)
			}
		}
		o.next = max(o.next, o.first)
		l.hearLocked(now)
		said = true
	}
	if h.Kind == wire.Gap && o.first < o.next && (o.rewound != o.first || now.Sub(o.resent) > resendFirst/4) {
		o.next, o.rewound, o.resent = o.first, o.first, now
		said = true
	}
	if h.Kind == wire.Bye && (h.Number == l.in.taken+1 || l.in.closed) {
		o.given = h.Ack // what is above was not taken, and never will be
	}
	return said && (o.next < o.first+uint64(len(o.queue)) || !o.w.Empty())
}

// Flush sends what has been appended, unless somebody is at it.
func (l *Link) Flush() {
	l.mu.Lock()
	o := &l.out
	if o.restsLocked() {
		l.mu.Unlock()
		return
	}
	o.flushing = true
	now := time.Now()
	crowd := now.Sub(o.sent) < crowded
	l.mu.Unlock()
	if crowd {
		// Others who are ready to run are about to write, too. This is what
		// makes frames of many messages; a lone writer never gets here.
		runtime.Gosched()
	}
	l.drain(now)
}

// drain is the flusher's work.
func (l *Link) drain(now time.Time) {
	o := &l.out
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		number, frame := l.pickLocked(now)
		if frame == nil || o.hangUp {
			o.flushing = false
			l.hangUpLocked()
			return
		}
		renew := o.renew
		o.renew, o.busy = false, frame
		first := number > o.given
		if first {
			o.given = number
		}
		l.mu.Unlock()
		if renew {
			l.conn.Renew()
		}
		sent := l.conn.Send(frame)
		now = time.Now()
		l.mu.Lock()
		o.busy = nil
		if sent {
			o.sent, l.used = now, now
			o.stall, o.stalled = 0, time.Time{}
			continue
		}
		if number != 0 {
			o.next = max(o.first, min(o.next, number))
			if first && l.state != ended && number >= o.first {
				o.given = number - 1
				if o.queue[number-o.first].small {
					o.small--
				}
			}
		} else if l.state != opening && o.next == o.first+uint64(len(o.queue)) && o.w.Empty() {
			o.flushing = false // it is asked for again, if need be
			l.hangUpLocked()
			return
		}
		l.stallLocked(now)
	}
}

// hangUpLocked closes the connection, if the flusher has been told to.
func (l *Link) hangUpLocked() {
	if l.out.hangUp {
		l.conn.Close()
	}
}

// stallLocked waits: the carrier takes nothing, as it has no connection, or does
// not keep up.
func (l *Link) stallLocked(now time.Time) {
	o := &l.out
	if o.stalled.IsZero() {
		o.stalled = now
	}
	most := stallMost
	if !l.wanted && l.state == opening {
		most = strangerMost / 6 // there may be thousands that lead nowhere
	}
	o.stall = min(max(2*o.stall, stallFirst), most)
	o.retry = l.mesh.tick.Align(now.Add(o.stall), o.stall/2)
	if l.state == opening {
		o.greeting = greeting{hello: l.wanted, welcome: l.remote != 0}
	}
	l.mesh.tick.By(o.retry)
	if at := o.stalled.Add(stalledMost); !l.due.IsZero() && now.Before(at) {
		l.mesh.tick.By(at)
	}
}

// pickLocked returns the next frame to send, nil if none may leave now, and its
// number, 0 where it is not kept.
func (l *Link) pickLocked(now time.Time) (uint64, []byte) {
	o := &l.out
	switch {
	case !o.retry.IsZero():
		return 0, nil
	case (o.hello || o.welcome) && l.state != ended:
		welcome := o.welcome
		if welcome {
			o.welcome = false
		} else {
			o.hello = false
		}
		o.control = wire.AppendHello(o.control[:0], welcome, l.id, l.remote, l.mesh.Identity)
		return 0, o.control
	case l.state == opening:
		return 0, nil
	case l.in.gap:
		l.in.gap = false
		return 0, l.controlLocked(wire.Gap)
	}
	if l.state == open {
		if number, frame := l.nextLocked(now); frame != nil {
			return number, frame
		}
	}
	if o.ack {
		return 0, l.controlLocked(wire.Ack)
	}
	return 0, nil
}

// nextLocked returns the next numbered frame, nil if none may leave now.
func (l *Link) nextLocked(now time.Time) (uint64, []byte) {
	o := &l.out
	end := o.first + uint64(len(o.queue))
	if o.next > o.given && o.first <= o.given && (o.next-o.first >= windowFrames || l.flightLocked() >= windowBytes) {
		return 0, nil
	}
	if o.next == end {
		if o.w.Empty() || l.heldLocked(now) {
			return 0, nil
		}
		o.sealLocked(l.mesh)
	}
	number := o.next
	f := &o.queue[number-o.first]
	kind := wire.Items
	if f.bye {
		kind = wire.Bye
	}
	wire.PutHeader(f.bytes, wire.Header{Kind: kind, Link: l.remote, From: l.id, Number: number, Ack: l.in.taken})
	if number > o.given && f.small {
		o.small++
	} else if number <= o.given {
		l.mesh.resent.Add(1)
	}
	o.next++
	o.ack, l.in.told, l.in.prove = false, l.in.taken, false
	l.dueLocked(now)
	return number, f.bytes
}

// flightLocked is how many bytes are sent and not acknowledged.
func (l *Link) flightLocked() (n int) {
	o := &l.out
	for _, f := range o.queue[:o.next-o.first] {
		n += len(f.bytes)
	}
	return n
}

// waits reports whether all that there is to send is an open frame that waits
// for more to join it: while two of its kind are on their way, and not for long.
// Answers never wait.
func (o *outbound) waits() bool {
	return o.small >= windowSmall && !o.overdue && !o.w.Answers && o.w.Len() < FrameSize &&
		o.next == o.first+uint64(len(o.queue))
}

// heldLocked is waits, and sees to it that it ends.
func (l *Link) heldLocked(now time.Time) bool {
	o := &l.out
	if !o.waits() {
		return false
	}
	if o.held.IsZero() {
		o.held = now
	}
	l.owe()
	return true
}

func (l *Link) controlLocked(k wire.FrameKind) []byte {
	o := &l.out
	o.ack, l.in.told, l.in.prove = false, l.in.taken, false
	o.control = wire.AppendFrame(o.control[:0], wire.Header{Kind: k, Link: l.remote, From: l.id, Ack: l.in.taken})
	return o.control
}
