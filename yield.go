package gone

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A gate says whether a candidate is to compete. Its zero value is open.
type gate struct {
	mu       sync.Mutex
	shut     bool
	promised bool   // the candidate has promised to take the id from another node
	invited  bool   // to one attempt, also where it is shut
	rouse    func() // ends what the candidate waits for; nil: it does not

	// Closed at the end of an attempt and of the tenure that comes of it; nil while
	// there is neither.
	turn chan struct{}
}

// set opens or shuts the gate.
func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == open {
		g.shut = !open
		g.rouseLocked()
	}
}

// promise has the candidate follow an invitation.
func (g *gate) promise() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.promised = true
}

// invite lets the candidate make one attempt now, as it has promised.
func (g *gate) invite() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.promised {
		g.promised, g.invited = false, true
		g.rouseLocked()
	}
}

// again has the candidate repeat its attempt, also where the gate is shut: it may have
// obtained a lock that nobody else gets as long as nobody knows.
func (g *gate) again() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.invited = true
}

func (g *gate) rouseLocked() {
	if g.rouse != nil {
		g.rouse()
		g.rouse = nil
	}
}

// open reports whether the candidate may make an attempt. Then its turn begins.
func (g *gate) open() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := !g.shut || g.invited
	g.invited, g.rouse = false, nil
	if open {
		g.turn = make(chan struct{})
	}
	return open
}

// done ends a turn.
func (g *gate) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.turn)
	g.turn = nil
}

// underway is closed when the turn that there is has ended; nil: there is none.
func (g *gate) underway() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.turn
}

// wait has rouse called when there is something else to do than to wait, which it
// does before an open or a shut gate. It returns false when there is already. Rouse
// must not block.
func (g *gate) wait(open bool, rouse func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.invited || g.shut == open {
		return false
	}
	g.rouse = rouse
	return true
}

// park reports whether run will be called again when the gate opens, or the
// candidate is closed.
func (c *candidate) park() bool {
	if l, ok := c.lock.(interface{ forgetFree() }); ok { // with its subscription
		l.forgetFree()
	}
	var once sync.Once
	wake := func() { once.Do(func() { go c.run() }) }
	unhook := context.AfterFunc(c.ctx, wake)
	return c.gate.wait(false, func() {
		unhook()
		wake()
	}) || !unhook()
}

// An heir is the node that a tenure is handed over to, and its lock's ticket. It is
// empty for whoever comes first.
type heir struct{ ticket, identity string }

// ticket is for the holder that hands the id over to this candidate; empty where the lock
// has none.
func (c *candidate) ticket() string {
	c.gate.promise()
	if p, ok := c.lock.(Passer); ok {
		return p.Ticket()
	}
	return ""
}

// yield ends the tenure, for an heir if there is one. It reports false when the tenure is
// over, or has an heir already.
func (t *tenure) yield(h heir) bool {
	if t.ctx.Err() != nil || !t.heir.CompareAndSwap(nil, &h) {
		return false
	}
	t.exit(ErrYielded)
	return true
}

// release gives the lock of a tenure to its heir, or to whoever comes first. A node
// that closes may not be able to tell the heir.
func (c *candidate) release(t *tenure) {
	if p, ok := c.lock.(Passer); ok && c.ctx.Err() == nil {
		if h := t.heir.Load(); h != nil && h.ticket != "" && c.node.count.lock.unlock.note(p.Pass(h.ticket, h.identity)) == nil {
			return
		}
	}
	c.unlock()
}

// unlock releases the lock. A lock does not say whether that has failed.
func (c *candidate) unlock() {
	c.lock.Unlock()
	_ = c.node.count.lock.unlock.note(nil)
}

// Yield hands the id over to another node of the cluster, the one that has the least for
// its weight, and closes Exit. The handler may then clean up, and should return. Yield
// asks one node after the other, for at most 10 s. The error says that no other node takes
// the id, and that nothing has changed. When Exit has closed already, Yield does nothing
// and returns nil. If the lock service has no roster, the first node to come has a second
// to take the id.
func (r *GoneRunner) Yield() error {
	if r.lease == nil {
		return errors.New("gone: Yield is for the runner that the handler was given")
	}
	return r.c.node.yield(r)
}

// yieldFor is for how long a node stays out of the race for an id that it has yielded
// to nobody in particular.
const yieldFor = time.Second

// yield implements node's.
func (g *Gone) yield(r *GoneRunner) error {
	t := r.c.current.Load()
	if t == nil || t.GoneRunner != r { // a goroutine that the handler has left behind
		return nil
	}
	ctx, cancel := context.WithTimeout(g.ctx, moveMost)
	defer cancel()
	h, err := g.anyHeir(ctx, t.c.id)
	if errors.Is(err, ErrNoRoster) {
		t.yield(heir{})
		return nil
	}
	if err != nil {
		return err
	}
	if t.yield(h) {
		go g.bring(t)
	}
	return nil
}

// anyHeir finds a node that takes an id, the one that has least for its weight first.
func (g *Gone) anyHeir(ctx context.Context, id string) (heir, error) {
	es, err := g.listed(ctx)
	if err != nil {
		return heir{}, err
	}
	why := errors.New("there is none")
	for _, to := range g.byRoom(es) {
		h, err := g.heir(ctx, id, to)
		if err == nil {
			return h, nil
		}
		why = err
	}
	return heir{}, fmt.Errorf("gone: no other node takes %q: %w", id, why)
}
