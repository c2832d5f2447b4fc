package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/link"
)

// own is what a node knows of its own address. Another process that has it, too, is a
// twin.
type own struct {
	log  *slog.Logger
	addr func() string

	tries      sync.WaitGroup // tryAddress, suspect, and looks at the lock service
	suspecting atomic.Bool

	twins atomic.Uint64
	mu    sync.Mutex
	met   time.Time // the last sign of a twin
	lost  error     // why the address does not lead here, as far as this node can see
}

const (
	twinMost  = 15 * time.Second // after so long without a sign there is no twin any more
	tryAgain  = 5 * time.Second  // while there is one
	tryLater  = 30 * time.Second // while the address does not lead here
	lateMost  = 3 * time.Second  // that a dead process's lock is there beyond its TTL, as in etcd
	tryStarts = 3                // connections at start: one of several may lead here by chance
)

// checkAddress tells whether the node's address leads to it, and to nobody else.
func (g *Gone) checkAddress(ctx context.Context) error {
	err := g.mesh.Reach(ctx)
	if errors.Is(err, link.ErrElsewhere) {
		g.own.meet()
	}
	switch {
	case g.own.hasTwin():
		return fmt.Errorf("%w, %s", ErrDuplicateAddress, g.Addr())
	case err != nil:
		return because(fmt.Errorf("%w: this node itself, at %s", ErrUnreachable, g.Addr()), err)
	}
	return nil
}

// tryAddress warns of an address that does not lead here, once. That is tried again until
// it does, and so is a twin, so that it knows of this node, until it has gone.
func (g *Gone) tryAddress() {
	var err error
	for n := 0; n < tryStarts && err == nil; n++ {
		err = g.checkAddress(g.ctx)
	}
	if err != nil && !g.own.hasTwin() && g.ctx.Err() == nil {
		g.log.Warn("gone: this node does not reach itself at its address; unless a NAT is in between, others may not, either",
			"address", g.Addr(), "err", err)
	}
	for {
		twin := g.own.hasTwin()
		pause := tryAgain
		if !twin {
			g.own.lose(err)
			pause = tryLater
		}
		if !twin && err == nil || sleepCtx(g.ctx, pause) != nil {
			return
		}
		err = g.checkAddress(g.ctx)
	}
}

// lose takes note of whether the address leads here.
func (o *own) lose(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost = err
}

// meet takes note of a sign that there is a twin.
func (o *own) meet() {
	o.twins.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.met.IsZero() || time.Since(o.met) >= twinMost {
		// A log that blocks must not stop who receives.
		go o.log.Warn("gone: another process has this node's address: what is sent here may arrive there", "address", o.addr())
	}
	o.met = time.Now()
}

// hasTwin reports whether there was a sign of one of late.
func (o *own) hasTwin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.met.IsZero() && time.Since(o.met) < twinMost
}

// suspect looks at an id whose holder has this node's address and is not this process.
// Where both reach themselves alone, as at 127.0.0.1 of two machines, there is no other
// sign of a twin. One id is enough.
func (g *Gone) suspect(id string) {
	if !g.own.suspecting.CompareAndSwap(false, true) {
		return
	}
	g.own.tries.Go(func() {
		defer g.own.suspecting.Store(false)
		g.log.Info("gone: the holder has this node's address: a process that has crashed, whose lock will expire, or another one",
			"id", id, "address", g.Addr())
		for sleepCtx(g.ctx, time.Second) == nil && g.routes.strange(id) {
		}
	})
}

// strange reports whether an id's holder has this node's address and is not this process,
// as far as is known.
func (rs *routes) strange(id string) (strange bool) {
	err := rs.with(id, func(r *route) error {
		identity, token, err := r.rs.count.holder(r.lock)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		strange = identity == rs.self && r.strangeLocked(token)
		return nil
	})
	return strange || err != nil && !errors.Is(err, ErrNoHolder) && !errors.Is(err, ErrClosed)
}

// strangeLocked takes note that the holder of the id has this node's address, and reports
// whether it is not this process. A process that has crashed does not extend its lock.
func (r *route) strangeLocked(token uint64) bool {
	switch now := time.Now(); {
	case r.rs.runs(r.id):
		return false
	case r.since.IsZero(), r.strange != token:
		r.strange, r.since = token, now
	case now.Sub(r.since) > ttlOf(r.lock)+ttlOf(r.lock)/10+lateMost:
		r.rs.own.meet()
	}
	return true
}
