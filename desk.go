package gone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
)

// A desk is where a node answers other nodes about itself: a mailbox like that of a
// tenure, whose id no user can have, so that a question is a request like any other.
type desk struct{ box *mailbox.Box }

const (
	deskID    = "\x00desk"
	deskToken = 1
	deskMost  = 1024 // moves and drains at a time that this node is asked for; more are refused
	aboutSize = 400  // bytes that a tenure takes in an answer, about
)

// A question is what one node asks another.
type question struct {
	Ask     string // take, come, move, about, drain or resume
	Cluster string
	IDs     [][]byte `json:",omitempty"` // which need not be UTF-8
	Most    int      `json:",omitempty"` // take: so many of them, as far as that is the node's share; 0: all
	To      string   `json:",omitempty"` // move: identity of a node
	After   []byte   `json:",omitempty"` // about: the tenures up to this id are known already
}

// An answer is what it gets.
type answer struct {
	Error   string   `json:",omitempty"`
	Reason  string   `json:",omitempty"` // of the error, where a caller can switch on it
	Tickets []ticket `json:",omitempty"` // take: of the ids that the node takes
	About   *Status  `json:",omitempty"`
	More    bool     `json:",omitempty"` // about: there are more tenures
}

// A ticket is [Passer]'s for one id.
type ticket struct {
	ID     []byte
	Ticket string
}

// reasons are the errors that an answer can carry.
var reasons = map[string]error{"no holder": ErrNoHolder, "closed": ErrClosed, "unreachable": ErrUnreachable}

// told is an error that another node has told of.
type told struct {
	text string
	is   error
}

func (e *told) Error() string { return e.text }
func (e *told) Unwrap() error { return e.is }

// openDesk answers questions until the node is closed.
func (g *Gone) openDesk() {
	in := mailbox.NewInbox(func(struct{}, mailbox.Delivery) struct{} { return struct{}{} })
	always := func() time.Duration { return time.Hour }
	g.desk.box = g.room.Begin(g.ctx, g.ctx, deskID, deskToken, always, in)
	go func() {
		slow := make(chan struct{}, deskMost)
		for {
			ds := g.desk.box.Take(1, nil)
			if len(ds) == 0 {
				return
			}
			g.serve(ds[0], slow)
		}
	}()
}

func (d *desk) close() {
	d.box.Shut()
	d.box.Finish()
}

// serve answers a question. A move asks another node in turn, and must not hold up the
// questions that this node is asked by it.
func (g *Gone) serve(d mailbox.Delivery, slow chan struct{}) {
	if d.Request == nil {
		return
	}
	var q question
	a, err := answer{}, json.Unmarshal(d.Data, &q)
	switch {
	case err != nil:
	case q.Cluster != g.opts.cluster:
		err = fmt.Errorf("gone: this node is of another cluster than %q", q.Cluster)
	case q.Ask == "take":
		a, err = g.invite(q.IDs, q.Most)
	case q.Ask == "come":
		g.come(q.IDs)
	case q.Ask == "about":
		a = g.about(q.After)
	case !g.opts.control && (q.Ask == "move" || q.Ask == "drain" || q.Ask == "resume"):
		err = fmt.Errorf("gone: the node at %s was not started with WithControl, so others can't have it %s", g.Addr(), q.Ask)
	case q.Ask == "move" && len(q.IDs) == 1, q.Ask == "drain":
		select {
		case slow <- struct{}{}:
			go func() {
				defer func() { <-slow }()
				reply(d, a, g.obey(d.Request.Context(), q))
			}()
			return
		default:
			err = fmt.Errorf("gone: the node at %s is busy with %d moves", g.Addr(), deskMost)
		}
	case q.Ask == "resume":
		err = g.Resume()
	default:
		err = fmt.Errorf("gone: this version does not know how to %q", q.Ask)
	}
	reply(d, a, err)
}

func reply(d mailbox.Delivery, a answer, err error) {
	if err != nil {
		a.Error = err.Error()
		for reason, is := range reasons {
			if errors.Is(err, is) {
				a.Reason = reason
			}
		}
	}
	data, _ := json.Marshal(a)
	_ = d.Request.Reply(data, false)
}

// obey does what another node wants this one to, and what takes its time.
func (g *Gone) obey(ctx context.Context, q question) error {
	switch {
	case q.Ask == "drain":
		return g.Drain(ctx)
	case q.To == "":
		return g.giveAny(ctx, string(q.IDs[0]))
	}
	return g.give(ctx, string(q.IDs[0]), q.To)
}

// about is a page of this node's status, as much of it as fits an answer. All but the
// tenures are on the first page alone.
func (g *Gone) about(after []byte) answer {
	var s Status
	if after == nil {
		s = g.status()
	} else {
		s.Tenures = g.Tenures()
		at, _ := slices.BinarySearchFunc(s.Tenures, string(after)+"\x00", func(t Tenure, id string) int { return strings.Compare(t.ID, id) })
		s.Tenures = s.Tenures[at:]
	}
	for most := max(1, g.opts.maxMessageSize/aboutSize); ; most /= 2 {
		page := s
		page.Tenures = firsts(s.Tenures, most)
		page.Past, page.Links, page.Troubles = firsts(s.Past, most), firsts(s.Links, most), firsts(s.Troubles, most)
		a := answer{About: &page, More: len(page.Tenures) < len(s.Tenures)}
		if data, err := json.Marshal(a); err != nil || len(data) <= g.opts.maxMessageSize || most == 1 {
			return a
		}
	}
}

func firsts[E any](s []E, most int) []E { return s[:min(most, len(s))] }

// ask asks the node with an identity.
func (g *Gone) ask(ctx context.Context, identity string, q question) (a answer, err error) {
	q.Cluster = g.opts.cluster
	data, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	if !g.enter() {
		return a, ErrClosed
	}
	defer g.leave()
	addr := addrOf(identity)
	l, err := g.mesh.To(identity)
	if err != nil {
		return a, fmt.Errorf("gone: node at %s: %w", addr, err)
	}
	s, err := g.streams.Open(l, deskID, deskToken)
	if err != nil {
		return a, fmt.Errorf("gone: node at %s: %w", addr, err)
	}
	defer s.Retire()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(g.opts.sendTimeout)
	}
	end := s.Send(ctx, stream.Call{Data: data, Deadline: deadline, Flags: wire.WantsReply}, time.Now())
	switch {
	case ctx.Err() != nil:
		return a, ctx.Err()
	case end.Status == wire.Absent:
		return a, fmt.Errorf("gone: the node at %s is of a version that answers no questions", addr)
	case end.Status != wire.Received:
		return a, fmt.Errorf("%w: node at %s", ErrUnreachable, addr)
	}
	if err := json.Unmarshal(end.Reply, &a); err != nil {
		return a, fmt.Errorf("gone: node at %s: %w", addr, err)
	}
	if a.Error != "" {
		if is, ok := reasons[a.Reason]; ok {
			return a, &told{a.Error, is}
		}
		return a, errors.New(a.Error)
	}
	return a, nil
}
