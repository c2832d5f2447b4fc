package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// gone, whose handler selects or takes batches. A batch is a SendBatch.
var (
	courierGone     = courier{nameGone, openRemote("gone", 1, sends)}
	courierBatches  = courier{"gone, Batches", openRemote("gone batches", 1, sends)}
	courierSameNode = courier{"gone, same node", openSameNode}
)

// gone, whose handler has a loop of Messages, with and without a reply.
var (
	courierRequest  = courier{nameGone, openRemote("gone replies", 1, asks)}
	courierSendData = courier{"gone, SendData", openRemote("gone messages", 1, sends)}
)

// A sending is how a node sends one message.
type sending func(g *gone.Gone, id string, data []byte) error

func sends(g *gone.Gone, id string, data []byte) error { return g.SendData(id, data) }

func asks(g *gone.Gone, id string, data []byte) error {
	reply, err := g.Request(context.Background(), id, data)
	if err != nil {
		return err
	}
	return check(reply, data)
}

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

func begin(id string) {
	tenures.Lock()
	defer tenures.Unlock()
	tenures.begun = append(tenures.begun, begun{id, time.Now()})
}

func begunSoFar() []begun {
	tenures.Lock()
	defer tenures.Unlock()
	return append([]begun(nil), tenures.begun...)
}

// selects is a handler that receives, and extends at a third of the TTL.
func selects(ttl time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		begin(r.ID())
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

// serveExtends does what selects does for each id, without a node: the lock is
// held and extended at a third of the TTL, by a goroutine with a ticker.
func serveExtends(r role, ready func(...string)) error {
	lock := factory(r.Redis, r.TTL)
	for _, id := range r.IDs {
		l, err := lock(id, "no node")
		if err != nil {
			return err
		}
		go func() {
			err := l.Lock()
			begin(id)
			for tick := time.NewTicker(r.TTL / 3); err == nil; {
				<-tick.C
				err = l.Extend()
			}
			fmt.Fprintln(os.Stderr, "extends:", err)
			os.Exit(1)
		}()
	}
	ready()
	return nil
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

// takesMessages is a handler that receives one message after the other.
func takesMessages(time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		for range r.Messages() {
		}
	}
}

// replies is a handler that gives each request back.
func replies(time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_ = m.Reply(m.Data)
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
func openRemote(name string, each int, how sending) func(*way, *server, int) error {
	return func(w *way, s *server, receivers int) error {
		ids := names(fmt.Sprintf("%s %d/%d ", name, receivers, each), receivers*each)
		w.ids = len(ids) / receivers
		for i := range receivers {
			if _, err := w.child(role{Name: name, Redis: s.addr, IDs: ids[i*each : (i+1)*each], TTL: longTTL}); err != nil {
				return err
			}
		}
		return sendTo(w, s, nil, ids, how)
	}
}

func openSameNode(w *way, s *server, _ int) error {
	ids := []string{"same node"}
	if err := sendTo(w, s, ids, ids, sends); err != nil {
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
func sendTo(w *way, s *server, runs, ids []string, how sending) error {
	g, err := newGone(s.addr, longTTL, runs, selects(longTTL))
	if err != nil {
		return err
	}
	w.onStop(func() { _ = g.Close() })
	send := func(to int, data []byte) error { return how(g, ids[to], data) }
	w.sender = func(int) (sender, error) { return send, nil }
	w.stream = func(msgs [][]byte) error {
		_, err := g.SendBatch(context.Background(), ids[0], msgs)
		return err
	}
	return w.reach(len(ids))
}
