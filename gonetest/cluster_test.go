package gonetest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

func run(t testing.TB, g *gone.Gone, h gone.RunHandler) *gone.GoneRunner {
	t.Helper()
	r, err := g.RunOne("id", h)
	must(t, err)
	return r
}

func TestAnyNodeReachesTheHandlerWhereverItRuns(t *testing.T) {
	test := func(t *testing.T) {
		c := gonetest.Cluster(t, 3)
		var in inbox
		run(t, c.Node(1), in.run)
		for i := range 3 {
			must(t, c.Node(i).SendData("id", fmt.Append(nil, i)))
		}
		h, err := c.Node(0).Holder(t.Context(), "id")
		must(t, err)
		if h.Addr != c.Node(1).Addr() || h.Here {
			t.Errorf("held by %+v", h)
		}
		must(t, c.Node(1).Close())
		if got := in.all(); strings.Join(got, "") != "012" {
			t.Errorf("received %q", got)
		}
	}
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}

func TestAPlannedEndIsSeenByNoSender(t *testing.T) {
	test := func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		var in inbox
		run(t, c.Node(0), in.run)
		run(t, c.Node(1), in.run)
		sender := c.Start()
		var senders sync.WaitGroup
		for range 4 {
			senders.Go(func() {
				for range 50 {
					if err := sender.SendData("id", nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		h, err := sender.Holder(t.Context(), "id")
		for errors.Is(err, gone.ErrNoHolder) {
			time.Sleep(time.Millisecond)
			h, err = sender.Holder(t.Context(), "id")
		}
		must(t, err)
		for i := range 2 {
			if c.Node(i).Addr() == h.Addr {
				must(t, c.Node(i).Close())
			}
		}
		senders.Wait()
		for i := range 2 {
			must(t, c.Node(i).Close())
		}
		if n := len(in.all()); n != 200 {
			t.Errorf("%d received", n)
		}
	}
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}

// In the time of a bubble it takes none to wait for the TTL.
func TestAHolderThatIsCutOffIsReplacedWhenItsLockExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 3)
		cause := make(chan error, 1)
		took := make(chan struct{})
		run(t, c.Node(0), func(r *gone.GoneRunner) {
			<-r.Data
			close(took)
			keep(r)
			cause <- context.Cause(r.Context())
		})
		synctest.Wait()
		var next inbox
		run(t, c.Node(1), next.run)
		must(t, c.Node(2).SendData("id", nil))
		<-took
		began := time.Now()
		unknown := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			unknown <- c.Node(2).SendDataContext(ctx, "id", []byte("under way"))
		}()
		synctest.Wait()
		c.Cut(c.Node(0))
		is(t, <-cause, gone.ErrLeaseExpired)
		is(t, <-unknown, gone.ErrOutcomeUnknown, gone.ErrUnreachable)
		if d := time.Since(began); d > gone.DefaultExpiry+2*time.Second {
			t.Errorf("it took %v", d)
		}
		must(t, c.Node(2).SendData("id", []byte("after")))
		c.Cut()
		must(t, c.Node(0).SendData("id", []byte("healed")))
		synctest.Wait()
		if got := next.all(); strings.Join(got, " ") != "after healed" {
			t.Errorf("received %q", got)
		}
	})
}

func TestAHolderThatIsCutOffWithARequestLeavesItWithoutAReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		run(t, c.Node(0), func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				if string(m.Data) == "hang" {
					continue
				}
				must(t, m.Reply([]byte(m.From())))
			}
		})
		reply, err := c.Node(1).Request(t.Context(), "id", nil)
		if string(reply) != c.Node(1).Addr() || err != nil {
			t.Errorf("got %q, %v", reply, err)
		}
		time.AfterFunc(time.Second, func() {
			c.Cut(c.Node(0))
			run(t, c.Node(1), stuck)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		_, err = c.Node(1).Request(ctx, "id", []byte("hang"))
		is(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
	})
}

func TestAHolderThatKnowsNothingOfItsSuccessorHasTheLowerToken(t *testing.T) {
	c := gonetest.Cluster(t, 2)
	tokens := make(chan uint64)
	handler := func(r *gone.GoneRunner) {
		tokens <- r.FencingToken()
		<-r.Exit
	}
	run(t, c.Node(0), handler)
	first := <-tokens
	run(t, c.Node(1), handler)
	c.Locks.Advance(gone.DefaultExpiry)
	if second := <-tokens; second <= first {
		t.Errorf("token %d after %d", second, first)
	}
	if n := c.Node(0).Stats().Held + c.Node(1).Stats().Held; n != 2 {
		t.Errorf("%d handlers", n)
	}
}

func TestOptionsOfSocketsFailTheTest(t *testing.T) {
	for _, o := range []gone.Option{gone.WithBind("tcp://*:0"), gone.WithCurve("a", "b")} {
		said := new(failure).of(func(t testing.TB) { gonetest.Cluster(t, 1, o) })
		if !strings.Contains(said, "sockets") {
			t.Error(said)
		}
	}
}

func TestNodesWithSocketsNeedNoRedis(t *testing.T) {
	locks := gonetest.NewLocks().Factory(0)
	var nodes []*gone.Gone
	for range 2 {
		g, err := gone.NewGone("tcp://127.0.0.1:0", locks)
		must(t, err)
		t.Cleanup(func() { must(t, g.Close()) })
		nodes = append(nodes, g)
	}
	run(t, nodes[0], new(inbox).run)
	must(t, nodes[1].SendData("id", nil))
}
