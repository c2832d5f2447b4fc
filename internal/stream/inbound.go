package stream

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/wire"
)

// An inbound is the receiving half of a stream: requests from another process to
// one tenure. It is the way back, too.
type inbound struct {
	side    *side
	number  uint64
	id      string
	token   uint64
	chain   *mailbox.Chain              // nil: its requests do not depend on each other
	next    uint64                      // lowest number that was not used; Receive's
	box     atomic.Pointer[mailbox.Box] // of the tenure; nil: it was not here yet
	pending atomic.Int64                // requests that wait for their answer
}

// Answer implements mailbox.Origin.
func (in *inbound) Answer(number, count uint64, s wire.Status) {
	switch {
	case s == wire.Taken: // which is none
	case in.chain != nil:
		in.pending.Add(-1)
	default:
		in.pending.Add(-int64(count))
	}
	in.write(number, count, s)
}

// Reply implements mailbox.Origin.
func (in *inbound) Reply(number uint64, payload []byte, failed bool) error {
	l := in.side.link
	w, crowded := l.BeginReply()
	if crowded {
		in.Answer(number, 1, wire.NoReply)
		return mailbox.ErrCrowded
	}
	in.pending.Add(-1)
	if w == nil {
		return mailbox.ErrNobody
	}
	if failed {
		w.Failure(in.number, number, payload)
	} else {
		w.Reply(in.number, number, payload)
	}
	l.End()
	return nil
}

// From implements mailbox.Origin.
func (in *inbound) From() string { return in.side.link.Identity }

// Flush implements mailbox.Origin.
func (in *inbound) Flush() { in.side.link.Flush() }

func (in *inbound) write(number, count uint64, s wire.Status) {
	current := uint64(0)
	if s == wire.Ended || s == wire.Absent {
		if b := in.side.mux.room.Box(in.id); b != nil && b.Open() {
			current = b.Token
		}
	}
	if w := in.side.link.BeginAnswer(); w != nil {
		w.Answer(in.number, number, count, s, current)
		in.side.link.End()
	}
}

// drop takes back what waits, as its sender's link has ended.
func (in *inbound) drop() {
	if b := in.box.Load(); b != nil && in.pending.Load() > 0 {
		b.Drop(in)
	}
}

// answers collects those of adjoining requests that are known at once.
type answers struct {
	in            *inbound
	number, count uint64
	s             wire.Status
}

func (a *answers) add(in *inbound, number uint64, s wire.Status) {
	if a.in == in && a.s == s && a.number+a.count == number && in.chain == nil {
		a.count++
		return
	}
	a.write()
	*a = answers{in, number, 1, s}
	if in.chain != nil && s != wire.Received {
		in.chain.Break(number)
		a.count = 0 // of a batch: none was received
	}
}

func (a *answers) write() {
	if a.in != nil {
		a.in.write(a.number, a.count, a.s)
		a.in = nil
	}
}

// Receive takes the items of a frame of a link, which may go on to share the
// frame's buffer. One goroutine at a time calls it.
func (m *Mux) Receive(l *link.Link, body []byte) (err error) {
	s := m.side(l)
	if s == nil {
		return nil
	}
	var (
		a    answers
		in   *inbound
		out  *Stream
		said said
		r    = wire.NewReader(body)
		now  = time.Now()
	)
	for {
		it, bad := r.Next()
		if it == nil {
			err = bad
			break
		}
		switch it.Kind {
		case wire.Answer, wire.Reply, wire.Failure:
			if out == nil || out.number != it.Stream {
				out = s.outbound(it.Stream)
			}
			if out != nil {
				out.answered(it, len(body))
			}
		case wire.Open:
			s.open(it)
			in = nil
		case wire.Close:
			s.closed(it.Stream)
			in = nil
		case wire.Context:
			said.stream, said.number, said.what = it.Stream, it.Number, it.Payload
		case wire.Request, wire.Batch:
			if in == nil || in.number != it.Stream {
				in = s.inbound(it.Stream)
			}
			if status := in.request(it, said.of(it), len(body), now); status != 0 {
				a.add(in, it.Number, status)
			}
		case wire.Cancel:
			in = s.inbound(it.Stream)
			if b := in.box.Load(); b != nil {
				b.Cancel(in, it.Number)
			}
		}
	}
	a.write()
	l.Flush()
	return err
}

// said is what a Context has said of the request that follows at once.
type said struct {
	stream, number uint64
	what           []byte
}

// of returns a copy of what was said of a request; nil: nothing was.
func (s *said) of(it *wire.Item) (what []byte) {
	if s.what != nil && s.stream == it.Stream && s.number == it.Number {
		what = bytes.Clone(s.what)
	}
	s.what = nil
	return what
}

func (s *side) outbound(number uint64) *Stream {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.out[number]
}

// inbound returns a stream of the other process. One that it has not opened
// refuses everything.
func (s *side) inbound(number uint64) *inbound {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if in := s.in[number]; in != nil {
		return in
	}
	return &inbound{side: s, number: number}
}

// open takes an Open. A number that is in use stays what it is.
func (s *side) open(it *wire.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.in[it.Stream] != nil || len(s.in) >= mostStreams || s.mux.inbound.Load() >= mostStreamsAll {
		return
	}
	in := &inbound{side: s, number: it.Stream, id: string(it.ID), token: it.Token}
	if it.Flags&wire.Chained != 0 {
		in.chain, in.next = &mailbox.Chain{}, 1
	}
	s.in[it.Stream] = in
	s.mux.inbound.Add(1)
}

// closed takes a Close.
func (s *side) closed(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in[number] != nil {
		delete(s.in, number)
		s.mux.inbound.Add(-1)
	}
}

// request takes a Request or a Batch, and returns its status if that is known
// at once, else 0.
func (in *inbound) request(it *wire.Item, context []byte, frame int, now time.Time) wire.Status {
	if it.Number+1 <= in.next { // two would be one to who answers them
		return wire.Busy
	}
	if in.chain != nil && it.Number > in.next { // the one before was taken back
		in.chain.Break(in.next)
	}
	in.next = it.Number + 1
	switch {
	case in.id == "" || (it.Kind == wire.Batch) != (in.chain != nil):
		return wire.Busy
	case in.chain != nil && in.chain.Broken(it.Number):
		return wire.Busy
	case oversized(it, in.side.mux.room.Largest(in.id)):
		return wire.Oversized
	}
	b := in.box.Load()
	if b == nil {
		if b = in.side.mux.room.Box(in.id); b == nil || b.Token != in.token {
			return wire.Absent
		}
		in.box.Store(b)
	}
	m := in.side.mux.room.Message()
	m.Payload, m.Origin, m.Number, m.Chain = it.Payload, in, it.Number, in.chain
	m.Batch, m.Asks = int(it.Count), it.Flags&wire.WantsReply != 0
	m.Context, m.Since = context, now
	// A budget of more than a day is as good as a day.
	m.Expires = now.Add(time.Duration(min(it.Budget, 24*3600*1000)) * time.Millisecond)
	in.pending.Add(1)
	s := b.Arrive(m, it.Flags&wire.Try != 0, frame > 2*len(it.Payload))
	if s != 0 {
		in.pending.Add(-1)
		in.side.mux.room.Free(m)
	}
	return s
}

// oversized reports whether a message is larger than this process takes.
func oversized(it *wire.Item, most int) bool {
	if len(it.Payload) <= most {
		return false
	}
	if it.Kind == wire.Request {
		return true
	}
	for b := it.Payload; len(b) > 0; {
		if len(wire.NextOfBatch(&b)) > most {
			return true
		}
	}
	return false
}
