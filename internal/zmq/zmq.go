//go:build cgo

// Package zmq is all of ZeroMQ that gone needs: one context, one PULL socket
// that is always drained, PUSH sockets that never block. No other
// package calls it.
//
// Ownership: a socket is used by one goroutine at a time, and misuse aborts
// the process in C. The PULL socket is owned by the goroutine that receives; it
// closes it itself. A PUSH socket is owned by who uses its Conn.
package zmq

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// domain is set on the PULL socket even when nothing authenticates: it turns
// off ZMTP 1.0, through which random bytes would be delivered as messages.
const domain = "gone"

const (
	frames    = 64 // high-water mark, in frames per connection; each holds many messages
	linger    = 200 * time.Millisecond
	handshake = 3 * time.Second
	reconnect = 100 * time.Millisecond
	ceiling   = 5 * time.Second // reconnect interval grows up to it
	sockets   = 16 << 10        // libzmq's default of 1,023 would bound the peers
	backlog   = 1024
)

// A socketContext owns the I/O thread. It is never libzmq's default one, which
// belongs to the host program.
type socketContext struct {
	ctx      *zmq4.Context
	keys     *Keyring      // nil: plain
	zap      chan struct{} // closed when nobody is authenticated any more
	watched  chan struct{} // closed when no failed handshakes are counted any more
	monitors atomic.Uint64
}

// keepBuffers has glibc keep the buffers of frames. Else it gives each back to the
// kernel, and faults the next one in page by page, which halves the throughput of
// full frames. Freeing one block that was mapped raises its thresholds for good;
// that is process-wide, and costs at most as much memory as is in use at a time.
// A PUSH socket without a connection makes the block, and frees it at once.
func keepBuffers(ctx *zmq4.Context) error {
	soc, err := ctx.NewSocket(zmq4.PUSH)
	if err != nil {
		return err
	}
	defer soc.Close()
	_, _ = soc.SendBytes(make([]byte, 1<<20), zmq4.DONTWAIT)
	return soc.SetLinger(0)
}

var kept sync.Once // keepBuffers was called

// newContext starts a context, in which with keys everything is encrypted and
// everybody authenticated.
func newContext(keys *Keyring) (*socketContext, error) {
	ctx, err := zmq4.NewContext()
	if err != nil {
		return nil, err
	}
	// Both only fail on a context that is not new.
	err = errors.Join(ctx.SetMaxSockets(sockets), ctx.SetIpv6(true))
	c := &socketContext{ctx: ctx, keys: keys}
	kept.Do(func() { err = errors.Join(err, keepBuffers(ctx)) })
	if err == nil && keys != nil {
		err = c.authenticate()
	}
	if err != nil {
		_ = ctx.Term()
		return nil, err
	}
	return c, nil
}

// term makes receiveAll return and waits until every socket is closed and what
// they sent has left or lingered long enough. Every pushSocket must have been, or be
// about to be, closed by its owner.
func (c *socketContext) term() error {
	err := c.ctx.Term()
	for _, ended := range []chan struct{}{c.zap, c.watched} {
		if ended != nil {
			<-ended
		}
	}
	return err
}

// A pullSocket is a bound PULL socket.
type pullSocket struct {
	soc     *zmq4.Socket
	encoded bool // CURVE
}

// listen binds a port, 0 for any, of hosts and returns the socket and the port that it
// got. Frames over maxFrame bytes end their connection.
func (c *socketContext) listen(hosts []string, port uint16, maxFrame int64) (pull *pullSocket, got uint16, err error) {
	soc, err := c.ctx.NewSocket(zmq4.PULL)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			_ = soc.Close()
		}
	}()
	err = errors.Join(
		soc.SetLinger(0),
		soc.SetRcvhwm(frames),
		soc.SetMaxmsgsize(maxFrame),
		soc.SetBacklog(backlog),
		soc.SetHandshakeIvl(handshake),
		soc.SetZapDomain(domain),
		keepalive(soc),
		c.serve(soc),
	)
	if err != nil {
		return nil, 0, err
	}
	for range 20 {
		if got, err = bind(soc, hosts, port); port != 0 || !errors.Is(err, inUse) {
			break
		}
	}
	return &pullSocket{soc, c.keys != nil}, got, err
}

const inUse = zmq4.Errno(syscall.EADDRINUSE)

// bind binds a port of all hosts that are this machine's, of which there must be one.
func bind(soc *zmq4.Socket, hosts []string, port uint16) (uint16, error) {
	var bound []string
	var foreign error
	for _, host := range hosts {
		at := endpoint{host, port}
		switch err := soc.Bind(at.String()); {
		case err != nil && len(hosts) > 1 && !errors.Is(err, inUse):
			foreign = fmt.Errorf("bind %s: %w", at, err)
			continue
		case err != nil:
			for _, at := range bound {
				_ = soc.Unbind(at)
			}
			return 0, fmt.Errorf("bind %s: %w", at, err)
		}
		last, err := soc.GetLastEndpoint()
		if err != nil {
			return 0, err
		}
		e, err := parseEndpoint(last)
		if err != nil {
			return 0, err
		}
		bound, port = append(bound, last), e.port
	}
	if len(bound) == 0 {
		return 0, foreign
	}
	return port, nil
}

// receiveAll calls handle with each frame, which handle may keep, and the public
// key of its sender, empty where there are no keys, until the context is
// terminated. It then closes the socket.
func (p *pullSocket) receiveAll(handle func(frame []byte, key string)) error {
	defer p.soc.Close()
	for {
		frame, key, err := p.receive()
		switch {
		case err == nil:
			handle(frame, key)
			// Who was woken by the frame goes on here and now. In C this
			// goroutine would keep its processor, and them, until another
			// thread notices.
			runtime.Gosched()
		case zmq4.AsErrno(err) == zmq4.ETERM:
			return nil
		default:
			return err
		}
	}
}

func (p *pullSocket) receive() (frame []byte, key string, err error) {
	if !p.encoded {
		frame, err = p.soc.RecvBytes(0)
		return frame, "", err
	}
	const user = "User-Id" // what authenticate has said
	frame, about, err := p.soc.RecvBytesWithMetadata(0, user)
	return frame, about[user], err
}

// close closes a socket that nobody receives from.
func (p *pullSocket) close() error { return p.soc.Close() }

// A pushSocket is a connected PUSH socket.
type pushSocket struct {
	soc    *zmq4.Socket
	events *zmq4.Socket // refusals; nil where there are no keys
}

// dial connects to addr, with keys only if who listens there has the key
// server. Connecting goes on in the background: an address that nobody serves
// is not an error here, its send returns false.
func (c *socketContext) dial(addr, server string) (*pushSocket, error) {
	soc, err := c.ctx.NewSocket(zmq4.PUSH)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		// Without it, frames sent while the peer is away wait for whatever
		// process binds its address next.
		soc.SetImmediate(true),
		soc.SetLinger(linger),
		soc.SetSndhwm(frames),
		soc.SetHandshakeIvl(handshake),
		soc.SetReconnectIvl(reconnect),
		soc.SetReconnectIvlMax(ceiling),
		keepalive(soc),
	)
	p := &pushSocket{soc: soc}
	if err == nil {
		err = c.introduce(p, server)
	}
	if err == nil {
		err = soc.Connect(addr)
	}
	if err != nil {
		_ = p.close()
		return nil, fmt.Errorf("connect %s: %w", addr, err)
	}
	return p, nil
}

// send queues a frame, or returns false at once when there is no connection or
// its queue is full. True means queued on this machine, no more.
func (p *pushSocket) send(frame []byte) (bool, error) {
	_, err := p.soc.SendBytes(frame, zmq4.DONTWAIT)
	if err == nil {
		return true, nil
	}
	if zmq4.AsErrno(err) == zmq4.Errno(syscall.EAGAIN) {
		return false, nil
	}
	return false, err
}

// close closes the socket; what was sent lingers for a moment.
func (p *pushSocket) close() error {
	if p.events == nil {
		return p.soc.Close()
	}
	// The socket lives on for a moment, in ZeroMQ's own threads. An event that
	// nobody is there to read would block them for ever, and with them all else.
	return errors.Join(p.soc.Monitor("", 0), p.soc.Close(), p.events.Close())
}

// keepalive finds dead connections after about a minute. ZMTP heartbeats would
// be quicker, but drop healthy connections of a busy reader.
func keepalive(soc *zmq4.Socket) error {
	return errors.Join(
		soc.SetTcpKeepalive(1),
		soc.SetTcpKeepaliveIdle(20),
		soc.SetTcpKeepaliveIntvl(10),
		soc.SetTcpKeepaliveCnt(4),
	)
}
