package gone

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/placement"
)

// candidates are the ids that a node runs.
type candidates struct {
	mu       sync.Mutex
	byID     map[string]*candidate
	digest   *placement.Digest // of byID; nil when that has changed
	closing  bool
	watching bool // wakeWatch is set
}

// RunOne competes for the id. Whenever this node wins, handler runs here until it returns
// or must end, and then again somewhere. RunOne does not wait for that. If this node runs
// the id already, it returns the runner that is there.
//
// RunOne asks the lock service before it starts anything. The error says that the service
// can't be reached, which command it refuses, or that it has something else under that
// id. It wraps ErrClosed when the Gone is closed.
func (g *Gone) RunOne(id string, handler RunHandler) (*GoneRunner, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if handler == nil {
		return nil, errors.New("gone: nil handler")
	}
	if c, err := g.runner(id); c != nil || err != nil {
		return c, err
	}
	lock, err := g.newLock(id, g.end.identity)
	if err == nil && lock == nil {
		err = errors.New("gone: the lock factory returned no lock")
	}
	if err != nil {
		return nil, err
	}
	value, err := g.firstAsk(lock)
	if err != nil && !errors.Is(err, ErrNoHolder) {
		closeLock(lock)
		return nil, err
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.byID[id]
	if g.closing || before != nil && before.ctx.Err() == nil {
		closeLock(lock)
		if g.closing {
			return nil, ErrClosed
		}
		return &before.runner, nil
	}
	if before == nil && err == nil && value == g.end.identity {
		g.suspect(id)
	}
	c := newCandidate(id, lock, handler, g.node, before)
	g.byID[id], g.digest = c, nil
	g.enlist()
	c.gate.set(g.mayRun(id))
	go func() {
		if before != nil {
			<-before.runner.Exit // its handler may still run
			g.mu.Lock()
			c.before = nil
			g.mu.Unlock()
		}
		c.run()
	}()
	return &c.runner, nil
}

// ended implements stage.
func (g *Gone) ended(c *candidate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byID[c.id] == c {
		delete(g.byID, c.id)
		g.digest = nil
	}
}

// runner returns the runner of an id that is run already.
func (g *Gone) runner(id string) (*GoneRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return nil, ErrClosed
	}
	if c := g.byID[id]; c != nil && c.ctx.Err() == nil {
		return &c.runner, nil
	}
	return nil, nil
}

// begin implements stage.
func (g *Gone) begin(r *GoneRunner, left func() time.Duration) (end func()) {
	id, token := r.c.id, r.token
	if token == 0 {
		// For a lock without tokens: no other tenure of this id on this node
		// has the same.
		token = uint64(time.Now().UnixMicro())
	}
	in := mailbox.NewInbox(func(m *Message, d mailbox.Delivery) *Message {
		if m == nil {
			m = &Message{}
		}
		m.set(r, d)
		return m
	})
	b := g.room.Begin(r.ctx, r.held, id, token, left, in)
	r.Data, r.Inbox, r.take, r.box = b.Data, in.C, b.Take, b
	unhook := context.AfterFunc(r.ctx, b.Shut)
	g.watchWakes()
	g.routes.poke(id)
	return func() {
		unhook()
		b.Shut()
		b.Finish()
		g.routes.poke(id)
	}
}

// watchWakes looks at every lease once a second while there are any: timers
// stand still while a machine sleeps, the leases' clock does not.
func (g *Gone) watchWakes() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watching {
		return
	}
	g.watching = true
	var look func()
	look = func() {
		tenures := 0
		for _, b := range g.room.All() {
			if b != g.desk.box {
				b.Left()
				tenures++
			}
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.watching = tenures > 0; g.watching {
			time.AfterFunc(wakeWatch, look)
		}
	}
	time.AfterFunc(wakeWatch, look)
}

// busy reports whether a handler of the candidate's id has not returned.
func (g *Gone) busy(c *candidate) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c != nil && !c.running.Load() {
		c = c.before
	}
	return c != nil
}
