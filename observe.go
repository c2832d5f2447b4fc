package gone

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/wire"
)

// An Observer is told what happens at a node. A function that is nil is not called. The
// others are called concurrently, by goroutines of the node that wait for them, some before
// NewGone has returned; so they should return at once, and a panic in one ends the program
// as in any goroutine. What they are given they may keep. They may ask for Stats and
// Tenures. They must not send or close the node: what these wait for waits for them.
type Observer struct {
	// Sending is told that a send begins: all of Sent but Received, Took and Err. The context
	// that it returns goes on in place of the caller's: to the [Propagator], and to Sent. It
	// must come of the caller's.
	Sending func(Sent) context.Context
	// Sent is told how a call of SendData, SendDataContext, TrySendData, SendBatch or
	// Request has ended.
	Sent func(Sent)
	// Received is told what a handler of this node has received, some 100 µs later. While it
	// is far behind, that handler gets nothing more.
	Received func(Received)
	// Extended is told what has come of a [GoneRunner.Extend], with all its attempts.
	Extended func(Extended)
	// Began and Ended are told of the tenures of this node.
	Began func(Tenure)
	Ended func(PastTenure)
	// Link is told what becomes of the links to other nodes, one change after the other.
	Link func(LinkChange)
}

// and is two observers as one. The first is told first; the second's Sending gets what the
// first has made of the context.
func (o Observer) and(p Observer) Observer {
	both := Observer{
		Sending: o.Sending, Sent: each(o.Sent, p.Sent), Received: each(o.Received, p.Received),
		Extended: each(o.Extended, p.Extended), Began: each(o.Began, p.Began), Ended: each(o.Ended, p.Ended),
		Link: each(o.Link, p.Link),
	}
	switch {
	case o.Sending == nil:
		both.Sending = p.Sending
	case p.Sending != nil:
		both.Sending = func(s Sent) context.Context {
			s.Context = o.Sending(s)
			return p.Sending(s)
		}
	}
	return both
}

func each[E any](a, b func(E)) func(E) {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(e E) {
		a(e)
		b(e)
	}
}

// Sent is one call that sends.
type Sent struct {
	Context  context.Context // of the call, or what Sending has made of it
	ID       string
	Messages int // in the call
	Received int // of them, by the handler
	Bytes    int // of all messages
	Request  bool
	Took     time.Duration
	Err      error
}

// Received is one message that a handler has received.
type Received struct {
	ID     string
	Token  uint64
	From   string // address of the sender's node
	Bytes  int
	Queued time.Duration // since it arrived at this node
}

// Extended is one [GoneRunner.Extend].
type Extended struct {
	ID    string
	Token uint64
	Took  time.Duration
	Err   error
}

// A LinkChange is what has become of the link to another node.
type LinkChange struct {
	Addr  string
	State LinkState
	Err   error // why, where that is known; wraps ErrRefused where a key is refused
}

// LinkState is how a link to another node is.
type LinkState string

const (
	LinkOpening LinkState = "opening"
	LinkOpen    LinkState = "open"
	LinkSilent  LinkState = "silent"  // nothing that was sent is acknowledged
	LinkRefused LinkState = "refused" // for a key, on either side
	LinkEnded   LinkState = "ended"   // for good; a new one may follow
)

// health is how a link is, the bytes that it keeps, and why nothing arrives, where that is
// known.
func health(l *link.Link) (state LinkState, kept int, why error) {
	text, kept := l.Health()
	why = l.Trouble()
	return orRefused(LinkState(text), why), kept, why
}

// orRefused is the state of a link, over which nothing arrives where a key is refused.
func orRefused(state LinkState, why error) LinkState {
	if (state == LinkOpening || state == LinkSilent) && errors.Is(why, ErrRefused) {
		return LinkRefused
	}
	return state
}

// A Propagator takes what belongs to a call, as its trace, to the handler's
// [Message.Context]: those of OpenTelemetry are of this form, but for the type of the
// map. What it injects must not have more than 4 KiB, with its keys; of more, the longest
// values stay here.
type Propagator interface {
	Inject(ctx context.Context, carrier map[string]string)
	Extract(ctx context.Context, carrier map[string]string) context.Context
}

// observers are what a node's user wants to be told and taken along.
type observers struct {
	Observer
	propagator Propagator
}

// sending begins a send that somebody observes.
func (o *observers) sending(s *shipment) {
	if o.Sending != nil {
		s.ctx = o.Sending(s.shown())
	}
	if o.propagator == nil {
		return
	}
	said := map[string]string{}
	o.propagator.Inject(s.ctx, said)
	s.said = pack(said)
}

// pack is what a propagator has injected, for the wire. Where that is too much the longest
// values stay here: a trace must not be lost for its baggage.
func pack(said map[string]string) []byte {
	for len(said) > 0 {
		b, err := json.Marshal(said)
		if err == nil && len(b) <= wire.MaxContext {
			return b
		}
		longest := ""
		for key, value := range said {
			if len(key)+len(value) > len(longest)+len(said[longest]) {
				longest = key
			}
		}
		delete(said, longest)
	}
	return nil
}

// extract makes the context of a message of which its sender has said something.
func (o *observers) extract(ctx context.Context, said []byte) context.Context {
	var carrier map[string]string
	if said == nil || o.propagator == nil || json.Unmarshal(said, &carrier) != nil {
		return ctx
	}
	return o.propagator.Extract(ctx, carrier)
}

// ship sends, counts, and tells who observes.
func (g *Gone) ship(s *shipment) error {
	o := &g.opts.observers
	if o.Sending == nil && o.Sent == nil && o.propagator == nil {
		err := g.deliver(s)
		g.count.send(s, err)
		return err
	}
	began := time.Now()
	o.sending(s)
	err := g.deliver(s)
	g.count.send(s, err)
	if o.Sent != nil {
		sent := s.shown()
		sent.Received, sent.Took, sent.Err = s.sent, time.Since(began), err
		o.Sent(sent)
	}
	return err
}

// shown is a shipment as an observer sees it when it begins.
func (s *shipment) shown() Sent {
	messages, bytes := s.size()
	return Sent{Context: s.ctx, ID: s.id, Messages: messages, Bytes: bytes, Request: s.asks()}
}

// size is how many messages a shipment has, and their bytes.
func (s *shipment) size() (messages, bytes int) {
	if s.msgs == nil {
		return 1, len(s.data)
	}
	for _, m := range s.msgs {
		bytes += len(m)
	}
	return len(s.msgs), bytes
}

// send counts a call, but for what mailboxes of this node count, under a lock that is held
// anyway: one more word that all processors write to would be some 5 % of a send to this
// node.
func (c *counters) send(s *shipment, err error) {
	if s.sent > s.counted {
		c.sent.Add(uint64(s.sent - s.counted))
	}
	if err == nil {
		return
	}
	all, _ := s.size()
	switch left := uint64(all - s.sent); {
	case errors.Is(err, ErrOutcomeUnknown):
		c.unknown.Add(left)
	default:
		c.refused.Add(left)
	}
}

// received tells of what a handler has received.
func (g *Gone) received(t mailbox.Taken) {
	from := g.Addr()
	if t.From != "" {
		from = addrOf(t.From)
	}
	g.opts.observers.Received(Received{t.ID, t.Token, from, t.Bytes, t.Queued})
}

// A linkNews tells an observer of links, one change after the other and on a goroutine of
// its own: what the observer waits for holds up nothing else.
type linkNews struct {
	mu     sync.Mutex
	untold []LinkChange
	told   chan struct{} // closed when all are; nil while there are none
}

func (n *linkNews) tell(observe func(LinkChange), c LinkChange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.untold = append(n.untold, c)
	if n.told != nil {
		return
	}
	n.told = make(chan struct{})
	go func() {
		for c, ok := n.next(); ok; c, ok = n.next() {
			observe(c)
		}
	}()
}

func (n *linkNews) next() (c LinkChange, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.untold) == 0 {
		close(n.told)
		n.told = nil
		return c, false
	}
	c, n.untold = n.untold[0], n.untold[1:]
	return c, true
}

// wait returns when all that there is now has been told.
func (n *linkNews) wait() {
	n.mu.Lock()
	told := n.told
	n.mu.Unlock()
	if told != nil {
		<-told
	}
}

// linked tells of a change of a link.
func (g *Gone) linked(c link.Change) {
	if g.opts.Link == nil {
		return
	}
	change := LinkChange{Addr: addrOf(c.Link.Identity), State: LinkOpen}
	switch c.What {
	case link.Silent:
		change.Err = c.Link.Trouble()
		change.State = orRefused(LinkSilent, change.Err)
	case link.Ended:
		change.State, change.Err = LinkEnded, c.Link.Trouble()
	}
	g.news.tell(g.opts.Link, change)
}

// note counts a request to the lock service.
func (c *callCount) note(err error) error {
	c.calls.Add(1)
	if err != nil && !errors.Is(err, ErrLockHeld) && !errors.Is(err, ErrLockLost) && !errors.Is(err, ErrNoHolder) {
		c.failed.Add(1)
	}
	return err
}

// holder asks a lock who holds it: the node's identity, and the token.
func (c *counters) holder(l GoneLock) (identity string, token uint64, err error) {
	if f, ok := l.(Fencer); ok {
		identity, token, err = f.Holder()
	} else {
		identity, err = l.GetValue()
	}
	return identity, token, c.lock.holder.note(err)
}

// An extender is a lock whose Extends are counted.
type extender struct {
	GoneLock
	count *callCount
}

func (e extender) Extend() error { return e.count.note(e.GoneLock.Extend()) }
