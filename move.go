package gone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/placement"
)

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
		for _, t := range a.Tickets {
			under <- struct{}{}
			moves.Go(func() {
				defer func() { <-under }()
				_ = g.pass(ctx, string(t.ID), heir{t.Ticket, gift.To})
			})
		}
	}
	moves.Wait()
	g.member.mu.Lock()
	defer g.member.mu.Unlock()
	g.member.moving, g.member.moved = false, time.Now()
}

// offered is how many more ids a node is offered than it is to have: it may not run all
// of them.
const offered = 256

// some are ids that are held here, of which n are to be given away. A question that has
// them all, and its answer with their tickets, must not be too large.
func (g *Gone) some(n int) [][]byte {
	const ticket = 100 // bytes, with the punctuation
	held := g.held()
	rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	held = held[:min(len(held), n+offered)]
	size := 0
	for i, id := range held {
		if size += 2*len(id) + ticket; size > g.opts.maxMessageSize/2 {
			return held[:i]
		}
	}
	return held
}

// held are the ids of the tenures that run here and have no heir.
func (g *Gone) held() (ids [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, c := range g.byID {
		if t := c.current.Load(); t != nil && t.heir.Load() == nil {
			ids = append(ids, []byte(id))
		}
	}
	return ids
}

// give hands an id that is held here over to the node with an identity.
func (g *Gone) give(ctx context.Context, id, to string) error {
	h, err := g.heir(ctx, id, to)
	if err != nil {
		return err
	}
	return g.pass(ctx, id, h)
}

// heir asks a node to take an id.
func (g *Gone) heir(ctx context.Context, id, to string) (heir, error) {
	a, err := g.offer(ctx, to, [][]byte{[]byte(id)}, 0)
	if err == nil && len(a.Tickets) != 1 {
		err = fmt.Errorf("gone: the node at %s has not said that it takes %q", addrOf(to), id)
	}
	if err != nil {
		return heir{}, err
	}
	return heir{a.Tickets[0].Ticket, to}, nil
}

// giveAny hands an id that is held here over to whichever node takes it.
func (g *Gone) giveAny(ctx context.Context, id string) error {
	h, err := g.anyHeir(ctx, id)
	if err != nil {
		return err
	}
	return g.pass(ctx, id, h)
}

// offer asks a node to take some ids, at most so many of them as are its share, or
// all.
func (g *Gone) offer(ctx context.Context, to string, ids [][]byte, most int) (answer, error) {
	return g.ask(ctx, to, question{Ask: "take", IDs: ids, Most: most})
}

// pass ends the tenure of an id for an heir, and tells that node when it is over. Once it
// has begun to, what fails leaves open who comes next.
func (g *Gone) pass(ctx context.Context, id string, h heir) error {
	g.mu.Lock()
	c := g.byID[id]
	g.mu.Unlock()
	if ctx.Err() != nil { // the next round gives what is left
		return ctx.Err()
	}
	var t *tenure
	if c != nil {
		t = c.current.Load()
	}
	if t == nil || !t.yield(h) {
		return fmt.Errorf("%w: %q is not held by the node at %s", ErrNoHolder, id, g.Addr())
	}
	brought := make(chan error, 1)
	go func() { brought <- g.bring(t) }() // also where nobody waits for it any more
	var err error
	select {
	case err = <-brought:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && !errors.Is(err, ErrOutcomeUnknown) {
		err = because(ErrOutcomeUnknown, err)
	}
	return err
}

// bring tells the heir of a tenure when that is over.
func (g *Gone) bring(t *tenure) error {
	select {
	case <-t.over:
	case <-g.ctx.Done():
		return ErrClosed
	}
	_, err := g.ask(g.ctx, t.heir.Load().identity, question{Ask: "come", IDs: [][]byte{[]byte(t.c.id)}})
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
func (g *Gone) invite(ids [][]byte, most int) (a answer, err error) {
	m := &g.member
	m.mu.Lock()
	room := len(ids)
	if most > 0 {
		room = 0
		if m.view != nil {
			room = min(most, m.view.Room()-m.taken)
		}
	}
	away := g.awayLocked()
	m.mu.Unlock()
	if away {
		return a, fmt.Errorf("gone: the node at %s holds nothing now", g.Addr())
	}
	for _, id := range ids {
		switch c, free := g.candidate(string(id)); {
		case free:
			if len(a.Tickets) < room {
				a.Tickets = append(a.Tickets, ticket{id, c.ticket()})
			}
		case most > 0:
		case c == nil:
			return a, fmt.Errorf("gone: the node at %s does not run %q", g.Addr(), id)
		default:
			return a, fmt.Errorf("gone: the node at %s is about to get or to end a tenure of %q", g.Addr(), id)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken += len(a.Tickets)
	return a, nil
}

// candidate returns the candidate of an id, nil when there is none, and whether it is free to
// follow an invitation: an attempt or a tenure under way has a secret of its own, which may
// come to nothing or take the ticket's place, and a handler may not return for long.
func (g *Gone) candidate(id string) (c *candidate, free bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c = g.byID[id]; c == nil || c.ctx.Err() != nil {
		return nil, false
	}
	return c, c.before == nil && c.gate.underway() == nil
}

// come has this node compete for ids that were handed over to it.
func (g *Gone) come(ids [][]byte) {
	for _, id := range ids {
		if c, _ := g.candidate(string(id)); c != nil {
			c.gate.invite()
		}
	}
}

// Move hands an id over to the node at addr, or, if addr is empty, to the one that holds
// least for its weight. It may be called on any node, if the one that holds the id was
// started with [WithControl]. It returns when the holder's handler has returned and the
// other node has been told to take the id. The error wraps ErrNoHolder when nobody holds
// the id, ErrNoControl when the holder refuses, and ErrOutcomeUnknown when the id may be
// moved nevertheless. It says so when no node of the roster is at addr, or when that node
// drains, has weight 0 or does not run the id; then nothing has changed. After the
// context's error the id may still be moved.
func (g *Gone) Move(ctx context.Context, id, addr string) error {
	if err := checkID(id); err != nil {
		return err
	}
	to := ""
	if addr != "" {
		var err error
		if to, err = g.identityOf(ctx, addr); err != nil {
			return err
		}
	}
	var at string
	err := g.routes.with(id, func(r *route) (err error) {
		at, _, err = g.count.holder(r.lock)
		return err
	})
	switch {
	case err != nil:
		return err
	case at == to:
		return nil
	case at != g.end.identity:
		_, err = g.ask(ctx, at, question{Ask: "move", IDs: [][]byte{[]byte(id)}, To: to})
		return err
	case to == "":
		return g.giveAny(ctx, id)
	}
	return g.give(ctx, id, to)
}

// DrainNode is Drain of the node at addr, which was started with [WithControl]. It waits
// until ctx ends, without a deadline for as long as a send; the node goes on then. The
// error wraps ErrNoControl, ErrUnreachable, or ErrOutcomeUnknown where the node may drain
// nevertheless.
func (g *Gone) DrainNode(ctx context.Context, addr string) error { return g.order(ctx, addr, "drain") }

// ResumeNode is Resume of the node at addr, which was started with [WithControl].
func (g *Gone) ResumeNode(ctx context.Context, addr string) error {
	return g.order(ctx, addr, "resume")
}

func (g *Gone) order(ctx context.Context, addr, what string) error {
	identity, err := g.identityOf(ctx, addr)
	if err != nil {
		return err
	}
	switch {
	case identity != g.end.identity:
		_, err = g.ask(ctx, identity, question{Ask: what})
	case what == "drain":
		err = g.Drain(ctx)
	default:
		err = g.Resume()
	}
	return err
}

// Drain hands everything over, and this node runs nothing until Resume. Sending goes on.
// Drain returns when all handlers have returned and their locks are released, or with the
// context's error: then the rest is still being handed over.
func (g *Gone) Drain(ctx context.Context) error {
	if err := g.setDraining(true); err != nil {
		return err
	}
	g.mu.Lock()
	var ends []<-chan struct{}
	for _, c := range g.byID {
		for ; c != nil; c = c.before {
			if t := c.current.Load(); t != nil {
				t.exit(ErrYielded)
			}
			if over := c.gate.underway(); over != nil { // also an attempt, which may succeed
				ends = append(ends, over)
			}
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
	g.setGatesLocked()
	select {
	case m.wake <- struct{}{}: // others are to know
	default:
	}
	return nil
}
