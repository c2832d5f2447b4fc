package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// A field is all devices, as they are known by asking each of them once a second.
type field struct {
	node *gone.Gone
	end  context.CancelFunc
	asks sync.WaitGroup

	mu      sync.Mutex
	devices []device
	act     act // since begin
}

// A device is what its last answer said.
type device struct {
	worker string
	token  uint64
	at     time.Time // when it was asked
}

// An act is what the devices answered in some time.
type act struct {
	began   time.Time
	asked   int
	moves   int // answers of another tenure than the one before
	moved   time.Time
	slowest time.Duration
	failed  []error
}

func watch(node *gone.Gone, devices int) *field {
	ctx, end := context.WithCancel(context.Background())
	f := &field{node: node, end: end, devices: make([]device, devices)}
	f.begin()
	for i := range devices {
		f.asks.Go(func() {
			for ctx.Err() == nil {
				f.ask(ctx, i)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second/2 + rand.N(time.Second)):
				}
			}
		})
	}
	return f
}

// ask asks a device which worker drives it.
func (f *field) ask(ctx context.Context, i int) {
	until, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now := device{at: time.Now()}
	answer, err := f.node.Request(until, deviceID(i), nil)
	took := time.Since(now.at)
	if err == nil {
		_, err = fmt.Sscan(string(answer), &now.worker, &now.token)
	}
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.devices[i]
	if err == nil && now.token < before.token {
		err = fmt.Errorf("%s answered with token %d, after %s with %d", now.worker, now.token, before.worker, before.token)
	}
	f.act.asked++
	f.act.slowest = max(f.act.slowest, took)
	if err != nil {
		f.act.failed = append(f.act.failed, fmt.Errorf("%s: %w", deviceID(i), err))
		return
	}
	if now.token != before.token {
		f.act.moved = time.Now()
		f.act.moves++
	}
	f.devices[i] = now
}

// begin begins an act, and returns the one before.
func (f *field) begin() (before act) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, f.act = f.act, act{began: time.Now()}
	return before
}

// held is how many devices each worker has, of those that were asked since then.
func (f *field) held(since time.Time) map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := map[string]int{}
	for _, d := range f.devices {
		if d.token != 0 && d.at.After(since) {
			held[d.worker]++
		}
	}
	return held
}

// now is the act so far.
func (f *field) now() act {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.act
}

func (a act) String() string {
	return fmt.Sprintf("%d moves; %d requests, the slowest %v, %d failed", a.moves, a.asked, a.slowest.Round(time.Millisecond), len(a.failed))
}

func (f *field) close() {
	f.end()
	f.asks.Wait()
}
