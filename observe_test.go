package gone_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

// notes is an observer that writes down what it is told.
type notes struct {
	mu       sync.Mutex
	sent     []gone.Sent
	received []gone.Received
	extended []gone.Extended
	began    []gone.Tenure
	ended    []gone.PastTenure
	links    []gone.LinkChange
}

func noted[E any](n *notes, list *[]E) func(E) {
	return func(e E) {
		n.mu.Lock()
		defer n.mu.Unlock()
		*list = append(*list, e)
	}
}

func (n *notes) option() gone.Option {
	return gone.WithObserver(gone.Observer{
		Sent: noted(n, &n.sent), Received: noted(n, &n.received), Extended: noted(n, &n.extended),
		Began: noted(n, &n.began), Ended: noted(n, &n.ended), Link: noted(n, &n.links),
	})
}

func TestAnObserverIsToldWhatHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		var there, here notes
		holder, sender := c.Start(there.option()), c.Start(here.option())
		runOne(t, holder, "a", func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				time.Sleep(time.Second)
				_ = m.Reply([]byte("yes"))
			}
		})
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { must(t, sender.SendData("a", []byte("1234"))) })
		}
		all.Wait()
		_, err := sender.Request(t.Context(), "a", []byte("12345"))
		must(t, err)
		_, err = sender.SendBatch(t.Context(), "a", [][]byte{{1}, {2, 3}})
		must(t, err)
		if err := sender.TrySendData("nobody", nil); !errors.Is(err, gone.ErrNoHolder) {
			t.Error(err)
		}
		must(t, holder.SendData("a", []byte("here")))
		time.Sleep(gone.DefaultExpiry)
		must(t, holder.Close())
		time.Sleep(time.Second)

		here.mu.Lock()
		defer here.mu.Unlock()
		there.mu.Lock()
		defer there.mu.Unlock()
		if len(here.sent) != 5 {
			t.Fatalf("sent: %+v", here.sent)
		}
		ask, batch, try := here.sent[2], here.sent[3], here.sent[4]
		switch {
		case !ask.Request || ask.Received != 1 || ask.Bytes != 5 || ask.Took < time.Second || ask.Err != nil:
			t.Errorf("Request: %+v", ask)
		case batch.Messages != 2 || batch.Received != 2 || batch.Bytes != 3 || batch.Request || batch.Err != nil:
			t.Errorf("SendBatch: %+v", batch)
		case try.ID != "nobody" || try.Received != 0 || !errors.Is(try.Err, gone.ErrNotDelivered):
			t.Errorf("TrySendData: %+v", try)
		}
		if len(there.received) != 6 || there.received[0].From != sender.Addr() || there.received[5].From != holder.Addr() {
			t.Fatalf("received: %+v", there.received)
		}
		if first, second := there.received[0].Queued, there.received[1].Queued; first > time.Second/2 || second < time.Second/2 {
			t.Errorf("in the queue for %v and %v", first, second)
		}
		if n := len(there.extended); n < 2 || there.extended[0].ID != "a" || there.extended[0].Err != nil {
			t.Errorf("extended: %+v", there.extended)
		}
		if len(there.began) != 1 || len(there.ended) != 1 || there.ended[0].Cause != gone.ErrClosed.Error() ||
			there.ended[0].Token != there.began[0].Token || there.ended[0].Ended.Sub(there.ended[0].Since) < gone.DefaultExpiry {
			t.Errorf("began %+v, ended %+v", there.began, there.ended)
		}
		if n := len(here.links); n != 2 || here.links[0].State != gone.LinkOpen || here.links[1].State != gone.LinkEnded || here.links[0].Addr != holder.Addr() {
			t.Errorf("links: %+v", here.links)
		}
		s := sender.Stats()
		if s.Sent != 5 || s.NotDelivered != 1 || s.Unknown != 0 || s.Received != 0 {
			t.Errorf("the sender's: %+v", s)
		}
		if s := holder.Stats(); s.Received != 6 || s.ReceivedBytes != 4+4+5+3+4 || s.Lock.Lock.Total == 0 || s.Lock.Extend.Total < 2 || s.Lock.Extend.Failed != 0 {
			t.Errorf("the holder's: %+v", s)
		}
	})
}

func TestAnObserverIsToldOfASilentLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		var here notes
		holder, sender := c.Start(), c.Start(here.option())
		runOne(t, holder, "a", answer)
		must(t, sender.SendData("a", nil))
		c.Cut(holder)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_ = sender.SendDataContext(ctx, "a", nil)
		c.Cut()
		time.Sleep(10 * time.Second)
		here.mu.Lock()
		defer here.mu.Unlock()
		var states []gone.LinkState
		for _, l := range here.links {
			states = append(states, l.State)
		}
		if fmt.Sprint(states) != fmt.Sprint([]gone.LinkState{gone.LinkOpen, gone.LinkSilent, gone.LinkOpen}) {
			t.Error(states)
		}
		if s := sender.Stats(); s.Resent == 0 || s.Links != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// carried is a propagator of one value.
type carried struct{}

type carriedKey struct{}

func (carried) Inject(ctx context.Context, carrier map[string]string) {
	if v, ok := ctx.Value(carriedKey{}).(string); ok {
		carrier["v"] = v
		carrier["baggage"] = strings.Repeat(v, 2500)
	}
}

func (carried) Extract(ctx context.Context, carrier map[string]string) context.Context {
	return context.WithValue(ctx, carriedKey{}, carrier["v"])
}

func TestWhatBelongsToACallReachesTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0, gone.WithPropagator(carried{}))
		holder, sender := c.Start(), c.Start()
		var got []string
		runOne(t, holder, "a", func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				v, _ := m.Context().Value(carriedKey{}).(string)
				got = append(got, string(m.Data)+"="+v)
				if m.WantsReply() && m.Context().Err() != nil {
					t.Error(m.Context().Err())
				}
				_ = m.Reply(nil)
			}
		})
		with := func(v string) context.Context { return context.WithValue(t.Context(), carriedKey{}, v) }
		for _, g := range []*gone.Gone{sender, holder} {
			must(t, g.SendDataContext(with("1"), "a", []byte("send")))
			must(t, g.SendData("a", []byte("plain")))
			_, err := g.Request(with("2"), "a", []byte("ask"))
			must(t, err)
			_, err = g.SendBatch(with("3"), "a", [][]byte{[]byte("b1"), []byte("b2")})
			must(t, err)
			must(t, g.SendDataContext(with(strings.Repeat("x", 5000)), "a", []byte("huge")))
			must(t, g.SendDataContext(with("four"), "a", []byte("large")))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		want := "[send=1 plain= ask=2 b1=3 b2=3 huge= large=four]"
		if fmt.Sprint(got[:7]) != want || fmt.Sprint(got[7:]) != want {
			t.Errorf("%v", got)
		}
	})
}

// What is sent to a handler of the same node is counted elsewhere than what is sent to others.
func TestASendToTheSameNodeIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		g := c.Start()
		runOne(t, g, "a", func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				time.Sleep(time.Second)
				if string(m.Data) == "return" {
					return
				}
				_ = m.Reply(nil)
			}
		})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { must(t, g.SendData("a", nil)) })
		}
		all.Wait()
		n, err := g.SendBatch(t.Context(), "a", make([][]byte, 3))
		must(t, err)
		_, err = g.Request(t.Context(), "a", nil)
		must(t, err)
		if _, err := g.Request(t.Context(), "a", []byte("return")); !errors.Is(err, gone.ErrNoReply) {
			t.Error(err)
		}
		if err := g.TrySendData("nobody", nil); !errors.Is(err, gone.ErrNotDelivered) {
			t.Error(err)
		}
		if s := g.Stats(); n != 3 || s.Sent != 7 || s.Unknown != 1 || s.NotDelivered != 1 || s.Received != 8 {
			t.Errorf("%+v", s)
		}
	})
}

func TestEachObserverIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key string
		marks := func(name string, told *[]string) gone.Observer {
			return gone.Observer{
				Sending: func(s gone.Sent) context.Context {
					before, _ := s.Context.Value(key("path")).(string)
					return context.WithValue(s.Context, key("path"), fmt.Sprint(before, name, s.ID, s.Bytes))
				},
				Sent: func(s gone.Sent) { *told = append(*told, s.Context.Value(key("path")).(string)) },
			}
		}
		var n notes
		var first, second []string
		c := gonetest.Cluster(t, 0)
		g := c.Start(gone.WithObserver(marks("1", &first)), n.option(), gone.WithObserver(marks("2", &second)))
		runOne(t, g, "a", answer)
		must(t, g.SendData("a", []byte("x")))
		time.Sleep(time.Second)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if fmt.Sprint(first, second) != "[1a12a1] [1a12a1]" || len(n.sent) != 1 || len(n.received) != 1 || len(n.began) != 1 {
			t.Error(first, second, n.sent, n.received, n.began)
		}
	})
}

func TestANodeTellsOthersOfItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0, gone.WithMaxMessageSize(8<<10))
		a, b := c.Start(), c.Start()
		for i := range 50 {
			runOne(t, a, fmt.Sprintf("id%02d", i), answer)
		}
		short := runOne(t, a, "short", answer)
		time.Sleep(5 * time.Second)
		must(t, b.SendData("id07", []byte("x")))
		must(t, short.Close())
		time.Sleep(time.Second)
		s, err := b.Status(t.Context(), a.Addr())
		must(t, err)
		own, err := a.Status(t.Context(), a.Addr())
		must(t, err)
		if len(s.Tenures) != 50 || s.Tenures[7].ID != "id07" || s.Tenures[7].Received != 1 || s.Tenures[7].Token == 0 {
			t.Errorf("%d tenures, %+v", len(s.Tenures), s.Tenures[min(7, len(s.Tenures)-1)])
		}
		if len(own.Tenures) != 50 || !own.Tenures[7].Since.Equal(s.Tenures[7].Since) {
			t.Errorf("own: %+v", own.Tenures)
		}
		if len(s.Past) != 1 || s.Past[0].ID != "short" || s.Stats.Held != 50 || s.Node.Addr != a.Addr() || len(s.Links) != 1 || s.Links[0].State != gone.LinkOpen {
			t.Errorf("%+v, %+v, %+v", s.Past, s.Node, s.Links)
		}
		if _, err := b.Status(t.Context(), "tcp://nowhere.test:1"); err == nil {
			t.Error("a node that is not there has a status")
		}
	})
}

// Who may speak to a node may ask it; to steer it takes WithControl.
func TestANodeIsSteeredByOthersOnlyWhereItAllowsThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		closed, open, by := c.Start(), c.Start(gone.WithControl()), c.Start()
		runOne(t, closed, "closed", answer)
		runOne(t, open, "open", answer)
		time.Sleep(time.Second)
		for _, id := range []string{"closed", "open"} {
			runOne(t, by, id, answer)
		}
		time.Sleep(5 * time.Second)
		for what, err := range map[string]error{
			"drain": by.DrainNode(t.Context(), closed.Addr()), "resume": by.ResumeNode(t.Context(), closed.Addr()),
			"move": by.Move(t.Context(), "closed", by.Addr()), "move to any": by.Move(t.Context(), "closed", ""),
		} {
			if !errors.Is(err, gone.ErrNoControl) || !strings.Contains(err.Error(), closed.Addr()) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if closed.Stats().Held != 1 {
			t.Error("something was moved")
		}
		must(t, by.Move(t.Context(), "open", by.Addr()))
		time.Sleep(time.Second)
		if h, err := by.Holder(t.Context(), "open"); err != nil || !h.Here {
			t.Errorf("after Move: %+v, %v", h, err)
		}
		must(t, by.Move(t.Context(), "open", ""))
		time.Sleep(time.Second)
		if open.Stats().Held != 1 {
			t.Error("after Move to any node it is not at the other")
		}
		must(t, by.DrainNode(t.Context(), open.Addr()))
		if nodes, err := by.Nodes(t.Context()); err != nil || open.Stats().Held != 0 {
			t.Errorf("after Drain: %+v, %v", nodes, err)
		}
		must(t, by.ResumeNode(t.Context(), open.Addr()))
		must(t, by.DrainNode(t.Context(), by.Addr())) // its own needs no leave
		time.Sleep(5 * time.Second)
		if open.Stats().Held != 1 {
			t.Error("after Resume it takes nothing")
		}
	})
}

// Who is told that it is unknown must not believe that nothing was done, and who is told
// nothing of that may try again.
func TestWhoAsksANodeKnowsWhetherItMayHaveBeenAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0, gone.WithControl())
		a, by := c.Start(), c.Start()
		stays := make(chan struct{})
		defer close(stays)
		runOne(t, a, "stays", func(*gone.GoneRunner) { <-stays })
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := by.DrainNode(ctx, a.Addr())
		if !errors.Is(err, gone.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the node goes on draining: %v", err)
		}
		must(t, by.ResumeNode(t.Context(), a.Addr()))
		c.Cut(a)
		time.Sleep(3 * time.Second)
		if err = by.ResumeNode(t.Context(), a.Addr()); !errors.Is(err, gone.ErrUnreachable) {
			t.Errorf("a node that is cut off: %v", err)
		}
		c.Cut()
	})
}

func TestWatchYieldsEachHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 3)
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		var over sync.WaitGroup
		over.Go(func() {
			for h, err := range c.Node(2).Watch(ctx, "a") {
				switch {
				case errors.Is(err, gone.ErrNoHolder):
					seen = append(seen, "nobody")
				case err != nil:
					seen = append(seen, "trouble")
				default:
					seen = append(seen, h.Addr)
				}
			}
		})
		time.Sleep(time.Second)
		first := runOne(t, c.Node(0), "a", answer)
		time.Sleep(time.Second)
		second := runOne(t, c.Node(1), "a", answer)
		time.Sleep(time.Minute)
		must(t, first.Close())
		time.Sleep(5 * time.Second)
		must(t, second.Close())
		time.Sleep(5 * time.Second)
		c.Locks.Intercept(func(c gonetest.Call, serve func() error) error { return errors.New("down") })
		time.Sleep(time.Minute)
		c.Locks.Intercept(nil)
		time.Sleep(5 * time.Second)
		cancel()
		over.Wait()
		want := fmt.Sprint([]string{"nobody", c.Node(0).Addr(), c.Node(1).Addr(), "nobody", "trouble", "nobody"})
		if fmt.Sprint(seen) != want {
			t.Errorf("%v, want %v", seen, want)
		}
		must(t, c.Node(2).Close())
		for _, err := range c.Node(2).Watch(t.Context(), "a") {
			if !errors.Is(err, gone.ErrClosed) {
				t.Error(err)
			}
		}
	})
}

func TestATriedSendWithATraceReachesAHandlerThatReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ob := gone.Observer{Sending: func(s gone.Sent) context.Context {
			return context.WithValue(s.Context, carriedKey{}, "span")
		}}
		c := gonetest.Cluster(t, 0, gone.WithPropagator(carried{}), gone.WithObserver(ob))
		here, there := c.Start(), c.Start()
		got := ""
		runOne(t, here, "a", func(r *gone.GoneRunner) {
			for {
				select {
				case m := <-r.Inbox:
					v, _ := m.Context().Value(carriedKey{}).(string)
					got += string(m.Data) + v + " "
				case <-r.Exit:
					return
				}
			}
		})
		time.Sleep(time.Second)
		for _, g := range []*gone.Gone{here, there} {
			synctest.Wait()
			if err := g.TrySendData("a", []byte("try ")); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got != "try span try span " {
			t.Errorf("%q", got)
		}
	})
}

func TestStatsCountNoQuestionsOfNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		a, b := c.Start(), c.Start()
		runOne(t, a, "a", answer)
		time.Sleep(time.Second)
		for range 3 {
			_, err := b.Status(t.Context(), a.Addr())
			must(t, err)
		}
		if n := a.Stats().Received; n != 0 {
			t.Error(n)
		}
		must(t, a.Close())
		if n := a.Stats().Received; n != 0 {
			t.Errorf("after Close: %d", n)
		}
	})
}

func TestReceivedNeverGoesBack(t *testing.T) {
	c := gonetest.Cluster(t, 0)
	a, b := c.Start(), c.Start()
	runOne(t, a, "a", answer)
	must(t, b.SendData("a", nil))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var over sync.WaitGroup
	for range 4 {
		over.Go(func() {
			for ctx.Err() == nil {
				_, _ = b.Status(ctx, a.Addr())
			}
		})
	}
	last := uint64(0)
	for ctx.Err() == nil {
		n := a.Stats().Received
		if n < last || n > 1 {
			t.Fatalf("%d after %d", n, last)
		}
		last = n
	}
	over.Wait()
}

func TestALoopOverWatchMayCloseItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		g := c.Start()
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := range g.Watch(t.Context(), "a") {
				if errors.Is(err, gone.ErrClosed) {
					return
				}
				must(t, g.Close())
			}
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatal("Close hangs")
		}
		if d := time.Since(began); d > time.Second/2 {
			t.Error(d)
		}
	})
}

func TestTenuresShowAHandlerThatWasClosedAndHasNotReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		g := c.Start()
		hold := make(chan struct{})
		r := runOne(t, g, "a", func(r *gone.GoneRunner) { <-hold })
		time.Sleep(time.Second)
		must(t, r.Close())
		runOne(t, g, "a", answer)
		time.Sleep(time.Second)
		if ts := g.Tenures(); len(ts) != 1 || !ts[0].Stopping || g.Stats().Held != 1 {
			t.Errorf("%+v", ts)
		}
		close(hold)
		time.Sleep(time.Second)
	})
}

func TestARequestToOneselfIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		g := c.Start()
		runOne(t, g, "a", func(r *gone.GoneRunner) {
			_, err := g.Request(r.Context(), "a", nil)
			_, other := r.Request(t.Context(), nil)
			if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(other, gone.ErrNotDelivered) {
				t.Error(err, other)
			}
			<-r.Exit
		})
		time.Sleep(time.Second)
		if s := g.Stats(); s.NotDelivered != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestANodeThatRunsNothingHasAStatusToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		a, b := c.Start(), c.Start()
		s, err := b.Status(t.Context(), a.Addr())
		if err != nil || s.Node.Addr != a.Addr() {
			t.Errorf("%+v, %v", s, err)
		}
		c.Locks.Intercept(func(c gonetest.Call, serve func() error) error { return errors.New("down") })
		s, err = b.Status(t.Context(), a.Addr())
		if err != nil || s.Node.Addr != a.Addr() {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestAStatusHasEachTenureOnceWhileOthersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		a, b := c.Start(), c.Start()
		for i := range 600 {
			runOne(t, a, fmt.Sprintf("m%03d", i), answer)
		}
		time.Sleep(5 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var over sync.WaitGroup
		over.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				r := runOne(t, a, fmt.Sprintf("a%d", i), answer)
				time.Sleep(time.Millisecond)
				_ = r.Close()
			}
		})
		for range 20 {
			s, err := b.Status(t.Context(), a.Addr())
			must(t, err)
			seen := map[string]int{}
			for _, t := range s.Tenures {
				seen[t.ID]++
			}
			for i := range 600 {
				if n := seen[fmt.Sprintf("m%03d", i)]; n != 1 {
					t.Errorf("m%03d %d times of %d", i, n, len(s.Tenures))
				}
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		over.Wait()
		s, err := b.Status(t.Context(), a.Addr())
		must(t, err)
		own, err := a.Status(t.Context(), a.Addr())
		must(t, err)
		if len(own.Past) == 0 || fmt.Sprint(own.Past[0].ID, len(own.Past)) != fmt.Sprint(s.Past[0].ID, len(s.Past)) {
			t.Errorf("%d and %d past tenures", len(own.Past), len(s.Past))
		}
	})
}

func TestAStatusOfManyIDsIsWholeWhateverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0, gone.WithMaxMessageSize(1))
		a, b := c.Start(), c.Start()
		want := map[string]bool{}
		for i := range 300 {
			id := fmt.Sprintf("%03d", i) + strings.Repeat("\x01\xff", 120)
			want[id] = true
			runOne(t, a, id, answer)
		}
		time.Sleep(5 * time.Second)
		s, err := b.Status(t.Context(), a.Addr())
		must(t, err)
		for _, ten := range s.Tenures {
			if !want[ten.ID] {
				t.Errorf("%q", ten.ID)
				break
			}
			delete(want, ten.ID)
		}
		if len(want) > 0 {
			t.Errorf("%d missing", len(want))
		}
	})
}

func TestAnObserverMayAskForStatsAndTenures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g atomic.Pointer[gone.Gone]
		var asked atomic.Int64
		ask := func() {
			if g := g.Load(); g != nil {
				_, _ = g.Stats(), g.Tenures()
				asked.Add(1)
			}
		}
		ob := gone.Observer{
			Sending: func(s gone.Sent) context.Context { ask(); return s.Context },
			Sent:    func(gone.Sent) { ask() }, Received: func(gone.Received) { ask() },
			Extended: func(gone.Extended) { ask() }, Began: func(gone.Tenure) { ask() },
			Ended: func(gone.PastTenure) { ask() }, Link: func(gone.LinkChange) { ask() },
		}
		c := gonetest.Cluster(t, 0)
		g.Store(c.Start(gone.WithObserver(ob)))
		other := c.Start()
		runOne(t, g.Load(), "a", answer)
		must(t, other.SendData("a", nil))
		must(t, g.Load().SendData("a", nil))
		time.Sleep(gone.DefaultExpiry)
		must(t, g.Load().Close())
		if asked.Load() < 9 {
			t.Error(asked.Load())
		}
	})
}

func TestAnObserverThatIsSlowHoldsUpItsHandlerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		holder := c.Start(gone.WithObserver(gone.Observer{Received: func(r gone.Received) {
			if r.ID == "a" {
				time.Sleep(5 * time.Second)
			}
		}}))
		s1, s2 := c.Start(), c.Start()
		runOne(t, holder, "a", func(r *gone.GoneRunner) {
			<-r.Data
			<-r.Exit
		})
		runOne(t, holder, "b", answer)
		time.Sleep(time.Second)
		must(t, s2.SendData("b", nil))
		must(t, s1.SendData("a", nil))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := s1.SendDataContext(ctx, "a", nil); !errors.Is(err, gone.ErrNotDelivered) {
			t.Errorf("what the handler never took: %v", err)
		}
		began := time.Now()
		must(t, s2.SendData("b", nil))
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("another handler is sent to within %v", took)
		}
	})
}

func TestAHandlerIsNotFarAheadOfItsObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1024 + 2 // untold, and the one that is being told of
		for _, messages := range []bool{true, false} {
			var told, got atomic.Int64
			c := gonetest.Cluster(t, 0)
			holder := c.Start(gone.WithObserver(gone.Observer{Received: func(gone.Received) {
				time.Sleep(time.Millisecond)
				told.Add(1)
			}}))
			sender := c.Start()
			runOne(t, holder, "a", func(r *gone.GoneRunner) {
				take := func() {
					if ahead := got.Add(1) - told.Load(); ahead > 2*most {
						t.Errorf("%d ahead", ahead)
					}
				}
				if messages {
					for range r.Messages() {
						take()
					}
					return
				}
				for {
					select {
					case <-r.Data:
						take()
					case <-r.Exit:
						return
					}
				}
			})
			time.Sleep(time.Second)
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() {
					for range 50 {
						must(t, sender.SendData("a", nil))
					}
				})
			}
			all.Wait()
			time.Sleep(10 * time.Second)
			if told.Load() != 5000 || got.Load() != 5000 {
				t.Errorf("messages %v: received %d, told of %d", messages, got.Load(), told.Load())
			}
		}
	})
}

func TestAnObserverOfLinksMayChangeTheKeys(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	pair := newKeypair(t)
	var g *gone.Gone
	ready, done := make(chan struct{}), make(chan error, 8)
	g = startNode(t, redis.locks(0), pair.option(), gone.WithObserver(gone.Observer{Link: func(gone.LinkChange) {
		<-ready
		done <- g.AllowKeys(pair.public)
	}}))
	close(ready)
	holder := startNode(t, redis.locks(0), pair.option())
	hold(t, holder, "a", drain)
	must(t, g.SendDataContext(deadline(t, 20*time.Second), "a", nil))
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("AllowKeys does not return")
	}
}
