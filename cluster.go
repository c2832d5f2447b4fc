package gone

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
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
	done  chan struct{} // closed when run has returned

	mu       sync.Mutex
	draining bool
	seen     map[string]time.Time // since when, by identity
	// Nodes that run none of the ids that were offered to them, as they were then.
	strangers map[string]placement.Digest
	view      *placement.View // nil: all ids are competed for
	taken     int             // ids that were promised to this node since the view was made
	moving    bool            // a round is under way
	moved     time.Time       // when the last ended
	troubled  bool            // it has been said that the roster does not work
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
	for g.ctx.Err() == nil {
		if err := g.look(roster); err != nil && !m.troubled {
			m.troubled = true
			g.log.Warn("gone: the roster does not work, so ids are not balanced", "cluster", g.opts.cluster, "err", err)
		} else if err == nil {
			m.troubled = false
		}
		select {
		case <-time.After(jitter(rosterEvery) * 4 / 5):
		case <-m.wake:
		case <-g.ctx.Done():
		}
	}
	_ = roster.Leave()
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
	notes, err := roster.Entered()
	if err != nil {
		return err
	}
	g.see(entries(notes))
	return nil
}

func (g *Gone) entry() entry {
	g.mu.Lock()
	runs := placement.DigestOf(maps.Keys(g.byID))
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
	m.view = placement.See(own.node(g.end.identity, now.Sub(m.seen[g.end.identity]) < youngFor), nodes, m.view)
	m.taken = 0
	view := m.view
	var gifts []placement.Gift
	if !m.moving && now.Sub(m.moved) >= roundEvery {
		gifts = view.Gifts()
		m.moving = len(gifts) > 0
	}
	m.mu.Unlock()

	g.mu.Lock()
	for id, c := range g.byID {
		c.gate.set(g.mayRun(id))
	}
	g.mu.Unlock()
	if len(gifts) > 0 {
		go g.makeGifts(gifts)
	}
}

func (e entry) node(identity string, young bool) placement.Node {
	return placement.Node{Name: identity, Weight: e.Weight, Leaving: e.Draining, Young: young, Held: e.Held, Runs: e.Runs}
}

// mayRun reports whether this node is to compete for an id.
func (g *Gone) mayRun(id string) bool {
	m := &g.member
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.draining && g.opts.weight > 0 && (m.view == nil || m.view.Competes(id))
}

// makeGifts moves ids to other nodes.
func (g *Gone) makeGifts(gifts []placement.Gift) {
	ctx, cancel := context.WithTimeout(g.ctx, moveMost)
	defer cancel()
	var moves sync.WaitGroup
	under := make(chan struct{}, movesMost)
	for _, gift := range gifts {
		ids := g.some(gift.IDs)
		a, err := g.offer(ctx, gift.To, ids, gift.IDs)
		if err != nil {
			continue // what nobody takes stays
		}
		for id, ticket := range a.Tickets {
			under <- struct{}{}
			moves.Go(func() {
				defer func() { <-under }()
				_ = g.pass(ctx, id, heir{ticket, gift.To})
			})
		}
	}
	moves.Wait()
	g.member.mu.Lock()
	defer g.member.mu.Unlock()
	g.member.moving, g.member.moved = false, time.Now()
}

// offered is how many ids more than it is to have a node is offered, which may not
// run all of them.
const offered = 256

// some are ids that are held here, of which n are to be given away.
func (g *Gone) some(n int) []string {
	held := g.held()
	rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	return held[:min(len(held), n+offered)]
}

// held are the ids of the tenures that run here.
func (g *Gone) held() (ids []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, c := range g.byID {
		if c.current.Load() != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// give hands an id that is held here over to the node with an identity.
func (g *Gone) give(ctx context.Context, id, to string) error {
	a, err := g.offer(ctx, to, []string{id}, 0)
	if err != nil {
		return err
	}
	return g.pass(ctx, id, heir{a.Tickets[id], to})
}

// offer asks a node to take some ids, at most so many of them as are its share, or
// all.
func (g *Gone) offer(ctx context.Context, to string, ids []string, most int) (answer, error) {
	return g.ask(ctx, to, question{Ask: "take", IDs: ids, Most: most})
}

// pass ends the tenure of an id for an heir, and tells that node when it is over.
func (g *Gone) pass(ctx context.Context, id string, h heir) error {
	g.mu.Lock()
	c := g.byID[id]
	g.mu.Unlock()
	var t *tenure
	if c != nil {
		t = c.yield(h)
	}
	if t == nil {
		return fmt.Errorf("%w: %q is not held by the node at %s", ErrNoHolder, id, g.Addr())
	}
	select {
	case <-t.over:
		return g.bring(ctx, t)
	case <-ctx.Done():
		go g.bring(g.ctx, t)
		return ctx.Err()
	}
}

// bring tells the heir of a tenure when that is over.
func (g *Gone) bring(ctx context.Context, t *tenure) error {
	select {
	case <-t.over:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := g.ask(ctx, t.heir.Load().identity, question{Ask: "come", IDs: []string{t.c.id}})
	return err
}

// byRoom are the identities of other nodes that may hold ids, with the one that has
// least for its weight first.
func (g *Gone) byRoom(es map[string]entry) (to []string) {
	for identity, e := range es {
		if identity != g.end.identity && e.Weight > 0 && !e.Draining {
			to = append(to, identity)
		}
	}
	load := func(identity string) float64 { return float64(es[identity].Held) / es[identity].Weight }
	slices.SortFunc(to, func(a, b string) int { return cmp.Compare(load(a), load(b)) })
	return to
}

// invite promises to take ids that another node is about to hand over: all of them, or
// at most so many as are this node's share.
func (g *Gone) invite(ids []string, most int) (a answer, err error) {
	m := &g.member
	m.mu.Lock()
	room := len(ids)
	if most > 0 {
		room = 0
		if m.view != nil {
			room = min(most, m.view.Room()-m.taken)
		}
	}
	away := m.draining || g.opts.weight <= 0
	m.mu.Unlock()
	if away {
		return a, fmt.Errorf("gone: the node at %s holds nothing now", g.Addr())
	}
	a.Tickets = map[string]string{}
	for _, id := range ids {
		switch c := g.runs(id); {
		case c != nil:
			if len(a.Tickets) < room {
				a.Tickets[id] = c.ticket()
			}
		case most == 0:
			return a, fmt.Errorf("gone: the node at %s does not run %q", g.Addr(), id)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken += len(a.Tickets)
	return a, nil
}

// runs returns the candidate of an id, nil when there is none.
func (g *Gone) runs(id string) *candidate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c := g.byID[id]; c != nil && c.ctx.Err() == nil {
		return c
	}
	return nil
}

// come has this node compete for ids that were handed over to it.
func (g *Gone) come(ids []string) {
	for _, id := range ids {
		if c := g.runs(id); c != nil {
			c.gate.invite()
		}
	}
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

// Move hands an id over to the node at addr, and returns when that has been told to
// take it. Any node may be asked. The error wraps ErrNoHolder when nobody holds the
// id. When addr is not in the roster, drains, has weight 0 or does not run the id, the
// error says so, and nothing has changed.
func (g *Gone) Move(ctx context.Context, id, addr string) error {
	if err := checkID(id); err != nil {
		return err
	}
	es, err := g.roster(ctx)
	if err != nil {
		return err
	}
	to := ""
	for identity := range es {
		if at, _, _ := strings.Cut(identity, " "); at == addr {
			to = identity
		}
	}
	if to == "" {
		return fmt.Errorf("gone: no node at %s in cluster %q", addr, g.opts.cluster)
	}
	var at string
	err = g.routes.with(id, func(r *route) (err error) {
		at, _, err = holder(r.lock)
		return err
	})
	switch {
	case err != nil:
		return err
	case at == to:
		return nil
	case at == g.end.identity:
		return g.give(ctx, id, to)
	}
	_, err = g.ask(ctx, at, question{Ask: "move", IDs: []string{id}, To: to})
	return err
}

// Drain hands everything over and has this node run nothing until Resume. Sending
// goes on. It returns when all handlers have returned and their locks are released,
// or with the context's error: then what is left is still handed over.
func (g *Gone) Drain(ctx context.Context) error {
	if err := g.setDraining(true); err != nil {
		return err
	}
	g.mu.Lock()
	var ends []<-chan struct{}
	for _, c := range g.byID {
		if t := c.current.Load(); t != nil {
			t.exit(ErrYielded)
			ends = append(ends, t.over)
		}
	}
	g.mu.Unlock()
	for _, over := range ends {
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Resume ends Drain. The error wraps ErrClosed when the node is closed.
func (g *Gone) Resume() error { return g.setDraining(false) }

func (g *Gone) setDraining(on bool) error {
	m := &g.member
	m.mu.Lock()
	m.draining = on
	m.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return ErrClosed
	}
	for id, c := range g.byID {
		c.gate.set(g.mayRun(id))
	}
	if m.wake != nil {
		select {
		case m.wake <- struct{}{}: // others are to know
		default:
		}
	}
	return nil
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
