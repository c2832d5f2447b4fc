package gone

import (
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// tenures are those of this node: at most one for an id that takes messages,
// and for a while the ended ones, which can still say what they received.
type tenures struct {
	mu   sync.RWMutex
	ids  map[string]*tenureList
	past []pastTenure // in the order in which they ended
}

type tenureList struct {
	current *mailbox
	past    []*mailbox
}

type pastTenure struct {
	m    *mailbox
	when time.Time
}

// An ended tenure answers for longer than a sender waits by default, unless
// there are very many.
const (
	pastFor  = time.Minute
	pastMost = 4096
)

// current returns the tenure that takes messages for an id, or nil.
func (t *tenures) current(id string) *mailbox {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.ids[id]; l != nil {
		return l.current
	}
	return nil
}

// open reports whether a tenure of the id takes messages.
func (t *tenures) open(id string) bool {
	m := t.current(id)
	return m != nil && m.open()
}

// find returns the tenure with a token and the token of the current one.
func (t *tenures) find(id []byte, token uint64) (m *mailbox, current uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.ids[string(id)]
	if l == nil {
		return nil, 0
	}
	if l.current != nil {
		current = l.current.token
		if current == token {
			return l.current, current
		}
	}
	for _, p := range l.past {
		if p.token == token {
			return p, current
		}
	}
	return nil, current
}

func (t *tenures) begin(m *mailbox) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ids == nil {
		t.ids = map[string]*tenureList{}
	}
	l := t.ids[m.id]
	if l == nil {
		l = &tenureList{}
		t.ids[m.id] = l
	}
	l.current = m
}

func (t *tenures) end(m *mailbox, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.ids[m.id]
	if l == nil || l.current != m {
		return
	}
	l.current = nil
	l.past = append(l.past, m)
	t.past = append(t.past, pastTenure{m, now})
	for len(t.past) > pastMost || now.Sub(t.past[0].when) > pastFor {
		t.forget(t.past[0].m)
		t.past[0] = pastTenure{}
		t.past = t.past[1:]
	}
}

func (t *tenures) forget(m *mailbox) {
	l := t.ids[m.id]
	for i, p := range l.past {
		if p == m {
			l.past = append(l.past[:i:i], l.past[i+1:]...)
			break
		}
	}
	if l.current == nil && len(l.past) == 0 {
		delete(t.ids, m.id)
	}
}

// tell reports the end of every past tenure to the senders that have not
// confirmed to know it, and returns how many they are.
func (t *tenures) tell() (open int) {
	t.mu.RLock()
	past := append([]pastTenure(nil), t.past...)
	t.mu.RUnlock()
	for _, p := range past {
		open += p.m.tell()
	}
	return open
}

// all returns the tenures that take messages.
func (t *tenures) all() (ms []*mailbox) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.ids {
		if l.current != nil {
			ms = append(ms, l.current)
		}
	}
	return ms
}

// asked answers one item of a sender; 0 is no answer.
func (t *tenures) asked(from uint64, addr []byte, it *wire.Item, shared bool) (s wire.Status, current uint64) {
	m, current := t.find(it.ID, it.Token)
	return m.asked(from, addr, it, shared, time.Now()), current
}

// empty reports whether there are none, and were none lately.
func (t *tenures) empty() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.ids) == 0
}
