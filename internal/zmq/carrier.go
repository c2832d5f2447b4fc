//go:build cgo

package zmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A Carrier is this node's end of the wire: addresses, names and keys around
// ZeroMQ.
type Carrier struct {
	Addr     string   // advertised, with the real port
	Identity string   // what others dial and answer to: the address, and the public key if there is one
	Keys     *Keyring // nil: the wire is plain
	log      *slog.Logger

	ctx      *socketContext
	pull     *pullSocket
	received chan struct{} // closed when the receiver has ended

	ended   context.Context // with the carrier
	end     context.CancelFunc
	lookups sync.WaitGroup // of host names
}

// Config is what a carrier is made from.
type Config struct {
	Advertise string // "tcp://host:port"
	Bind      string // empty: the same
	MaxFrame  int    // bytes; larger ones end their connection
	Keys      *Keyring
	Log       *slog.Logger
}

const (
	lookupMost    = 5 * time.Second // for a name server's answer
	refusalRecent = 4 * time.Second
)

// Listen binds. Nothing is received before Receive.
func Listen(c Config) (*Carrier, error) {
	public, err := parseEndpoint(c.Advertise)
	if err != nil {
		return nil, err
	}
	if public.nobody() {
		return nil, fmt.Errorf("gone: address %q: other nodes can't connect to a wildcard or a group; advertise one address and listen on others with WithBind", c.Advertise)
	}
	local := public
	if c.Bind != "" {
		if local, err = parseEndpoint(c.Bind); err != nil {
			return nil, err
		}
	}
	if local.host, err = resolve(context.Background(), local.host); err != nil {
		return nil, fmt.Errorf("gone: address %q: %w", local, err)
	}
	ctx, err := newContext(c.Keys)
	if err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	pull, got, err := ctx.listen(local.String(), int64(c.MaxFrame))
	if err != nil {
		_ = ctx.term()
		return nil, fmt.Errorf("gone: %w", err)
	}
	if public.port == 0 {
		e, err := parseEndpoint(got)
		if err != nil {
			return nil, errors.Join(err, pull.close(), ctx.term())
		}
		public.port = e.port
	}
	t := &Carrier{
		Addr: public.String(), Identity: c.Keys.identity(public.String()), Keys: c.Keys, log: c.Log,
		ctx: ctx, pull: pull, received: make(chan struct{}),
	}
	if len(t.Identity) > wire.MaxIdentity {
		return nil, errors.Join(fmt.Errorf("gone: address %.*q: too long", maxAddress, c.Advertise), pull.close(), ctx.term())
	}
	t.ended, t.end = context.WithCancel(context.Background())
	return t, nil
}

// Receive has each frame handled that comes from somebody whose key is allowed,
// one after the other, with that key. Handle may keep the frame.
func (t *Carrier) Receive(handle func(frame []byte, key string)) {
	go func() {
		defer close(t.received)
		err := t.pull.receiveAll(func(frame []byte, key string) {
			if t.Keys.admits(key) {
				handle(frame, key)
			}
		})
		if err != nil {
			t.log.Error("gone: the receiving socket failed", "err", err)
		}
	}()
}

// Close frees all, once every Conn has been closed or is about to be. What
// ZeroMQ has not sent yet is lost.
func (t *Carrier) Close() {
	t.end()
	_ = t.ctx.term()
	<-t.received
	t.lookups.Wait()
}

// Dial returns the way to an identity. It connects in the background.
func (t *Carrier) Dial(identity string) (*Conn, error) {
	addr, key, err := t.Keys.dialable(identity)
	if err != nil {
		return nil, err
	}
	c := &Conn{t: t, addr: addr, key: key, host: addr}
	if !numeric(addr.host) {
		c.lookup()
		return c, nil
	}
	if c.push, err = t.ctx.dial(addr.String(), key); err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	return c, nil
}

// A Conn is the way to one node. One goroutine at a time uses it, but for Trouble.
type Conn struct {
	t    *Carrier
	addr endpoint
	key  string      // the other node's; empty where there are none
	push *pushSocket // the user's; nil: the address of the name is not known yet

	mu        sync.Mutex
	host      endpoint // addr, with the IP address once it is known
	looking   bool     // the name is being looked up
	resolved  bool     // the user is to connect there
	nowhere   error    // why the name has no address
	refusal   error    // why the other node turned this one away, since the last frame was taken
	refusedAt time.Time
}

// Send takes a frame, or returns false at once: then it has certainly not left.
func (c *Conn) Send(frame []byte) bool {
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
	sent, err := c.push.send(frame)
	if err != nil {
		c.Renew()
	}
	c.hear(sent, c.push.refusal)
	return sent
}

// hear takes note of whether the other node takes frames, and if not, why.
func (c *Conn) hear(sent bool, refusal func() error) {
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
	c.refusal, c.refusedAt = fmt.Errorf("%w: %w", ErrRefused, why), time.Now()
}

// dial connects, in place of what there was.
func (c *Conn) dial(host endpoint) {
	push, err := c.t.ctx.dial(host.String(), c.key)
	if err != nil {
		return
	}
	c.Close()
	c.push = push
}

// Renew connects anew: what was sent seems not to arrive.
func (c *Conn) Renew() {
	if !numeric(c.addr.host) {
		c.lookup() // it may have moved
		return
	}
	c.dial(c.addr)
}

// Close closes the connection; what was sent lingers for a moment.
func (c *Conn) Close() {
	if c.push != nil {
		_ = c.push.close()
		c.push = nil
	}
}

// lookup asks for the address of the name, unless it is at it.
func (c *Conn) lookup() {
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

// Trouble is why there is no connection, nil where nothing is known. A refusal repeats itself with each connection;
// one that does not was the end of the other node, say.
func (c *Conn) Trouble() error {
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
