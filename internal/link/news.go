package link

import "time"

// A Change is news of a link.
type Change struct {
	Link *Link
	What What
}

// What has changed.
type What uint8

const (
	Opened    What = iota // what was appended leaves now
	Silent                // nothing arrives any more, as far as is known
	Recovered             // it does again
	Ended
)

// note adds a change. It may be called with any lock held.
func (m *Mesh) note(l *Link, what What) {
	m.lists.Lock()
	m.changes = append(m.changes, Change{l, what})
	m.lists.Unlock()
	m.news.Store(true)
	m.tick.By(time.Now())
}

// Changes returns what has changed since the last call.
func (m *Mesh) Changes() []Change {
	if !m.news.Swap(false) {
		return nil
	}
	m.lists.Lock()
	defer m.lists.Unlock()
	cs := m.changes
	m.changes = nil
	return cs
}

// Health is the state of the link in a word, and how many bytes it keeps.
func (l *Link) Health() (state string, kept int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept = l.out.size
	switch {
	case l.state == ended:
		return "ended", kept
	case l.silent:
		return "silent", kept
	case l.state == opening:
		return "opening", kept
	}
	return "open", kept
}

// Established reports whether the other side has answered, and the link has not ended.
func (l *Link) Established() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != opening && l.state != ended
}

// Resent is how many frames were sent again.
func (m *Mesh) Resent() uint64 { return m.resent.Load() }
