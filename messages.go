package gone

import (
	"iter"
	"sync/atomic"
	"time"
)

// A Message is what a sender has sent to the handler.
type Message struct {
	Data []byte
}

// Batches is the loop of a handler that takes many messages at once: each step
// yields all that wait, at most max, and waits for one if there is none. They
// are received, and their senders told so, when they are yielded. The slice, its
// messages and their Data are valid until the next step.
//
//	for batch := range r.Batches(1000) {
//		…
//	}
//
// The loop keeps the lease for as long as it comes round: it extends it every
// third of the TTL, without holding up messages while the lock service is slow.
// A body that takes so long that the lease runs out meanwhile has lost it. The
// loop ends when Exit closes, and at once on the runner of RunOne;
// [context.Cause] of r.Context() says why.
func (r *GoneRunner) Batches(max int) iter.Seq[[]*Message] {
	return func(yield func([]*Message) bool) {
		if r.lease == nil || max < 1 {
			return
		}
		pulse := r.keepAlive()
		defer pulse.stop()
		var data [][]byte
		var batch []*Message
		for {
			pulse.idle.Store(true)
			data = r.take(max, data[:0])
			pulse.round()
			if len(data) == 0 {
				return
			}
			for len(batch) < len(data) {
				batch = append(batch, &Message{}) // for use again
			}
			for i, d := range data {
				batch[i].Data = d
			}
			if !yield(batch[:len(data)]) {
				return
			}
		}
	}
}

// A heartbeat extends the lease for as long as a loop comes round.
type heartbeat struct {
	idle  atomic.Bool // the loop waits for messages
	came  atomic.Bool // it came round since the last Extend
	owed  atomic.Bool // an Extend is, when it does
	again chan struct{}
	stop  func()
}

// round takes note that the loop comes round.
func (h *heartbeat) round() {
	h.idle.Store(false)
	h.came.Store(true)
	if h.owed.CompareAndSwap(true, false) {
		select {
		case h.again <- struct{}{}:
		default:
		}
	}
}

func (r *GoneRunner) keepAlive() *heartbeat {
	done := make(chan struct{})
	h := &heartbeat{again: make(chan struct{}, 1), stop: func() { close(done) }}
	go func() {
		for extended := time.Now(); ; {
			timer := time.NewTimer(time.Until(extended.Add(r.lease.TTL() / 3)))
			select {
			case <-timer.C:
			case <-h.again:
			case <-r.Exit:
			case <-done:
			}
			timer.Stop()
			select {
			case <-r.Exit:
				return
			case <-done:
				return
			default:
			}
			if h.owed.Store(true); !h.idle.Load() && !h.came.Load() {
				// The body has been busy for all this time. When it comes
				// round it says so.
				extended = time.Now()
				continue
			}
			h.owed.Store(false)
			h.came.Store(false)
			extended = time.Now()
			_ = r.Extend() // what it has to say Exit says, too
		}
	}()
	return h
}
