package gone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// A Tenure is one that runs on a node.
type Tenure struct {
	ID           string
	Token        uint64    // its fencing token; 0 where the lock has none
	Since        time.Time // on the node's clock, as all times here
	Deadline     time.Time // when its lease ends unless extended
	TTL          time.Duration
	LastExtend   time.Time // when an Extend last began or returned; Since before the first
	Stopping     bool      // Exit has closed
	Waiting      int       // messages of other nodes, which the handler has not received
	WaitingBytes int
	Received     uint64 // messages, by the handler
}

// A PastTenure is one that has ended.
type PastTenure struct {
	ID    string
	Token uint64
	Since time.Time
	Ended time.Time
	Cause string // what [context.Cause] of the runner's context said

	number int // of those of its node, from 1
}

// JSON text is UTF-8, and an id need not be: what JSON can't say of it is there as bytes.

func (t Tenure) MarshalJSON() ([]byte, error) {
	type plain Tenure
	return json.Marshal(struct {
		plain
		IDBytes []byte `json:",omitempty"`
	}{plain(t), odd(t.ID)})
}

func (t *Tenure) UnmarshalJSON(data []byte) error {
	type plain Tenure
	var p struct {
		plain
		IDBytes []byte
	}
	err := json.Unmarshal(data, &p)
	if *t = Tenure(p.plain); p.IDBytes != nil {
		t.ID = string(p.IDBytes)
	}
	return err
}

func (t PastTenure) MarshalJSON() ([]byte, error) {
	type plain PastTenure
	return json.Marshal(struct {
		plain
		IDBytes []byte `json:",omitempty"`
	}{plain(t), odd(t.ID)})
}

func (t *PastTenure) UnmarshalJSON(data []byte) error {
	type plain PastTenure
	var p struct {
		plain
		IDBytes []byte
	}
	err := json.Unmarshal(data, &p)
	if *t = PastTenure(p.plain); p.IDBytes != nil {
		t.ID = string(p.IDBytes)
	}
	return err
}

// odd is an id as bytes where it is not UTF-8.
func odd(id string) []byte {
	if utf8.ValidString(id) {
		return nil
	}
	return []byte(id)
}

// A LinkStatus is how the link to another node is.
type LinkStatus struct {
	Addr  string
	State LinkState
	Err   string `json:",omitempty"` // why nothing arrives, where that is known
	Kept  int    // bytes that were sent and are not acknowledged, or wait to be sent
}

// Stats are counts since the node was started, but for Held, Waiting, WaitingBytes and
// Links, which are of now.
type Stats struct {
	Held      int    // tenures that run now
	Tenures   uint64 // tenures begun
	Lost      uint64 // tenures that ended because the lock or the lease was lost
	Panics    uint64 // handlers that panicked
	Overdue   uint64 // handlers that did not return in time after Exit had closed
	Malformed uint64 // frames received that were not well-formed
	Refused   uint64 // connections and frames refused for their key
	Twins     uint64 // signs of another process with this node's address

	Sent          uint64 // messages of this node that were received by their handler
	NotDelivered  uint64 // … that were not and never will be
	Unknown       uint64 // … of which nobody can tell, or that had no reply
	Received      uint64 // messages that handlers here have received
	ReceivedBytes uint64
	Waiting       int    // messages of other nodes, for handlers here
	WaitingBytes  int    //
	Links         int    // to other nodes
	Resent        uint64 // frames that were sent again
	Lock          LockStats
}

// LockStats are the calls of the lock service.
type LockStats struct{ Lock, Extend, Unlock, Holder, Roster Calls }

// Calls are those of one kind. Failed are the ones that said neither yes nor no.
type Calls struct{ Total, Failed uint64 }

// counters are what Stats shows.
type counters struct {
	tenures, lost, panics, overdue atomic.Uint64
	held                           atomic.Int64

	sent, refused, unknown atomic.Uint64 // messages; sent is without those that a mailbox counts
	lock                   struct{ lock, extend, unlock, holder, roster callCount }
}

type callCount struct{ calls, failed atomic.Uint64 }

func (c *callCount) get() Calls { return Calls{c.calls.Load(), c.failed.Load()} }

// Stats returns the node's counters.
func (g *Gone) Stats() Stats {
	s := Stats{
		Held:         int(g.count.held.Load()),
		Tenures:      g.count.tenures.Load(),
		Lost:         g.count.lost.Load(),
		Panics:       g.count.panics.Load(),
		Overdue:      g.count.overdue.Load(),
		Malformed:    g.malformed.Load(),
		Refused:      g.end.keys.Refused(),
		Twins:        g.own.twins.Load(),
		Sent:         g.count.sent.Load(),
		NotDelivered: g.count.refused.Load(),
		Unknown:      g.count.unknown.Load(),
		Links:        g.mesh.Count(),
		Resent:       g.mesh.Resent(),
		Lock: LockStats{
			g.count.lock.lock.get(), g.count.lock.extend.get(), g.count.lock.unlock.get(),
			g.count.lock.holder.get(), g.count.lock.roster.get(),
		},
	}
	here := g.room.Counts()
	s.Received, s.ReceivedBytes = here.Messages, here.Bytes
	s.Sent += here.Own
	for _, b := range g.room.All() {
		if b.ID == deskID {
			continue
		}
		n, bytes := b.Waiting()
		s.Waiting, s.WaitingBytes = s.Waiting+n, s.WaitingBytes+bytes
	}
	return s
}

// Tenures returns those that run on this node, by id.
func (g *Gone) Tenures() []Tenure { return g.tenuresAfter("", math.MaxInt) }

// tenuresAfter returns the first of them whose ids are behind one.
func (g *Gone) tenuresAfter(id string, most int) []Tenure {
	g.mu.Lock()
	running := make([]*tenure, 0, len(g.byID))
	for at, c := range g.byID {
		for ; c != nil && at > id; c = c.before {
			if t := c.current.Load(); t != nil {
				running = append(running, t)
			}
		}
	}
	g.mu.Unlock()
	slices.SortFunc(running, func(a, b *tenure) int { return strings.Compare(a.c.id, b.c.id) })
	running = running[:min(most, len(running))]
	ts := make([]Tenure, len(running))
	for i, t := range running {
		ts[i] = t.show()
	}
	return ts
}

// show is what a tenure is known by.
func (t *tenure) show() Tenure {
	quiet, _ := t.lease.Quiet()
	s := Tenure{
		ID: t.c.id, Token: t.token, Since: t.since, Deadline: t.Deadline(), TTL: t.lease.TTL(),
		LastExtend: time.Now().Add(-quiet), Stopping: t.ctx.Err() != nil,
	}
	if t.box != nil {
		s.Waiting, s.WaitingBytes = t.box.Waiting()
		s.Received = t.box.Counts().Messages
	}
	return s
}

const (
	pastMost  = 1000 // how many tenures that have ended a node remembers
	causeMost = 500  // bytes of the cause of each, and of what is wrong with a link
)

// cut cuts a text that is too long.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " …"
}

// A history is the tenures of a node that have ended, the latest last.
type history struct {
	mu    sync.Mutex
	ts    []PastTenure
	ended int // how many there have been
}

func (h *history) add(t PastTenure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended++
	t.Cause, t.number = cut(t.Cause, causeMost), h.ended
	if len(h.ts) == 2*pastMost {
		h.ts = slices.Delete(h.ts, 0, pastMost)
	}
	h.ts = append(h.ts, t)
}

// latest returns those that are remembered, the latest first.
func (h *history) latest() []PastTenure {
	h.mu.Lock()
	defer h.mu.Unlock()
	ts := slices.Clone(h.ts[max(0, len(h.ts)-pastMost):])
	slices.Reverse(ts)
	return ts
}

// A Status is what a node says of itself.
type Status struct {
	Node     Node
	Time     time.Time // when it said so
	Setup    Setup
	Standby  int // ids that it runs and does not hold
	Stats    Stats
	Troubles []Trouble
	Links    []LinkStatus
	Tenures  []Tenure     // by id
	Past     []PastTenure // the latest first; of the last thousand
}

// Status returns what the node at an advertised address says of itself, also where it runs
// nothing, or the lock service does not answer. With keys it has to be in the roster, or
// to have a link to this node. This node's own status needs no network. Without a deadline
// in ctx each question waits for as long as a send. The error wraps ErrUnreachable, and
// what is known of why, such as ErrRefused or the context's error; or ErrClosed.
func (g *Gone) Status(ctx context.Context, addr string) (s Status, err error) {
	if addr == g.Addr() {
		return g.status(), nil
	}
	identity, err := g.identityOf(ctx, addr)
	switch {
	case err == nil:
	case g.end.keys != nil || ctx.Err() != nil:
		return s, err
	default: // it may run nothing, or the lock service not answer
		identity = addr
	}
	return g.statusOf(ctx, identity, g.opts.sendTimeout)
}

// statusOf is Status of the node with an identity, each page of which is waited for so
// long.
func (g *Gone) statusOf(ctx context.Context, identity string, each time.Duration) (s Status, err error) {
	from := new(place)
	for range pagesMost {
		asking, cancel := context.WithTimeout(ctx, each)
		a, err := g.ask(asking, identity, question{Ask: "about", From: from})
		if err != nil && asking.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: node at %s has not answered for %v", ErrUnreachable, addrOf(identity), each)
		}
		cancel()
		switch {
		case err != nil:
			return Status{}, err
		case a.About == nil:
			return Status{}, fmt.Errorf("gone: the node at %s says nothing of itself", addrOf(identity))
		}
		a.About.addTo(&s)
		if from = a.About.Next; from == nil {
			return s, nil
		}
	}
	return Status{}, fmt.Errorf("gone: the node at %s says too much of itself", addrOf(identity))
}

// identityOf is what a node of the cluster is dialled by: with keys only the link that
// there is, or the roster, knows.
func (g *Gone) identityOf(ctx context.Context, addr string) (string, error) {
	if addr == g.Addr() {
		return g.end.identity, nil
	}
	for _, l := range g.mesh.All() {
		if state, _, _ := health(l); state == LinkOpen && addrOf(l.Identity) == addr {
			return l.Identity, nil
		}
	}
	es, err := g.listed(ctx)
	for identity := range es {
		if addrOf(identity) == addr {
			return identity, nil
		}
	}
	switch {
	case err == nil, g.end.keys != nil && errors.Is(err, ErrNoRoster):
		return "", fmt.Errorf("gone: no node at %s in cluster %q", addr, g.opts.cluster)
	case g.end.keys != nil, errors.Is(err, ErrClosed), ctx.Err() != nil:
		return "", err
	}
	return addr, nil // which is all that it takes
}

// status is this node's.
func (g *Gone) status() Status { return g.list(g.summary(), "", math.MaxInt) }

// summary is this node's status without its lists.
func (g *Gone) summary() Status {
	s := Status{Node: g.entry().shown(g.end.identity), Time: time.Now(), Setup: g.setup(), Stats: g.Stats(), Troubles: g.troubles()}
	g.mu.Lock()
	s.Standby = max(0, len(g.byID)-s.Stats.Held)
	g.mu.Unlock()
	return s
}

// list adds this node's lists, with the first tenures whose ids are behind one.
func (g *Gone) list(s Status, id string, most int) Status {
	s.Time, s.Tenures, s.Past = time.Now(), g.tenuresAfter(id, most), g.past.latest()
	for _, l := range g.mesh.All() {
		state, kept, why := health(l)
		ls := LinkStatus{Addr: addrOf(l.Identity), State: state, Kept: kept}
		if why != nil {
			ls.Err = cut(why.Error(), causeMost)
		}
		s.Links = append(s.Links, ls)
	}
	slices.SortFunc(s.Links, func(a, b LinkStatus) int { return strings.Compare(a.Addr, b.Addr) })
	return s
}
