package gone

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/link"
)

// own is what a node knows of its own address. Another process that has it, too, is a
// twin.
type own struct {
	trying context.Context // tryAddress may go on
	stop   context.CancelFunc
	tries  sync.WaitGroup

	twins atomic.Uint64
	mu    sync.Mutex
	met   time.Time // the last sign of a twin
}

const (
	twinMost  = 15 * time.Second // after so long without a sign there is no twin any more
	tryAgain  = 5 * time.Second  // while there is one
	tryStarts = 3                // connections at start: one of several may lead here by chance
)

// idOfCheck is an id that nobody runs, for a node that has none yet.
const idOfCheck = "gone:check"

// Check is for readiness probes. It returns nil when this node's address leads to this
// very process, over a new connection, and the lock service can be used. It looks until
// the context ends, for some seconds at most. The error wraps one or both of
//
//	ErrDuplicateAddress  another process has this node's address, or had it 15 s ago
//	ErrUnreachable       the address does not lead here, as far as this node can see
//	ErrLockService       and what the lock service said, or the context's error
//
// or is ErrClosed. Behind a NAT a node may not reach itself while others do: leave
// ErrUnreachable out of account there. So it is where a name gets its address only
// when the probe has succeeded: a headless Service of Kubernetes needs
// publishNotReadyAddresses.
//
// The lock service is asked by [Checker] where the lock has it. Else it is asked who
// holds an id that this node runs, or "gone:check" if there is none.
func (g *Gone) Check(ctx context.Context) error {
	if !g.enter() {
		return ErrClosed
	}
	defer g.leave()
	ctx, cancel := context.WithTimeout(ctx, g.opts.sendTimeout)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	asked := make(chan error, 1)
	g.sending.Add(1)
	go func() { // the lock can't be interrupted
		defer g.leave()
		asked <- g.askService(ctx)
	}()
	address := g.checkAddress(ctx)
	select {
	case err := <-asked:
		return errors.Join(address, err)
	case <-ctx.Done():
		return errors.Join(address, because(ErrLockService, ctx.Err()))
	}
}

func (g *Gone) askService(ctx context.Context) error {
	g.mu.Lock()
	ids := slices.Sorted(maps.Keys(g.byID))
	g.mu.Unlock()
	err := g.routes.ask(append(ids, idOfCheck)[0], func(l GoneLock) error {
		if c, ok := l.(Checker); ok {
			return c.Check(ctx)
		}
		_, err := l.GetValue()
		return err
	})
	switch {
	case err == nil, errors.Is(err, ErrNoHolder):
		return nil
	case errors.Is(err, ErrClosed):
		return err
	}
	return because(ErrLockService, err)
}

// checkAddress tells whether the node's address leads to it, and to nobody else.
func (g *Gone) checkAddress(ctx context.Context) error {
	err := g.mesh.Reach(ctx)
	if errors.Is(err, link.ErrElsewhere) {
		g.meetTwin()
	}
	switch {
	case g.own.hasTwin():
		return fmt.Errorf("%w, %s", ErrDuplicateAddress, g.Addr())
	case err != nil:
		return because(fmt.Errorf("%w: this node itself, at %s", ErrUnreachable, g.Addr()), err)
	}
	return nil
}

// tryAddress warns of an address that does not lead here, once. A twin is tried again
// and again, so that it knows of this node, until it has gone.
func (g *Gone) tryAddress() {
	var err error
	for n := 0; n < tryStarts && err == nil; n++ {
		err = g.checkAddress(g.own.trying)
	}
	if err != nil && !g.own.hasTwin() && g.own.trying.Err() == nil {
		g.log.Warn("gone: this node does not reach itself at its address; unless a NAT is in between, others may not, either",
			"address", g.Addr(), "err", err)
	}
	for g.own.hasTwin() && sleepCtx(g.own.trying, tryAgain) == nil {
		_ = g.checkAddress(g.own.trying)
	}
}

// meetTwin takes note of a sign that there is a twin.
func (g *Gone) meetTwin() {
	had := g.own.hasTwin()
	g.own.twins.Add(1)
	g.own.mu.Lock()
	g.own.met = time.Now()
	g.own.mu.Unlock()
	if !had {
		// A log that blocks must not stop who receives.
		go g.log.Warn("gone: another process has this node's address: what is sent here may arrive there", "address", g.Addr())
	}
}

// hasTwin reports whether there was a sign of one of late.
func (o *own) hasTwin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.met.IsZero() && time.Since(o.met) < twinMost
}
