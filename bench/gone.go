package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// gone, whose handler selects or takes batches. A batch is a SendBatch.
var (
	courierGone     = courier{nameGone, openRemote("gone", 1)}
	courierBatches  = courier{"gone, Batches", openRemote("gone batches", 1)}
	courierSameNode = courier{"gone, same node", openSameNode}
)

func factory(redisAddr string, ttl time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) {
		addr, err := net.ResolveTCPAddr("tcp", redisAddr)
		if err != nil {
			return nil, err
		}
		l, err := gone.NewRedisLock(addr, id, value)
		if err != nil {
			return nil, err
		}
		l.Expiry = ttl
		return l, nil
	}
}

var tenures struct {
	sync.Mutex
	begun []begun
}

func begunSoFar() []begun {
	tenures.Lock()
	defer tenures.Unlock()
	return append([]begun(nil), tenures.begun...)
}

// selects is a handler that receives, and extends at a third of the TTL.
func selects(ttl time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		tenures.Lock()
		tenures.begun = append(tenures.begun, begun{r.ID(), time.Now()})
		tenures.Unlock()
		tick := time.NewTicker(ttl / 3)
		defer tick.Stop()
		for {
			select {
			case <-r.Exit:
				return
			case <-r.Data:
			case <-tick.C:
				if r.Extend() != nil {
					return
				}
			}
		}
	}
}

// takesBatches is a handler that receives all that waits, up to what a frame
// holds.
func takesBatches(time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		const most = 512
		for range r.Batches(most) {
		}
	}
}

func newGone(redisAddr string, ttl time.Duration, ids []string, handler gone.RunHandler) (*gone.Gone, error) {
	g, err := gone.NewGone("tcp://127.0.0.1:0", factory(redisAddr, ttl))
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, err := g.RunOne(id, handler); err != nil {
			_ = g.Close()
			return nil, err
		}
	}
	return g, nil
}

// serveGone is a node that competes for ids.
func serveGone(handler func(ttl time.Duration) gone.RunHandler) func(role, func(...string)) error {
	return func(r role, ready func(...string)) error {
		_, err := newGone(r.Redis, r.TTL, r.IDs, handler(r.TTL))
		ready()
		return err
	}
}

// openRemote is a node of this process, and receivers of a role with so many ids
// each.
func openRemote(name string, each int) func(*way, *server, int) error {
	return func(w *way, s *server, receivers int) error {
		ids := names(fmt.Sprintf("%s %d/%d ", name, receivers, each), receivers*each)
		w.ids = len(ids) / receivers
		for i := range receivers {
			if _, err := w.child(role{Name: name, Redis: s.addr, IDs: ids[i*each : (i+1)*each], TTL: longTTL}); err != nil {
				return err
			}
		}
		return sendTo(w, s, nil, ids)
	}
}

func openSameNode(w *way, s *server, _ int) error {
	ids := []string{"same node"}
	if err := sendTo(w, s, ids, ids); err != nil {
		return err
	}
	// One after the other, without a look at the clock for each.
	w.stream = func(msgs [][]byte) error {
		for _, data := range msgs {
			if err := w.callers[0](0, data); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// sendTo is the sender's end: a node of this process that runs some ids and
// sends to others.
func sendTo(w *way, s *server, runs, ids []string) error {
	g, err := newGone(s.addr, longTTL, runs, selects(longTTL))
	if err != nil {
		return err
	}
	w.onStop(func() { _ = g.Close() })
	send := func(to int, data []byte) error { return g.SendData(ids[to], data) }
	w.sender = func(int) (sender, error) { return send, nil }
	w.stream = func(msgs [][]byte) error {
		_, err := g.SendBatch(context.Background(), ids[0], msgs)
		return err
	}
	return w.reach(len(ids))
}
