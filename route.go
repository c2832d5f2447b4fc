package gone

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
)

// routes know which tenure holds an id: the stream to it is kept until the
// holder refuses or falls silent, so that a message costs no lock-service call
// as long as there is one every few seconds.
//
// Locks: routes' mu, then that of a route, then those of streams and links.
type routes struct {
	self    string
	here    func(id string) bool // a tenure on this node takes messages
	runs    func(id string) bool // a tenure's handler is on this node
	own     *own
	newLock LockFactory
	mesh    *link.Mesh
	streams *stream.Mux
	count   *counters
	ctx     context.Context // ends with the Gone

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

	mu     sync.Mutex
	stream *stream.Stream // to the holder; nil: not known, or silent
	last   *stream.Stream // to one that is silent, and may recover; nil if stream is not
	past
	err     error         // why there is no stream
	changed chan struct{} // closed when it is worth looking again
	looking bool          // look runs
	waiting int           // senders, and who asks
	evicted bool          // nothing is looked for any more: the id may have another route, or none ever
}

// past is what is known of tenures that are not to be sent to.
type past struct {
	newest uint64    // highest token heard of: tenures below are over
	dead   uint64    // tenures with tokens up to it are over, …
	died   time.Time // … as was said then
	// A node that does not know the tenure which the lock service names may be
	// about to begin it, or never will: it is asked again after a growing pause.
	absent uint64
	pause  time.Duration
	again  time.Time
	// Of a holder with this node's address that is another process.
	strange uint64
	since   time.Time
}

// get finds or makes the route of an id.
func (rs *routes) get(id string) (*route, error) {
	if r := rs.known(id); r != nil {
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
		rs.evictLocked()
	}
	r := &route{rs: rs, id: id, lock: lock, changed: make(chan struct{})}
	rs.ids[id] = r
	return r, nil
}

// known returns the route of an id, nil if there is none.
func (rs *routes) known(id string) *route {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.ids[id]
}

// with has something done with the route of an id, which is kept meanwhile.
func (rs *routes) with(id string, do func(*route) error) error {
	for {
		r, err := rs.get(id)
		if err != nil {
			return err
		}
		if r.keep() {
			defer r.release()
			return do(r)
		}
	}
}

// evictLocked forgets some ids that nobody sends to.
func (rs *routes) evictLocked() {
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
	if r := rs.known(id); r != nil {
		r.mu.Lock()
		r.since = time.Time{}
		r.changeLocked()
		r.mu.Unlock()
	}
}

// silent takes note that nothing arrives over a link any more: what has not left
// can go to the next holder.
func (rs *routes) silent(l *link.Link) {
	for _, s := range rs.streams.On(l) {
		s.TakeBack()
		if r := rs.known(s.ID); r != nil {
			r.silent(s)
		}
	}
}

// recovered takes note that a link that was silent is not any more.
func (rs *routes) recovered(l *link.Link) {
	for _, s := range rs.streams.On(l) {
		if r := rs.known(s.ID); r != nil {
			r.recovered(s)
		}
	}
}

// close frees the locks. Nobody may be sending any more.
func (rs *routes) close() {
	rs.mu.Lock()
	ids := rs.ids
	rs.ids = nil
	rs.mu.Unlock()
	for _, r := range ids {
		r.mu.Lock()
		r.evicted = true
		r.mu.Unlock()
	}
	rs.looks.Wait() // one may be in a request to the lock service
	for _, r := range ids {
		closeLock(r.lock)
	}
}

// known returns the stream to the holder, nil when it is not known.
func (r *route) known() *stream.Stream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream
}

// next returns the stream to the holder. When it is not known it waits for one
// change and returns nil and why there is none.
func (r *route) next(ctx context.Context, deadline time.Time) (*stream.Stream, error) {
	r.mu.Lock()
	if s := r.stream; s != nil || r.evicted {
		r.mu.Unlock()
		return s, nil
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
	return r.stream, r.err
}

// overLocked reports whether a tenure is, as far as is known: the lock service
// may name it for a while. But not for ever, as tokens may have been forged, or
// begin anew.
func (r *route) overLocked(token uint64) bool {
	return token <= r.dead && time.Since(r.died) < overFor
}

// changeLocked wakes everybody who waits.
func (r *route) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// refused takes note of what a request to a stream has ended in, if that was not
// received: it may be that the tenure is over, or not there.
func (r *route) refused(s *stream.Stream, status wire.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Without tokens of the lock those of two nodes can't be compared.
	_, tokens := r.lock.(Fencer)
	switch {
	case status == wire.Ended && tokens:
		r.dead, r.died = max(r.dead, s.Token), time.Now()
	case status == wire.Absent && r.absent != s.Token:
		r.absent, r.pause, r.again = s.Token, lookFirst, time.Now().Add(lookFirst)
	case status == wire.Absent && r.stream == s:
		r.pause = min(2*r.pause, lookMost)
		r.again = time.Now().Add(jitter(r.pause))
	}
	if r.stream != s {
		return
	}
	r.stream = nil
	if s.Link().Silent() || s.Over() == 0 {
		r.last = s
		return
	}
	retireAll(s)
	if current := s.Current(); current != 0 && current != s.Token && !r.overLocked(current) {
		r.useLocked(s.Link().Identity, current) // as the node itself has said
	}
}

// silent takes note that a stream's holder has stopped to answer.
func (r *route) silent(s *stream.Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case s.Token < r.newest:
		s.Abandon() // as in leaveLocked
	case r.stream != nil && r.stream.Link() == s.Link():
		r.stream, r.last, r.err = nil, r.stream, unreachable(r.stream)
	case r.stream == nil && r.last == nil:
		r.last = s // it was left, but not all that had been sent has been answered
	}
	if r.stream == nil {
		r.lookLocked()
	}
}

// recovered takes note that a stream's holder answers again.
func (r *route) recovered(s *stream.Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stream == nil && r.last == s && s.Over() == 0 {
		r.stream, r.last = s, nil
		s.Use()
		r.changeLocked()
	}
}

// retireAll leaves a stream and those of its batches.
func retireAll(s *stream.Stream) {
	for _, s := range s.To() {
		s.Retire()
	}
}

// useLocked makes the stream to a tenure the route.
func (r *route) useLocked(identity string, token uint64) {
	s := r.last
	if s == nil || s.Link().Identity != identity || s.Token != token || s.Over() != 0 {
		l, err := r.rs.mesh.To(identity)
		if err == nil {
			s, err = r.rs.streams.Open(l, r.id, token)
		}
		if err != nil {
			r.err = ofHolder(r.id, err)
			return
		}
		r.leaveLocked(token)
	}
	if r.last = nil; s.Link().Silent() {
		r.last, r.err = s, unreachable(s)
		return
	}
	s.Use()
	r.stream, r.err = s, nil
	r.changeLocked()
}

// leaveLocked leaves the stream to a silent holder for a tenure with a token. If
// that is a higher one, the old tenure is over, and the holder will not say how
// it ended.
func (r *route) leaveLocked(token uint64) {
	r.newest = max(r.newest, token)
	s := r.last
	if r.last = nil; s == nil {
		return
	}
	for _, s := range s.To() {
		if s.Token < token && s.Link().Silent() {
			s.Abandon()
		}
		s.Retire()
	}
}

// learnLocked takes an answer of the lock service and reports whether there is
// no holder.
func (r *route) learnLocked(identity string, token uint64, err error) (nobody bool) {
	switch {
	case r.stream != nil:
	case errors.Is(err, ErrNoHolder):
		r.err, r.since = err, time.Time{}
		return true
	case err != nil:
		r.err = err
		if s := r.last; s != nil && s.Over() == 0 {
			// The service can't say. The last holder refuses if it isn't any more.
			r.useLocked(s.Link().Identity, s.Token)
		}
	case token != 0 && r.overLocked(token):
		r.err = ErrNoHolder // over without the service knowing it yet
		return true
	case token == r.absent && time.Now().Before(r.again):
		r.err = ErrNoHolder // it was not there a moment ago
	case identity == r.rs.self:
		r.err = ErrNoHolder // about to begin, or about to end
		if r.strangeLocked(token) && r.rs.own.hasTwin() {
			r.err = because(ErrUnreachable, ErrDuplicateAddress)
		}
		r.leaveLocked(token)
		return true
	default:
		r.useLocked(identity, token)
	}
	return false
}

// lookOnce is next for a sender that does not wait for a holder.
func (r *route) lookOnce(ctx context.Context) (*stream.Stream, error) {
	if r.keep() {
		looked := make(chan struct{})
		r.rs.looks.Go(func() { // the lock can't be interrupted
			defer close(looked)
			defer r.release()
			identity, token, err := r.rs.count.holder(r.lock)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.learnLocked(identity, token, err)
		})
		select {
		case <-looked:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stream, r.err
}

// lookLocked starts look, unless it runs.
func (r *route) lookLocked() {
	if !r.looking && !r.evicted {
		r.looking = true
		r.rs.looks.Go(r.look)
	}
}

// look asks the lock service for the holder until there is a stream, or nobody
// waits for one: no sender, and no message to a silent holder.
func (r *route) look() {
	for pause := lookFirst; ; pause = min(2*pause, lookMost) {
		began := time.Now()
		identity, token, err := r.rs.count.holder(r.lock)
		r.mu.Lock()
		nobody := r.learnLocked(identity, token, err)
		if errors.Is(r.err, ErrRefused) {
			r.changeLocked() // who has waited for long gives up
		}
		silent := r.stream == nil && r.last != nil
		idle := r.waiting == 0 && (r.last == nil || !busy(r.last))
		if r.stream != nil || idle || r.rs.ctx.Err() != nil {
			r.looking = false
			r.changeLocked()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()

		if w, ok := r.lock.(Waiter); ok && (nobody || silent) {
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

// busy reports whether anything is under way to a stream's tenure.
func busy(s *stream.Stream) bool {
	for _, s := range s.To() {
		if !s.Idle() {
			return true
		}
	}
	return false
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

// retireIdle ends the route when nothing uses it, and reports whether it did.
func (r *route) retireIdle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := cmp.Or(r.stream, r.last)
	switch {
	case r.waiting > 0, r.looking, s != nil && busy(s):
		return false
	case s != nil:
		retireAll(s)
	}
	r.stream, r.last, r.evicted = nil, nil, true
	return true
}
