package mailbox

import (
	"context"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
)

// reportAfter is how long a result may wait while the handler is busy with what
// comes behind.
const reportAfter = 100 * time.Microsecond

// callAfter is how long what waits is left to a handler that comes to Take again and
// again, before it is offered at the other doors, too.
const callAfter = time.Millisecond

// A Room has the boxes of a node: at most one for an id.
type Room struct {
	// Observe is told of what handlers receive, soon after they have; nil: nobody asks.
	Observe func(Taken)
	// Own is the id of the box for what concerns the node itself, and no handler.
	Own string

	tick    *pulse.Pulse // the owner's, which calls Tick
	largest int          // reply
	reports agenda       // of boxes with results to report
	news    agenda       // of boxes that Observe is to be told of
	calls   agenda       // from which nobody has taken for a while
	takes   agenda       // with requests whose senders are to know that the handler has them
	spare   sync.Pool    // of messages
	slabs   sync.Pool

	withdrawn chan struct{} // closed when senders on this node wait no longer

	mu     sync.RWMutex
	boxes  map[string]*Box
	before Counts // of handlers of tenures that are over
}

// An agenda has boxes looked at after a while.
type agenda struct {
	beat *pulse.Pulse

	mu    sync.Mutex // the innermost lock
	boxes []*Box
}

func (a *agenda) add(b *Box, after time.Duration) {
	a.mu.Lock()
	a.boxes = append(a.boxes, b)
	a.mu.Unlock()
	a.beat.By(time.Now().Add(after))
}

// start has look called for each box that was added.
func (a *agenda) start(look func(*Box)) {
	a.beat = pulse.New(func(time.Time) (next time.Time) {
		a.mu.Lock()
		bs := a.boxes
		a.boxes = nil
		a.mu.Unlock()
		for _, b := range bs {
			look(b)
		}
		return next
	})
}

// NewRoom makes a room. Its owner calls [Room.Tick] whenever tick beats. Messages
// and replies have at most largest bytes.
func NewRoom(tick *pulse.Pulse, largest int) *Room {
	r := &Room{tick: tick, largest: largest, withdrawn: make(chan struct{}), boxes: map[string]*Box{}}
	r.reports.start((*Box).report)
	r.news.start(func(b *Box) { go b.Tell() }) // nothing else waits for Observe
	r.calls.start((*Box).call)
	r.takes.start((*Box).tellTaken)
	return r
}

// Begin makes the box of a tenure, which is over when exit ends. Held ends with its
// lease, and left is what that has left.
func (r *Room) Begin(exit, held context.Context, id string, token uint64, left func() time.Duration, in inbox) *Box {
	b := &Box{
		ID: id, Token: token, Data: make(chan []byte),
		inbox: in, exit: exit, held: held, left: left, room: r,
		telling: make(chan struct{}, 1), pump: pump{kick: make(chan struct{}, 1), turn: make(chan struct{}, 1)},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boxes[id] = b
	return b
}

// ownMost is what the node's own box takes and replies, whatever the limit of messages:
// it is less than any node's largest frame.
const ownMost = 60 << 10

// Largest is the most bytes of a message or a reply of an id.
func (r *Room) Largest(id string) int {
	if id == r.Own {
		return max(r.largest, ownMost)
	}
	return r.largest
}

func (r *Room) end(b *Box) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.boxes[b.ID] == b {
		delete(r.boxes, b.ID)
	}
	r.before.add(b.Counts())
}

// Counts is what the handlers of this node have received.
func (r *Room) Counts() Counts {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := r.before
	for _, b := range r.boxes {
		all.add(b.Counts())
	}
	return all
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

// Message returns a blank message.
func (r *Room) Message() *Message {
	if m, _ := r.spare.Get().(*Message); m != nil {
		return m
	}
	return &Message{}
}

// local makes the message of a sender on this node.
func (r *Room) local(call Call) *Message {
	m := r.Message()
	m.Payload, m.Expires, m.Context, m.Asks = call.Data, call.Deadline, call.Context, call.Asks
	if r.Observe != nil {
		m.Since = time.Now()
	}
	if m.done == nil {
		m.done = make(chan Answer, 1)
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

// Withdraw takes back what senders on this node wait for, as far as that is still
// possible. It is called once.
func (r *Room) Withdraw() { close(r.withdrawn) }

// Close ends the reports. All boxes have been shut.
func (r *Room) Close() {
	r.reports.beat.Stop()
	r.news.beat.Stop()
	r.calls.beat.Stop()
	r.takes.beat.Stop()
}
