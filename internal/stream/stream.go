// Package stream is one tenure as seen from one sender: numbered requests to it,
// each with exactly one answer, on a link that loses nothing. It knows links and
// mailboxes, but neither sockets nor locks.
//
// A request is answered by the tenure's mailbox: received, busy, expired, ended;
// by a process that has no such tenure: absent; or not at all, because its link
// has ended or its sender waits no longer. Then [link.Link.Recall] decides: what
// has not left goes elsewhere, and the outcome of what has is unknown.
//
// Locks: a stream's mu is taken before that of its link.
package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// What a request can end in, besides an answer.
const (
	// Unknown: nobody can tell whether the handler received it.
	Unknown wire.Status = 0xff
	// Elsewhere: it was not received by this tenure and never will be; whoever
	// holds the id now may be sent it.
	Elsewhere wire.Status = 0xfe
)

const (
	// A stream that was not used for so long is not trusted: its holder may have
	// died or been paused.
	freshFor = 5 * time.Second
	// A withdrawal waits so long for its answer.
	withdrawGrace = 200 * time.Millisecond
	// A batch goes in items of about so many bytes, each in a frame of its own.
	batchBytes = 60 << 10
	// A Context needs at most so many bytes besides what it says.
	contextHead = 1 + 3*binary.MaxVarintLen64
)

// A Result is the end of a request.
type Result struct {
	Status wire.Status
	Count  int    // of a batch: how many messages were received, from the front
	Reply  []byte // of Reply and Failure
	Failed bool   // the reply is what the handler failed with
	Taken  bool   // of Unknown: the handler has received it
	Unsent bool   // it has not left this process
}

// A Call is what is to be sent.
type Call struct {
	Data     []byte
	Context  []byte // what goes with it, at most wire.MaxContext; nil: nothing
	Deadline time.Time
	Flags    uint64 // of the wire
}

// A Request is under way to a tenure, under one number.
type Request struct {
	Call
	msgs      [][]byte // of a batch
	number    uint64
	pos       link.Position
	withdrawn time.Time
	taken     bool        // the handler has it, and is to reply
	done      chan Result // capacity 1
}

func (r *Request) asks() bool { return r.Flags&wire.WantsReply != 0 }

// A Stream is the requests from this process to one tenure. Its methods may be
// called concurrently.
type Stream struct {
	ID     string
	Token  uint64
	side   *side
	number uint64
	flags  uint64
	window

	mu       sync.Mutex
	opened   bool
	over     wire.Status // why nothing more is sent; 0: it is
	current  uint64      // token of the id's tenure there, as a refusal said
	requests             // without an answer
}

// requests are numbered one after the other. Those that wait for a reply may do so
// while many others come and go.
type requests struct {
	low      uint64              // all others below are answered
	open     []*Request          // low, low+1, …; nil: answered, or asked
	asked    map[uint64]*Request // that want a reply
	earliest time.Time           // no deadline or grace ends before; zero: none is open
	used     time.Time
}

func (rs *requests) idle() bool { return len(rs.open) == 0 && len(rs.asked) == 0 }

func (rs *requests) next() uint64 { return rs.low + uint64(len(rs.open)) }

// add gives a request its number.
func (rs *requests) add(r *Request) {
	r.number = rs.next()
	if !r.asks() {
		rs.open = append(rs.open, r)
		return
	}
	if rs.asked == nil {
		rs.asked = map[uint64]*Request{}
	}
	rs.asked[r.number] = r
	rs.open = append(rs.open, nil)
	rs.trim()
}

// remove takes out a request that has ended.
func (rs *requests) remove(r *Request) {
	if r.asks() {
		delete(rs.asked, r.number)
	} else {
		rs.open[r.number-rs.low] = nil
		rs.trim()
	}
	if rs.idle() {
		rs.earliest = time.Time{}
	}
}

func (rs *requests) trim() {
	n := 0
	for n < len(rs.open) && rs.open[n] == nil {
		n++
	}
	rs.low += uint64(n)
	rs.open = rs.open[n:]
}

// Link is where the stream goes.
func (s *Stream) Link() *link.Link { return s.side.link }

// Send sends a request and waits for its end. When ctx ends, or the deadline
// passes, the request is withdrawn.
func (s *Stream) Send(ctx context.Context, call Call, now time.Time) Result {
	room, c := s.share(len(call.Data)+len(call.Context), call.Flags)
	if !room.TryAcquire(c) {
		if call.Flags&wire.Try != 0 {
			return Result{Status: wire.Busy}
		}
		if status := s.enter(ctx, room, c, call.Deadline); status != 0 {
			return Result{Status: status}
		}
		now = time.Now()
	}
	defer room.Release(c)
	r := s.side.mux.request()
	r.Call = call
	defer s.side.mux.free(r)
	flush, status := s.post(r, now)
	if status != 0 {
		return Result{Status: status, Unsent: true}
	}
	if flush {
		s.side.link.Flush()
	}
	if done := ctx.Done(); done != nil { // a select is dear
		select {
		case result := <-r.done:
			return result
		case <-done:
			s.withdraw(r)
		}
	}
	return <-r.done
}

// post appends a request to the link's open frame, and reports whether that is to
// be flushed. With a status it did not.
func (s *Stream) post(r *Request, now time.Time) (flush bool, why wire.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over != 0:
		return false, s.over
	case s.side.mux.closed.Load(), !s.freshLocked(now):
		return false, Elsewhere
	}
	l := s.side.link
	w := l.Begin()
	if w == nil {
		if l.Over() || l.Silent() {
			return false, Elsewhere
		}
		return false, wire.Busy
	}
	if r.Context != nil {
		l.Room(len(r.Context) + contextHead)
	}
	if !s.opened {
		s.opened = true
		w.Open(s.number, s.flags, s.Token, s.ID)
	}
	s.add(r)
	if r.Context != nil {
		w.Context(s.number, r.number, r.Context)
	}
	if r.msgs != nil {
		r.pos = l.Position(w.Batch(s.number, r.number, budget(r.Deadline.Sub(now)), r.msgs))
	} else {
		r.pos = l.Position(w.Request(s.number, r.number, budget(r.Deadline.Sub(now)), r.Flags, r.Data))
	}
	flush = l.End()
	s.used = now
	s.watchLocked(r.Deadline)
	s.side.mux.tick.By(now.Add(link.ProbeAfter))
	return flush, 0
}

// budget is for how long the receiver may keep a request, in milliseconds: its
// refusal has to be back before the deadline.
func budget(left time.Duration) uint64 {
	left -= min(max(left/20, 2*time.Millisecond), 200*time.Millisecond)
	return uint64(max(left.Milliseconds(), 1))
}

// watchLocked has tick look at the stream at t.
func (s *Stream) watchLocked(t time.Time) {
	if s.earliest.IsZero() || t.Before(s.earliest) {
		s.earliest = t
		s.side.mux.tick.By(t)
	}
}

// unanswered returns the open requests, which may be ended on the way through
// them. It is called with the stream's mu held.
func (rs *requests) unanswered() (open []*Request) {
	for _, r := range rs.open {
		if r != nil {
			open = append(open, r)
		}
	}
	for _, r := range rs.asked {
		open = append(open, r)
	}
	return open
}

func (rs *requests) get(number uint64) *Request {
	if i := number - rs.low; i < uint64(len(rs.open)) && rs.open[i] != nil {
		return rs.open[i]
	}
	return rs.asked[number]
}

// settleLocked ends a request, which is its sender's from then on.
func (s *Stream) settleLocked(r *Request, result Result) {
	s.remove(r)
	if s.flags&wire.Chained != 0 && result.Status != wire.Received {
		s.endLocked(Elsewhere) // nothing may go behind it
	}
	r.done <- result
}

// answered takes an answer, from a frame of so many bytes.
func (s *Stream) answered(it *wire.Item, frame int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	if it.Status == wire.Ended || it.Status == wire.Absent {
		s.endLocked(it.Status)
		s.current = it.Current
	}
	switch r := s.get(it.Number); {
	case r != nil && r.msgs != nil:
		s.settleLocked(r, ofBatch(it, len(r.msgs)))
	case it.Kind != wire.Answer:
		if r != nil {
			reply := it.Payload
			if frame > 2*len(reply) { // so as not to keep the rest of it alive
				reply = bytes.Clone(reply)
			}
			s.settleLocked(r, Result{Status: wire.Received, Reply: reply, Failed: it.Kind == wire.Failure})
		}
	case it.Count <= uint64(len(s.open)+len(s.asked)): // which may be thousands
		for n := range it.Count {
			s.answerLocked(s.get(it.Number+n), it.Status)
		}
	default:
		for _, r := range s.unanswered() {
			if r.number-it.Number < it.Count {
				s.answerLocked(r, it.Status)
			}
		}
	}
}

// answerLocked takes the answer to one request; nil: it has ended.
func (s *Stream) answerLocked(r *Request, status wire.Status) {
	switch {
	case r == nil || r.msgs != nil: // batches are answered one by one
	case status == wire.Taken:
		r.taken = r.asks()
	case status == wire.NoReply && !r.asks():
		s.settleLocked(r, Result{Status: wire.Received})
	default:
		s.settleLocked(r, Result{Status: status})
	}
}

// ofBatch is what an answer says of a batch of n messages. One that says that it
// was received, and not all of it, says nothing.
func ofBatch(it *wire.Item, n int) Result {
	count := int(min(it.Count, uint64(n)))
	switch {
	case it.Kind != wire.Answer, count < n && (it.Status == wire.Received || it.Status >= wire.NoReply):
		return Result{Status: Unknown}
	case count == n:
		return Result{Status: wire.Received, Count: n}
	}
	return Result{Status: it.Status, Count: count}
}

// endLocked has nothing more sent.
func (s *Stream) endLocked(why wire.Status) {
	if s.over == 0 {
		s.over = why
		s.end()
	}
}

// withdraw takes a request back, whose end is then known soon.
func (s *Stream) withdraw(r *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdrawLocked(r, time.Now())
}

// withdrawLocked reports whether it has ended the request.
func (s *Stream) withdrawLocked(r *Request, now time.Time) bool {
	if s.get(r.number) != r || !r.withdrawn.IsZero() {
		return false
	}
	r.withdrawn = now
	l := s.side.link
	if l.Recall(r.pos) {
		s.settleLocked(r, Result{Status: wire.Expired, Unsent: true})
		return true
	}
	if w := l.BeginAnswer(); w != nil {
		w.Cancel(s.number, r.number)
		l.End()
		l.Flush()
	}
	s.watchLocked(now.Add(withdrawGrace))
	return false
}

// tick enforces deadlines. It returns when to call again.
func (s *Stream) tick(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle() || now.Before(s.earliest) {
		return s.earliest
	}
	for _, r := range s.unanswered() {
		if r.withdrawn.IsZero() && !now.Before(r.Deadline) && s.withdrawLocked(r, now) {
			continue
		}
		switch {
		case r.withdrawn.IsZero():
			next = pulse.Earliest(next, r.Deadline)
		case now.Sub(r.withdrawn) < withdrawGrace:
			next = pulse.Earliest(next, r.withdrawn.Add(withdrawGrace))
		default:
			s.lastWordLocked(r, wire.Expired)
		}
	}
	s.earliest = next
	return next
}

// lastWordLocked ends a request of which no answer is waited for any more. What
// has not left this process has a certain status; of the rest nobody can tell.
func (s *Stream) lastWordLocked(r *Request, unsent wire.Status) {
	if s.side.link.Recall(r.pos) {
		s.settleLocked(r, Result{Status: unsent, Unsent: true})
	} else {
		s.settleLocked(r, Result{Status: Unknown, Taken: r.taken})
	}
}

// TakeBack has what has not left this process sent elsewhere.
func (s *Stream) TakeBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.unanswered() {
		if s.side.link.Recall(r.pos) {
			s.settleLocked(r, Result{Status: Elsewhere, Unsent: true})
		}
	}
}

// Abandon ends the stream and everything in it: there will be no more answers.
func (s *Stream) Abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(Elsewhere)
	for _, r := range s.unanswered() {
		s.lastWordLocked(r, Elsewhere)
	}
}

// Retire has nothing more sent: the tenure is over, or not the current one. What
// has left is still waited for; the rest goes elsewhere.
func (s *Stream) Retire() {
	s.mu.Lock()
	s.endLocked(Elsewhere)
	s.mu.Unlock()
	s.TakeBack()
	s.side.leave(s)
}

// Withdraw takes everything back, as far as that is still possible.
func (s *Stream) Withdraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, r := range s.unanswered() {
		s.withdrawLocked(r, now)
	}
}

// Idle reports whether nothing is under way.
func (s *Stream) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle()
}

// Over is why nothing more is sent, 0 while it is.
func (s *Stream) Over() wire.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// Current is the token of the id's tenure at the other side, as a refusal said;
// 0 for none.
func (s *Stream) Current() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *Stream) freshLocked(now time.Time) bool {
	return !s.idle() || now.Sub(s.used) <= freshFor
}

// fresh reports whether the stream is trusted.
func (s *Stream) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freshLocked(time.Now())
}

// Use makes the stream fresh: its tenure is the current one, as somebody has just
// said.
func (s *Stream) Use() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
}
