package mailbox

import (
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// An Origin is the way back to who sent a message.
type Origin interface {
	// Answer reports the result of count messages with adjoining numbers, or of
	// one batch, of which count messages were received.
	Answer(number, count uint64, s wire.Status)
	// Reply gives the handler's reply to a request, or what it failed with. An
	// error says that there is no way for it.
	Reply(number uint64, payload []byte, failed bool) error
	// From is the identity of the sender's process.
	From() string
	// Flush sends what was answered and replied.
	Flush()
}

// A Chain is of batches of which none is received behind one that was not
// received whole. What waits before that one is not concerned.
type Chain struct{ at atomic.Uint64 } // the number of the first that was not; 0: none

// Break says that the batch with a number was, or will be, not received whole.
func (c *Chain) Break(number uint64) {
	for at := c.at.Load(); at == 0 || number < at; at = c.at.Load() {
		if c.at.CompareAndSwap(at, number) {
			return
		}
	}
}

// Broken reports whether one before the batch with a number was not.
func (c *Chain) Broken(number uint64) bool {
	at := c.at.Load()
	return at != 0 && at < number
}

// A Message waits for the handler: one payload, or a batch of them.
type Message struct {
	Payload []byte // of a batch: what is left of it, as on the wire
	Batch   int    // how many messages a batch has; 0: it is none
	Expires time.Time
	Chain   *Chain // nil for none
	Origin  Origin // nil for a sender on this node, whose Payload stays its own
	Number  uint64
	Asks    bool      // for a reply
	Context []byte    // what else its sender has said; nil: nothing
	Since   time.Time // it is here; zero where nobody asks

	got        int // of the batch, received
	withdrawn  bool
	request    *Request    // that the handler has received
	done       chan Answer // for a sender on this node; capacity 1
	prev, next *Message
}

// Bounds of what waits in a box. A single message may exceed the bytes. Senders
// on this node wait with their own data, as goroutines do.
const (
	mostMessages = 16 << 10
	mostBytes    = 16 << 20
)

// queue is a list of messages; what it counts are those of remote senders.
type queue struct {
	head, tail *Message
	n, bytes   int
	earliest   time.Time // none expires before
}

func (q *queue) push(m *Message) {
	if q.head == nil || m.Expires.Before(q.earliest) {
		q.earliest = m.Expires
	}
	m.prev, m.next = q.tail, nil
	if q.head == nil {
		q.head = m
	} else {
		q.tail.next = m
	}
	q.tail = m
	if m.Origin != nil {
		q.n += m.left()
		q.bytes += m.size()
	}
}

func (q *queue) remove(m *Message) {
	if m.prev == nil {
		q.head = m.next
	} else {
		m.prev.next = m.next
	}
	if m.next == nil {
		q.tail = m.prev
	} else {
		m.next.prev = m.prev
	}
	m.prev, m.next = nil, nil
	if m.Origin != nil {
		q.n -= m.left()
		q.bytes -= m.size()
	}
}

// left is how many payloads have not been received.
func (m *Message) left() int { return max(m.Batch, 1) - m.got }

// size is what a message keeps, in bytes.
func (m *Message) size() int { return len(m.Payload) + len(m.Context) }

// cut takes the next payload of a batch.
func (q *queue) cut(m *Message) []byte {
	before := len(m.Payload)
	data := wire.NextOfBatch(&m.Payload)
	q.bytes -= before - len(m.Payload)
	q.n--
	m.got++
	return data
}
