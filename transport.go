package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/wire"
	"github.com/Diggs/go-one/internal/zmq"
)

// A transport carries frames between nodes: one PULL socket, one PUSH socket a
// peer. It knows addresses and bytes; what they mean is its receiver's
// business. It loses what a broken connection loses; delivery asks again.
type transport struct {
	addr        string   // advertised, with the real port
	keys        *keyring // nil: the wire is plain
	identity    string   // of this node: what others dial and answer to
	incarnation uint64
	log         *slog.Logger

	ctx      *zmq.Context
	received chan struct{} // closed when the receiver has ended

	ended   context.Context // with the transport
	end     context.CancelFunc
	lookups sync.WaitGroup // of host names

	waiting    atomic.Int64 // bytes in the queues of all peers
	waitAtMost int64

	mu     sync.RWMutex
	most   int              // of peers
	newest time.Time        // when the last one was made
	peers  map[string]*peer // by identity
	closed bool
	tidy   *time.Timer // closes idle peers; runs while there are peers
}

const (
	frameSize   = 64 << 10              // a frame is closed when it has grown over this
	peerBytes   = 64 << 20              // wait for one peer; what comes then is lost
	peersBytes  = 256 << 20             // wait for all; beyond, a peer for which a frame waits gets no more
	peersMost   = 4096                  // beyond, one that is not in use makes room
	peerSpared  = time.Second           // for so long after its last use
	peerPace    = time.Second / 4000    // where there are many, so often at most there is a new one
	peerTried   = time.Second / 10      // for so long it may take to connect
	peerIdle    = 2 * time.Minute       // without traffic a peer's socket is closed
	crowded     = 50 * time.Microsecond // frames that follow each other so closely could be one
	stallFirst  = 200 * time.Microsecond
	stallMost   = 50 * time.Millisecond
	renewAfter  = 2 * time.Second  // so often at most a socket is replaced for want of answers
	stallRedial = 10 * time.Second // a socket can stop reconnecting for good
	lookupMost  = 5 * time.Second  // for a name server's answer
)

// newTransport binds and starts to receive.
func newTransport(advertise string, o options, receive func(frame []byte)) (*transport, error) {
	keys, err := newKeyring(o.keys, o.logger)
	if err != nil {
		return nil, err
	}
	public, err := parseEndpoint(advertise)
	if err != nil {
		return nil, err
	}
	if public.nobody() {
		return nil, fmt.Errorf("gone: address %q: other nodes can't connect to a wildcard or a group; advertise one address and listen on others with WithBind", advertise)
	}
	local := public
	if o.bind != "" {
		if local, err = parseEndpoint(o.bind); err != nil {
			return nil, err
		}
	}
	if local.host, err = resolve(context.Background(), local.host); err != nil {
		return nil, fmt.Errorf("gone: address %q: %w", local, err)
	}

	// An Over lists up to flowSpan numbers, behind other items.
	maxFrame := max(o.maxMessageSize, frameSize, 8*flowSpan) + frameSize + wire.Overhead
	ctx, err := zmq.NewContext(keys.zmq())
	if err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	pull, got, err := ctx.Listen(local.String(), int64(maxFrame))
	if err != nil {
		_ = ctx.Term()
		return nil, fmt.Errorf("gone: %w", err)
	}
	if public.port == 0 {
		e, err := parseEndpoint(got)
		if err != nil {
			return nil, errors.Join(err, pull.Close(), ctx.Term())
		}
		public.port = e.port
	}
	if id := keys.identity(public.String()); len(id) > wire.MaxAddr {
		return nil, errors.Join(fmt.Errorf("gone: address %.*q: too long", wire.MaxAddr, advertise), pull.Close(), ctx.Term())
	}
	t := &transport{
		addr:        public.String(),
		keys:        keys,
		identity:    keys.identity(public.String()),
		incarnation: rand.Uint64() | 1,
		log:         o.logger,
		ctx:         ctx,
		received:    make(chan struct{}),
		waitAtMost:  peersBytes,
		most:        peersMost,
		peers:       map[string]*peer{},
	}
	t.ended, t.end = context.WithCancel(context.Background())
	t.tidy = time.AfterFunc(time.Hour, t.closeIdle)
	t.tidy.Stop()
	go func() {
		defer close(t.received)
		err := pull.Receive(func(frame []byte, key string) {
			if keys.vouches(wire.From(frame), key) {
				receive(frame)
			}
		})
		if err != nil {
			t.log.Error("gone: the receiving socket failed", "err", err)
		}
	}()
	return t, nil
}

// resolve returns an IP address of a host. ZeroMQ binds to interfaces only, and
// waits for the name server in the thread that serves all connections.
func resolve(ctx context.Context, host string) (string, error) {
	if host == "*" || numeric(host) {
		return host, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return host, err
	}
	for _, ip := range ips {
		if host = ip.Unmap().String(); ip.Unmap().Is4() {
			break
		}
	}
	return host, nil
}

func numeric(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// close frees all. What ZeroMQ has not taken yet is lost.
func (t *transport) close() {
	t.mu.Lock()
	t.closed = true
	peers := t.peers
	t.peers = nil
	t.tidy.Stop()
	t.mu.Unlock()
	for _, p := range peers {
		p.close()
	}
	t.end()
	_ = t.ctx.Term()
	<-t.received
	t.lookups.Wait()
}

// peer returns the peer of an identity, which it connects to when it is new.
func (t *transport) peer(identity string) (*peer, error) {
	t.mu.RLock()
	p := t.peers[identity]
	t.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	addr, key, err := t.keys.dialable(identity) // under the lock, for dropRefused
	if err != nil {
		return nil, err
	}
	if p := t.peers[identity]; p != nil {
		return p, nil
	}
	now := time.Now()
	if len(t.peers) > t.most/4 && now.Sub(t.newest) < peerPace {
		return nil, fmt.Errorf("%w: too many new nodes at once", ErrUnreachable)
	}
	if len(t.peers) >= t.most && !t.makeRoom() {
		return nil, fmt.Errorf("%w: %d other nodes are in use", ErrUnreachable, len(t.peers))
	}
	p = &peer{t: t, addr: addr.String(), host: addr, key: key, used: now, made: now, dialled: now}
	p.w.Reset(nil, t.incarnation, t.identity)
	if !numeric(addr.host) {
		p.name = addr.host
		p.lookup()
	} else if err := p.dial(); err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	if len(t.peers) == 0 {
		t.tidy.Reset(peerIdle / 2)
	}
	t.newest = now
	t.peers[identity] = p
	return p, nil
}

// makeRoom closes a peer that can be spared. A frame can name any address for
// its answer, so those that were never connected go first: junk pushes out
// junk. It is called with mu held.
func (t *transport) makeRoom() bool {
	var unused string
	looked := 0
	for identity, p := range t.peers { // in no order
		switch never, idle := p.spared(); {
		case never:
			p.close()
			delete(t.peers, identity)
			return true
		case idle:
			unused = identity
		}
		if looked++; looked == 64 {
			break
		}
	}
	p := t.peers[unused]
	if p == nil {
		return false
	}
	p.close()
	delete(t.peers, unused)
	return true
}

// dropRefused closes the peers whose key is not allowed any more. What waits for
// them is lost.
func (t *transport) dropRefused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for identity, p := range t.peers {
		if !t.keys.allows(p.key) {
			p.mu.Lock()
			p.drop(0)
			p.shut()
			p.mu.Unlock()
			delete(t.peers, identity)
		}
	}
}

func (t *transport) closeIdle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for addr, p := range t.peers {
		if p.closeIdle() {
			delete(t.peers, addr)
		}
	}
	if len(t.peers) > 0 && !t.closed {
		t.tidy.Reset(peerIdle / 2)
	}
}

// A peer is the way to one node. Writers append items to the open frame; one
// of them at a time has the role of the flusher, who owns the socket and sends
// frame after frame until none is left. So a lone writer sends at once, and
// many share frames: this is the one place that knows about batching.
type peer struct {
	t    *transport
	addr string
	key  string // the other node's; empty where there are none

	push *zmq.Push // the flusher's; nil: the host's address is not known yet

	mu       sync.Mutex
	w        wire.Writer // the open frame
	queue    [][]byte    // closed frames, not sent
	size     int         // of queue, in bytes
	number   uint64      // of the open frame; those of queue precede it
	dropped  span        // of the frames that were lost here lately
	spare    []byte
	sent     time.Time // when the last frame was
	flushing bool      // somebody has the role, perhaps a timer
	closed   bool
	used     time.Time

	name     string   // of the host; empty where addr has its IP address
	host     endpoint // addr, with the IP address once it is known
	looking  bool     // the name is being looked up
	resolved bool     // the flusher is to connect there
	nowhere  error    // why the name has no address

	refusal   error // why the other node turned this one away, since the last frame was sent
	refusedAt time.Time
	made      time.Time // when the peer was
	dialled   time.Time // when push was made
	renewal   bool      // the flusher is to make another

	// The flusher's, while ZeroMQ takes nothing.
	stall   time.Duration
	stalled time.Time // since when
}

// A span is of frames from a number to before another.
type span struct{ from, to uint64 }

// A position is where an item waits to be sent.
type position struct {
	frame uint64
	at    int
}

// begin locks the peer and returns the open frame to append to. It returns nil,
// without the lock, when the peer has been closed or too much waits.
func (p *peer) begin() *wire.Writer {
	p.mu.Lock()
	if p.closed || p.size >= peerBytes || p.size >= frameSize && p.t.waiting.Load() >= p.t.waitAtMost {
		p.mu.Unlock()
		return nil
	}
	return &p.w
}

// grow counts what waits. It is called with mu held.
func (p *peer) grow(bytes int) {
	p.size += bytes
	p.t.waiting.Add(int64(bytes))
}

// end unlocks the peer.
func (p *peer) end() {
	if p.w.Len() >= frameSize {
		p.seal()
	}
	p.mu.Unlock()
}

// seal closes the open frame.
func (p *peer) seal() {
	p.queue = append(p.queue, p.w.Bytes())
	p.grow(p.w.Len())
	p.number++
	p.w.Reset(p.spare, p.t.incarnation, p.t.identity)
	p.spare = nil
}

// drop loses what waits, as a broken connection does, and n frames before it.
func (p *peer) drop(n int) {
	p.seal()
	from := p.number - uint64(len(p.queue)+n)
	if p.dropped.to < from { // something was sent in between
		p.dropped.from = from
	}
	p.dropped.to = p.number
	p.grow(-p.size)
	p.queue, p.stall = nil, 0
}

// position is that of an item at an offset in the open frame.
func (p *peer) position(at int) position { return position{p.number, at} }

// frame returns the frame that an item waits in; nil: it has been given to
// ZeroMQ, or is lost. It is called with mu held.
func (p *peer) frame(pos position) []byte {
	switch back := p.number - pos.frame; {
	case back == 0:
		return p.w.Bytes()
	case back <= uint64(len(p.queue)):
		return p.queue[uint64(len(p.queue))-back]
	}
	return nil
}

// waits reports whether an item waits to be sent.
func (p *peer) waits(pos position) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frame(pos) != nil
}

// withdraw takes back a Data item that waits to be sent, or was dropped.
func (p *peer) withdraw(pos position) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	frame := p.frame(pos)
	if frame == nil {
		return p.dropped.from <= pos.frame && pos.frame < p.dropped.to
	}
	wire.Withdraw(frame, pos.at)
	return true
}

// flush sends what has been appended, unless somebody is at it.
func (p *peer) flush() {
	p.mu.Lock()
	if p.flushing {
		p.mu.Unlock()
		return
	}
	p.flushing = true
	crowd := time.Since(p.sent) < crowded
	p.mu.Unlock()
	if crowd {
		// Others who are ready to run are about to write, too. This is what
		// makes frames of many messages; a lone writer never gets here.
		runtime.Gosched()
	}
	p.drain()
}

// drain is the flusher's work.
func (p *peer) drain() {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 && !p.w.Empty() {
			p.seal()
		}
		if len(p.queue) == 0 {
			p.flushing = false
			p.used = time.Now()
			if p.closed {
				p.hangUp()
			}
			p.mu.Unlock()
			return
		}
		if p.renewal {
			p.redial()
		}
		if p.resolved && !p.closed { // else the context may have ended
			_ = p.dial()
		}
		push := p.push
		frame := p.queue[0]
		p.queue = p.queue[1:]
		p.grow(-len(frame))
		p.mu.Unlock()

		var sent bool
		var err error
		if push != nil {
			sent, err = push.Send(frame)
		}

		p.mu.Lock()
		switch {
		case sent:
			p.sent, p.stall, p.refusal = time.Now(), 0, nil
			if cap(frame) <= 2*frameSize {
				p.spare = frame
			}
		case p.closed || p.stall != 0 && time.Since(p.stalled) > peerIdle:
			p.drop(1)
		default:
			p.queue = append([][]byte{frame}, p.queue...)
			p.grow(len(frame))
			p.wait(err)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
	}
}

// wait passes the role to a timer while ZeroMQ takes nothing: the peer is not
// connected, or doesn't keep up. It is called with mu held.
func (p *peer) wait(err error) {
	now := time.Now()
	if p.stall == 0 {
		p.stalled = now
	}
	p.stall = min(max(2*p.stall, stallFirst), stallMost)
	if p.push != nil {
		if why := p.push.Refusal(); why != nil {
			if p.refusal == nil {
				go p.t.log.Warn("gone: can't connect, will retry", "address", p.addr, "err", why) // it may block
			}
			p.refusal, p.refusedAt = because(ErrRefused, why), now
		}
	}
	patience := stallRedial
	if p.refusal != nil || p.push == nil {
		patience = renewAfter // it may be allowed, or known, by now
	}
	if err != nil || now.Sub(p.stalled) > patience && now.Sub(p.dialled) > patience {
		p.redial()
	}
	time.AfterFunc(p.stall, p.drain)
}

// renew has the next frame sent through a new connection, unless this one is
// new itself: what was sent seems not to arrive. After a failure of the network
// an old connection is silent until TCP retransmits, which may be much later.
func (p *peer) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.dialled) > renewAfter {
		p.renewal = true
	}
}

// redial is the flusher's. It is called with mu held. Once the peer is closed
// the context may be about to end.
func (p *peer) redial() {
	if p.closed {
		return
	}
	p.renewal, p.dialled = false, time.Now()
	if p.name != "" {
		p.lookup() // it may have moved
		return
	}
	_ = p.dial()
}

// dial connects anew. It is the flusher's, and called with mu held.
func (p *peer) dial() error {
	p.resolved = false
	push, err := p.t.ctx.Dial(p.host.String(), p.key)
	if err == nil {
		p.hangUp()
		p.push = push
	}
	return err
}

// hangUp closes the socket, if there is one.
func (p *peer) hangUp() {
	if p.push != nil {
		_ = p.push.Close()
		p.push = nil
	}
}

// lookup asks for the address of a name, unless it is at it, and then has the
// flusher connect. It is called with mu held.
func (p *peer) lookup() {
	if p.looking {
		return
	}
	p.looking = true
	p.t.lookups.Go(func() {
		ctx, cancel := context.WithTimeout(p.t.ended, lookupMost)
		defer cancel()
		host, err := resolve(ctx, p.name)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.looking, p.nowhere = false, err
		if err == nil {
			p.host.host, p.resolved = host, !p.closed
		}
	})
}

// refused returns why the other node turns this one away, or why it has no
// address; nil if neither is so. A refusal repeats itself with each connection;
// one that does not was the end of the other node, say.
func (p *peer) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nowhere != nil {
		return p.nowhere
	}
	if time.Since(p.refusedAt) > 2*renewAfter {
		return nil
	}
	return p.refusal
}

// spared reports whether the peer can be: it was never connected though it was
// tried, or is not in use.
func (p *peer) spared() (never, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	never = p.sent.IsZero() && now.Sub(p.made) > peerTried
	return never, !p.flushing && p.w.Empty() && now.Sub(p.used) > peerSpared
}

// closeIdle closes the peer when it has not been used for long, and reports
// whether it is closed.
func (p *peer) closeIdle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flushing || !p.w.Empty() || time.Since(p.used) < peerIdle {
		return false
	}
	p.shut()
	return true
}

// close closes the socket, or has the flusher close it.
func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut()
}

// shut is close with mu held.
func (p *peer) shut() {
	p.closed = true
	if !p.flushing {
		p.hangUp()
	}
}
