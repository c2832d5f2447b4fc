package mailbox

import "time"

// A Taken is what a handler has received.
type Taken struct {
	ID     string
	Token  uint64
	From   string // identity; empty: this process
	Bytes  int
	Queued time.Duration // from its arrival at this node
}

// Counts are of what handlers have received.
type Counts struct {
	Messages, Bytes uint64
	Own             uint64 // messages of senders on this node that want no reply
}

func (c *Counts) add(d Counts) {
	c.Messages, c.Bytes, c.Own = c.Messages+d.Messages, c.Bytes+d.Bytes, c.Own+d.Own
}

// taken is what the handler of a box has received.
type taken struct {
	Counts
	untold []Taken // to Observe
}

// takenLocked notes that the handler has a payload of a message; nil: Hand took it,
// of a sender on this node, and it has not waited.
func (b *Box) takenLocked(m *Message, size int) {
	if b.ID == b.room.Own {
		return
	}
	b.taken.Messages++
	b.taken.Bytes += uint64(size)
	if m == nil || m.Origin == nil && !m.Asks {
		b.taken.Own++
	}
	if b.room.Observe == nil {
		return
	}
	t := Taken{ID: b.ID, Token: b.Token, Bytes: size}
	if m != nil {
		t.Queued = time.Since(m.Since)
		if m.Origin != nil {
			t.From = m.Origin.From()
		}
	}
	if b.taken.untold = append(b.taken.untold, t); len(b.taken.untold) == 1 {
		b.room.news.add(b, reportAfter)
	}
}

// mostUntold is how far Observe is behind when the handler gets nothing more, until it has
// been told. What else the node does does not wait for Observe.
const mostUntold = 1024

func (b *Box) crowdedLocked() bool { return len(b.taken.untold) > mostUntold }

// Tell tells Observe. When it returns, all that there was has been told.
func (b *Box) Tell() {
	b.telling <- struct{}{}
	defer func() { <-b.telling }()
	b.mu.Lock()
	took := b.taken.untold
	b.taken.untold = nil
	b.mu.Unlock()
	for _, t := range took {
		b.room.Observe(t)
	}
}

// pace has who hands over, or takes, wait while Observe is too far behind.
func (b *Box) pace() {
	if b.room.Observe == nil {
		return
	}
	b.mu.Lock()
	crowded := b.crowdedLocked()
	b.mu.Unlock()
	if crowded {
		b.Tell()
	}
}
