package gone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/placement"
)

// A Node is one of the cluster, as it has entered itself in the roster.
type Node struct {
	Addr     string    // advertised
	Since    time.Time // when it was started, on its own clock
	Held     int       // tenures
	Weight   float64
	Draining bool
	Version  string // of this library; empty where the build does not say
}

// ErrNoRoster is returned where the lock service lists no nodes.
var ErrNoRoster = errors.New("gone: the lock service has no roster")

const (
	rosterTTL   = 10 * time.Second // after which a node that has died is not listed any more
	rosterEvery = 3 * time.Second  // it enters itself anew, and looks
	rosterLater = time.Minute      // the same where nothing depends on it, and it can't

	// That all read what all have entered grows with the square of the nodes. So for
	// so many more of them each lets one more turn pass, up to a number that has the
	// dead noticed before their locks have expired.
	rosterLarge = 100
	passMost    = 4

	// A node that has just come is given nothing yet: it may be gone as soon.
	youngFor = 5 * time.Second
	// Between two rounds everybody has entered what the first has changed.
	roundEvery = 2 * rosterEvery

	movesMost = 16               // that one node makes at a time
	moveMost  = 10 * time.Second // for one, with the end of its handler
)

// entry is what the roster has of a node.
type entry struct {
	Since    time.Time        `json:"s"`
	Held     int              `json:"h"`
	Weight   float64          `json:"w"`
	Draining bool             `json:"d,omitempty"`
	Balance  bool             `json:"b,omitempty"`
	Runs     placement.Digest `json:"r"`
	Version  string           `json:"v,omitempty"`
}

// membership is a node's part in its cluster.
type membership struct {
	since time.Time
	lock  GoneLock // of the roster; nil: there is none
	wake  chan struct{}
	done  chan struct{} // closed when keepListed has returned
	pass  int           // turns until the roster is read again; keepListed's alone

	mu       sync.Mutex
	draining bool
	seen     map[string]time.Time // since when, by identity
	view     *placement.View      // nil: all ids are competed for
	taken    int                  // ids that were promised to this node since the view was made
	moving   bool                 // a round is under way
	moved    time.Time            // when the last ended
}

// join has the node enter the roster and take its part in the balance.
func (g *Gone) join() error {
	m := &g.member
	m.since, m.seen = time.Now(), map[string]time.Time{}
	m.wake, m.done = make(chan struct{}, 1), make(chan struct{})
	g.openDesk()
	lock, err := g.newLock(g.opts.cluster, g.end.identity)
	if _, ok := lock.(Roster); err == nil && ok {
		m.lock = lock
		go g.keepListed()
		return nil
	}
	close(m.done)
	if lock != nil {
		closeLock(lock)
	}
	if err == nil {
		err = ErrNoRoster
	}
	if !g.opts.balance {
		return nil
	}
	return fmt.Errorf("gone: WithBalance: %w", err)
}

// keepListed looks at the roster, and does what follows of it.
func (g *Gone) keepListed() {
	m := &g.member
	defer close(m.done)
	roster := m.lock.(Roster)
	var trouble error
	for g.ctx.Err() == nil {
		before, pause := trouble, rosterEvery
		if trouble = g.look(roster); trouble != nil && !g.opts.balance {
			pause = rosterLater
		} else if trouble != nil && before == nil {
			g.log.Warn("gone: the roster does not work, so ids are not balanced", "cluster", g.opts.cluster, "err", trouble)
		}
		select {
		case <-time.After(jitter(pause) * 4 / 5):
		case <-m.wake:
		case <-g.ctx.Done():
		}
	}
	if trouble == nil {
		_ = roster.Leave()
	}
	closeLock(m.lock)
}

// look enters this node and looks who else is there.
func (g *Gone) look(roster Roster) error {
	note, err := json.Marshal(g.entry())
	if err != nil {
		return err
	}
	if err := roster.Enter(string(note), rosterTTL); err != nil {
		return err
	}
	if !g.opts.balance {
		return nil
	}
	m := &g.member
	if m.pass > 0 {
		m.pass--
		return nil
	}
	notes, err := roster.Entered()
	if err != nil {
		return err
	}
	m.pass = min(len(notes)/rosterLarge, passMost)
	g.see(entries(notes))
	return nil
}

func (g *Gone) entry() entry {
	g.mu.Lock()
	if g.digest == nil {
		d := placement.DigestOf(maps.Keys(g.byID))
		g.digest = &d
	}
	runs := *g.digest
	g.mu.Unlock()
	m := &g.member
	m.mu.Lock()
	defer m.mu.Unlock()
	return entry{
		Since: m.since, Held: int(g.count.held.Load()), Weight: g.opts.weight,
		Draining: m.draining, Balance: g.opts.balance, Runs: runs, Version: version(),
	}
}

// entries are those of notes that are well-formed.
func entries(notes map[string]string) map[string]entry {
	es := map[string]entry{}
	for identity, note := range notes {
		var e entry
		if json.Unmarshal([]byte(note), &e) == nil {
			es[identity] = e
		}
	}
	return es
}

// see makes the view of the cluster and acts on it.
func (g *Gone) see(es map[string]entry) {
	m := &g.member
	now := time.Now()
	own := g.entry()
	m.mu.Lock()
	for identity := range m.seen {
		if _, ok := es[identity]; !ok {
			delete(m.seen, identity)
		}
	}
	var nodes []placement.Node
	for identity, e := range es {
		since, known := m.seen[identity]
		if !known {
			since = now
			m.seen[identity] = now
		}
		if identity == g.end.identity || !e.Balance {
			continue
		}
		nodes = append(nodes, e.node(identity, now.Sub(since) < youngFor))
	}
	before := m.view
	view := placement.See(own.node(g.end.identity, now.Sub(m.seen[g.end.identity]) < youngFor), nodes, before)
	m.view, m.taken = view, 0
	var gifts []placement.Gift
	if !m.moving && now.Sub(m.moved) >= roundEvery {
		gifts = view.Gifts()
		m.moving = len(gifts) > 0
	}
	m.mu.Unlock()

	if !view.RanksAs(before) {
		g.setGates()
	}
	if len(gifts) > 0 {
		go g.makeGifts(gifts)
	}
}

func (e entry) node(identity string, young bool) placement.Node {
	return placement.Node{Name: identity, Weight: e.Weight, Leaving: e.Draining, Young: young, Held: e.Held, Runs: e.Runs}
}

func (g *Gone) setGates() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, c := range g.byID {
		c.gate.set(g.mayRun(id))
	}
}

// mayRun reports whether this node is to compete for an id.
func (g *Gone) mayRun(id string) bool {
	m := &g.member
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.draining && g.opts.weight > 0 && (m.view == nil || m.view.Competes(id))
}

// Nodes returns the nodes of the cluster, by address, as they have entered themselves
// within the last 10 s. The error wraps ErrNoRoster where the lock service
// lists none, ErrClosed, the context's error, or what the lock service said.
func (g *Gone) Nodes(ctx context.Context) ([]Node, error) {
	es, err := g.roster(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for identity, e := range es {
		addr, _, _ := strings.Cut(identity, " ")
		nodes = append(nodes, Node{addr, e.Since, e.Held, e.Weight, e.Draining, e.Version})
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Addr, b.Addr) })
	return nodes, nil
}

func (g *Gone) roster(ctx context.Context) (map[string]entry, error) {
	if g.member.lock == nil {
		return nil, ErrNoRoster
	}
	if !g.enter() {
		return nil, ErrClosed
	}
	type result struct {
		notes map[string]string
		err   error
	}
	got := make(chan result, 1)
	go func() { // the lock can't be interrupted
		defer g.leave()
		notes, err := g.member.lock.(Roster).Entered()
		got <- result{notes, err}
	}()
	select {
	case r := <-got:
		return entries(r.notes), r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// version is that of this library in the program.
var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == "github.com/Diggs/go-one" {
			return m.Version
		}
	}
	return ""
})
