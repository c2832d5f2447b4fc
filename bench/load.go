package main

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// A sender sends one message and returns when it is acknowledged.
type sender func(data []byte) error

// A figure is what a load came to.
type figure struct {
	perSecond float64
	p50, p99  float64 // µs
	took      []time.Duration
}

// load has a number of callers send for d, one after the other each.
func load(callers int, d time.Duration, size int, send func(caller int) sender) (figure, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	n := 0
	var running sync.WaitGroup
	began := time.Now()
	for i := range callers {
		one := send(i)
		running.Go(func() {
			data := make([]byte, size)
			var took []time.Duration
			count := 0
			for at := time.Now(); at.Sub(began) < d; {
				if err := one(data); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				now := time.Now()
				took = append(took, now.Sub(at))
				at = now
				count++
			}
			mu.Lock()
			defer mu.Unlock()
			n += count
			all = append(all, took...)
		})
	}
	running.Wait()
	elapsed := time.Since(began)
	if failed != nil {
		return figure{}, failed
	}
	if n == 0 {
		return figure{}, fmt.Errorf("nothing was sent in %v", d)
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[min(int(q*float64(len(all))), len(all)-1)].Nanoseconds()) / 1e3
	}
	return figure{float64(n) / elapsed.Seconds(), at(.5), at(.99), all}, nil
}
