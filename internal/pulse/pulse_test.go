package pulse_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
)

func TestItBeatsAtTheEarliestTimeThatWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var all []time.Duration
		expect := func(want ...time.Duration) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(all, want) {
				t.Errorf("beats after %v, want %v", all, want)
			}
		}
		p := pulse.New(func(now time.Time) time.Time {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, now.Sub(began))
			if len(all) == 1 {
				return began.Add(10 * time.Second)
			}
			return time.Time{}
		})
		p.By(began.Add(5 * time.Second))
		p.By(began.Add(time.Second))
		p.By(began.Add(3 * time.Second))
		time.Sleep(2 * time.Second)
		expect(time.Second)
		time.Sleep(time.Hour)
		expect(time.Second, 10*time.Second)
		p.By(began) // in the past: at once
		expect(time.Second, 10*time.Second, time.Hour+2*time.Second)
		p.Stop()
	})
}

// Whatever is asked for during a beat, or at the time of one, is kept.
func TestNoTimeThatWasAskedForIsForgotten(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			want := map[time.Time]bool{}
			p := pulse.New(func(now time.Time) (next time.Time) {
				mu.Lock()
				for at := range want {
					if !now.Before(at) {
						delete(want, at)
					} else {
						next = pulse.Earliest(next, at)
					}
				}
				mu.Unlock()
				for range seed % 30 {
					runtime.Gosched()
				}
				return next
			})
			for range 300 {
				at := time.Now().Add(time.Duration(r.IntN(5)) * time.Millisecond)
				mu.Lock()
				want[at] = true
				mu.Unlock()
				go p.By(at)
				time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond / 2)
			}
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			if len(want) > 0 {
				t.Errorf("seed %d: %d times are forgotten", seed, len(want))
			}
			p.Stop()
		})
	}
}

func TestAfterStopItNeverBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var beats, ended atomic.Int32
		release := make(chan struct{})
		p := pulse.New(func(time.Time) time.Time {
			beats.Add(1)
			<-release
			ended.Add(1)
			return time.Now()
		})
		p.By(time.Now())
		synctest.Wait()
		go func() {
			runtime.Gosched()
			close(release)
		}()
		p.Stop()
		if beats.Load() != 1 || ended.Load() != 1 {
			t.Errorf("%d beats, %d have ended", beats.Load(), ended.Load())
		}
		p.By(time.Now())
		time.Sleep(time.Hour)
		if n := beats.Load(); n != 1 {
			t.Errorf("%d beats", n)
		}
	})
}

func TestOneTimerServesAllAndNoneWhenNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beats := 0
		p := pulse.New(func(time.Time) time.Time { beats++; return time.Time{} })
		at := time.Now().Add(time.Second)
		for range 10_000 {
			p.By(at)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if beats != 1 {
			t.Errorf("%d beats", beats)
		}
		p.Stop()
	})
}
