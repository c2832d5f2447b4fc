package gone

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// routes know which tenure holds an id: the flow to it is kept until the
// holder refuses or falls silent, so that a message costs no lock-service call
// as long as there is one every few seconds.
type routes struct {
	self     string
	here     func(id string) bool // a tenure on this node takes messages
	newLock  LockFactory
	delivery *delivery
	ctx      context.Context // ends with the Gone

	looks sync.WaitGroup // look goroutines, which use the locks

	mu  sync.RWMutex
	ids map[string]*route
}

// routesMost bounds the ids that are remembered when nobody sends to them.
const routesMost = 16 << 10

const (
	lookFirst = 2 * time.Millisecond
	lookMost  = 500 * time.Millisecond
	overFor   = 5 * time.Second
)

// A route is what this node knows of one id's holder.
type route struct {
	rs   *routes
	id   string
	lock GoneLock // only asked, never locked

	mu      sync.Mutex
	flow    *flow         // to the holder; nil: not known
	last    *flow         // the one before, or a silent one that may recover
	dead    uint64        // tenures with tokens up to it are over, …
	died    time.Time     // … as was said then
	err     error         // why there is no flow
	changed chan struct{} // closed when it is worth looking again
	looking bool          // look runs
	waiting int           // senders, and who asks
	evicted bool          // nothing is looked for any more: the id may have another route, or none ever
}

// get finds or makes the route of an id.
func (rs *routes) get(id string) (*route, error) {
	rs.mu.RLock()
	r := rs.ids[id]
	rs.mu.RUnlock()
	if r != nil {
		return r, nil
	}
	// It is not known how long that takes.
	lock, err := rs.newLock(id, rs.self)
	if err == nil && lock == nil {
		err = errors.New("gone: the lock factory returned no lock")
	}
	if err != nil {
		return nil, err
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r := rs.ids[id]; r != nil || rs.ctx.Err() != nil {
		closeLock(lock)
		if r == nil {
			return nil, ErrClosed
		}
		return r, nil
	}
	if len(rs.ids) >= routesMost {
		rs.evict()
	}
	r = &route{rs: rs, id: id, lock: lock, changed: make(chan struct{})}
	rs.ids[id] = r
	return r, nil
}

// ask asks the lock service who holds an id.
func (rs *routes) ask(id string) (addr string, token uint64, err error) {
	for {
		r, err := rs.get(id)
		if err != nil {
			return "", 0, err
		}
		if r.keep() {
			defer r.release()
			return holder(r.lock)
		}
	}
}

// evict forgets some ids that nobody sends to. It is called with mu held.
func (rs *routes) evict() {
	n := 0
	for id, r := range rs.ids {
		if !r.retireIdle() {
			continue
		}
		delete(rs.ids, id)
		closeLock(r.lock)
		if n++; n >= routesMost/64 {
			return
		}
	}
}

// poke makes senders to an id look again, because a tenure of it has begun or
// ended on this node.
func (rs *routes) poke(id string) {
	rs.mu.RLock()
	r := rs.ids[id]
	rs.mu.RUnlock()
	if r != nil {
		r.mu.Lock()
		r.change()
		r.mu.Unlock()
	}
}

// close frees the locks. Nobody may be sending any more.
func (rs *routes) close() {
	rs.mu.Lock()
	ids := rs.ids
	rs.ids = nil
	rs.mu.Unlock()
	for _, r := range ids {
		r.evict() // a flow's timer may still find its holder silent
	}
	rs.looks.Wait() // one may be in a request to the lock service
	for _, r := range ids {
		closeLock(r.lock)
	}
}

func closeLock(l GoneLock) {
	if c, ok := l.(io.Closer); ok {
		_ = c.Close()
	}
}

// known returns the flow to the holder, nil when it is not known.
func (r *route) known() *flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flow
}

// next returns the flow to the holder. When it is not known it waits for one
// change and returns nil and why there is none.
func (r *route) next(ctx context.Context, deadline time.Time) (*flow, error) {
	r.mu.Lock()
	if f := r.flow; f != nil || r.evicted {
		r.mu.Unlock()
		return f, nil
	}
	changed := r.changed
	r.waiting++
	r.lookLocked()
	r.mu.Unlock()

	// A tenure that has begun here since the caller looked told nobody.
	if !r.rs.here(r.id) {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		case <-r.rs.ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
	return r.flow, r.err
}

// over reports whether a tenure is, as far as is known: the lock service may name
// it for a while. But not for ever, as tokens may have been forged, or begin
// anew. It is called with mu held.
func (r *route) over(token uint64) bool {
	return token <= r.dead && time.Since(r.died) < overFor
}

// change wakes everybody who waits. It is called with mu held.
func (r *route) change() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// refused drops a flow whose holder does not have the tenure. When the tenure
// is over for good, the lock service is not believed if it still names it.
func (r *route) refused(f *flow, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Without tokens of the lock those of two nodes can't be compared.
	if _, ok := r.lock.(Fencer); ok && over {
		r.dead, r.died = max(r.dead, f.Token), time.Now()
	}
	if r.flow != f {
		return
	}
	r.flow, r.last = nil, f
	r.follow(f)
}

// silence is told by a flow that its holder has stopped to answer, or that it
// has news: it answers again, or knows of another tenure.
func (r *route) silence(f *flow, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case silent && r.flow == f:
		r.flow, r.last, r.err = nil, f, f.unreachable()
		r.lookLocked() // what has not left can go to the next holder
	case !silent && r.flow == nil && r.last == f:
		if !r.follow(f) && f.ctx.Err() == nil {
			r.use(f.addr, f.Token)
		}
	}
}

// follow goes on to another tenure that the holder's node has named, if it
// has. It is called with mu held.
func (r *route) follow(f *flow) bool {
	token := f.hint()
	if token == 0 || token == f.Token || r.over(token) {
		return false
	}
	r.use(f.addr, token)
	return true
}

// use makes the flow to a tenure the route. It is called with mu held.
func (r *route) use(addr string, token uint64) {
	if f := r.last; f != nil && f.addr == addr && f.Token == token && f.ctx.Err() == nil {
		if r.err = f.mute(); r.err == nil {
			r.flow, r.last = f, nil
			r.change()
		}
		return
	}
	f, err := r.rs.delivery.newFlow(r.id, addr, token, r.silence)
	if err != nil {
		r.err = ofHolder(r.id, err)
		return
	}
	if r.last != nil {
		r.last.retire()
	}
	r.flow, r.last, r.err = f, nil, nil
	r.change()
}

// learn takes an answer of the lock service and reports whether there is no
// holder. It is called with mu held.
func (r *route) learn(addr string, token uint64, err error) (nobody bool) {
	switch {
	case r.flow != nil:
	case errors.Is(err, ErrNoHolder):
		r.err = err
		return true
	case err != nil:
		r.err = err
		if f := r.last; f != nil && f.ctx.Err() == nil {
			// The service can't say. The last holder refuses if it isn't any more.
			r.use(f.addr, f.Token)
		}
	case token != 0 && r.over(token):
		r.err = ErrNoHolder // over without the service knowing it yet
		return true
	case addr == r.rs.self:
		r.err = ErrNoHolder // about to begin, or about to end
		if r.last != nil {
			r.last.retire()
			r.last = nil
		}
		return true
	default:
		r.use(addr, token)
	}
	return false
}

// lookOnce is next for a sender that does not wait for a holder.
func (r *route) lookOnce(ctx context.Context) (*flow, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flow == nil && !r.evicted {
		r.waiting++
		looked := make(chan struct{})
		r.rs.looks.Go(func() { // the lock can't be interrupted
			defer close(looked)
			addr, token, err := holder(r.lock)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.waiting--
			r.learn(addr, token, err)
		})
		r.mu.Unlock()
		select {
		case <-looked:
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
	return r.flow, r.err
}

// lookLocked starts look, unless it runs. It is called with mu held.
func (r *route) lookLocked() {
	if !r.looking && !r.evicted {
		r.looking = true
		r.rs.looks.Go(r.look)
	}
}

// look asks the lock service for the holder until there is a flow, or nobody
// waits for one: no sender, and no message to a silent holder.
func (r *route) look() {
	for pause := lookFirst; ; pause = min(2*pause, lookMost) {
		began := time.Now()
		addr, token, err := holder(r.lock)
		r.mu.Lock()
		nobody := r.learn(addr, token, err)
		if errors.Is(r.err, ErrRefused) {
			r.change() // who has waited for long gives up
		}
		idle := r.waiting == 0 && (r.last == nil || r.last.idle())
		if r.flow != nil || idle || r.rs.ctx.Err() != nil {
			r.looking = false
			r.change()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()

		if w, ok := r.lock.(Waiter); ok && nobody {
			// The wake-up may be lost, so there is a poll behind it, too.
			ctx, cancel := context.WithTimeout(r.rs.ctx, jitter(2*lookMost))
			err = w.WaitHeld(ctx)
			cancel()
			if r.rs.ctx.Err() == nil && time.Since(began) > pause && (err == nil || errors.Is(err, ctx.Err())) {
				pause = lookFirst
				continue
			}
		}
		_ = sleepCtx(r.rs.ctx, jitter(pause))
	}
}

// keep has the route not evicted until release. It returns false when it was.
func (r *route) keep() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.evicted {
		return false
	}
	r.waiting++
	return true
}

func (r *route) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting--
}

func (r *route) evict() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evicted = true
}

// retireIdle ends the route when nothing uses it, and reports whether it did.
func (r *route) retireIdle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting > 0 || r.looking {
		return false
	}
	for _, f := range []*flow{r.flow, r.last} {
		if f != nil && !f.idle() {
			return false
		}
	}
	for _, f := range []*flow{r.flow, r.last} {
		if f != nil {
			f.retire()
		}
	}
	r.flow, r.last, r.evicted = nil, nil, true
	return true
}

// holder asks a lock who holds it.
func holder(l GoneLock) (value string, token uint64, err error) {
	if f, ok := l.(Fencer); ok {
		return f.Holder()
	}
	value, err = l.GetValue()
	return value, 0, err
}
