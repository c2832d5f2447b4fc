package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	gone "github.com/Diggs/go-one"
)

// patience bounds every wait for something that should take milliseconds.
const patience = 30 * time.Second

// hold is how long a lock is held before it is handed over: long enough for the
// next one to wait for it, and at any phase of its looks if it polls.
func (c contender) hold() time.Duration {
	return max(c.settle, 8*time.Millisecond) + rand.N(max(c.poll, 4*time.Millisecond))
}

// stall is when a waiter that should have its lock is given up and looks anew:
// a wake-up was lost, and there may be none after it.
const stall = 2 * time.Second

// handover has two nodes hand locks to each other, n times in all, and returns
// how long each took from the moment before the release until the other node
// had it. Where waiters poll, pollers locks are handed over side by side.
func handover(addr string, c contender, n, pollers int) ([]time.Duration, error) {
	var nodes [2]node
	for i := range nodes {
		node, err := c.open(&line{addr: addr}, longTTL)
		if err != nil {
			return nil, err
		}
		defer node.close()
		nodes[i] = node
	}
	ids := 1
	if c.poll > 0 {
		ids = pollers
	}
	var all errgroup.Group
	took := make([][]time.Duration, ids)
	for i := range ids {
		id := fmt.Sprintf("hand-over %d of %s", i, c.name)
		holder, waiter := nodes[0].lock(id), nodes[1].lock(id)
		all.Go(func() (err error) {
			took[i], err = pass(holder, waiter, max(1, n/ids), c.hold)
			return err
		})
	}
	err := all.Wait()
	return slices.Concat(took...), err
}

// pass hands one lock over n times.
func pass(holder, waiter lock, n int, hold func() time.Duration) ([]time.Duration, error) {
	if err := holder.acquire(); err != nil {
		return nil, err
	}
	took := make([]time.Duration, 0, n)
	for range n {
		type gotten struct {
			at  time.Time
			err error
		}
		got := make(chan gotten, 1)
		ctx, giveUp := context.WithCancel(context.Background())
		defer giveUp() // not earlier: a library may end the hold with it
		go func() {
			err := waiter.wait(ctx)
			if ctx.Err() != nil && err != nil {
				err = waiter.acquire()
			}
			got <- gotten{time.Now(), err}
		}()
		time.Sleep(hold())
		released := time.Now()
		if err := holder.release(); err != nil {
			return nil, err
		}
		late := time.AfterFunc(stall, giveUp)
		g := <-got
		late.Stop()
		if g.err != nil {
			return nil, g.err
		}
		if g.at.Before(released) {
			return nil, errors.New("a waiter got a lock that was held")
		}
		took = append(took, g.at.Sub(released))
		holder, waiter = waiter, holder
	}
	return took, holder.release()
}

// An unlockTimer is a RedisLock that tells when its hold is released.
type unlockTimer struct {
	*gone.RedisLock
	held     atomic.Bool
	unlocked chan<- time.Time
}

func (l *unlockTimer) Lock() error {
	err := l.RedisLock.Lock()
	if err == nil {
		l.held.Store(true)
	}
	return err
}

func (l *unlockTimer) Unlock() {
	if l.held.Swap(false) {
		l.unlocked <- time.Now()
	}
	l.RedisLock.Unlock()
}

// handoverGone has two whole Gones hand an id to each other by Close of the
// runner, n times, and returns how long each took from Unlock to the first line
// of the next handler.
func handoverGone(s *server, n int) ([]time.Duration, error) {
	const id = "hand-over of Gone"
	type beginning struct {
		node int
		at   time.Time
	}
	began := make(chan beginning, n+1)
	unlocked := make(chan time.Time, n+1)
	var nodes [2]*gone.Gone
	var runners [2]*gone.GoneRunner
	run := func(i int) (err error) {
		runners[i], err = nodes[i].RunOne(id, func(r *gone.GoneRunner) {
			began <- beginning{i, time.Now()}
			<-r.Exit
		})
		return err
	}
	for i := range nodes {
		pool := (&line{addr: s.addr}).pool()
		defer pool.Close()
		g, err := gone.NewGone("tcp://127.0.0.1:0", func(id, value string) (gone.GoneLock, error) {
			l, err := gone.NewRedisLockPool(pool, id, value)
			if err != nil {
				return nil, err
			}
			l.Expiry = longTTL
			return &unlockTimer{RedisLock: l, unlocked: unlocked}, nil
		}, gone.WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			return nil, err
		}
		defer g.Close()
		nodes[i] = g
		if err := run(i); err != nil {
			return nil, err
		}
	}
	holder, err := within(began)
	took := make([]time.Duration, 0, n)
	for range n {
		if err != nil {
			return nil, err
		}
		time.Sleep(contender{}.hold())
		last := holder.node
		_ = runners[last].Close()
		released, err1 := within(unlocked)
		next, err2 := within(began)
		_, err3 := within(runners[last].Exit)
		if err = errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
		if next.node == last {
			return nil, errors.New("a closed runner began a tenure")
		}
		took = append(took, next.at.Sub(released))
		holder, err = next, run(last)
	}
	return took, err
}

// within receives from a channel, or from its end.
func within[T any](c <-chan T) (v T, err error) {
	select {
	case v = <-c:
		return v, nil
	case <-time.After(patience):
		return v, fmt.Errorf("nothing happened in %v", patience)
	}
}
