//go:build cgo

package zmq

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// A name may have several addresses, of which some may lead nowhere: while none
	// has taken a frame another one is tried each attemptDelay (RFC 8305), and so
	// many are at a time.
	attemptDelay = 250 * time.Millisecond
	attemptsMost = 4

	lookupMost    = 5 * time.Second // for a name server's answer
	refusalRecent = 4 * time.Second
)

// A Conn is the way to one node. One goroutine at a time uses it, but for Trouble.
//
// The first address that takes a frame is the one that is used. It may still lead
// elsewhere: who hears nothing of the node renews the Conn, and then the next address
// is tried before it.
type Conn struct {
	t    *Carrier
	addr endpoint
	key  string // the other node's; empty where there are none

	hosts    []netip.Addr  // by turns; none: the addresses of the name are not known yet
	turn     int           // whose it is
	attempts []*pushSocket // the oldest first; one when it has taken a frame
	settled  bool          // it has
	tried    time.Time     // when the last one was begun

	news
}

// news are what others than the user of a Conn say and ask.
type news struct {
	mu        sync.Mutex
	found     []netip.Addr // what the name leads to
	fresh     bool         // the user is to connect there
	looking   bool         // the name is being looked up
	nowhere   error        // why the name has no address
	refusal   error        // why the other node turned this one away, since the last frame was taken
	refusedAt time.Time
}

// Dial returns the way to an identity. It connects in the background.
func (t *Carrier) Dial(identity string) (*Conn, error) {
	addr, key, err := t.Keys.dialable(identity)
	if err != nil {
		return nil, err
	}
	c := &Conn{t: t, addr: addr, key: key}
	ip, err := netip.ParseAddr(addr.host)
	if err != nil {
		c.lookup()
		return c, nil
	}
	c.hosts = []netip.Addr{ip}
	if err := c.attempt(); err != nil {
		return nil, fmt.Errorf("gone: %w", err)
	}
	return c, nil
}

// Send takes a frame, or returns false at once: then it has certainly not left.
func (c *Conn) Send(frame []byte) bool {
	if hosts := c.moved(); hosts != nil {
		c.begin(hosts)
	}
	if !c.settled && len(c.attempts) < len(c.hosts) && time.Since(c.tried) >= attemptDelay {
		_ = c.attempt()
	}
	broken := false
	for i, push := range c.attempts {
		sent, err := push.send(frame)
		if sent {
			c.settle(i)
			c.accepted()
			return true
		}
		broken = broken || err != nil
	}
	if broken {
		c.Renew()
	}
	c.hear()
	return false
}

// attempt connects to the host whose turn it is.
func (c *Conn) attempt() error {
	host := c.hosts[c.turn%len(c.hosts)]
	c.turn++
	c.tried = time.Now()
	push, err := c.t.ctx.dial(endpoint{host.String(), c.addr.port}.String(), c.key)
	if err != nil {
		return err
	}
	if len(c.attempts) == attemptsMost {
		_ = c.attempts[0].close()
		c.attempts = c.attempts[1:]
	}
	c.attempts = append(c.attempts, push)
	return nil
}

// begin connects to the first host, in place of what there was.
func (c *Conn) begin(hosts []netip.Addr) {
	before, settled := c.attempts, c.settled
	c.hosts, c.attempts, c.settled = hosts, nil, false
	if c.attempt() != nil {
		c.attempts, c.settled = before, settled
		return
	}
	for _, push := range before {
		_ = push.close()
	}
}

// settle has the attempt that has just taken a frame be the only one.
func (c *Conn) settle(i int) {
	for j, push := range c.attempts {
		if j != i {
			_ = push.close()
		}
	}
	c.attempts[0], c.attempts, c.settled = c.attempts[i], c.attempts[:1], true
}

// Renew connects anew: what was sent seems not to arrive. It is to the next address of a
// name, and to another if the name leads elsewhere by now.
func (c *Conn) Renew() {
	if len(c.hosts) > 0 {
		c.begin(c.hosts)
	}
	if !numeric(c.addr.host) {
		c.lookup()
	}
}

// moved returns where to connect anew, nil where nothing has been found.
func (n *news) moved() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.fresh {
		return nil
	}
	n.fresh = false
	return n.found
}

// accepted notes that the other node takes frames.
func (n *news) accepted() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refusal = nil
}

// hear takes note of why the other node does not take frames, if it says.
func (c *Conn) hear() {
	for _, push := range c.attempts {
		why := push.refusal()
		if why == nil {
			continue
		}
		c.mu.Lock()
		if c.refusal == nil {
			go c.t.log.Warn("gone: can't connect, will retry", "address", c.addr.String(), "err", why) // it may block
		}
		c.refusal, c.refusedAt = fmt.Errorf("%w: %w", ErrRefused, why), time.Now()
		c.mu.Unlock()
	}
}

// lookup asks for the addresses of the name, unless it is at it.
func (c *Conn) lookup() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looking || c.t.ended.Err() != nil {
		return
	}
	c.looking = true
	c.t.lookups.Go(func() {
		hosts, err := c.t.names.resolve(c.t.ended, c.addr.host)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looking, c.nowhere = false, err
		if err == nil && !sameHosts(hosts, c.found) {
			c.found, c.fresh = hosts, true
		}
	})
}

// sameHosts reports whether two lists without doubles differ in their order at most.
func sameHosts(a, b []netip.Addr) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(ip netip.Addr) bool { return !slices.Contains(b, ip) })
}

// Trouble is why there is no connection, nil where nothing is known. A refusal repeats
// itself with each connection; one that does not was the end of the other node, say.
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

// Close closes the connection; what was sent lingers for a moment.
func (c *Conn) Close() {
	for _, push := range c.attempts {
		_ = push.close()
	}
	c.attempts = nil
}
