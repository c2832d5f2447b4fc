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
		if asked < 6 || asked > 9 {
			t.Errorf("asked nodes that take long %d times", asked)
		}
	})
}

func TestALeaseRunsDownFromTheAnswerOfItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := func(addr string, left time.Duration) gone.NodeReport {
			now := time.Now()
			return gone.NodeReport{Addr: addr, Time: now, Status: &gone.Status{
				Time: now.Add(-time.Hour), // its clock is wrong
				Tenures: []gone.Tenure{{ID: addr, Since: now.Add(-2 * time.Hour), Deadline: now.Add(left - time.Hour), TTL: time.Minute}},
			}}
		}
		nodes := []gone.NodeReport{node("a", 20*time.Second), node("b", 5*time.Second), node("c", 0)}
		time.Sleep(10 * time.Second) // the look waits for another
		nodes = append(nodes, node("d", 20*time.Second), gone.NodeReport{Addr: "e", Err: "it does not answer"})
		s := snap(gone.Report{Nodes: nodes, Whole: true}, time.Now())
		time.Sleep(time.Second)
		v := s.view(wanted{}, false)
		for i, want := range []struct{ left, age int64 }{{9000, 3600 + 11}, {1, 3600 + 11}, {0, 3600 + 11}, {19000, 3600 + 1}} {
			if r := v.IDs.Rows[i]; r.Left != want.left || r.Age != 1000*want.age {
				t.Errorf("%s: %d ms left of an age of %d s, want %+v", r.ID, r.Left, r.Age/1000, want)
			}
		}
	})
}
