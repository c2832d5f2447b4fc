package stream

import (
	"context"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A batch is the messages of one call to one tenure, pipelined in a stream of
// their own, in which none is received behind one that was not.
type batch struct {
	*Stream
	call  Call // of each item
	msgs  [][]byte
	sent  int        // how many are, or were, under way
	under []*Request // in order
}

// SendBatch sends messages in order, and returns how many were received and the
// end of the first that was not. The call says what they have in common.
func (s *Stream) SendBatch(ctx context.Context, msgs [][]byte, call Call) (received int, end Result) {
	if !s.fresh() {
		return 0, Result{Status: Elsewhere, Unsent: true}
	}
	own, err := s.side.stream(s.ID, s.Token, wire.Chained, s.window)
	if err != nil {
		return 0, Result{Status: Elsewhere, Unsent: true}
	}
	defer own.close()
	b := &batch{Stream: own, call: call, msgs: msgs}
	end.Status = wire.Received
	for received < len(msgs) {
		if status := b.post(ctx); status != 0 && len(b.under) == 0 {
			// Who waited for room in vain waited for the handler.
			return received, Result{Status: status, Unsent: status != wire.Expired}
		}
		end = b.next(ctx)
		if received += end.Count; end.Count > 0 {
			s.Use()
		}
		if end.Status != wire.Received {
			break
		}
	}
	for len(b.under) > 0 { // refused behind the first refusal
		b.next(ctx)
	}
	return received, end
}

// post posts as much as there is room for, and waits for room only if nothing is
// under way.
func (b *batch) post(ctx context.Context) (why wire.Status) {
	for b.sent < len(b.msgs) && why == 0 {
		n, c := b.some()
		if len(b.under) == 0 {
			why = b.enter(ctx, b.room, c, b.call.Deadline)
		} else if !b.room.TryAcquire(c) {
			break
		}
		if why != 0 {
			break
		}
		r := b.side.mux.request()
		r.Call, r.msgs = b.call, b.msgs[b.sent:b.sent+n]
		if _, why = b.Stream.post(r, time.Now()); why != 0 {
			b.side.mux.free(r)
			b.room.Release(c)
			break
		}
		b.under = append(b.under, r)
		b.sent += n
	}
	b.side.link.Flush()
	return why
}

// some is how many messages the next item has, and what they cost.
func (b *batch) some() (n int, c int64) {
	size := 0
	for _, m := range b.msgs[b.sent:] {
		size += wire.SizeInBatch(m)
		if n > 0 && (size > batchBytes || c+cost(len(m)) > windowBytes/4) {
			break
		}
		n++
		c += cost(len(m))
	}
	return n, min(c, windowBytes)
}

// next waits for the end of the first item.
func (b *batch) next(ctx context.Context) (end Result) {
	r := b.under[0]
	b.under = b.under[1:]
	select {
	case end = <-r.done:
	case <-ctx.Done():
		b.Withdraw()
		end = <-r.done
	}
	c := int64(0)
	for _, m := range r.msgs {
		c += cost(len(m))
	}
	b.room.Release(min(c, windowBytes))
	b.side.mux.free(r)
	return end
}
