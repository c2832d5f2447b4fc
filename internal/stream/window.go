package stream

import (
	"context"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Diggs/go-one/internal/wire"
)

const (
	// One node has so much under way to one tenure; what comes then waits for its
	// turn. A message counts for at least windowBytes / windowMessages.
	windowMessages = 2048
	windowBytes    = 4 << 20
	// And so many requests that wait for their replies.
	askMessages = 12 << 10
	askBytes    = 8 << 20
)

// A window bounds what one node has under way to one tenure; others wait for
// their turn.
type window struct {
	room *semaphore.Weighted // of windowBytes
	asks *semaphore.Weighted // of askBytes, for those who want a reply
	ctx  context.Context     // ends with the stream
	end  context.CancelFunc
}

func newWindow() window {
	return window{room: semaphore.NewWeighted(windowBytes), asks: semaphore.NewWeighted(askBytes)}
}

func cost(n int) int64 { return min(max(int64(n), windowBytes/windowMessages), windowBytes) }

// share is what a request of n bytes needs of which part of the window.
func (w window) share(n int, flags uint64) (*semaphore.Weighted, int64) {
	if flags&wire.WantsReply != 0 {
		return w.asks, min(max(int64(n), askBytes/askMessages), askBytes)
	}
	return w.room, cost(n)
}

// enter waits for room. A status says why it did not get it.
func (w window) enter(ctx context.Context, room *semaphore.Weighted, cost int64, deadline time.Time) wire.Status {
	if room.TryAcquire(cost) {
		return 0
	}
	wait, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	defer context.AfterFunc(w.ctx, cancel)()
	switch {
	case room.Acquire(wait, cost) == nil:
		return 0
	case w.ctx.Err() != nil:
		return Elsewhere
	}
	return wire.Expired
}
