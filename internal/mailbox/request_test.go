package mailbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/wire"
)

// asks is a request from another node.
func (h *handler) asks(o *origin, number uint64, budget time.Duration) wire.Status {
	m := h.room.Message()
	m.Origin, m.Number, m.Asks, m.Expires = o, number, true, time.Now().Add(budget)
	m.Payload = fmt.Append(nil, number)
	return h.arrived(m, false)
}

// whole is what the handler receives from its inbox.
func (h *handler) whole() Delivery {
	synctest.Wait()
	defer synctest.Wait()
	select {
	case d := <-h.inbox.C:
		return d
	default:
		return Delivery{}
	}
}

// knows reports whether the sender was told that the handler has a request.
func (o *origin) knows(number uint64) bool {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.taken[number]
}

func (o *origin) reply(number uint64) string {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.replies[number]
}

func TestARequestGetsTheReplyOfItsOwnInWhateverOrderTheyCome(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		var rs []*Request
		for number := range uint64(100) {
			h.asks(o, number, time.Hour)
		}
		for number := range uint64(50) {
			d := h.whole()
			if string(d.Data) != fmt.Sprint(number) || d.From != "o" || d.Request == nil {
				t.Fatalf("%d: received %q from %q", number, d.Data, d.From)
			}
			rs = append(rs, d.Request)
		}
		for _, d := range h.Take(50, nil) {
			rs = append(rs, d.Request)
		}
		synctest.Wait()
		if len(o.told) > 0 {
			t.Errorf("answered before a reply: %v", o.told)
		}
		rand.Shuffle(len(rs), func(i, j int) { rs[i], rs[j] = rs[j], rs[i] })
		for i, r := range rs {
			if err := r.Reply(fmt.Append(nil, "reply to ", r.number), i%2 == 0); err != nil {
				t.Error(err)
			}
			if err := r.Reply(nil, false); !errors.Is(err, ErrAnswered) {
				t.Error("twice:", err)
			}
			if got, want := o.reply(r.number), fmt.Sprintf("reply to %d %v", r.number, i%2 == 0); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		if len(o.told) != 100 || len(h.open.requests) > 0 {
			t.Errorf("%d are answered, %d open", len(o.told), len(h.open.requests))
		}
	})
}

func TestARequestThatIsReceivedFromDataHasAnEmptyReply(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.asks(o, 1, time.Hour)
		if got := h.next(); got != "1" || o.get(1) != wire.Received {
			t.Errorf("%q, %v", got, o.told)
		}
		got := make(chan Answer, 1)
		go func() { got <- h.Send(context.Background(), []byte("here"), time.Now().Add(time.Hour), false, true) }()
		h.next()
		if a := <-got; a.Status != wire.Received || len(a.Reply) > 0 || a.Failed {
			t.Error(a)
		}
	})
}

func TestTheSenderKnowsSoonThatTheHandlerHasItsRequest(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.asks(o, 1, time.Hour)
		h.asks(o, 2, time.Hour)
		h.asks(o, 3, time.Hour)
		slow, quick := h.whole().Request, h.whole().Request
		_ = quick.Reply(nil, false)
		time.Sleep(takenAfter / 2)
		if o.knows(1) {
			t.Error("it was not waited for the reply")
		}
		time.Sleep(takenAfter)
		if !o.knows(1) || o.knows(2) || o.knows(3) {
			t.Errorf("%v", o.taken)
		}
		_ = slow.Reply([]byte("late"), false)
		if o.reply(1) != "late false" {
			t.Error(o.replies)
		}
	})
}

func TestWhatTheHandlerHasNotAnsweredWhenItReturnsIsAnsweredForIt(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.asks(o, 1, time.Hour)
		h.asks(o, 2, time.Hour)
		h.asks(o, 3, time.Hour)
		here := make(chan Answer, 1)
		one, two := h.whole().Request, h.whole().Request
		go func() { here <- h.Send(context.Background(), nil, time.Now().Add(time.Hour), false, true) }()
		h.end()
		if o.get(3) != wire.Ended {
			t.Error("what was not received: ", o.told)
		}
		if a := <-here; a.Status != wire.Ended {
			t.Error("what was not received of this node: ", a)
		}
		// The tenure is stopping.
		ctx := one.Context()
		if ctx.Err() != nil || two.Context().Err() != nil {
			t.Error("its context has ended")
		}
		if err := one.Reply([]byte("last"), false); err != nil || o.reply(1) != "last false" {
			t.Error(err, o.replies)
		}
		if ctx.Err() == nil {
			t.Error("its context goes on though it was answered")
		}
		h.Finish()
		if o.get(2) != wire.NoReply || two.Context().Err() == nil {
			t.Error(o.told, two.Context().Err())
		}
		if err := two.Reply(nil, false); !errors.Is(err, ErrNobody) {
			t.Error(err)
		}
	})
}

func TestAHandlerThatHasLostTheLockSeesItInItsRequests(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.asks(o, 1, time.Hour)
		h.asks(o, 2, time.Hour)
		one, two := h.whole().Request, h.whole().Request
		ctx := one.Context()
		h.end()
		h.lose()
		if ctx.Err() == nil || two.Context().Err() == nil {
			t.Error("a context goes on")
		}
		if err := one.Reply([]byte("lost"), true); err != nil || o.reply(1) != "lost true" {
			t.Error(err, o.replies)
		}
	})
}

func TestARequestIsOverWhenItsSenderWaitsNoLonger(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		gone := newOrigin(t, "gone")
		h.asks(o, 1, time.Hour)
		h.asks(gone, 1, time.Hour)
		r, other := h.whole().Request, h.whole().Request
		ctx := other.Context()
		h.Cancel(o, 1)
		if o.get(1) != wire.NoReply || r.Context().Err() == nil || ctx.Err() != nil {
			t.Error(o.told, r.Context().Err(), ctx.Err())
		}
		if err := r.Reply(nil, false); !errors.Is(err, ErrNobody) {
			t.Error(err)
		}
		h.Drop(gone)
		if ctx.Err() == nil || len(gone.told) > 0 {
			t.Error(ctx.Err(), gone.told)
		}

		// On this node: by its context, and at its deadline.
		call, cancel := context.WithCancel(context.Background())
		for _, end := range []func(){cancel, func() { time.Sleep(time.Second) }} {
			got := make(chan Answer, 1)
			go func() { got <- h.Send(call, []byte("x"), time.Now().Add(time.Second), false, true) }()
			r := h.whole().Request
			ctx := r.Context()
			end()
			if a := <-got; a.Status != wire.NoReply || ctx.Err() == nil {
				t.Error(a, ctx.Err())
			}
			call = context.Background()
		}
	})
}

func TestAReplyOverTheLimitIsAnErrorAndTheSenderHearsOfIt(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.asks(o, 1, time.Hour)
		if err := h.whole().Request.Reply(make([]byte, largest+1), false); !errors.Is(err, ErrTooLarge) || o.get(1) != wire.NoReply {
			t.Error(err, o.told)
		}
		got := make(chan Answer, 1)
		go func() { got <- h.Send(context.Background(), nil, time.Now().Add(time.Hour), false, true) }()
		if err := h.whole().Request.Reply(make([]byte, largest+1), true); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		if a := <-got; a.Status != wire.NoReply {
			t.Error(a)
		}
	})
}

func TestRequestsThatWaitForRepliesAreBounded(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		var last *Request
		for number := range uint64(mostOpen) {
			if s := h.asks(o, number, time.Hour); s != 0 {
				t.Fatalf("%d: %d", number, s)
			}
			last = h.Take(1, nil)[0].Request
		}
		if s := h.asks(o, mostOpen, time.Hour); s != wire.Busy {
			t.Errorf("one more: %d", s)
		}
		_ = last.Reply(nil, false)
		if s := h.asks(o, mostOpen+1, time.Hour); s != 0 {
			t.Errorf("when one was answered: %d", s)
		}
	})
}

// Also where the handler is always ready for one more, or many wait for it.
func TestRequestsThatWaitForRepliesAreBoundedHoweverTheyAreReceived(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.open.requests = map[asked]*Request{}
		for number := range uint64(mostOpen - 1) {
			h.open.requests[asked{o, number}] = &Request{}
		}
		for number := range uint64(3) { // that wait when there is room for one
			h.asks(o, mostOpen+number, time.Hour)
		}
		if ds := h.Take(10, nil); len(ds) != 1 {
			t.Errorf("took %d", len(ds))
		}
		if o.get(mostOpen+1) != wire.Busy || o.get(mostOpen+2) != wire.Busy {
			t.Error("one over the limit was not refused")
		}
		ready := make(chan Delivery, 1)
		go func() { ready <- <-h.inbox.C }()
		synctest.Wait()
		if s := h.asks(o, mostOpen+3, time.Hour); s != wire.Busy || len(ready) > 0 {
			t.Errorf("a handler that is ready: %d", s)
		}
		h.arrive(o, mostOpen+4, "no request", time.Hour)
		if d := <-ready; string(d.Data) != "no request" {
			t.Errorf("%q", d.Data)
		}
	})
}

// Whatever happens at once, each request has one end: its own reply, no reply when
// it was received, or a refusal when it was not.
func TestEachRequestHasOneEndWhateverHappensAtOnce(t *testing.T) {
	for _, seed := range linktest.Seeds(25) {
		r := rand.New(rand.NewPCG(seed, 0))
		inBox(t, func(h *handler, o *origin) {
			var mu sync.Mutex
			received := map[string]bool{}
			var all sync.WaitGroup
			handle := func(d Delivery) {
				mu.Lock()
				received[string(d.Data)] = true
				mu.Unlock()
				d.Request.Context()
				if n := rand.IntN(4); n > 0 {
					all.Go(func() {
						time.Sleep(time.Duration(rand.IntN(n*1000)) * time.Microsecond)
						_ = d.Request.Reply(d.Data, false)
					})
				}
			}
			for range 2 {
				all.Go(func() {
					for h.Box.exit.Err() == nil {
						select {
						case d := <-h.inbox.C:
							handle(d)
						case <-h.Box.exit.Done():
						}
					}
				})
			}
			all.Go(func() {
				for h.Box.exit.Err() == nil {
					for _, d := range h.Take(3, nil) {
						handle(d)
					}
					time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
				}
			})
			ends := map[uint64]Answer{}
			for number := range uint64(200) {
				budget := time.Duration(1+r.IntN(5)) * time.Millisecond
				switch {
				case r.IntN(2) == 0:
					all.Go(func() {
						ctx, cancel := context.WithCancel(context.Background())
						defer cancel()
						if rand.IntN(3) == 0 {
							time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, cancel)
						}
						a := h.Send(ctx, fmt.Append(nil, number), time.Now().Add(budget), false, true)
						mu.Lock()
						defer mu.Unlock()
						ends[number] = a
					})
				default:
					if s := h.asks(o, number, budget); s != 0 {
						o.note(number, s)
					} else if r.IntN(2) == 0 {
						all.Go(func() {
							time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
							h.Cancel(o, number)
						})
					}
				}
				time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
			}
			time.Sleep(2 * time.Millisecond)
			h.end()
			h.Finish()
			all.Wait()
			synctest.Wait()
			for number := range uint64(200) {
				a, here := ends[number]
				if !here {
					told, is := o.told[number]
					if !is {
						t.Errorf("seed %d: %d has no end", seed, number)
					}
					if a.Status = told.s; a.Status == wire.Received {
						a.Reply = []byte(o.replies[number][:len(o.replies[number])-len(" false")])
					}
				}
				name := fmt.Sprint(number)
				switch {
				case a.Status == wire.Received && string(a.Reply) != name:
					t.Errorf("seed %d: %d got the reply %q", seed, number, a.Reply)
				case (a.Status == wire.Received || a.Status == wire.NoReply) != received[name]:
					t.Errorf("seed %d: %d ended with %d, received %v", seed, number, a.Status, received[name])
				}
			}
		})
	}
}
