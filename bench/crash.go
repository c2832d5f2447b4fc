package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// extends is how often a holder extends in a TTL.
const extends = 3

// A holder is a node that holds locks and extends them, a third of the TTL
// apart, so that commands can be counted from half-way to half-way. Its locks
// come one after the other in a third of that, as Redis looks for expired keys
// at intervals, which ends at one moment might meet or miss.
type holder struct {
	ttl   time.Duration
	n     int
	ids   []string
	line  *line
	node  node
	locks []lock
	next  time.Time // extension
}

func newHolder(addr string, c contender, ids int, ttl time.Duration) (*holder, error) {
	h := &holder{ttl: ttl, n: ids, line: &line{addr: addr}}
	var err error
	if h.node, err = c.open(h.line, ttl); err != nil {
		return nil, err
	}
	h.next = time.Now().Add(ttl / extends)
	for i := range ids {
		time.Sleep(time.Until(h.next.Add(h.gap(i) - ttl/extends)))
		id := fmt.Sprintf("vigil %d of %s", i, c.name)
		l := h.node.lock(id)
		if err := l.acquire(); err != nil {
			h.die()
			return nil, err
		}
		h.ids, h.locks = append(h.ids, id), append(h.locks, l)
	}
	return h, nil
}

// gap is how much later the lock with index i has its turn.
func (h *holder) gap(i int) time.Duration {
	return h.ttl / extends / 3 * time.Duration(i) / time.Duration(h.n)
}

// live extends n times, until half-way to the next.
func (h *holder) live(n int) error {
	for range n {
		for i, l := range h.locks {
			time.Sleep(time.Until(h.next.Add(h.gap(i))))
			if err := l.extend(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
		}
		h.next = h.next.Add(h.ttl / extends)
	}
	time.Sleep(time.Until(h.next.Add(-h.ttl / extends / 2)))
	return nil
}

// die leaves the locks to expire.
func (h *holder) die() {
	h.line.sever()
	h.node.close()
}

// count is how many commands a TTL and id Redis gets.
func (h *holder) count(s *server) (float64, error) {
	before, err := s.commands()
	if err != nil {
		return 0, err
	}
	if err := h.live(extends); err != nil {
		return 0, err
	}
	after, err := s.commands()
	return float64(after-before) / float64(len(h.ids)), err
}

// alone counts what holding costs when nobody waits.
func alone(s *server, c contender, ids int, ttl time.Duration) (float64, error) {
	h, err := newHolder(s.addr, c, ids, ttl)
	if err != nil {
		return 0, err
	}
	defer h.die()
	if err := h.live(1); err != nil {
		return 0, err
	}
	commands, err := h.count(s)
	for _, l := range h.locks {
		err = errors.Join(err, l.release())
	}
	return commands, err
}

// vigil has a node wait for locks that another holds, looks at the two while all is
// well, for a TTL, and has the holder die. It returns when the waiter got each lock,
// from its end on.
func vigil(addr string, c contender, ids int, ttl time.Duration, look func(*holder, *line) error, end func(id string, died time.Time) (time.Time, error)) (late []time.Duration, err error) {
	h, err := newHolder(addr, c, ids, ttl)
	if err != nil {
		return nil, err
	}
	way := &line{addr: addr}
	waiter, err := c.open(way, ttl)
	if err != nil {
		h.die()
		return nil, err
	}
	defer waiter.close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*ttl+stall)
	defer cancel()
	var all errgroup.Group
	got := make([]time.Time, ids)
	for i, id := range h.ids {
		l := waiter.lock(id)
		all.Go(func() error {
			if c.poll > 0 {
				time.Sleep(rand.N(c.poll)) // as waiters don't begin at one moment
			}
			err := l.wait(ctx)
			if ctx.Err() != nil && err != nil {
				err = l.acquire()
			}
			if err != nil {
				return err
			}
			got[i] = time.Now()
			return l.release()
		})
	}
	err = h.live(1)
	if err == nil {
		err = look(h, way)
	}
	died := time.Now()
	h.die()
	ends := make([]time.Time, ids)
	for i, id := range h.ids {
		var err1 error
		ends[i], err1 = end(id, died)
		err = errors.Join(err, err1)
	}
	if err = errors.Join(err, all.Wait()); err != nil {
		return nil, err
	}
	for i := range got {
		late = append(late, got[i].Sub(ends[i]))
	}
	return late, nil
}
