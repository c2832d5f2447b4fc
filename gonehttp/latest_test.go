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
		asked, takes := 0, 100*time.Millisecond
		l := latest{report: func(context.Context) (gone.Report, error) {
			asked++
			time.Sleep(takes)
			return gone.Report{}, nil
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
		takes, asked = 3*time.Second, 0
		watch(time.Minute)
		if asked < 3 || asked > 5 {
			t.Errorf("asked nodes that take long %d times", asked)
		}
	})
}
