package gone_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/internal/kit"
	"github.com/Diggs/go-one/internal/link/linktest"
)

// told is the trouble that a node tells of with a text, nil if there is none.
func told(t testing.TB, g *gone.Gone, text string) *gone.Trouble {
	t.Helper()
	s, err := g.Status(t.Context(), g.Addr())
	must(t, err)
	for _, trouble := range s.Troubles {
		if strings.Contains(trouble.What, text) {
			if trouble.Do == "" {
				t.Errorf("%q: and what to do?", trouble.What)
			}
			return &trouble
		}
	}
	return nil
}

func TestAHandlerThatIgnoresExitIsTroubleUntilItReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gonetest.Cluster(t, 1).Node(0)
		lets := make(chan struct{})
		r := runOne(t, g, "stuck", func(*gone.GoneRunner) { <-lets })
		time.Sleep(time.Second)
		if told(t, g, "Exit") != nil {
			t.Error("told of before Exit has closed")
		}
		go r.Close()
		closed := time.Now()
		time.Sleep(time.Second)
		if told(t, g, "Exit") != nil {
			t.Error("told of within its time to return")
		}
		time.Sleep(time.Minute)
		if trouble := told(t, g, `the handler of "stuck" goes on`); trouble == nil || trouble.Since.Sub(closed).Abs() > time.Second || trouble.Minor {
			t.Errorf("%+v", trouble)
		}
		close(lets)
		time.Sleep(time.Minute)
		if told(t, g, "Exit") != nil {
			t.Error("told of after the handler has returned")
		}
	})
}

func TestALinkOverWhichNothingArrivesIsTroubleUntilSomethingDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		holder, sender := c.Node(0), c.Node(1)
		runOne(t, holder, "a", answer)
		must(t, sender.SendData("a", nil))
		c.Cut(holder)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_ = sender.SendDataContext(ctx, "a", nil)
		if told(t, sender, "Nothing arrives from "+holder.Addr()) == nil {
			t.Error("a silent link is no trouble")
		}
		c.Cut()
		time.Sleep(10 * time.Second)
		if trouble := told(t, sender, "Nothing arrives"); trouble != nil {
			t.Errorf("%+v", trouble)
		}
	})
}

func TestARosterThatCantBeWrittenIsTroubleUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 1, gone.WithBalance())
		c.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			if c.Method == "Enter" {
				return errors.New("no permission")
			}
			return serve()
		})
		time.Sleep(time.Minute)
		if told(t, c.Node(0), "list of nodes: no permission.") == nil {
			t.Error("not told")
		}
		c.Locks.Intercept(nil)
		time.Sleep(time.Minute)
		if told(t, c.Node(0), "list of nodes") != nil {
			t.Error("told of after it is over")
		}
	})
}

// In real time: a bubble orders what the race detector is to see.
func TestTroubleMayBeReadWhileItComesAndGoes(t *testing.T) {
	t.Parallel()
	c := gonetest.Cluster(t, 1, gone.WithBalance())
	var calls atomic.Int64
	c.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
		if c.Method == "Enter" && calls.Add(1)%2 == 0 {
			time.Sleep(100 * time.Millisecond) // in which it is read
			return errors.New("no permission")
		}
		return serve()
	})
	seen := map[bool]bool{}
	eventually(t, time.Minute, "both are told", func() bool {
		seen[told(t, c.Node(0), "list of nodes: no permission.") != nil] = true
		return len(seen) == 2 && calls.Load() > 3
	})
}

func TestWhatTheLockServiceLacksIsTroubleWhileItLacksIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var says atomic.Pointer[error]
		lock := checkedLock{check: func(context.Context) error { return *says.Load() }}
		say := func(err error) { says.Store(&err) }
		say(fmt.Errorf("%w: it may evict a lock", gone.ErrDegraded))
		newNode := kit.NewNode.(func(string, kit.Carrier, func() time.Duration, gone.LockFactory, ...gone.Option) (*gone.Gone, error))
		began := time.Now()
		g, err := newNode("tcp://a.test:1", linktest.New().Host("tcp://a.test:1"), func() time.Duration { return time.Since(began) },
			func(string, string) (gone.GoneLock, error) { return lock, nil })
		must(t, err)
		defer g.Close()
		runOne(t, g, "a", answer)
		for range 2 {
			if told(t, g, "it may evict a lock") == nil || told(t, g, "can't be used") != nil {
				t.Error("degraded: not told as it is")
			}
			time.Sleep(time.Minute)
		}
		look := func() {
			told(t, g, "") // a look at the service follows one at the node
			time.Sleep(time.Minute)
		}
		say(errors.New("out of order"))
		look()
		if told(t, g, "can't be used: the lock service: out of order") == nil {
			t.Error("broken: not told as it is")
		}
		say(nil)
		look()
		if told(t, g, "lock service") != nil {
			t.Error("told of after it is over")
		}
	})
}

// What a look has found long ago is not told, nor does it take a second question.
func TestTheLockServiceIsToldOfAsItIsNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 1)
		g := c.Node(0)
		c.Locks.Intercept(func(_ gonetest.Call, serve func() error) error { return errors.New("out of order") })
		if told(t, g, "can't be used: the lock service: out of order") == nil {
			t.Error("the first who asks is not told")
		}
		c.Locks.Intercept(nil)
		time.Sleep(8 * time.Hour)
		if told(t, g, "lock service") != nil {
			t.Error("told of long after it is over")
		}

		c.Locks.Intercept(func(_ gonetest.Call, serve func() error) error {
			time.Sleep(3 * time.Second)
			return errors.New("out of order")
		})
		time.Sleep(time.Hour)
		began := time.Now()
		for range 3 {
			if trouble := told(t, g, "lock service"); trouble == nil || !trouble.Minor || !strings.Contains(trouble.What, "not answered") {
				t.Errorf("while it does not answer: %+v", trouble)
			}
		}
		if d := time.Since(began); d != time.Second {
			t.Errorf("three who ask wait for %v, want a second together", d)
		}
		time.Sleep(3 * time.Second)
		began = time.Now()
		if told(t, g, "can't be used: the lock service: out of order") == nil || time.Since(began) != 0 {
			t.Errorf("what the look has found is not told, or only after %v", time.Since(began))
		}
	})
}

func TestAnAddressThatDoesNotLeadHereIsTrouble(t *testing.T) {
	t.Parallel()
	lost := at(t, refusingAddr(t), "tcp://127.0.0.1:0", nobodyHolds)
	twin := at(t, startNode(t, nobodyHolds).Addr(), "tcp://127.0.0.1:0", nobodyHolds)
	eventually(t, 20*time.Second, "told", func() bool {
		return told(t, lost, "does not reach itself") != nil && told(t, twin, "Another process") != nil
	})
	for _, g := range []*gone.Gone{lost, twin} {
		if told(t, g, "plain") != nil {
			t.Error("on loopback a plain wire is no trouble")
		}
	}
}

func TestAPlainWireBetweenMachinesIsMinorTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if trouble := told(t, gonetest.Cluster(t, 1).Node(0), "The wire is plain"); trouble == nil || !trouble.Minor {
			t.Errorf("%+v", trouble)
		}
	})
}

// All of a node's ids are told, whatever their bytes and however many they are.
func TestAStatusHasEveryIDAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2, gone.WithMaxMessageSize(8<<10))
		a, b := c.Node(0), c.Node(1)
		var ids []string
		for i := range 60 {
			id := fmt.Sprintf("%02d\xff\xfe<b>\u202e%s", i, strings.Repeat("\x01", 150))
			ids = append(ids, id)
			runOne(t, a, id, func(r *gone.GoneRunner) { time.Sleep(5 * time.Second) })
		}
		time.Sleep(time.Second)
		s, err := b.Status(t.Context(), a.Addr())
		must(t, err)
		got := []string{}
		for _, tenure := range s.Tenures {
			got = append(got, tenure.ID)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("%d: %q", len(got), got)
		}
		time.Sleep(10 * time.Second)
		s, err = b.Status(t.Context(), a.Addr())
		must(t, err)
		if len(s.Past) == 0 || !slices.Contains(ids, s.Past[0].ID) {
			t.Errorf("%q", s.Past)
		}
	})
}

func TestAReportHasEveryNodeAndWhatIsWrongAmongThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 3)
		for _, g := range []*gone.Gone{c.Node(0), c.Node(1), c.Node(2)} {
			for i := range 6 {
				runOne(t, g, fmt.Sprint("id", i), answer)
			}
			time.Sleep(time.Second)
		}
		report := func() (gone.Report, string) {
			t.Helper()
			began := time.Now()
			r, err := c.Node(1).Report(t.Context())
			must(t, err)
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("a report took %v", took)
			}
			var all []string
			for _, trouble := range r.Troubles {
				all = append(all, fmt.Sprint(trouble.What, trouble.Nodes))
			}
			return r, strings.Join(all, "\n")
		}
		r, troubles := report()
		plain := fmt.Sprintf("speak to handlers.%v", []string{c.Node(0).Addr(), c.Node(1).Addr(), c.Node(2).Addr()})
		switch s := r.Nodes[2].Status; {
		case len(r.Nodes) != 3 || s == nil || s.Standby != 6 || len(r.Nodes[0].Status.Tenures) != 6:
			t.Errorf("%+v", r.Nodes)
		case !strings.Contains(troubles, "One node holds all 6 ids, and 3 may"), !strings.Contains(troubles, plain):
			t.Error(troubles)
		}
		c.Cut(c.Node(0))
		r, troubles = report()
		if len(r.Nodes) != 3 || r.Nodes[0].Err == "" || !strings.Contains(troubles, "No answer from "+c.Node(0).Addr()) {
			t.Errorf("%+v: %s", r.Nodes, troubles)
		}
		time.Sleep(5 * time.Minute)
		c.Cut()
		time.Sleep(time.Minute)
		for i := range 3 {
			must(t, c.Node(i).Drain(t.Context()))
		}
		if _, troubles = report(); !strings.Contains(troubles, "nobody may hold an id") {
			t.Error(troubles)
		}
		must(t, c.Node(1).Close())
		if _, err := c.Node(1).Report(t.Context()); !errors.Is(err, gone.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestAnIDThatTwoNodesHoldIsTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		runOne(t, c.Node(0), "a", func(r *gone.GoneRunner) { <-r.Exit })
		time.Sleep(time.Second)
		c.Locks.Forget("a") // and the holder does not ask: it never extends
		runOne(t, c.Node(1), "a", func(r *gone.GoneRunner) { <-r.Exit })
		time.Sleep(10 * time.Second)
		r, err := c.Node(1).Report(t.Context())
		must(t, err)
		if len(r.Troubles) == 0 || r.Troubles[0].What != `Two nodes hold "a".` || len(r.Troubles[0].Nodes) != 2 {
			t.Errorf("%+v", r.Troubles)
		}
	})
}

func TestAReportTellsNoSecretAndNoData(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("CONFIG", "SET", "requirepass", "hunter2")
	pair := newKeypair(t)
	g := startNode(t, gone.RedisLocks("unix://:hunter2@"+s.addr.Name), pair.option())
	hold(t, g, "a", func(r *gone.GoneRunner) { <-r.Exit })
	go func() { _ = g.SendData("a", []byte("payload")) }()
	eventually(t, 10*time.Second, "a look at the lock service", func() bool { return g.Stats().Held == 1 })
	r, err := g.Report(t.Context())
	must(t, err)
	text, err := json.Marshal(r)
	must(t, err)
	for _, secret := range []string{"hunter2", "payload", pair.secret, pair.public} {
		if strings.Contains(string(text), secret) {
			t.Errorf("%q is in %s", secret, text)
		}
	}
	if set := r.Nodes[0].Status.Setup; !set.Keys || set.ZeroMQ == "" || set.Lock != "*gone.RedisLock" || set.Go == "" {
		t.Errorf("%+v", set)
	}
}

// A list that can't be read is no proof that there is nobody else.
func TestAReportThatIsNotWholeDoesNotJudgeTheWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		by := c.Start(gone.WithWeight(0))
		runOne(t, c.Node(0), "a", answer)
		time.Sleep(10 * time.Second)
		report := func() gone.Report {
			t.Helper()
			r, err := by.Report(t.Context())
			must(t, err)
			return r
		}
		if r := report(); !r.Whole || len(r.Nodes) != 2 {
			t.Errorf("%+v", r)
		}
		c.Locks.Intercept(func(c gonetest.Call, serve func() error) error {
			if c.Method == "Entered" {
				return errors.New("i/o timeout")
			}
			return serve()
		})
		time.Sleep(6 * time.Minute) // its links have ended
		switch r := report(); {
		case r.Whole || len(r.Nodes) != 1:
			t.Errorf("%+v", r.Nodes)
		case strings.Contains(fmt.Sprint(r.Troubles), "nobody may hold"):
			t.Errorf("%+v", r.Troubles)
		}
		c.Locks.Intercept(nil)
	})
}

// bare is a lock without a roster.
type bare struct{ gone.GoneLock }

func (bare) TTL() time.Duration { return gone.DefaultExpiry }

func TestALookDoesNotBringANodeBackThatHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		newNode := kit.NewNode.(func(string, kit.Carrier, func() time.Duration, gone.LockFactory, ...gone.Option) (*gone.Gone, error))
		began, net := time.Now(), linktest.New()
		f := gonetest.NewLocks().Factory(0)
		start := func(addr string) *gone.Gone {
			g, err := newNode(addr, net.Host(addr), func() time.Duration { return time.Since(began) }, func(id, v string) (gone.GoneLock, error) {
				l, err := f(id, v)
				return bare{l}, err
			})
			must(t, err)
			return g
		}
		a, b := start("tcp://a.test:1"), start("tcp://b.test:1")
		defer a.Close()
		runOne(t, b, "x", answer)
		time.Sleep(2 * time.Second)
		must(t, a.SendData("x", nil))
		r, err := a.Report(t.Context())
		must(t, err)
		if len(r.Nodes) != 2 || r.Nodes[1].Status == nil {
			t.Errorf("%+v", r.Nodes)
		}
		must(t, b.Close())
		for range 5 {
			time.Sleep(time.Second)
			r, err = a.Report(t.Context())
			must(t, err)
		}
		if len(r.Nodes) != 1 || a.Stats().Links != 0 {
			t.Errorf("%+v, %d links", r.Nodes, a.Stats().Links)
		}
	})
}

func TestATenureThatStopsShowsWhatItHasReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 2)
		stays := make(chan struct{})
		r := runOne(t, c.Node(0), "a", func(r *gone.GoneRunner) {
			for range 3 {
				<-r.Data
			}
			<-stays
		})
		for range 3 {
			must(t, c.Node(1).SendData("a", []byte("x")))
		}
		go r.Close()
		time.Sleep(5 * time.Second)
		if ts := c.Node(0).Tenures(); len(ts) != 1 || !ts[0].Stopping || ts[0].Received != 3 {
			t.Errorf("%+v", ts)
		}
		close(stays)
		time.Sleep(5 * time.Second)
	})
}
