package gone

import (
	"cmp"
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

// A Node is a node of the cluster, as it has entered itself in the roster.
type Node struct {
	Addr     string    // advertised
	Since    time.Time // when it was started, on its own clock
	Held     int       // tenures
	Weight   float64
	Draining bool
	Version  string // of this library; empty where the build does not say
}

// ErrNoRoster is returned when the lock service lists no nodes.
var ErrNoRoster = errors.New("gone: the lock service has no roster")

const (
	rosterTTL   = 10 * time.Second // after which a node that has died is not listed any more
	rosterEvery = 3 * time.Second  // it enters itself anew, and looks; 2.4 s on average
	rosterLater = time.Minute      // the same without balance, after it failed
	rosterMost  = time.Minute      // without a look, a node competes for all ids

	// Every node reads what every node has entered: work that grows with the square of the
	// nodes. So for each rosterLarge of them a node lets one more turn pass between two
	// reads, up to passMost: it has to notice the dead before their locks have expired.
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
	listing

	mu       sync.Mutex
	draining bool
	seen     map[string]time.Time // since when, by identity
	view     *placement.View      // nil: all ids are competed for
	taken    int                  // ids that were promised to this node since the view was made
	moving   bool                 // a round is under way
	moved    time.Time            // when the last ended
	trouble  error                // why the roster did not work the last time; nil: it did
}

// listing is a node's place in the roster.
type listing struct {
	opening sync.Once
	lock    GoneLock // of the roster
	err     error    // why there is none
	begin   sync.Once
	wake    chan struct{}
	done    chan struct{} // closed when the node is not listed any more
	pass    int           // turns until the roster is read again; keepListed's alone
}

// join prepares the node's part. It enters the roster when it runs its first id, or at
// once where it is to have its share.
func (g *Gone) join() error {
	m := &g.member
	m.since, m.seen = time.Now(), map[string]time.Time{}
	m.wake, m.done = make(chan struct{}, 1), make(chan struct{})
	g.openDesk()
	if !g.opts.balance {
		return nil
	}
	if _, err := g.roster(); err != nil {
		return fmt.Errorf("gone: WithBalance: %w", err)
	}
	g.enlist()
	return nil
}

// roster is what the lock service keeps of the cluster.
func (g *Gone) roster() (Roster, error) {
	m := &g.member
	m.opening.Do(func() {
		if m.lock, m.err = g.newLock(g.opts.cluster, g.end.identity); m.err != nil || m.lock == nil {
			m.err = cmp.Or(m.err, ErrNoRoster)
			return
		}
		if _, ok := m.lock.(Roster); !ok {
			closeLock(m.lock)
			m.lock, m.err = nil, ErrNoRoster
		}
	})
	if m.err != nil {
		return nil, m.err
	}
	return m.lock.(Roster), nil
}

// enlist has the node listed from now on.
func (g *Gone) enlist() {
	m := &g.member
	m.begin.Do(func() {
		go func() {
			defer close(m.done)
			if roster, err := g.roster(); err == nil {
				g.keepListed(roster)
				closeLock(m.lock)
			}
		}()
	})
}

// quit takes the node off the roster, where the lock service answers in time.
func (g *Gone) quit() {
	m := &g.member
	m.begin.Do(func() {
		close(m.done)
		if m.lock != nil {
			closeLock(m.lock)
		}
	})
	select {
	case <-m.done:
	case <-time.After(farewellMost):
	}
}

// keepListed looks at the roster, and does what follows of it.
func (g *Gone) keepListed(roster Roster) {
	m := &g.member
	var trouble error
	looked := time.Now()
	for g.ctx.Err() == nil {
		before, pause := trouble, rosterEvery
		trouble = g.look(roster)
		m.mu.Lock()
		m.trouble = trouble
		m.mu.Unlock()
		switch {
		case trouble == nil:
			looked = time.Now()
		case !g.opts.balance:
			pause = rosterLater
		case before == nil:
			g.log.Warn("gone: the roster does not work, so ids are not balanced", "cluster", g.opts.cluster, "err", trouble)
		case time.Since(looked) > rosterMost:
			g.blind()
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
}

// look signs, and looks who else is there.
func (g *Gone) look(roster Roster) error {
	if err := g.sign(roster); err != nil {
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
	if g.count.lock.roster.note(err) != nil {
		return err
	}
	m.pass = min(len(notes)/rosterLarge, passMost)
	g.see(entries(notes))
	return nil
}

// sign enters this node.
func (g *Gone) sign(roster Roster) error {
	note, err := json.Marshal(g.entry())
	if err != nil {
		return err
	}
	return g.count.lock.roster.note(roster.Enter(string(note), rosterTTL))
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

// blind gives up a view that is too old: those that it has compete may be gone.
func (g *Gone) blind() {
	m := &g.member
	m.mu.Lock()
	m.view = nil
	m.mu.Unlock()
	g.setGates()
}

func (g *Gone) setGates() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setGatesLocked()
}

func (g *Gone) setGatesLocked() {
	for id, c := range g.byID {
		c.gate.set(g.mayRun(id))
	}
}

// mayRun reports whether this node is to compete for an id.
func (g *Gone) mayRun(id string) bool {
	m := &g.member
	m.mu.Lock()
	defer m.mu.Unlock()
	return !g.awayLocked() && (m.view == nil || m.view.Competes(id))
}

// away reports whether this node is to run nothing.
func (g *Gone) away() bool {
	g.member.mu.Lock()
	defer g.member.mu.Unlock()
	return g.awayLocked()
}

// awayLocked is away, with the membership's mu held.
func (g *Gone) awayLocked() bool { return g.member.draining || g.opts.weight <= 0 }

// Nodes returns the nodes of the cluster that run ids, sorted by address, as they have
// entered themselves within the last 10 s. The error wraps ErrNoRoster when the lock
// service lists none; otherwise ErrClosed, the context's error, or what the lock service
// said.
func (g *Gone) Nodes(ctx context.Context) ([]Node, error) {
	es, err := g.listed(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []Node
	for identity, e := range es {
		nodes = append(nodes, e.shown(identity))
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Addr, b.Addr) })
	return nodes, nil
}

func (e entry) shown(identity string) Node {
	return Node{addrOf(identity), e.Since, e.Held, e.Weight, e.Draining, e.Version}
}

func (g *Gone) listed(ctx context.Context) (map[string]entry, error) {
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
		roster, err := g.roster()
		if err != nil {
			got <- result{nil, err}
			return
		}
		notes, err := roster.Entered()
		got <- result{notes, g.count.lock.roster.note(err)}
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
