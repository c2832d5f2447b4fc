package gonehttp

import (
	"context"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// every is how long what the nodes have said is new enough. It is longer where they take
// long to answer, so that asking is a fifth of the time; but of what is more than longest
// old a lease can't be told, so that asking may be up to half of the time.
const (
	every   = 2 * time.Second
	rest    = 4
	longest = 5 * time.Second
)

// latest is what the nodes have said last. They are asked when somebody wants to know and
// it is too old, once for all who do; so nothing runs while nobody looks.
type latest struct {
	report func(context.Context) (gone.Report, error)

	mu   sync.Mutex
	last *look // the last one that has begun
}

// A look is one at all nodes.
type look struct {
	over  chan struct{} // closed when the rest is set
	until time.Time
	s     *snapshot
	err   error
}

func (l *latest) get(ctx context.Context) (*snapshot, error) {
	at := l.begin()
	select {
	case <-at.over:
		return at.s, at.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// begin returns the last look, or a new one where that is too old.
func (l *latest) begin() *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := l.last; at != nil {
		select {
		case <-at.over:
			if time.Now().Before(at.until) {
				return at
			}
		default:
			return at
		}
	}
	at := &look{over: make(chan struct{})}
	l.last = at
	go func() { // for all who wait, whoever of them leaves
		defer close(at.over)
		r, err := l.report(context.Background())
		took := answered(r)
		at.until = time.Now().Add(max(every, min(rest*took, longest), took))
		if at.err = err; err == nil {
			at.s = snap(r, at.until)
		}
	}()
	return at
}

// answered is how long the nodes have taken that have answered. Waiting for the others has
// cost nothing but time.
func answered(r gone.Report) (took time.Duration) {
	for _, n := range r.Nodes {
		if n.Status != nil {
			took = max(took, n.Time.Sub(r.Time))
		}
	}
	return took
}
