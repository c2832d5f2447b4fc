package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/wire"
	"github.com/Diggs/go-one/internal/zmq"
)

// A transport is this node's end of the wire: addresses, names and keys around
// ZeroMQ. It is the carrier of the node's links.
type transport struct {
	addr     string   // advertised, with the real port
	keys     *keyring // nil: the wire is plain
	identity string   // of this node: what others dial and answer to
	log      *slog.Logger

	ctx      *zmq.Context
	pull     *zmq.Pull
	received chan struct{} // closed when the receiver has ended

	ended   context.Context // with the transport
	end     context.CancelFunc
	lookups sync.WaitGroup // of host names
}

const (
	largestFrame  = 64 << 10        // but for one with a single larger message
	lookupMost    = 5 * time.Second // for a name server's answer
	refusalRecent = 4 * time.Second
)

// newTransport binds. Nothing is received before receive.
func newTransport(advertise string, o options) (*transport, error) {
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

	maxFrame := max(o.maxMessageSize, largestFrame) + largestFrame + wire.Overhead
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
	t := &transport{
		addr:     public.String(),
		keys:     keys,
		identity: keys.identity(public.String()),
		log:      o.logger,
		ctx:      ctx,
		pull:     pull,
		received: make(chan struct{}),
	}
	if len(t.identity) > wire.MaxIdentity {
		return nil, errors.Join(fmt.Errorf("gone: address %.*q: too long", wire.MaxIdentity, advertise), pull.Close(), ctx.Term())
	}
	t.ended, t.end = context.WithCancel(context.Background())
	return t, nil
}

// receive has each frame handled that comes from somebody whose key is allowed.
func (t *transport) receive(handle func(frame []byte, key string)) {
	go func() {
		defer close(t.received)
		err := t.pull.Receive(func(frame []byte, key string) {
			if t.keys.admits(key) {
				handle(frame, key)
			}
		})
		if err != nil {
			t.log.Error("gone: the receiving socket failed", "err", err)
		}
	}()
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

// close frees all, once every conn has been closed or is about to be. What
// ZeroMQ has not sent yet is lost.
func (t *transport) close() {
	t.end()
	_ = t.ctx.Term()
	<-t.received
	t.lookups.Wait()
}

// Dial implements link.Carrier.
func (t *transport) Dial(identity string) (link.Conn, error) {
	addr, key, err := t.keys.dialable(identity)
	if err != nil {
		return nil, err
	}
	c := &conn{t: t, addr: addr, key: key, host: addr}
	if !numeric(addr.host) {
		c.lookup()
		return c, nil
	}
	if c.push, err = t.ctx.Dial(addr.String(), key); err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	return c, nil
}

// A conn is the way to one node. It implements link.Conn.
type conn struct {
	t    *transport
	addr endpoint
	key  string    // the other node's; empty where there are none
	push *zmq.Push // the user's; nil: the address of the name is not known yet

	mu        sync.Mutex
	host      endpoint // addr, with the IP address once it is known
	looking   bool     // the name is being looked up
	resolved  bool     // the user is to connect there
	nowhere   error    // why the name has no address
	refusal   error    // why the other node turned this one away, since the last frame was taken
	refusedAt time.Time
}

// Send implements link.Conn.
func (c *conn) Send(frame []byte) bool {
	c.mu.Lock()
	host, fresh := c.host, c.resolved
	c.resolved = false
	c.mu.Unlock()
	if fresh {
		c.dial(host)
	}
	if c.push == nil {
		return false
	}
	sent, err := c.push.Send(frame)
	if err != nil {
		c.Renew()
	}
	c.hear(sent, c.push.Refusal)
	return sent
}

// hear takes note of whether the other node takes frames, and if not, why.
func (c *conn) hear(sent bool, refusal func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent {
		c.refusal = nil
		return
	}
	why := refusal()
	if why == nil {
		return
	}
	if c.refusal == nil {
		go c.t.log.Warn("gone: can't connect, will retry", "address", c.addr.String(), "err", why) // it may block
	}
	c.refusal, c.refusedAt = because(ErrRefused, why), time.Now()
}

// dial connects, in place of what there was.
func (c *conn) dial(host endpoint) {
	push, err := c.t.ctx.Dial(host.String(), c.key)
	if err != nil {
		return
	}
	c.Close()
	c.push = push
}

// Renew implements link.Conn.
func (c *conn) Renew() {
	if !numeric(c.addr.host) {
		c.lookup() // it may have moved
		return
	}
	c.dial(c.addr)
}

// Close implements link.Conn.
func (c *conn) Close() {
	if c.push != nil {
		_ = c.push.Close()
		c.push = nil
	}
}

// lookup asks for the address of the name, unless it is at it.
func (c *conn) lookup() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looking || c.t.ended.Err() != nil {
		return
	}
	c.looking = true
	c.t.lookups.Go(func() {
		ctx, cancel := context.WithTimeout(c.t.ended, lookupMost)
		defer cancel()
		host, err := resolve(ctx, c.addr.host)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looking, c.nowhere = false, err
		if err == nil {
			c.host.host, c.resolved = host, true
		}
	})
}

// Trouble implements link.Conn. A refusal repeats itself with each connection;
// one that does not was the end of the other node, say.
func (c *conn) Trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.nowhere != nil:
		return c.nowhere
	case time.Since(c.refusedAt) > refusalRecent:
		return nil
	}
	return c.refusal
}
