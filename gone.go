package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/boottime"
	"github.com/Diggs/go-one/internal/wire"
)

// A Gone is one node: a member of the cluster with one address. All its
// methods may be called concurrently.
type Gone struct {
	opts      options
	log       *slog.Logger
	newLock   LockFactory
	transport *transport
	tenures   tenures
	delivery  *delivery
	routes    *routes
	count     counters
	node      *node
	malformed atomic.Uint64

	ctx    context.Context // ends when nothing can be sent any more
	cancel context.CancelFunc

	mu         sync.Mutex
	candidates map[string]*candidate
	closing    bool
	watching   bool // wakeWatch is set

	closed   atomic.Bool // no sends
	sending  atomic.Int64
	drained  chan struct{} // capacity 1: sending became 0 while closed
	closeErr error
	once     sync.Once
}

const (
	// A suspended machine notices within this time of waking that its leases
	// are over, where no message and no Extend noticed before.
	wakeWatch = time.Second

	// Close waits so long for senders to confirm what they were told, …
	tellMost = time.Second
	// … for messages on their way from senders that were not known before, …
	stragglers = 50 * time.Millisecond
	// … and for sends of this node that are under way.
	sendsMost = time.Second
)

// NewGone starts a node. Addr ("tcp://host:port", port 0 or * for any free
// one) is where other nodes reach it; it listens there, too, unless
// [WithBind] says otherwise. The lock service is not contacted yet.
func NewGone(addr string, newLock LockFactory, opts ...Option) (*Gone, error) {
	if newLock == nil {
		return nil, errors.New("gone: nil lock factory")
	}
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	g := &Gone{
		opts:       o,
		log:        o.logger,
		newLock:    newLock,
		candidates: map[string]*candidate{},
		drained:    make(chan struct{}, 1),
	}
	g.node = &node{stage: g, now: boottime.Now, log: g.log, count: &g.count, send: g.SendDataContext}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	// Frames may arrive before NewGone returns; replies need all of this.
	ready := make(chan struct{})
	g.transport, err = newTransport(addr, o, func(frame []byte) { <-ready; g.receive(frame) })
	if err != nil {
		g.cancel()
		return nil, err
	}
	g.delivery = &delivery{transport: g.transport, flows: map[uint64]*flow{}}
	g.routes = &routes{self: g.transport.identity, here: g.tenures.open, newLock: newLock, delivery: g.delivery, ctx: g.ctx, ids: map[string]*route{}}
	close(ready)
	if g.transport.keys == nil {
		g.log.Info("gone: the wire is plain, neither encrypted nor authenticated", "address", g.Addr())
	}
	return g, nil
}

// Addr is the advertised address, with the real port.
func (g *Gone) Addr() string { return g.transport.addr }

// RunOne competes for the id: whenever this node wins, handler runs here until
// it returns or must end, and then again somewhere. It does not wait for that,
// and returns the runner that is there when the id is run on this node already.
//
// The lock service is asked once before anything is started; an error says
// that it can't be reached, refuses, or has something else under that id. It
// wraps ErrClosed when the Gone is closed.
func (g *Gone) RunOne(id string, handler RunHandler) (*GoneRunner, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if handler == nil {
		return nil, errors.New("gone: nil handler")
	}
	if c, err := g.candidate(id); c != nil || err != nil {
		return c, err
	}
	lock, err := g.newLock(id, g.transport.identity)
	if err == nil && lock == nil {
		err = errors.New("gone: the lock factory returned no lock")
	}
	if err != nil {
		return nil, err
	}
	if _, err := lock.GetValue(); err != nil && !errors.Is(err, ErrNoHolder) {
		closeLock(lock)
		return nil, err
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.candidates[id]
	if g.closing || before != nil && before.ctx.Err() == nil {
		closeLock(lock)
		if g.closing {
			return nil, ErrClosed
		}
		return &before.runner, nil
	}
	c := newCandidate(id, lock, handler, g.node, before)
	g.candidates[id] = c
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
	if g.candidates[c.id] == c {
		delete(g.candidates, c.id)
	}
}

// candidate returns the runner of an id that is run already.
func (g *Gone) candidate(id string) (*GoneRunner, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return nil, ErrClosed
	}
	if c := g.candidates[id]; c != nil && c.ctx.Err() == nil {
		return &c.runner, nil
	}
	return nil, nil
}

// begin implements stage.
func (g *Gone) begin(ctx context.Context, id string, token uint64, left func() time.Duration) (<-chan []byte, func()) {
	if token == 0 {
		// For a lock without tokens: no other tenure of this id on this node
		// has the same.
		token = uint64(time.Now().UnixMicro())
	}
	m := newMailbox(ctx, id, token, left, g)
	unhook := context.AfterFunc(ctx, m.shut)
	g.tenures.begin(m)
	g.watchWakes()
	g.routes.poke(id)
	return m.data, func() {
		unhook()
		m.shut()
		g.tenures.end(m, time.Now())
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
		ms := g.tenures.all()
		for _, m := range ms {
			m.left()
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.watching = len(g.tenures.all()) > 0; g.watching {
			time.AfterFunc(wakeWatch, look)
		}
	}
	time.AfterFunc(wakeWatch, look)
}

// receive takes a frame from the network.
func (g *Gone) receive(frame []byte) {
	r, err := wire.NewReader(frame)
	if err != nil {
		g.malformed.Add(1)
		return
	}
	var (
		now     = time.Now()
		f       *flow    // that was answered last
		resent  *peer    // where its messages go again
		p       *peer    // where the answers go
		m       *mailbox // of the tenure that was addressed last
		id      *byte    // of that tenure, in the frame
		token   uint64
		current uint64
	)
	for {
		it, err := r.Next()
		if err != nil {
			g.malformed.Add(1)
		}
		if it == nil {
			break
		}
		switch it.Kind {
		case wire.Reply, wire.Over:
			if it.To != g.transport.incarnation {
				continue
			}
			if f == nil || f.Flow != it.Flow {
				f = g.delivery.flow(it.Flow)
			}
			switch {
			case f == nil || f.addr != string(r.Addr): // whom nobody asked
			case it.Kind == wire.Reply:
				if to := f.replied(it.Seq, it.Current, it.Status, now); to != nil {
					if resent != nil && resent != to {
						resent.flush()
					}
					resent = to
				}
			default:
				f.ended(it.Seqs, now)
			}
			continue
		case wire.Data:
			if len(it.Payload) > g.opts.maxMessageSize {
				p = g.answer(p, r.From, r.Addr, it, 0, wire.Oversized)
				continue
			}
		}
		if &it.ID[0] != id || it.Token != token {
			id, token = &it.ID[0], it.Token
			m, current = g.tenures.find(it.ID, token)
		}
		if s := m.asked(r.From, r.Addr, it, len(frame) > 2*len(it.Payload), now); s != 0 {
			p = g.answer(p, r.From, r.Addr, it, current, s)
			if p != nil && it.Kind == wire.Ask && (s == wire.Received || s == wire.Busy || s == wire.Expired) {
				p.renew() // the answer was given before and has not arrived
			}
		}
	}
	for _, p := range []*peer{p, resent} {
		if p != nil {
			p.flush()
		}
	}
}

// answer appends a reply for the sender of a frame to p, which it finds if it
// is nil.
func (g *Gone) answer(p *peer, from uint64, addr []byte, it *wire.Item, current uint64, s wire.Status) *peer {
	if p == nil {
		var err error
		if p, err = g.transport.peer(string(addr)); err != nil {
			return nil // the sender will ask again
		}
	}
	if w := p.begin(); w != nil {
		w.Reply(wire.Return{To: from, Flow: it.Flow}, current, it.Seq, s)
		p.end()
	}
	return p
}

// reply implements replier.
func (g *Gone) reply(in *inflow, current uint64, vs []verdict) {
	g.tellPeer(in.addr, func(w *wire.Writer) {
		for _, v := range vs {
			w.Reply(in.from, current, v.seq, v.s)
		}
	})
}

// overTo implements replier.
func (g *Gone) overTo(addr string, to wire.Return, current uint64, received []uint64) {
	g.tellPeer(addr, func(w *wire.Writer) { w.Over(to, current, received) })
}

func (g *Gone) tellPeer(addr string, write func(*wire.Writer)) {
	p, err := g.transport.peer(addr)
	if err != nil {
		return
	}
	if w := p.begin(); w != nil {
		write(w)
		p.end()
		p.flush()
	}
}

// Close hands everything over: every handler's Exit closes, each lock is
// released once its handler has returned, and senders are told what was not
// received, so that they send it to the next holder. It returns when that is
// done and everything is freed. A handler that has not returned after 10 s, or
// what [WithCloseTimeout] says, is named in the error, as is an id whose lock's
// Unlock has not; the lock is released when they do. A [RedisLock] gives up
// sooner where Redis does not answer, and then expires; that is no error. Later
// calls return the same as the first.
func (g *Gone) Close() error {
	g.once.Do(func() { g.closeErr = g.close() })
	return g.closeErr
}

func (g *Gone) close() error {
	g.mu.Lock()
	g.closing = true
	candidates := make([]*candidate, 0, len(g.candidates))
	for _, c := range g.candidates {
		candidates = append(candidates, c)
	}
	g.mu.Unlock()

	for _, c := range candidates {
		c.stop(ErrClosed)
	}
	patience := time.After(g.opts.closeTimeout)
	expired := false
	var late []error
	for _, c := range candidates {
		if !expired {
			select {
			case <-c.runner.Exit:
				continue
			case <-patience:
				expired = true
			}
		}
		switch {
		case c.runner.ctx.Err() != nil:
		case g.runs(c):
			late = append(late, fmt.Errorf("gone: close: the handler of %q has not returned", c.id))
		default:
			late = append(late, fmt.Errorf("gone: close: the lock service has not answered for %q, whose lock may have to expire", c.id))
		}
	}

	g.closed.Store(true)
	g.settleSenders()
	if g.sending.Load() > 0 {
		select {
		case <-g.drained:
		case <-time.After(sendsMost):
		}
	}
	g.cancel()
	g.delivery.close()
	for g.sending.Load() > 0 {
		<-g.drained
	}
	g.delivery.settle()
	g.transport.close()
	g.routes.close()
	return errors.Join(late...)
}

// runs reports whether a handler of the candidate's id has not returned.
func (g *Gone) runs(c *candidate) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c != nil && !c.running.Load() {
		c = c.before
	}
	return c != nil
}

// settleSenders repeats to the senders of ended tenures what was received,
// until they have confirmed or time is up, and refuses what is still on its way
// to them.
func (g *Gone) settleSenders() {
	if g.tenures.empty() {
		return
	}
	time.Sleep(stragglers)
	for began := time.Now(); g.tenures.tell() > 0 && time.Since(began) < tellMost; {
		time.Sleep(stragglers / 5)
	}
}

// Stats are counts since the node was started, but for Held.
type Stats struct {
	Held      int    // tenures that run now
	Tenures   uint64 // tenures begun
	Lost      uint64 // tenures that ended because the lock or the lease was lost
	Panics    uint64 // handlers that panicked
	Overdue   uint64 // handlers that did not return in time after Exit had closed
	Malformed uint64 // frames received that were not well-formed
	Refused   uint64 // connections and frames refused for their key
}

// Stats returns the node's counters.
func (g *Gone) Stats() Stats {
	var refused uint64
	if k := g.transport.keys; k != nil {
		refused = k.refused.Load()
	}
	return Stats{
		Held:      int(g.count.held.Load()),
		Tenures:   g.count.tenures.Load(),
		Lost:      g.count.lost.Load(),
		Panics:    g.count.panics.Load(),
		Overdue:   g.count.overdue.Load(),
		Malformed: g.malformed.Load(),
		Refused:   refused,
	}
}
