package stream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// Bounds of the streams that others can open: over one link, and over all.
const (
	mostStreams    = 32 << 10
	mostStreamsAll = 256 << 10
)

// ErrEnded is returned when the link of a stream has ended.
var ErrEnded = errors.New("stream: the link has ended")

// A Mux is all streams of a process, in both directions.
type Mux struct {
	tick    *pulse.Pulse // the owner's, which calls Tick
	room    *mailbox.Room
	inbound atomic.Int64
	closed  atomic.Bool // no more requests are sent
	spare   sync.Pool   // of requests

	mu    sync.RWMutex
	sides map[*link.Link]*side
}

// LargestFrame is the largest frame that is sent where messages have at most so
// many bytes. Nodes of all versions take as much, and none takes more.
func LargestFrame(maxSize int) int {
	return max(maxSize, batchBytes) + link.FrameSize + wire.Overhead
}

// NewMux makes a mux. Its owner calls [Mux.Tick] whenever tick beats, and
// [Mux.Ended] for each link that has.
func NewMux(room *mailbox.Room, tick *pulse.Pulse) *Mux {
	return &Mux{tick: tick, room: room, sides: map[*link.Link]*side{}}
}

// request returns a blank one, which is not under way yet.
func (m *Mux) request() *Request {
	if r, _ := m.spare.Get().(*Request); r != nil {
		return r
	}
	return &Request{done: make(chan Result, 1)}
}

// free takes back a request that has ended.
func (m *Mux) free(r *Request) {
	*r = Request{done: r.done}
	m.spare.Put(r)
}

// A side is the streams of one link.
type side struct {
	mux  *Mux
	link *link.Link

	mu   sync.RWMutex
	over bool
	last uint64             // number of the newest of this process
	out  map[uint64]*Stream // of this process
	in   map[uint64]*inbound
}

// side returns the streams of a link, nil if it has ended.
func (m *Mux) side(l *link.Link) *side {
	m.mu.RLock()
	s := m.sides[l]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s = m.sides[l]; s == nil && !l.Over() { // whose end is told later, if ever
		s = &side{mux: m, link: l, out: map[uint64]*Stream{}, in: map[uint64]*inbound{}}
		m.sides[l] = s
	}
	return s
}

// Open makes the stream to a tenure at the other side of a link.
func (m *Mux) Open(l *link.Link, id string, token uint64) (*Stream, error) {
	s := m.side(l)
	if s == nil {
		return nil, ErrEnded
	}
	return s.stream(id, token, 0, newWindow())
}

func (s *side) stream(id string, token, flags uint64, w window) (*Stream, error) {
	w.ctx, w.end = context.WithCancel(context.Background())
	st := &Stream{ID: id, Token: token, side: s, flags: flags, window: w, requests: requests{low: 1, used: time.Now()}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, ErrEnded
	}
	s.last++
	st.number = s.last
	s.out[st.number] = st
	return st, nil
}

// leave forgets a stream of this process once nothing is under way. Until then
// its answers are waited for.
func (s *side) leave(st *Stream) {
	if st.Idle() {
		st.close()
	}
}

// close ends a stream in which nothing is under way.
func (s *Stream) close() {
	s.mu.Lock()
	s.endLocked(Elsewhere)
	opened := s.opened
	s.opened = false
	s.mu.Unlock()
	s.side.mu.Lock()
	delete(s.side.out, s.number)
	s.side.mu.Unlock()
	if !opened {
		return
	}
	// It goes with whatever leaves next, and must not get lost: the other side
	// would keep the stream for as long as there is the link.
	if w := s.side.link.BeginAnswer(); w != nil {
		w.Close(s.number)
		s.side.link.End()
	}
}

// streams returns those of this process.
func (s *side) streams() []*Stream {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ss := make([]*Stream, 0, len(s.out))
	for _, st := range s.out {
		ss = append(ss, st)
	}
	return ss
}

// On returns this process's streams on a link.
func (m *Mux) On(l *link.Link) []*Stream {
	m.mu.RLock()
	s := m.sides[l]
	m.mu.RUnlock()
	if s == nil {
		return nil
	}
	return s.streams()
}

// To returns this process's streams to a tenure, which are on one link: those of
// batches are among them.
func (s *Stream) To() (ss []*Stream) {
	for _, st := range s.side.streams() {
		if st.ID == s.ID && st.Token == s.Token {
			ss = append(ss, st)
		}
	}
	return ss
}

// Ended takes note of the end of a link: no request on it will be answered.
func (m *Mux) Ended(l *link.Link) {
	m.mu.Lock()
	s := m.sides[l]
	delete(m.sides, l)
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	s.over = true
	in := s.in
	s.in = nil
	s.mu.Unlock()
	for _, st := range s.streams() {
		st.Abandon()
	}
	m.inbound.Add(-int64(len(in)))
	for _, i := range in {
		i.drop()
	}
}

// Busy reports whether anything is under way over a link, in either direction.
func (m *Mux) Busy(l *link.Link) bool {
	for _, st := range m.On(l) {
		if !st.Idle() {
			return true
		}
	}
	m.mu.RLock()
	s := m.sides[l]
	m.mu.RUnlock()
	if s == nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, in := range s.in {
		if in.pending.Load() > 0 {
			return true
		}
	}
	return false
}

// all returns all streams of this process.
func (m *Mux) all() (ss []*Stream) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, s := range m.sides {
		ss = append(ss, s.streams()...)
	}
	return ss
}

// Tick does what time demands, and returns when to call again.
func (m *Mux) Tick(now time.Time) (next time.Time) {
	probed := map[*link.Link]bool{}
	for _, st := range m.all() {
		next = pulse.Earliest(next, st.tick(now))
		// What was acknowledged is not answered: its holder may die meanwhile.
		if l := st.side.link; !probed[l] && !st.Idle() {
			probed[l] = true
			next = pulse.Earliest(next, l.Probe(now))
		}
		if st.Over() != 0 {
			st.side.leave(st)
		}
	}
	return next
}

// Withdraw takes all requests back, as far as that is still possible, and has no more
// sent: neither by those who wait for the room of what was taken back.
func (m *Mux) Withdraw() {
	m.closed.Store(true)
	for _, st := range m.all() {
		st.Withdraw()
	}
}
