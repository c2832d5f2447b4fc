package gone_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

// members are nodes of a cluster in a bubble, all of which run the same ids.
type members struct {
	*testing.T
	*gonetest.Nodes
	ids []string
	all []*gone.Gone
}

// balanced runs a test in a bubble, with ids and a cluster that has no nodes yet. There
// are five times the ids where many seeds are wanted: the race detector is not made for
// as many goroutines as that takes.
func balanced(t *testing.T, ids int, test func(t *testing.T, m *members), opts ...gone.Option) {
	if os.Getenv("GONE_SEEDS") != "" {
		ids *= 5
	}
	synctest.Test(t, func(t *testing.T) {
		m := &members{T: t, Nodes: gonetest.Cluster(t, 0, append(opts, gone.WithBalance(), gone.WithControl())...)}
		for i := range ids {
			m.ids = append(m.ids, fmt.Sprint("id", i))
		}
		test(t, m)
	})
}

func (m *members) join(opts ...gone.Option) *gone.Gone {
	g := m.Start(opts...)
	m.all = append(m.all, g)
	for _, id := range m.ids {
		m.run(g, id, answer)
	}
	return g
}

func (m *members) run(g *gone.Gone, id string, handler gone.RunHandler) {
	m.Helper()
	if _, err := g.RunOne(id, handler); err != nil {
		m.Fatal(err)
	}
}

// answer is a handler that replies with what it got.
func answer(r *gone.GoneRunner) {
	for msg := range r.Messages() {
		_ = msg.Reply(msg.Data)
	}
}

func (m *members) leave(g *gone.Gone) {
	m.Helper()
	if err := g.Close(); err != nil {
		m.Error(err)
	}
	m.drop(g)
}

func (m *members) drop(g *gone.Gone) {
	var rest []*gone.Gone
	for _, other := range m.all {
		if other != g {
			rest = append(rest, other)
		}
	}
	m.all = rest
}

func (m *members) held() (held []int) {
	for _, g := range m.all {
		held = append(held, g.Stats().Held)
	}
	return held
}

func (m *members) tenures() (sum uint64) {
	for _, g := range m.all {
		sum += g.Stats().Tenures
	}
	return sum
}

// isSpread waits until each node has its share, and sees that it stays so without
// a move.
func (m *members) isSpread(within time.Duration, weights ...float64) {
	m.Helper()
	all := 0.0
	for len(weights) < len(m.all) {
		weights = append(weights, 1)
	}
	for _, w := range weights {
		all += w
	}
	even := func() bool {
		sum := 0
		for i, n := range m.held() {
			share := float64(len(m.ids)) * weights[i] / all
			if d := float64(n) - share; d > max(2, share/20) || -d > max(2, share/20) {
				return false
			}
			sum += n
		}
		return sum == len(m.ids)
	}
	began := time.Now()
	for !even() {
		if time.Since(began) > within {
			m.Fatalf("not within %v: ids are spread: %v", within, m.held())
		}
		time.Sleep(100 * time.Millisecond)
	}
	m.Logf("after %v: %v", time.Since(began), m.held())
	time.Sleep(15 * time.Second) // the last corrections
	before := m.tenures()
	time.Sleep(time.Minute)
	if moves := m.tenures() - before; moves > 0 || !even() {
		m.Errorf("%d moves when all was well: %v", moves, m.held())
	}
}

func TestIDsAreSpreadWhenNodesComeAndGo(t *testing.T) {
	balanced(t, 24, func(t *testing.T, m *members) {
		for range 4 {
			m.join()
			time.Sleep(time.Second)
		}
		m.isSpread(30 * time.Second)
		before := m.tenures()
		fifth := m.join()
		m.isSpread(30 * time.Second)
		if moves := m.tenures() - before; int(moves) > len(m.ids)/5+6 {
			t.Errorf("%d moves for a fifth node", moves)
		}
		m.leave(fifth)
		m.isSpread(30 * time.Second)
		dead := m.all[0]
		m.Cut(dead)
		m.drop(dead)
		m.isSpread(30*time.Second + gone.DefaultExpiry)
	})
}

func TestSharesAreByWeight(t *testing.T) {
	balanced(t, 40, func(t *testing.T, m *members) {
		m.join(gone.WithWeight(1))
		m.join(gone.WithWeight(3))
		m.join(gone.WithWeight(0))
		m.isSpread(30*time.Second, 1, 3, 0)
	})
}

// A stream of messages to all ids sees of it that all are planned hand-overs.
func TestNoSendFailsWhileIDsMove(t *testing.T) {
	balanced(t, 20, func(t *testing.T, m *members) {
		m.join()
		sender := m.Start(gone.WithWeight(0))
		var mu sync.Mutex
		last := map[string]int{}
		stop := make(chan struct{})
		var senders sync.WaitGroup
		for from := range 10 {
			senders.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					case <-time.After(200 * time.Millisecond):
					}
					id := m.ids[rand.IntN(len(m.ids)/10)*10+from]
					want := fmt.Sprint(from, " ", n)
					reply, err := sender.Request(t.Context(), id, []byte(want))
					if err != nil || string(reply) != want {
						t.Errorf("%q, %v", reply, err)
						return
					}
					mu.Lock()
					last[id]++
					mu.Unlock()
				}
			})
		}
		for range 3 {
			m.join()
			time.Sleep(20 * time.Second)
		}
		must(t, m.all[1].Drain(t.Context()))
		if n := m.all[1].Stats().Held; n != 0 {
			t.Errorf("%d held after Drain", n)
		}
		time.Sleep(20 * time.Second)
		must(t, m.all[1].Resume())
		time.Sleep(30 * time.Second)
		for _, id := range m.ids[:len(m.ids)/5] {
			must(t, m.all[0].Move(t.Context(), id, m.all[2].Addr()))
			if h, err := sender.Holder(t.Context(), id); err != nil || h.Addr != m.all[2].Addr() {
				t.Errorf("moved to %s: %+v, %v", m.all[2].Addr(), h, err)
			}
		}
		m.leave(m.all[0])
		time.Sleep(20 * time.Second)
		close(stop)
		senders.Wait()
		if len(last) != len(m.ids) {
			t.Errorf("messages to %d ids of %d", len(last), len(m.ids))
		}
	})
}

func TestARollingRestartMovesAnIDTwicePerRestartAndEndsSpread(t *testing.T) {
	balanced(t, 20, func(t *testing.T, m *members) {
		for range 5 {
			m.join()
		}
		m.isSpread(30 * time.Second)
		for i := range 5 {
			m.leave(m.all[0])
			m.join()
			time.Sleep(10 * time.Second)
			_ = i
		}
		m.isSpread(30 * time.Second)
		// An id is on a node that is restarted once in a while, and moves then; and
		// it may be among those that the new node is given.
		if n := m.tenures(); int(n) > 2*5*len(m.ids) {
			t.Errorf("%d tenures", n)
		}
	})
}

func TestANodeThatFlapsIsGivenNothing(t *testing.T) {
	balanced(t, 12, func(t *testing.T, m *members) {
		for range 3 {
			m.join()
		}
		m.isSpread(30 * time.Second)
		before := m.tenures()
		for range 8 {
			g := m.join()
			time.Sleep(4 * time.Second)
			m.leave(g)
			time.Sleep(time.Second)
		}
		if moves := m.tenures() - before; moves > 0 {
			t.Errorf("%d moves", moves)
		}
		m.isSpread(30 * time.Second)
	})
}

// A node in fifty competes for an id, and those that do not wait for it cost the
// lock service nothing.
func TestAnIDIsCompetedForByFewNodes(t *testing.T) {
	balanced(t, 10, func(t *testing.T, m *members) {
		for range 12 {
			m.join()
		}
		m.isSpread(time.Minute)
		var mu sync.Mutex
		nodes, passes := map[string]map[string]bool{}, map[string]int{}
		m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			mu.Lock()
			switch c.Method {
			case "Lock":
				if nodes[c.ID] == nil {
					nodes[c.ID] = map[string]bool{}
				}
				nodes[c.ID][c.Value] = true
			case "Pass":
				passes[c.ID]++
			}
			mu.Unlock()
			return serve()
		})
		for _, id := range m.ids {
			m.Locks.Forget(id)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		// Who has lost it, those that stand by, and each that it is given to when the shares
		// are not even any more.
		for _, id := range m.ids {
			if n := len(nodes[id]); n < 1 || n > 4+passes[id] {
				t.Errorf("%s: %d nodes compete, and it was passed on %d times", id, n, passes[id])
			}
		}
	})
}

// What each reads is as long as the cluster is large.
func TestNodesOfALargeClusterReadTheRosterLessOften(t *testing.T) {
	balanced(t, 0, func(t *testing.T, m *members) {
		for range 110 {
			m.join()
		}
		time.Sleep(10 * time.Second)
		var entered, read atomic.Int64
		m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			switch c.Method {
			case "Enter":
				entered.Add(1)
			case "Entered":
				read.Add(1)
			}
			return serve()
		})
		time.Sleep(20 * time.Second)
		if e, r := entered.Load(), read.Load(); e < 110*5 || r == 0 || r > e*3/5 {
			t.Errorf("entered %d times, and read %d times", e, r)
		}
	})
}

func TestOthersTakeThePlaceOfAHolderAndAllItsStandbys(t *testing.T) {
	balanced(t, 8, func(t *testing.T, m *members) {
		for range 8 {
			m.join()
		}
		m.isSpread(time.Minute)
		m.Cut(m.all[:6]...)
		m.all = m.all[6:]
		began := time.Now()
		for {
			sum := 0
			for _, n := range m.held() {
				sum += n
			}
			if sum == len(m.ids) {
				break
			}
			if time.Since(began) > gone.DefaultExpiry+5*time.Second {
				t.Fatalf("%d of %d held", sum, len(m.ids))
			}
			time.Sleep(100 * time.Millisecond)
		}
		m.isSpread(30 * time.Second)
	})
}

func TestIDsThatNobodyElseRunsStay(t *testing.T) {
	balanced(t, 12, func(t *testing.T, m *members) {
		for range 3 {
			m.join()
		}
		own := len(m.ids) * 2 / 3
		for i := range own {
			m.run(m.all[0], fmt.Sprint("own", i), answer)
		}
		time.Sleep(time.Minute)
		before := m.tenures()
		time.Sleep(time.Minute)
		if moves := m.tenures() - before; moves > 0 {
			t.Errorf("%d moves when all was well", moves)
		}
		for i := range own {
			if h, err := m.all[1].Holder(t.Context(), fmt.Sprint("own", i)); err != nil || h.Addr != m.all[0].Addr() {
				t.Errorf("own%d: %+v, %v", i, h, err)
			}
		}
		if held := m.held(); held[0]+held[1]+held[2] != len(m.ids)+own || held[0] > own+2 {
			t.Errorf("held: %v", held)
		}
	})
}

// Two groups of nodes in one cluster, each with ids of its own.
func TestIDsAreSpreadOverThoseWhoRunThem(t *testing.T) {
	balanced(t, 12, func(t *testing.T, m *members) {
		m.join()
		var others []*gone.Gone
		for range 2 {
			g := m.Start()
			for i := range 4 {
				m.run(g, fmt.Sprint("other", i), answer)
			}
			others = append(others, g)
		}
		time.Sleep(20 * time.Second)
		m.join()
		m.join()
		m.isSpread(90 * time.Second)
		if a, b := others[0].Stats().Held, others[1].Stats().Held; a+b != 4 || a > 3 || b > 3 {
			t.Errorf("%d and %d of 4", a, b)
		}
	})
}

func TestALostRosterMovesNothing(t *testing.T) {
	balanced(t, 12, func(t *testing.T, m *members) {
		for range 3 {
			m.join()
		}
		m.isSpread(30 * time.Second)
		before := m.tenures()
		m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			if c.Method == "Enter" && rand.IntN(2) == 0 || c.Method == "Entered" && rand.IntN(2) == 0 {
				return errors.New("lost")
			}
			return serve()
		})
		time.Sleep(5 * time.Minute)
		m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			if strings.HasPrefix(c.Method, "Enter") {
				return errors.New("lost")
			}
			return serve()
		})
		time.Sleep(time.Minute)
		m.Locks.Intercept(nil)
		m.isSpread(30 * time.Second)
		if moves := m.tenures() - before; moves > 6 {
			t.Errorf("%d moves", moves)
		}
	})
}

func TestAMoveThatCannotBeChangesNothing(t *testing.T) {
	balanced(t, 40, func(t *testing.T, m *members) {
		a, b := m.join(), m.join()
		other := m.Start()
		m.isSpread(30 * time.Second)
		before := m.tenures()
		drained := m.join()
		must(t, drained.Drain(t.Context()))
		weightless := m.join(gone.WithWeight(0))
		time.Sleep(10 * time.Second)
		for what, to := range map[string]string{
			"no node": "tcp://nowhere.test:1", "does not run": other.Addr(),
			"drains": drained.Addr(), "weight 0": weightless.Addr(),
		} {
			for _, by := range []*gone.Gone{a, b, other} {
				if err := by.Move(t.Context(), "id1", to); err == nil {
					t.Errorf("%s: no error", what)
				} else {
					t.Log(err)
				}
			}
		}
		for _, by := range []*gone.Gone{a, b, other} {
			if err := by.Move(t.Context(), "nobody", b.Addr()); !errors.Is(err, gone.ErrNoHolder) {
				t.Error(err)
			}
		}
		if moves := m.tenures() - before; moves > 0 {
			t.Errorf("%d moves", moves)
		}
	})
}

func TestYieldHandsOverWhereThereIsSomebody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 1)
		type began struct {
			g *gone.Gone
			r *gone.GoneRunner
		}
		tenures := make(chan began, 10)
		run := func(g *gone.Gone) {
			_, err := g.RunOne("a", func(r *gone.GoneRunner) {
				tenures <- began{g, r}
				for range r.Messages() {
				}
			})
			must(t, err)
		}
		first := c.Node(0)
		run(first)
		at := <-tenures
		if err := at.r.Yield(); err == nil || at.r.Context().Err() != nil {
			t.Errorf("Yield to nobody: %v, %v", err, at.r.Context().Err())
		}
		second := c.Start()
		run(second)
		time.Sleep(10 * time.Second)
		must(t, at.r.Yield())
		<-at.r.Exit
		if cause := context.Cause(at.r.Context()); !errors.Is(cause, gone.ErrYielded) {
			t.Error(cause)
		}
		if next := <-tenures; next.g != second || next.r.FencingToken() <= at.r.FencingToken() {
			t.Errorf("at %s", next.g.Addr())
		}
	})
}

// An attempt that is under way when a node drains comes to nothing.
func TestADrainedNodeRunsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 1)
		g := c.Node(0)
		locking := make(chan struct{})
		c.Locks.Intercept(func(call gonetest.Call, serve func() error) error {
			if call.Method == "Lock" {
				<-locking
			}
			return serve()
		})
		var ran atomic.Bool
		_, err := g.RunOne("a", func(r *gone.GoneRunner) {
			ran.Store(true)
			<-r.Exit
		})
		must(t, err)
		synctest.Wait()
		drained := make(chan error)
		go func() { drained <- g.Drain(t.Context()) }()
		synctest.Wait()
		close(locking)
		must(t, <-drained)
		if held := g.Stats().Held; held > 0 {
			t.Errorf("%d held after Drain", held)
		}
		time.Sleep(time.Minute)
		if ran.Load() {
			t.Error("the handler was called")
		}
		if h, err := g.Holder(t.Context(), "a"); !errors.Is(err, gone.ErrNoHolder) {
			t.Errorf("held by %v, %v", h, err)
		}
		must(t, g.Resume())
		time.Sleep(time.Second)
		if !ran.Load() {
			t.Error("the handler was not called after Resume")
		}
	})
}

// A handler that was closed may run on while its id is run anew.
func TestDrainWaitsForAHandlerThatWasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gonetest.Cluster(t, 1).Node(0)
		returned := false
		r, err := g.RunOne("a", func(r *gone.GoneRunner) {
			<-r.Exit
			time.Sleep(time.Minute)
			returned = true
		})
		must(t, err)
		time.Sleep(time.Second)
		must(t, r.Close())
		_, err = g.RunOne("a", answer)
		must(t, err)
		must(t, g.Drain(t.Context()))
		if !returned {
			t.Error("Drain has returned before the handler")
		}
	})
}

func TestAnIDOnItsWayToANodeThatDrainsGoesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		a, b := c.Node(0), c.Node(1)
		_, err := a.RunOne("a", answer)
		must(t, err)
		time.Sleep(10 * time.Second)
		var ran atomic.Bool
		_, err = b.RunOne("a", func(r *gone.GoneRunner) {
			ran.Store(true)
			<-r.Exit
		})
		must(t, err)
		time.Sleep(time.Second) // it is listed
		passing := make(chan struct{})
		c.Locks.Intercept(func(call gonetest.Call, serve func() error) error {
			if call.Method == "Pass" {
				<-passing
			}
			return serve()
		})
		moved := make(chan error)
		go func() { moved <- a.Move(t.Context(), "a", b.Addr()) }()
		synctest.Wait()
		must(t, b.Drain(t.Context()))
		close(passing)
		must(t, <-moved)
		time.Sleep(time.Second)
		if h, err := b.Holder(t.Context(), "a"); err != nil || h.Addr != a.Addr() || ran.Load() {
			t.Errorf("held by %v, %v; the drained node's handler was called: %v", h, err, ran.Load())
		}
	})
}

// Nodes that ask each other for moves must not wait for each other.
func TestManyMovesAtOnceGoBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 3, gone.WithControl())
		a, b, asker := c.Node(0), c.Node(1), c.Node(2)
		const each = 100
		for i := range 2 * each {
			first, second := a, b
			if i%2 == 1 {
				first, second = b, a
			}
			id := fmt.Sprint("id", i)
			_, err := first.RunOne(id, answer)
			must(t, err)
			synctest.Wait()
			_, err = second.RunOne(id, answer)
			must(t, err)
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		var moves sync.WaitGroup
		for i := range 2 * each {
			moves.Go(func() {
				to := []*gone.Gone{b, a}[i%2]
				if err := asker.Move(t.Context(), fmt.Sprint("id", i), to.Addr()); err != nil {
					t.Error(err)
				}
			})
		}
		moves.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// What nodes saw of the roster last may be of nodes that are all gone.
func TestIDsAreTakenWhenTheRosterIsLostForLong(t *testing.T) {
	balanced(t, 12, func(t *testing.T, m *members) {
		for range 8 {
			m.join()
		}
		m.isSpread(time.Minute)
		m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			if strings.HasPrefix(c.Method, "Enter") {
				return errors.New("lost")
			}
			return serve()
		})
		m.Cut(m.all[:6]...)
		m.all = m.all[6:]
		time.Sleep(2 * time.Minute)
		held := m.held()
		if held[0]+held[1] != len(m.ids) {
			t.Errorf("%v of %d", held, len(m.ids))
		}
		m.Locks.Intercept(nil)
		m.isSpread(30 * time.Second)
	})
}

// A node that is not to compete for an id by itself is given it, and the answer to its
// one attempt is lost.
func TestAnAttemptIsRepeatedUntilItsOutcomeIsKnown(t *testing.T) {
	balanced(t, 4, func(t *testing.T, m *members) {
		for range 8 {
			m.join()
		}
		m.isSpread(time.Minute)
		for _, to := range m.all {
			var lost atomic.Bool
			m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
				err := serve()
				if c.Method == "Lock" && c.ID == "id0" && c.Value == to.Addr() && err == nil && !lost.Swap(true) {
					return errors.New("timeout")
				}
				return err
			})
			must(t, m.all[0].Move(t.Context(), "id0", to.Addr()))
			began := time.Now()
			if _, err := m.all[0].Request(t.Context(), "id0", []byte("a")); err != nil || time.Since(began) > time.Second {
				t.Errorf("on the way to %s: %v after %v", to.Addr(), err, time.Since(began))
			}
		}
		m.Locks.Intercept(nil)
	})
}

func TestIDsAreSpreadWhereMessagesAreSmall(t *testing.T) {
	balanced(t, 60, func(t *testing.T, m *members) {
		m.join()
		m.join()
		m.isSpread(2 * time.Minute)
	}, gone.WithMaxMessageSize(1<<10))
}

// A node that closes does not keep an id for one that it can't tell any more.
func TestANodeThatClosesWhileItGivesLeavesNoGap(t *testing.T) {
	balanced(t, 4, func(t *testing.T, m *members) {
		for range 8 {
			m.run(m.join(), "slow", func(r *gone.GoneRunner) {
				answer(r)
				time.Sleep(100 * time.Millisecond)
			})
		}
		time.Sleep(time.Minute)
		for len(m.all) > 4 {
			h, err := m.all[0].Holder(t.Context(), "slow")
			must(t, err)
			var from, to *gone.Gone
			for _, g := range m.all {
				if g.Addr() == h.Addr {
					from = g
				} else {
					to = g
				}
			}
			go func() { _ = from.Move(t.Context(), "slow", to.Addr()) }()
			time.Sleep(50 * time.Millisecond)
			m.leave(from)
			began := time.Now()
			if _, err := to.Request(t.Context(), "slow", []byte("a")); err != nil || time.Since(began) > time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			time.Sleep(20 * time.Second)
		}
	})
}

// A goroutine that a handler has left behind yields nothing of the next tenure.
func TestYieldIsForItsOwnTenure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		runners := make(chan *gone.GoneRunner, 10)
		run := func(g *gone.Gone) {
			_, err := g.RunOne("a", func(r *gone.GoneRunner) {
				runners <- r
				for m := range r.Messages() {
					if string(m.Data) == "return" {
						return
					}
				}
			})
			must(t, err)
		}
		run(c.Node(0))
		time.Sleep(time.Second)
		first := <-runners
		must(t, first.SendData([]byte("return")))
		second := <-runners
		run(c.Node(1))
		time.Sleep(10 * time.Second)
		must(t, first.Yield())
		time.Sleep(time.Second)
		if second.Context().Err() != nil {
			t.Error("the next tenure has ended")
		}
	})
}

// The answer to one Pass may be under way still when the id is to go back.
func TestAnIDThatMovesToAndFroHasAHolder(t *testing.T) {
	balanced(t, 1, func(t *testing.T, m *members) {
		for range 2 {
			m.join()
		}
		time.Sleep(20 * time.Second)
		for i := range 400 {
			h, err := m.all[0].Holder(t.Context(), "id0")
			must(t, err)
			from, to := m.all[0], m.all[1]
			if from.Addr() != h.Addr {
				from, to = to, from
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			deadline, _ := ctx.Deadline()
			m.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
				err := serve()
				if c.Method == "Pass" {
					time.Sleep(time.Until(deadline))
				}
				return err
			})
			_ = from.Move(ctx, "id0", to.Addr())
			cancel()
			m.Locks.Intercept(nil)
			began := time.Now()
			if _, err := to.Request(t.Context(), "id0", []byte("a")); err != nil || time.Since(began) > time.Second {
				t.Errorf("move %d: %v after %v", i, err, time.Since(began))
			}
		}
	})
}

// A node whose handler has not returned from its last tenure can't take the id.
func TestAnIDDoesNotMoveWhereItsHandlerHangs(t *testing.T) {
	balanced(t, 0, func(t *testing.T, m *members) {
		a := m.join()
		hang := make(chan struct{})
		m.run(a, "hangs", func(r *gone.GoneRunner) { <-hang })
		time.Sleep(time.Second)
		b := m.join()
		m.run(b, "hangs", answer)
		time.Sleep(time.Minute) // the lease of a is over
		before := b.Stats().Tenures
		if err := a.Move(t.Context(), "hangs", a.Addr()); err == nil {
			t.Error("it was moved there")
		}
		time.Sleep(3 * time.Second)
		if n := b.Stats().Tenures - before; n > 0 {
			t.Errorf("%d moves", n)
		}
		close(hang)
	})
}

func TestAMoveWhoseHeirIsNotToldIsOfUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, near := range []bool{true, false} {
			c := gonetest.Cluster(t, 0, gone.WithControl())
			holder, heir, by := c.Start(), c.Start(), c.Start()
			if near {
				by = holder
			}
			runOne(t, holder, "a", func(r *gone.GoneRunner) {
				for r.Context().Err() == nil {
					_ = r.Extend()
					select {
					case <-time.After(time.Second):
					case <-r.Exit:
						c.Cut(heir)
						return
					}
				}
			})
			time.Sleep(3 * time.Second)
			runOne(t, heir, "a", answer)
			time.Sleep(5 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := by.Move(ctx, "a", heir.Addr())
			if !errors.Is(err, gone.ErrOutcomeUnknown) || !errors.Is(err, gone.ErrUnreachable) {
				t.Errorf("asked at the holder %v: %v", near, err)
			}
			cancel()
			c.Cut()
			time.Sleep(10 * time.Second)
		}
	})
}
