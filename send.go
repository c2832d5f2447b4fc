package gone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
	"github.com/Diggs/go-one/internal/zmq"
)

// tryTimeout bounds TrySendData where the holder does not answer.
const tryTimeout = time.Second

// errNotAnswered is the reason until anybody has said anything.
var errNotAnswered = errors.New("gone: the lock service has not answered")

// A send whose holder's key is refused for so long, or that the holder refuses,
// ends: keys that are being changed need less, as connections are renewed every 2 s.
const refusedMost = 5 * time.Second

// SendData sends data to the handler of the id, on whichever node it runs, and
// returns nil when the handler has received it. It is a send on an unbuffered
// channel across the cluster: it waits for a holder and for the handler, for
// 10 s or what [WithSendTimeout] says. Data is the caller's again when it
// returns.
//
// An error wraps either ErrNotDelivered or ErrOutcomeUnknown, and the reason:
// ErrNoHolder, ErrBusy, ErrUnreachable, ErrRefused, ErrTooLarge, ErrClosed, the
// context's error, what the lock service said, or that it has not answered. A
// key that is refused ends the send after some seconds, whatever its deadline.
func (g *Gone) SendData(id string, data []byte) error {
	return g.SendDataContext(context.Background(), id, data)
}

// SendDataContext is SendData with the context's deadline, if it has one. When ctx ends,
// the data is withdrawn if that is still possible. The call then returns at once, unless
// it has to ask the holder, for which it waits at most 200 ms. Whatever the deadline, the
// outcome is unknown when a holder that may have received the data has been silent for
// five minutes.
func (g *Gone) SendDataContext(ctx context.Context, id string, data []byte) error {
	return g.ship(&shipment{ctx: ctx, id: id, data: data, n: 1})
}

// TrySendData hands data over if the handler is receiving right now, as a select with a
// default would. Otherwise the error wraps ErrNotDelivered and ErrBusy, ErrNoHolder, or
// another reason that SendData names. A holder on another node has to be asked, which
// takes a round trip; if nothing was heard of it for some seconds, one more and a call to
// the lock service. If the holder does not answer within a second, the send ends as in
// SendData.
func (g *Gone) TrySendData(id string, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	return g.ship(&shipment{ctx: ctx, id: id, data: data, n: 1, flags: wire.Try})
}

// SendBatch sends msgs in order, and does not wait for one to be received before it sends
// the next. It is for a goroutine that needs throughput. It returns how many the handler
// received: those at the front of msgs and, unless the outcome is unknown, no others. The
// error is that of the first message that was not received, as from [Gone.SendData].
// Without a deadline in ctx the time to wait begins anew with each message received.
func (g *Gone) SendBatch(ctx context.Context, id string, msgs [][]byte) (delivered int, err error) {
	s := shipment{ctx: ctx, id: id, msgs: msgs, n: len(msgs)}
	err = g.ship(&s)
	return s.sent, err
}

// Request sends data to the handler of the id, as SendDataContext does, and waits for
// its reply until the context's deadline, or for 10 s or what [WithSendTimeout] says.
// A handler that receives from r.Data alone gives an empty reply.
//
//	reply, nil                        the handler called Reply
//	*HandlerError                     the handler called Fail
//	ErrNotDelivered                   no handler received it and none ever will
//	ErrOutcomeUnknown and ErrNoReply  the handler received it, and its reply did not
//	                                  come: deadline, its tenure ended, it died
//	ErrOutcomeUnknown alone           it may have been received
//
// The reasons are those of SendData. Two handlers that ask each other wait for each
// other until their deadlines. With a context that derives from a handler's r.Context()
// or m.Context(), a request to that handler's own id is refused at once.
func (g *Gone) Request(ctx context.Context, id string, data []byte) (reply []byte, err error) {
	s := shipment{ctx: ctx, id: id, data: data, n: 1, flags: wire.WantsReply}
	if err = g.ship(&s); err != nil {
		return nil, err
	}
	return s.reply, nil
}

var errSelf = errors.New("gone: a handler's request to itself would wait for itself")

// A Holder is the node that holds an id.
type Holder struct {
	Addr  string // the node's advertised address
	Token uint64 // the tenure's fencing token; 0 where the lock has none
	Here  bool   // it is a tenure of this very process
}

// Holder asks the lock service who holds the id. The error wraps ErrNoHolder when nobody
// does; otherwise ErrClosed, the context's error, or what the lock service said. The
// answer may be out of date when it arrives. It names a holder that has died until the
// TTL has run out.
func (g *Gone) Holder(ctx context.Context, id string) (Holder, error) {
	if err := checkID(id); err != nil {
		return Holder{}, err
	}
	if !g.enter() {
		return Holder{}, ErrClosed
	}
	type answer struct {
		h   Holder
		err error
	}
	got := make(chan answer, 1)
	go func() { // the lock can't be interrupted
		defer g.leave()
		var h Holder
		err := g.routes.with(id, func(r *route) error {
			identity, token, err := g.count.holder(r.lock)
			h = g.show(id, identity, token)
			return err
		})
		if err == nil {
			if err = zmq.CheckAddress(h.Addr); err != nil {
				err = ofHolder(id, err)
			}
		}
		got <- answer{h, err}
	}()
	select {
	case a := <-got:
		if a.err != nil {
			return Holder{}, a.err
		}
		return a.h, nil
	case <-ctx.Done():
		return Holder{}, ctx.Err()
	}
}

// show makes a Holder of what the lock service says.
func (g *Gone) show(id, identity string, token uint64) Holder {
	b := g.room.Box(id)
	here := identity == g.end.identity && b != nil && (token == 0 || token == b.Token)
	return Holder{addrOf(identity), token, here}
}

// addrOf is the address in an identity, which a key may follow.
func addrOf(identity string) string {
	addr, _, _ := strings.Cut(identity, " ")
	return addr
}

// enter and leave count the calls that Close waits for: they use the links, the routes
// or the roster. After enter has returned false, leave must not be called.
func (g *Gone) enter() bool {
	g.sending.Add(1)
	if g.closed.Load() {
		g.leave()
		return false
	}
	return true
}

func (g *Gone) leave() {
	if g.sending.Add(-1) == 0 && g.closed.Load() {
		select {
		case g.drained <- struct{}{}:
		default:
		}
	}
}

// A shipment is what one call sends to one id: one message, or a batch.
type shipment struct {
	ctx      context.Context
	id       string
	data     []byte   // of a single message
	said     []byte   // what goes with them, for [Propagator]; nil: nothing
	msgs     [][]byte // of a batch
	n        int      // how many are to be sent
	sent     int      // how many of them were received by the handler
	counted  int      // of these, by a mailbox of this node
	flags    uint64   // of the wire
	reply    []byte   // or what the handler failed with
	failed   bool
	deadline time.Time
	now      time.Time // when the attempt began
	progress
}

// progress is how the attempts of a shipment go.
type progress struct {
	before  int           // received when the deadline was set
	reason  error         // why the next one has not been received
	pause   time.Duration // where the handler is busy
	refused time.Time     // since when the holder's key is, or this node's
}

func (s *shipment) try() bool  { return s.flags == wire.Try }
func (s *shipment) asks() bool { return s.flags == wire.WantsReply }

// next is the first message that was not received.
func (s *shipment) next() []byte {
	if s.msgs != nil {
		return s.msgs[s.sent]
	}
	return s.data
}

// tooLarge returns the size of the first message over a limit, and has only
// those before it sent. 0: there is none.
func (s *shipment) tooLarge(limit int) int {
	if s.msgs == nil && len(s.data) > limit {
		s.n = 0
		return len(s.data)
	}
	for i, data := range s.msgs {
		if len(data) > limit {
			s.n = i
			return len(data)
		}
	}
	return 0
}

// deliver tries until everything is received, an outcome is unknown, or the time
// is up. Each attempt is over for good before the next begins.
func (g *Gone) deliver(s *shipment) error {
	if err := checkID(s.id); err != nil {
		return because(ErrNotDelivered, err)
	}
	if s.asks() && s.ctx.Value(insideOf{}) == s.id {
		return because(ErrNotDelivered, errSelf)
	}
	tooLarge := s.tooLarge(g.opts.maxMessageSize)
	if !g.enter() {
		return because(ErrNotDelivered, ErrClosed)
	}
	defer g.leave()
	if err := s.ctx.Err(); err != nil {
		return because(ErrNotDelivered, err)
	}
	if s.msgs == nil && s.n == 1 && !s.asks() { // what needs no look at a clock
		if b := g.room.Box(s.id); b != nil && b.Hand(s.data, s.said) {
			s.sent, s.counted = 1, 1
			return nil
		}
	}
	s.progress = progress{before: -1, reason: errNotAnswered}
	for s.sent < s.n {
		if err := g.overdue(s); err != nil {
			return err
		}
		if err := g.consider(s); err != nil {
			return err
		}
	}
	if tooLarge > 0 {
		return because(ErrNotDelivered, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, tooLarge, g.opts.maxMessageSize))
	}
	return nil
}

// overdue is why there is no further attempt, nil if there is. Without a deadline
// of the caller's the time begins anew with each message received.
func (g *Gone) overdue(s *shipment) error {
	until, fixed := s.ctx.Deadline()
	now := time.Now()
	s.now = now
	if s.sent > s.before {
		s.pause, s.before = lookFirst, s.sent
		if s.deadline = until; !fixed {
			s.deadline = now.Add(g.opts.sendTimeout)
		}
	}
	switch {
	case s.ctx.Err() != nil:
		return because(ErrNotDelivered, because(s.reason, s.ctx.Err()))
	case g.ctx.Err() != nil:
		return because(ErrNotDelivered, ErrClosed)
	case !now.Before(s.deadline) && fixed: // the context's timer is about to say so
		return because(ErrNotDelivered, because(s.reason, context.DeadlineExceeded))
	case !now.Before(s.deadline):
		return because(ErrNotDelivered, s.reason)
	}
	return nil
}

// given is why the caller's context has given the shipment up, nil if it has not. Its
// timer may be about to say so.
func (s *shipment) given() error {
	if until, fixed := s.ctx.Deadline(); fixed && !time.Now().Before(until) {
		return context.DeadlineExceeded
	}
	return s.ctx.Err()
}

// consider makes an attempt and returns the error that ends the shipment, if
// it does. Else it pauses where the next one would be too early.
func (g *Gone) consider(s *shipment) error {
	status, why := g.attempt(s)
	switch {
	case why == nil:
	case !errors.Is(why, ErrRefused):
		s.refused = time.Time{}
	case s.refused.IsZero():
		s.refused = time.Now()
	case time.Since(s.refused) > refusedMost && status != stream.Unknown:
		return because(ErrNotDelivered, why)
	}
	if why != nil {
		s.reason = why
	}
	switch status {
	case wire.Received:
		if s.failed {
			return &HandlerError{string(s.reply)}
		}
	case stream.Unknown, wire.NoReply:
		if err := s.given(); err != nil {
			why = because(why, err)
		} else if g.ctx.Err() != nil {
			why = because(why, ErrClosed)
		}
		return because(ErrOutcomeUnknown, why)
	case wire.Oversized:
		return because(ErrNotDelivered, ErrTooLarge)
	case wire.Expired:
		// The holder kept it for as long as there was time for its answer.
		s.deadline = time.Time{}
	case wire.Busy:
		if s.try() {
			return because(ErrNotDelivered, s.reason)
		}
		_ = sleepCtx(s.ctx, jitter(min(s.pause, time.Until(s.deadline))))
		s.pause = min(2*s.pause, 50*time.Millisecond)
	case nobody:
		if s.try() && why != nil {
			return because(ErrNotDelivered, s.reason)
		}
	}
	return nil
}

// nobody is the status of an attempt for which there was no tenure to send to.
const nobody wire.Status = 0

// attempt sends what is left to the tenure that holds the id now, as far as is
// known, or waits for one. It returns what became of the first message that was
// not received and the reason, or nil when nothing new is known.
func (g *Gone) attempt(s *shipment) (wire.Status, error) {
	if b := g.room.Box(s.id); b != nil {
		switch status := s.local(b); status {
		case wire.Ended:
		case wire.NoReply:
			return status, ErrNoReply
		default:
			return status, ErrBusy
		}
	}
	r, err := g.routes.get(s.id)
	if err != nil {
		_ = sleepCtx(s.ctx, jitter(min(lookMost, time.Until(s.deadline))))
		return nobody, err
	}
	to := r.known()
	if to == nil {
		if s.try() {
			to, err = r.lookOnce(s.ctx)
		} else {
			to, err = r.next(s.ctx, s.deadline)
		}
		if to == nil {
			return nobody, err
		}
		s.now = time.Now() // that may have taken long
	}
	end := s.remote(to)
	switch end.Status {
	case wire.Received:
		return wire.Received, nil
	case stream.Elsewhere:
		r.refused(to, end.Status)
		return nobody, nil
	case wire.Ended, wire.Absent:
		r.refused(to, end.Status)
		return end.Status, ErrNoHolder
	case wire.NoReply:
		return end.Status, ErrNoReply
	case stream.Unknown:
		why := unreachable(to)
		if end.Taken {
			why = because(ErrNoReply, why)
		}
		return end.Status, why
	}
	if end.Unsent {
		return end.Status, unreachable(to)
	}
	return end.Status, ErrBusy
}

func (s *shipment) local(b *mailbox.Box) wire.Status {
	for s.sent < s.n {
		if s.sent > 0 && s.ctx.Err() != nil {
			return wire.Expired
		}
		if s.n > 1 && b.Hand(s.next(), s.said) { // a single one has just been tried
			s.sent, s.counted = s.sent+1, s.counted+1
			continue
		}
		a := b.Send(s.ctx, mailbox.Call{Data: s.next(), Context: s.said, Deadline: s.deadline, Try: s.try(), Asks: s.asks()})
		if a.Status != wire.Received {
			return a.Status
		}
		s.reply, s.failed = a.Reply, a.Failed
		s.sent++
		if !s.asks() {
			s.counted++
		}
	}
	return wire.Received
}

func (s *shipment) remote(to *stream.Stream) (end stream.Result) {
	call := stream.Call{Context: s.said, Deadline: s.deadline, Flags: s.flags}
	if s.n-s.sent > 1 {
		var n int
		n, end = to.SendBatch(s.ctx, s.msgs[s.sent:s.n], call)
		s.sent += n
		return end
	}
	call.Data = s.next()
	end = to.Send(s.ctx, call, s.now)
	if end.Status == wire.Received {
		s.sent++
		s.reply, s.failed = end.Reply, end.Failed
	}
	return end
}
