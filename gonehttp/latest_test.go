package gonehttp

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
)

func TestNodesAreAskedOnceForAllWhoLookAndNeverWhenNobodyDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, takes, waits := 0, 100*time.Millisecond, time.Duration(0)
		l := latest{report: func(context.Context) (gone.Report, error) {
			asked++
			r := gone.Report{Time: time.Now(), Nodes: []gone.NodeReport{{Addr: "a", Time: time.Now().Add(takes), Status: &gone.Status{}}}}
			time.Sleep(max(takes, waits))
			if waits > takes {
				r.Nodes = append(r.Nodes, gone.NodeReport{Addr: "b", Time: time.Now(), Err: "no answer"})
			}
			return r, nil
		}}
		watch := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			var all sync.WaitGroup
			for range 50 {
				all.Go(func() {
					for {
						s, err := l.get(ctx)
						if err != nil {
							if !errors.Is(err, context.DeadlineExceeded) {
								t.Error(err)
							}
							return
						}
						select {
						case <-time.After(time.Until(s.until)):
						case <-ctx.Done():
							return
						}
					}
				})
			}
			all.Wait()
			time.Sleep(10 * time.Second) // the last look may still be under way
			synctest.Wait()
		}
		watch(time.Minute)
		if asked < 27 || asked > 30 {
			t.Errorf("asked %d times in a minute", asked)
		}
		before := asked
		time.Sleep(time.Hour)
		if asked != before {
			t.Error("asked though nobody looks")
		}
		for _, c := range []struct {
			takes, waits time.Duration
			asked        int
		}{
			{time.Second, 0, 12},                    // a fifth of the time
			{3 * time.Second, 0, 8},                 // 5 s between
			{10 * time.Second, 0, 3},                // half of it
			{time.Millisecond, 3 * time.Second, 12}, // 2 s between, though one does not answer
			{time.Millisecond, 10 * time.Second, 5}, // nor in the middle of its answer
			{3 * time.Second, 3*time.Second + 1, 8},
		} {
			takes, waits, asked = c.takes, c.waits, 0
			watch(time.Minute)
			if asked < c.asked-1 || asked > c.asked+1 {
				t.Errorf("nodes that take %v, and %v where they are mute, were asked %d times in a minute, not %d", takes, waits, asked, c.asked)
			}
		}
	})
}
