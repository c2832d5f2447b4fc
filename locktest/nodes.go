package locktest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

// twoNodes is about what gone makes of both extras.
var twoNodes = check{promise: "spread their ids and drain while no request fails", has: and(hasPass, hasRoster), keeps: spreadAndDrain}

func spreadAndDrain(t *tester) {
	const n = 20
	first := t.node(n)
	t.eventually("one node holds all", func() bool { return first.Stats().Held == n })
	second := t.node(n)
	ctx, cancel := context.WithCancel(context.Background())
	var senders sync.WaitGroup
	defer senders.Wait()
	defer cancel()
	for i := range n {
		senders.Go(func() {
			for id := fmt.Sprint("locktest node ", i); ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
				if reply, err := second.Request(context.Background(), id, []byte(id)); err != nil || string(reply) != id {
					t.Errorf("a request to an id that moves was answered with %q and %q", reply, text(err))
					return
				}
			}
		})
	}
	began := time.Now()
	t.eventually("two nodes hold a half each, or nearly", func() bool {
		a, b := first.Stats().Held, second.Stats().Held
		return a+b == n && max(a, b) <= n/2+2
	})
	t.Logf("ids were spread after %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	if err := t.within("Drain", func() error { return first.Drain(context.Background()) }); err != nil {
		t.Fatalf("Drain: %v", err)
	}
	t.eventually("the other node holds all when one has drained", func() bool { return second.Stats().Held == n })
	t.Logf("the other held all %v after Drain", time.Since(began).Round(time.Millisecond))
}

// node starts one that runs n ids.
func (t *tester) node(n int) *gone.Gone {
	t.Helper()
	g, err := gone.NewGone("tcp://127.0.0.1:0", t.Locks(gone.DefaultExpiry), gone.WithBalance(), gone.WithCluster(t.id()),
		gone.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	for i := range n {
		_, err := g.RunOne(fmt.Sprint("locktest node ", i), func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				_ = m.Reply(m.Data)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return g
}
