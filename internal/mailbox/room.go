package mailbox

import (
	"context"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// reportAfter is how long a result may wait while the handler is busy with what
// comes behind.
const reportAfter = 100 * time.Microsecond

// A Room has the boxes of a node: at most one for an id.
type Room struct {
	tick    *pulse.Pulse // the owner's, which calls Tick
	reports *pulse.Pulse
	spare   sync.Pool // of messages
	slabs   sync.Pool

	mu    sync.RWMutex
	boxes map[string]*Box

	lists sync.Mutex // the innermost lock
	dirty []*Box     // with results to report
}

// NewRoom makes a room. Its owner calls [Room.Tick] whenever tick beats.
func NewRoom(tick *pulse.Pulse) *Room {
	r := &Room{tick: tick, boxes: map[string]*Box{}}
	r.reports = pulse.New(r.report)
	return r
}

// Begin makes the box of a tenure, which is over when exit ends. Left is what
// its lease has left.
func (r *Room) Begin(exit context.Context, id string, token uint64, left func() time.Duration) *Box {
	b := &Box{
		ID: id, Token: token, Data: make(chan []byte),
		exit: exit, left: left, room: r,
		pump: pump{kick: make(chan struct{}, 1), turn: make(chan struct{}, 1)},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boxes[id] = b
	return b
}

func (r *Room) end(b *Box) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.boxes[b.ID] == b {
		delete(r.boxes, b.ID)
	}
}

// Box returns that of an id's tenure, nil if there is none.
func (r *Room) Box(id string) *Box {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.boxes[id]
}

// All returns all boxes.
func (r *Room) All() []*Box {
	r.mu.RLock()
	defer r.mu.RUnlock()
	bs := make([]*Box, 0, len(r.boxes))
	for _, b := range r.boxes {
		bs = append(bs, b)
	}
	return bs
}

// Tick takes back what has waited too long, and returns when to call again.
func (r *Room) Tick(now time.Time) (next time.Time) {
	for _, b := range r.All() {
		next = pulse.Earliest(next, b.expire(now))
	}
	return next
}

// soon has the results of a box reported.
func (r *Room) soon(b *Box) {
	r.lists.Lock()
	r.dirty = append(r.dirty, b)
	r.lists.Unlock()
	r.reports.By(time.Now().Add(reportAfter))
}

func (r *Room) report(time.Time) (next time.Time) {
	r.lists.Lock()
	bs := r.dirty
	r.dirty = nil
	r.lists.Unlock()
	for _, b := range bs {
		b.report()
	}
	return time.Time{}
}

// Message returns a blank message.
func (r *Room) Message() *Message {
	if m, _ := r.spare.Get().(*Message); m != nil {
		return m
	}
	return &Message{}
}

// local makes the message of a sender on this node.
func (r *Room) local(data []byte, deadline time.Time) *Message {
	m := r.Message()
	m.Payload, m.Expires = data, deadline
	if m.done == nil {
		m.done = make(chan wire.Status, 1)
	}
	return m
}

// Free takes back a message that does not wait.
func (r *Room) Free(m *Message) {
	*m = Message{done: m.done}
	r.spare.Put(m)
}

// slabSize bounds what a small payload that a handler keeps can keep alive.
const slabSize = 4 << 10

// A slab is a buffer that small payloads share.
type slab struct{ rest []byte }

// copy returns a copy of a payload.
func (r *Room) copy(p []byte) []byte {
	if len(p) > slabSize/4 {
		return append([]byte(nil), p...)
	}
	s, _ := r.slabs.Get().(*slab)
	if s == nil {
		s = &slab{}
	}
	if len(s.rest) < len(p) {
		s.rest = make([]byte, slabSize)
	}
	c := s.rest[:len(p):len(p)]
	s.rest = s.rest[len(p):]
	copy(c, p)
	r.slabs.Put(s)
	return c
}

// Close ends the reports. All boxes have been shut.
func (r *Room) Close() { r.reports.Stop() }
