package gone

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// service is what a node knows of its lock service.
type service struct {
	checked  atomic.Bool // it has been found fit once
	degraded sync.Once   // what it lacks is logged

	mu      sync.Mutex
	lacks   error         // what degrades it, as it said last
	fails   error         // why it can't be used, as the last look found
	looked  time.Time     // when that look ended
	began   time.Time     // when the one that is under way did
	looking chan struct{} // closed when it ends; nil while there is none
}

const (
	serviceEvery = 10 * time.Second // between looks at the lock service, while others look at the node
	serviceOld   = 2 * serviceEvery // after which what a look found says nothing any more
	serviceWait  = time.Second      // from the beginning of a look, for who needs what it finds
)

// idOfCheck is an id that nobody runs, for a node that has none yet.
const idOfCheck = "gone:check"

// Check is for readiness probes. It returns nil when this node's address leads to this
// very process, over a new connection, and the lock service can be used. It looks until
// the context ends, for some seconds at most. The error wraps one or both of
//
//	ErrDuplicateAddress  another process has this node's address, or had it 15 s ago
//	ErrUnreachable       the address does not lead here, as far as this node can see;
//	                     and ErrRefused where a process with another key is there
//	ErrLockService       and what the lock service said, or the context's error
//
// or is ErrClosed. Behind a NAT a node may not reach itself while others do: ignore
// ErrUnreachable there. Nor does it where its name gets an address only after the probe
// has succeeded: a headless Service of Kubernetes needs publishNotReadyAddresses.
//
// The lock service is asked by [Checker] where the lock has it. Else it is asked who
// holds an id that this node runs, or "gone:check" if there is none. That Redis or etcd
// gives no rights to "gone:check" is an answer, too.
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
	var service error
	select {
	case service = <-asked:
	case <-ctx.Done():
		select { // the address may have taken all the time
		case service = <-asked:
		default:
			service = because(ErrLockService, ctx.Err())
		}
	}
	if g.ctx.Err() != nil {
		return ErrClosed
	}
	return errors.Join(address, service)
}

// askService asks the lock service something that it answers if it can be used.
func (g *Gone) askService(ctx context.Context) error {
	id := g.idToAsk()
	err := g.routes.with(id, func(r *route) error {
		err := g.checkLock(ctx, r.lock)
		if _, ok := r.lock.(Checker); !ok {
			if _, err = r.lock.GetValue(); errors.Is(err, ErrNoHolder) {
				err = nil
			}
		}
		if err != nil && !(id == idOfCheck && deniesID(err)) {
			return err
		}
		return g.takeShare()
	})
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	return because(ErrLockService, err)
}

// deniesID reports whether Redis or etcd denies the rights to what an id is kept in. The
// rights of a node are to the ids that it may run. Those to commands are another matter.
func deniesID(err error) bool {
	text := err.Error()
	return strings.Contains(text, "permissions to access") || strings.Contains(text, "etcdserver: permission denied")
}

// checkLock asks a lock what is wrong with its service, if it can say. What only degrades
// the service is logged, once.
func (g *Gone) checkLock(ctx context.Context, lock GoneLock) error {
	c, ok := lock.(Checker)
	if !ok {
		return nil
	}
	err := c.Check(ctx)
	var lacks error
	if errors.Is(err, ErrDegraded) {
		lacks, err = err, nil
		g.service.degraded.Do(func() { g.log.Warn("gone: the lock service works, but not well", "err", lacks) })
	}
	g.service.mu.Lock()
	defer g.service.mu.Unlock()
	g.service.lacks = lacks
	return err
}

// takeShare enters the node in the roster, where it is to have its share.
func (g *Gone) takeShare() error {
	if !g.opts.balance {
		return nil
	}
	roster, err := g.roster()
	if err != nil {
		return err
	}
	return g.sign(roster)
}

// serviceTrouble is what the lock service lacks, and why it fails, as a look has found of
// late. It is looked at anew, for the next time that somebody asks. Where the last look is
// too old, the new one is waited for: for a second from its beginning, whoever asks, as
// the desk does nothing else meanwhile. A service that takes longer is mute until then.
func (g *Gone) serviceTrouble() (lacks, fails error, mute bool) {
	s := &g.service
	s.mu.Lock()
	age := time.Since(s.looked)
	if age > serviceEvery && s.looking == nil && g.enter() {
		g.lookLocked()
		g.leave() // Close waits for sends, and then for tries
	}
	looking, wait := s.looking, time.Until(s.began.Add(serviceWait))
	s.mu.Unlock()
	if age > serviceOld {
		if looking == nil { // this node is closed
			return nil, nil, false
		}
		select {
		case <-looking:
		case <-time.After(wait):
			return nil, nil, true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacks, s.fails, false
}

// lookLocked begins a look at the lock service. It is called with the service's mu held.
func (g *Gone) lookLocked() {
	s := &g.service
	looking := make(chan struct{})
	s.began, s.looking = time.Now(), looking
	g.own.tries.Go(func() {
		ctx, cancel := context.WithTimeout(g.ctx, g.opts.sendTimeout)
		defer cancel()
		err := g.askService(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fails, s.looked, s.looking = err, time.Now(), nil
		close(looking)
	})
}

// idToAsk is an id that this node runs, always the same while it does: for each there is
// a lock of its own.
func (g *Gone) idToAsk() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := ""
	for id := range g.byID {
		if first == "" || id < first {
			first = id
		}
	}
	return cmp.Or(first, idOfCheck)
}

// firstAsk asks who holds an id, and before that, until the lock service has said once
// that all is well, whether it can be competed for, and this node be listed.
func (g *Gone) firstAsk(lock GoneLock) (value string, err error) {
	if !g.service.checked.Load() {
		ctx, cancel := context.WithTimeout(g.ctx, g.opts.sendTimeout)
		defer cancel()
		if err := g.checkLock(ctx, lock); err != nil {
			return "", err
		}
		if err := g.takeShare(); err != nil {
			return "", err
		}
		g.service.checked.Store(true)
	}
	return lock.GetValue()
}
