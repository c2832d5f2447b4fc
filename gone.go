package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/zmq"
)

// A Gone is one node: a member of the cluster with one address. All its
// methods may be called concurrently.
type Gone struct {
	// Locks, in the order in which they are taken; those of a line are never held
	// together:
	//
	//	Gone.receiving, Gone.changing
	//	Gone.mu, routes.mu
	//	membership.mu, gate.mu, route.mu
	//	stream: Mux.mu, side.mu
	//	stream: Stream.mu
	//	link: Mesh.mu
	//	link: Link.mu; mailbox: Box.reporting, Box.telling, Box.mu, Room.mu
	//	Lease.mu, pulse, own.mu, service.mu, linkNews.mu, and the lists in Mesh and Room

	opts    options
	log     *slog.Logger
	newLock LockFactory
	rooms
	candidates
	sends
	own     own
	service service
	desk    desk
	member  membership
	count   counters
	past    history
	node    *node

	closeErr error
	once     sync.Once
}

// rooms are the parts of a node that messages go through.
type rooms struct {
	end       *wireEnd
	tick      *pulse.Pulse // one for all
	mesh      *link.Mesh
	room      *mailbox.Room
	streams   *stream.Mux
	routes    *routes
	receiving sync.Mutex // while a frame is dealt with
	changing  sync.Mutex // while changes of links are
	news      linkNews
	malformed atomic.Uint64
}

// A wireEnd is what others know of a node. It is behind a pointer, so that a Gone
// that is printed shows no key.
type wireEnd struct {
	addr     string // advertised, with the real port
	identity string // what others dial and answer to: addr, and the public key if there is one
	keys     *zmq.Keyring
	close    func()
}

// sends are the calls that use the rooms.
type sends struct {
	ctx     context.Context // the node's: ends when nothing can be sent any more
	cancel  context.CancelFunc
	closed  atomic.Bool // no more begin
	sending atomic.Int64
	drained chan struct{} // capacity 1: sending became 0 while closed
}

const (
	// A suspended machine notices within this time of waking that its leases
	// are over, where no message and no Extend noticed before.
	wakeWatch = time.Second

	// Close waits so long for other nodes to confirm what they were told, and
	// for sends of this node that are under way.
	farewellMost = time.Second
	sendsMost    = time.Second

	idleMost = 2 * time.Minute // without traffic a link is ended
)

// NewGone starts a node. Addr ("tcp://host:port", port 0 or * for any free one) is where
// other nodes reach this process and no other: not the address of a load balancer. The
// node also listens there, unless [WithBind] says otherwise. The host may be a name: other
// nodes try all its addresses, and look it up again when the node falls silent. The lock
// service is not contacted yet.
func NewGone(addr string, newLock LockFactory, opts ...Option) (*Gone, error) {
	if newLock == nil {
		return nil, errors.New("gone: nil lock factory")
	}
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	g := newGone(o, newLock)
	keys, err := o.keys.keyring(o.logger)
	if err != nil {
		g.cancel()
		return nil, err
	}
	c, err := zmq.Listen(zmq.Config{
		Advertise: addr, Bind: o.bind, MaxFrame: stream.LargestFrame(o.maxMessageSize), Keys: keys, Log: o.logger, Lookup: o.lookup,
	})
	if err != nil {
		g.cancel()
		return nil, err
	}
	g.assemble(carrier{c}, &wireEnd{c.Addr, c.Identity, keys, c.Close}, keys.Vouches)
	c.Receive(g.receive)
	g.own.tries.Go(g.tryAddress)
	if err := g.join(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if keys == nil {
		g.log.Info("gone: the wire is plain, neither encrypted nor authenticated", "address", g.Addr())
	}
	return g, nil
}

// A carrier is ZeroMQ as links want it.
type carrier struct{ *zmq.Carrier }

func (c carrier) Dial(identity string) (link.Conn, error) {
	conn, err := c.Carrier.Dial(identity)
	if err != nil {
		return nil, err // and no conn at all
	}
	return conn, nil
}

// newGone makes a node without rooms.
func newGone(o options, newLock LockFactory) *Gone {
	g := &Gone{
		opts:       o,
		log:        o.logger,
		newLock:    newLock,
		candidates: candidates{byID: map[string]*candidate{}},
		sends:      sends{drained: make(chan struct{}, 1)},
	}
	g.node = &node{
		stage: g, now: o.now, log: g.log, count: &g.count,
		past: &g.past, observe: &g.opts.observers,
		addr: g.Addr, send: g.SendDataContext, request: g.Request, yield: g.yield, away: g.away,
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.own.log, g.own.addr = g.log, g.Addr
	return g
}

// assemble makes the rooms above a carrier.
func (g *Gone) assemble(c link.Carrier, end *wireEnd, vouches func(identity []byte, key string) bool) {
	g.end = end
	g.tick = pulse.New(g.housekeep)
	g.mesh = link.NewMesh(link.Config{Identity: end.identity, Carrier: c, Vouches: vouches, Twin: g.own.meet}, g.tick)
	g.room = mailbox.NewRoom(g.tick, g.opts.maxMessageSize)
	g.room.Own = deskID
	if g.opts.Received != nil {
		g.room.Observe = g.received
	}
	g.streams = stream.NewMux(g.room, g.tick)
	g.routes = &routes{
		self: end.identity, here: g.here, runs: g.runsHere, own: &g.own, newLock: g.newLock,
		mesh: g.mesh, streams: g.streams, count: &g.count, ctx: g.ctx, ids: map[string]*route{},
	}
}

// here reports whether a tenure of an id on this node takes messages.
func (g *Gone) here(id string) bool {
	b := g.room.Box(id)
	return b != nil && b.Open()
}

// runsHere reports whether there is a tenure of an id whose handler has not returned.
func (g *Gone) runsHere(id string) bool { return g.room.Box(id) != nil }

// housekeep does what time demands, and returns when to be called again.
func (g *Gone) housekeep(now time.Time) (next time.Time) {
	for _, at := range []time.Time{g.mesh.Tick(now), g.streams.Tick(now), g.room.Tick(now), g.leaveIdle(now)} {
		next = pulse.Earliest(next, at)
	}
	g.changes()
	return next
}

// leaveIdle takes leave of nodes with which nothing was spoken for long.
func (g *Gone) leaveIdle(now time.Time) (next time.Time) {
	if g.mesh.Count() == 0 {
		return next
	}
	for _, l := range g.mesh.Idle(now, idleMost) {
		if g.streams.Busy(l) || !l.RefuseIdle(now, idleMost) {
			continue
		}
		g.dealtWith()
		l.Bye()
	}
	return now.Add(idleMost / 2)
}

// receive takes a frame from the network, which came with a key.
func (g *Gone) receive(frame []byte, key string) {
	g.receiving.Lock()
	defer g.receiving.Unlock()
	l, items, err := g.mesh.Receive(frame, key)
	if items != nil {
		err = g.streams.Receive(l, items)
	}
	switch {
	case errors.Is(err, link.ErrStranger) && g.end.keys != nil:
		g.end.keys.Refuse("", key, "it speaks for a node with another key")
	case err != nil:
		g.malformed.Add(1)
	}
	g.changes()
}

// dealtWith returns when the frames that were taken so far have been dealt with.
func (g *Gone) dealtWith() {
	g.receiving.Lock()
	defer g.receiving.Unlock()
}

// changes has everybody know what has become of links.
func (g *Gone) changes() {
	g.changing.Lock()
	defer g.changing.Unlock()
	for _, c := range g.mesh.Changes() {
		g.linked(c)
		switch c.What {
		case link.Silent:
			g.routes.silent(c.Link)
		case link.Recovered:
			g.routes.recovered(c.Link)
		case link.Ended:
			g.streams.Ended(c.Link)
		}
	}
}

// Addr is the advertised address, with the real port.
func (g *Gone) Addr() string { return g.end.addr }

// Close hands everything over: every handler's Exit closes, each lock is released once
// its handler has returned, and senders are told what was not received, so that they send
// it to the next holder. Close returns when that is done and everything is freed. The
// error names each handler that has not returned after 10 s, or what [WithCloseTimeout]
// says, and each id whose Unlock has not; the lock is released when they do. A
// [RedisLock] gives up sooner when Redis does not answer, and then expires; that is no
// error. Later calls return the same as the first.
func (g *Gone) Close() error {
	g.once.Do(func() { g.closeErr = g.close() })
	return g.closeErr
}

func (g *Gone) close() error {
	g.mu.Lock()
	g.closing = true
	candidates := make([]*candidate, 0, len(g.byID))
	for _, c := range g.byID {
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
		case g.busy(c):
			late = append(late, fmt.Errorf("gone: close: the handler of %q has not returned", c.id))
		default:
			late = append(late, fmt.Errorf("gone: close: the lock service has not answered for %q, whose lock may have to expire", c.id))
		}
	}

	// Sends of this node end before its links: their answers have to come.
	g.closed.Store(true)
	if g.sending.Load() > 0 {
		select {
		case <-g.drained:
		case <-time.After(sendsMost):
		}
	}
	g.cancel()
	g.streams.Withdraw()
	g.room.Withdraw()
	for g.sending.Load() > 0 {
		<-g.drained
	}
	for _, b := range g.room.All() { // of handlers that have not returned
		b.Shut()
	}
	g.desk.close()
	g.quit()
	g.mesh.Refuse()
	g.dealtWith()
	g.mesh.Farewell(farewellMost)
	g.tick.Stop()
	g.mesh.Close()
	g.room.Close()
	g.own.tries.Wait()
	g.end.close()
	g.routes.close()
	g.news.wait()
	return errors.Join(late...)
}
