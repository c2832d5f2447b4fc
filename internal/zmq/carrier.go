//go:build cgo

package zmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/Diggs/go-one/internal/wire"
)

// A Carrier is this node's end of the wire: addresses, names and keys around
// ZeroMQ.
type Carrier struct {
	Addr     string   // advertised, with the real port
	Identity string   // what others dial and answer to: the address, and the public key if there is one
	Keys     *Keyring // nil: the wire is plain
	log      *slog.Logger
	names    Lookup

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
	Lookup    Lookup // nil: the system's
}

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
	hosts, err := c.Lookup.interfaces(local)
	if err != nil {
		return nil, fmt.Errorf("gone: address %q: %w (a node that listens on \"tcp://*:port\" by WithBind can start before its name has an address)", local, err)
	}
	if c.Bind == "" && homebound(public.host, hosts) {
		c.Log.Warn("gone: this node's name leads to loopback here, so it does not listen where other machines can reach it",
			"address", public.String(), "leads to", hosts, "do", "listen on \"tcp://*:port\" by WithBind, or give the name its address in /etc/hosts")
	}
	ctx, err := newContext(c.Keys)
	if err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	pull, port, err := ctx.listen(hosts, local.port, int64(c.MaxFrame))
	if err != nil {
		_ = ctx.term()
		return nil, fmt.Errorf("gone: %w", err)
	}
	if public.port == 0 {
		public.port = port
	}
	t := &Carrier{
		Addr: public.String(), Identity: c.Keys.identity(public.String()), Keys: c.Keys, log: c.Log,
		ctx: ctx, pull: pull, received: make(chan struct{}), names: c.Lookup,
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
