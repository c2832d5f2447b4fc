package gone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/Diggs/go-one/internal/link"
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
)

// A question is what one node asks another.
type question struct {
	Ask     string // take, come, move, about, drain or resume
	Cluster string
	IDs     [][]byte `json:",omitempty"` // which need not be UTF-8
	Most    int      `json:",omitempty"` // take: so many of them, as far as that is the node's share; 0: all
	To      string   `json:",omitempty"` // move: identity of a node
	From    *place   `json:",omitempty"` // about
}

// An answer is what it gets.
type answer struct {
	Error   string   `json:",omitempty"`
	Reason  string   `json:",omitempty"` // of the error, where a caller can switch on it
	Unknown bool     `json:",omitempty"` // what was asked for may be done nevertheless
	Tickets []ticket `json:",omitempty"` // take: of the ids that the node takes
	About   *page    `json:",omitempty"`
}

// A ticket is [Passer]'s for one id.
type ticket struct {
	ID     []byte
	Ticket string
}

// reasons are the errors that an answer can carry. It carries the first that there is:
// what says most.
var reasons = []struct {
	name string
	is   error
}{
	{"no holder", ErrNoHolder},
	{"no control", ErrNoControl},
	{"refused", ErrRefused},
	{"closed", ErrClosed},
	{"deadline", context.DeadlineExceeded},
	{"unreachable", ErrUnreachable},
}

// told is an error that another node has told of.
type told struct {
	text string
	is   []error // what can be switched on
}

func (e *told) Error() string   { return e.text }
func (e *told) Unwrap() []error { return e.is }

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
		a.About = g.about(q.From)
	case !g.opts.control && (q.Ask == "move" || q.Ask == "drain" || q.Ask == "resume"):
		err = because(fmt.Errorf("gone: others can't have the node at %s %s", g.Addr(), q.Ask), ErrNoControl)
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
		a.Error, a.Unknown = err.Error(), errors.Is(err, ErrOutcomeUnknown)
		for _, r := range reasons {
			if errors.Is(err, r.is) {
				a.Reason = r.name
				break
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
	switch end.Status {
	case wire.Received:
	case wire.Absent:
		return a, fmt.Errorf("gone: the node at %s is of a version that answers no questions", addr)
	default:
		return a, unanswered(ctx, l, end)
	}
	if err := json.Unmarshal(end.Reply, &a); err != nil {
		return a, fmt.Errorf("gone: node at %s: %w", addr, err)
	}
	return a, a.err()
}

// err is the error that another node has told of.
func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	err := &told{text: a.Error}
	for _, r := range reasons {
		if r.name == a.Reason {
			err.is = append(err.is, r.is)
		}
	}
	switch {
	case a.Unknown:
		err.is = append(err.is, ErrOutcomeUnknown)
	case errors.Is(err, context.DeadlineExceeded): // what it was at goes on
		return because(ErrOutcomeUnknown, err)
	}
	return err
}

// unanswered says why a question has no answer, and whether it may have been received.
func unanswered(ctx context.Context, l *link.Link, end stream.Result) error {
	err := fmt.Errorf("%w: node at %s", ErrUnreachable, addrOf(l.Identity))
	if why := l.Trouble(); why != nil {
		err = because(err, why)
	}
	if ctx.Err() != nil {
		err = because(err, ctx.Err())
	}
	if end.Status == stream.Unknown || end.Status == wire.NoReply {
		err = because(ErrOutcomeUnknown, err)
	}
	return err
}
