// Package linktest plays the network under links, best in a bubble of
// testing/synctest: it loses, doubles, delays, reorders and refuses frames as it
// is told to.
package linktest

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/link"
)

// Seeds are those with which a test is to run: the first some, as many as the
// environment's GONE_SEEDS says, or the one that GONE_SEED does.
func Seeds(some uint64) (seeds []uint64) {
	if s := os.Getenv("GONE_SEED"); s != "" {
		seed, _ := strconv.ParseUint(s, 10, 64)
		return []uint64{seed}
	}
	if s := os.Getenv("GONE_SEEDS"); s != "" {
		some, _ = strconv.ParseUint(s, 10, 64)
	}
	for seed := range some {
		seeds = append(seeds, seed)
	}
	return seeds
}

// A Fate is what becomes of one frame.
type Fate struct {
	Refused bool          // there is no connection: Send returns false
	Lost    bool          // it leaves, and never arrives
	Delay   time.Duration // until it arrives
	Again   time.Duration // until a copy does; 0: there is none
}

// A Network is what processes reach each other by. Its methods may be called
// concurrently.
type Network struct {
	mu      sync.Mutex
	hosts   map[string]*Host // by identity
	weather func(from, to string, frame []byte) Fate
	under   map[string][]arrival // way, by identity, the next first
}

// An arrival is a frame that is under way.
type arrival struct {
	at    time.Time
	from  string
	frame []byte
}

// New makes a network in which a frame takes no time.
func New() *Network {
	return &Network{
		hosts:   map[string]*Host{},
		under:   map[string][]arrival{},
		weather: func(string, string, []byte) Fate { return Fate{} },
	}
}

// Weather sets what becomes of frames from now on. It is called with a lock of
// the network held, and must not call it.
func (n *Network) Weather(w func(from, to string, frame []byte) Fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// A Host is one process. It is a link.Carrier.
type Host struct {
	Identity string
	net      *Network
	receive  func(frame []byte, from string)
	one      sync.Mutex // frame at a time
	dead     bool       // guarded by net.mu
}

// Host starts a process in place of the one that had the identity. Frames that
// are on their way to that one arrive at the new one. Nothing is received before
// receive is set by [Host.Receive].
func (n *Network) Host(identity string) *Host {
	h := &Host{Identity: identity, net: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	if before := n.hosts[identity]; before != nil {
		before.dead = true
	}
	n.hosts[identity] = h
	return h
}

// Receive has each frame that arrives handled, one at a time. Frames are
// sent under the name of their sender's identity.
func (h *Host) Receive(receive func(frame []byte, from string)) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.receive = receive
}

// Crash ends the process: nothing that it does reaches anybody any more, and
// there are no connections to it.
func (h *Host) Crash() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.dead = true
	if h.net.hosts[h.Identity] == h {
		delete(h.net.hosts, h.Identity)
	}
}

// Dial implements link.Carrier.
func (h *Host) Dial(identity string) (link.Conn, error) { return &conn{h, identity}, nil }

type conn struct {
	from *Host
	to   string
}

// Send implements link.Conn.
func (c *conn) Send(frame []byte) bool {
	n := c.from.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.from.dead {
		return true // into the void
	}
	how := n.weather(c.from.Identity, c.to, frame)
	switch {
	case how.Refused, n.hosts[c.to] == nil && !how.Lost:
		return false
	case how.Lost:
		return true
	}
	n.carry(c.from.Identity, c.to, frame, how.Delay)
	if how.Again > 0 {
		n.carry(c.from.Identity, c.to, frame, how.Again)
	}
	return true
}

// Inject has a frame arrive, whoever has sent it.
func (n *Network) Inject(from, to string, frame []byte, delay time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.carry(from, to, frame, delay)
}

// carry brings a frame to the process that has the identity then. Frames that
// arrive at the same time stay in order. It is called with mu held.
func (n *Network) carry(from, to string, frame []byte, delay time.Duration) {
	a := arrival{time.Now().Add(delay), from, append([]byte(nil), frame...)}
	i, _ := slices.BinarySearchFunc(n.under[to], a, func(b, a arrival) int {
		if b.at.After(a.at) {
			return 1
		}
		return -1
	})
	n.under[to] = slices.Insert(n.under[to], i, a)
	if delay <= 0 {
		// A timer that is due at once runs within the goroutine that makes it. In a bubble
		// two that do so together crash the race detector (Go 1.26).
		go n.arrive(to)
		return
	}
	time.AfterFunc(delay, func() { n.arrive(to) })
}

// arrive has the next frame arrive: timers that fire at about the same time may
// do so in any order.
func (n *Network) arrive(to string) {
	n.mu.Lock()
	h := n.hosts[to]
	if h == nil || h.receive == nil {
		n.under[to] = n.under[to][1:]
		n.mu.Unlock()
		return
	}
	receive := h.receive
	n.mu.Unlock()
	h.one.Lock()
	defer h.one.Unlock()
	n.mu.Lock()
	a := n.under[to][0]
	n.under[to] = n.under[to][1:]
	n.mu.Unlock()
	receive(a.frame, a.from)
}

// Renew implements link.Conn.
func (c *conn) Renew() {}

// Trouble implements link.Conn.
func (c *conn) Trouble() error { return nil }

// Close implements link.Conn.
func (c *conn) Close() {}
