package gone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// A ledger compares what senders were told with what handlers received.
type ledger struct {
	in inbox

	mu      sync.Mutex
	results map[string]error // by data, which is different for each send
}

// sent notes the result of a send.
func (l *ledger) sent(data string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.results == nil {
		l.results = map[string]error{}
	}
	l.results[data] = err
}

// send sends and notes.
func (l *ledger) send(ctx context.Context, g *gone.Gone, id, data string) error {
	err := g.SendDataContext(ctx, id, []byte(data))
	l.sent(data, err)
	return err
}

// counts of results.
type counts struct{ received, not, unknown int }

// check fails where a result and what the handlers received differ. All
// handlers must have returned, or be about to take note of what they received.
func (l *ledger) check(t testing.TB) (c counts) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.results {
		if err == nil {
			c.received++
		}
	}
	eventually(t, 5*time.Second, "handlers take note", func() bool {
		noted := 0 // of what was received for certain; others may have been, too
		for _, data := range l.in.all() {
			if err, ok := l.results[data]; ok && err == nil {
				noted++
			}
		}
		return noted >= c.received
	})
	times := map[string]int{}
	for _, data := range l.in.all() {
		times[data]++
		if _, ok := l.results[data]; !ok {
			t.Errorf("%q was received, but nobody sent it", data)
		}
	}
	for data, err := range l.results {
		n := times[data]
		if n > 1 {
			t.Errorf("%q was received %d times", data, n)
		}
		isOnly(t, err)
		switch {
		case err == nil:
			if n == 0 {
				t.Errorf("%q: nil, but nobody received it", data)
			}
		case errors.Is(err, gone.ErrNotDelivered):
			if c.not++; n > 0 {
				t.Errorf("%q: %v, but it was received", data, err)
			}
		case errors.Is(err, gone.ErrOutcomeUnknown):
			c.unknown++
		default:
			t.Errorf("%q: %v is neither", data, err)
		}
	}
	return c
}

// inOrder fails where "<sender> <number>" was received after a higher number.
func inOrder(t testing.TB, got []string) {
	t.Helper()
	last := map[string]int{}
	for _, data := range got {
		i := strings.LastIndexByte(data, ' ')
		var n int
		if _, err := fmt.Sscan(data[i+1:], &n); err != nil {
			t.Fatal(err)
		}
		if n <= last[data[:i]] {
			t.Errorf("%q came after %d", data, last[data[:i]])
		}
		last[data[:i]] = n
	}
}

func TestNilMeansThatTheHandlerReceivedIt(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, standby, stranger := startNode(t, locks), startNode(t, locks), startNode(t, locks)
	var l ledger
	hold(t, holder, "a", l.in.run)
	runOne(t, standby, "a", func(*gone.GoneRunner) { t.Error("two holders") })

	ctx := context.Background()
	var all sync.WaitGroup
	for from, g := range []*gone.Gone{holder, standby, stranger} {
		for i := range 4 {
			all.Go(func() {
				for n := 1; n <= 50; n++ {
					if err := l.send(ctx, g, "a", fmt.Sprint(from, " ", i, " ", n)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	l.check(t)
	inOrder(t, l.in.all())
}

func TestARunnerSendsToItsOwnID(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, standby := startNode(t, locks), startNode(t, locks)
	var in inbox
	r := hold(t, holder, "a", in.run)
	r2 := runOne(t, standby, "a", stuck)
	for _, send := range []func([]byte) error{r.SendData, r2.SendData} {
		if err := send([]byte("x")); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	isOnly(t, r2.SendDataContext(ctx, []byte("y")), gone.ErrNotDelivered, context.Canceled)
	eventually(t, 5*time.Second, "two arrive", func() bool { return len(in.all()) == 2 })
}

func TestASendReturnsWhenTheHandlerReceivesAndNotBefore(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other := startNode(t, locks), startNode(t, locks)
	var ready atomic.Bool
	open := make(chan struct{})
	var in inbox
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		<-open
		in.run(r)
	})
	var all sync.WaitGroup
	for _, g := range []*gone.Gone{holder, other} {
		for range 10 {
			all.Go(func() {
				if err := g.SendData("a", []byte("x")); err != nil {
					t.Error(err)
				}
				if !ready.Load() {
					t.Error("nil although the handler received nothing")
				}
			})
		}
	}
	time.Sleep(300 * time.Millisecond) // long enough for questions to be asked
	ready.Store(true)
	close(open)
	all.Wait()
}

// The senders of the stuck handler fill every buffer there is.
func TestAStuckHandlerSlowsNeitherAnotherIDNorAnotherPeer(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other, sender := startNode(t, locks), startNode(t, locks), startNode(t, locks)
	hold(t, holder, "stuck", stuck)
	var in inbox
	hold(t, holder, "lively", in.run)
	hold(t, other, "elsewhere", in.run)

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	var stuckSenders sync.WaitGroup
	defer stuckSenders.Wait()
	defer cancel()
	var waiting atomic.Int32
	data := make([]byte, 4<<10)
	for i := range 6000 {
		g := sender
		if i%2 == 0 {
			g = holder
		}
		stuckSenders.Go(func() {
			waiting.Add(1)
			isOnly(t, g.SendDataContext(ctx, "stuck", data), context.Canceled)
		})
	}
	eventually(t, 10*time.Second, "all wait", func() bool { return waiting.Load() == 6000 })

	for _, g := range []*gone.Gone{holder, sender} {
		for _, id := range []string{"lively", "elsewhere"} {
			var took []time.Duration
			for range 100 {
				began := time.Now()
				if err := g.SendData(id, data); err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			if d := took[len(took)/2]; d > time.Second {
				t.Errorf("to %s: median %v", id, d)
			}
		}
	}
}

func TestACancelledSendReturnsAtOnceAndIsWithdrawn(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other := startNode(t, locks), startNode(t, locks)
	open := make(chan struct{})
	var l ledger
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		select {
		case <-open:
			l.in.run(r)
		case <-r.Exit:
		}
	})
	dead := startNode(t, locks)
	hold(t, dead, "full", stuck)
	filler, stop := context.WithCancel(context.Background())
	var fillers sync.WaitGroup
	defer fillers.Wait()
	defer stop()
	for range 3 { // more than may be under way
		fillers.Go(func() { _ = other.SendDataContext(filler, "full", make([]byte, gone.DefaultMaxMessageSize)) })
		fillers.Go(func() { _ = other.SendDataContext(filler, "full", make([]byte, gone.DefaultMaxMessageSize)) })
	}

	for name, c := range map[string]struct {
		from *gone.Gone
		id   string
	}{
		"here":            {holder, "a"},
		"elsewhere":       {other, "a"},
		"no holder":       {other, "b"},
		"too much waits":  {other, "full"},
		"before the send": {other, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			var took []time.Duration
			for i := range 20 {
				ctx, cancel := context.WithCancel(context.Background())
				cancelled := make(chan time.Time, 1)
				if name == "before the send" {
					cancel()
					cancelled <- time.Now()
				} else {
					time.AfterFunc(time.Duration(i)*time.Millisecond, func() {
						cancelled <- time.Now()
						cancel()
					})
				}
				err := l.send(ctx, c.from, c.id, fmt.Sprint(name, " ", i))
				took = append(took, time.Since(<-cancelled))
				isOnly(t, err, gone.ErrNotDelivered, context.Canceled)
			}
			// A busy machine may delay a few.
			slices.Sort(took)
			if d := took[len(took)/2]; d > 200*time.Millisecond {
				t.Errorf("median %v after the cancel", d)
			}
			if d := took[len(took)-1]; d > atOnce {
				t.Errorf("the longest took %v after the cancel", d)
			}
		})
	}
	close(open)
	if err := l.send(context.Background(), other, "a", "last"); err != nil {
		t.Error(err)
	}
	if c := l.check(t); c.received != 1 {
		t.Errorf("received: %q", l.in.all())
	}
}

func TestTheDeadlineOfASendToAStuckHandlerIsNotDeliveredBusy(t *testing.T) {
	locks := startRedis(t).locks(0)
	const byDefault = 3 * time.Second // long enough to learn that the handler is busy
	holder, other := startNode(t, locks, gone.WithSendTimeout(byDefault)), startNode(t, locks, gone.WithSendTimeout(byDefault))
	open := make(chan struct{})
	var l ledger
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		select {
		case <-open:
			l.in.run(r)
		case <-r.Exit:
		}
	})
	// On a busy machine a node may not be told in time.
	var untold atomic.Int32
	busy := func(err error, want ...error) {
		if errors.Is(err, gone.ErrOutcomeUnknown) && errors.Is(err, gone.ErrUnreachable) {
			untold.Add(1)
			return
		}
		isOnly(t, err, append(want, gone.ErrNotDelivered, gone.ErrBusy)...)
	}
	var all sync.WaitGroup
	for from, g := range []*gone.Gone{holder, other} {
		for i := range 100 {
			all.Go(func() {
				began := time.Now()
				data := fmt.Sprint(from, " ", i)
				timeout := byDefault
				if i%2 == 0 {
					timeout = time.Duration(2000+5*i) * time.Millisecond
					ctx, cancel := context.WithTimeout(context.Background(), timeout)
					defer cancel()
					busy(l.send(ctx, g, "a", data), context.DeadlineExceeded)
				} else {
					err := g.SendData("a", []byte(data))
					l.sent(data, err)
					busy(err)
				}
				if d := time.Since(began); d < timeout*8/10 || d > timeout+atOnce {
					t.Errorf("a send with %v took %v", timeout, d)
				}
			})
		}
	}
	all.Wait()
	if n := untold.Load(); n > 20 {
		t.Errorf("%d of 200 were not told", n)
	}
	close(open)
	if err := l.send(context.Background(), other, "a", "last"); err != nil {
		t.Error(err)
	}
	if c := l.check(t); c.received != 1 {
		t.Errorf("received: %q", l.in.all())
	}
}

func TestWithoutAHolderASendWaitsForOne(t *testing.T) {
	locks := startRedis(t).locks(0)
	here, other := startNode(t, locks), startNode(t, locks)
	for _, id := range []string{"a", "b", "c"} {
		var l ledger
		var all sync.WaitGroup
		var started sync.WaitGroup
		for from, g := range []*gone.Gone{here, other} {
			for i := range 10 {
				started.Add(1)
				all.Go(func() {
					started.Done()
					if err := l.send(context.Background(), g, id, fmt.Sprint(from, " ", i)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		started.Wait()
		time.Sleep(50 * time.Millisecond)
		hold(t, here, id, l.in.run)
		began := time.Now()
		all.Wait()
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("%v after the tenure began", d)
		}
		l.check(t)
	}
}

func TestWithoutAHolderTheDeadlineIsNotDeliveredNoHolder(t *testing.T) {
	t.Parallel()
	g := startNode(t, startRedis(t).locks(0), gone.WithSendTimeout(2*time.Second))
	began := time.Now()
	isOnly(t, g.SendData("a", nil), gone.ErrNotDelivered, gone.ErrNoHolder)
	if d := time.Since(began); d < 2*time.Second || d > atOnce {
		t.Errorf("it took %v", d)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	isOnly(t, g.SendDataContext(ctx, "a", nil), gone.ErrNotDelivered, gone.ErrNoHolder, context.DeadlineExceeded)
}

// hammer sends from several goroutines of each node until stop is closed. Every
// send must succeed.
func hammer(t testing.TB, l *ledger, id string, stop <-chan struct{}, nodes ...*gone.Gone) (wait func()) {
	var all sync.WaitGroup
	for from, g := range nodes {
		for i := range 3 {
			all.Go(func() {
				for n := 1; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := l.send(context.Background(), g, id, fmt.Sprint(from, ".", i, " ", n)); err != nil {
						t.Errorf("in a planned hand-over: %v", err)
					}
				}
			})
		}
	}
	return all.Wait
}

func TestPlannedHandOversLoseNothingAndDoubleNothing(t *testing.T) {
	locks := startRedis(t).locks(0)
	for name, hand := range map[string]func(t *testing.T, l *ledger, senders []*gone.Gone){
		"the handler returns": func(t *testing.T, l *ledger, senders []*gone.Gone) {
			var tenures atomic.Int32
			for _, g := range senders {
				runOne(t, g, t.Name(), func(r *gone.GoneRunner) {
					tenures.Add(1)
					for range 20 {
						select {
						case data := <-r.Data:
							l.in.add(data)
						case <-r.Exit:
							return
						}
					}
				})
			}
			// Each next one takes longer to come, as for a handler that fails.
			eventually(t, 20*time.Second, "8 tenures", func() bool { return tenures.Load() >= 8 })
		},
		"runner.Close": func(t *testing.T, l *ledger, senders []*gone.Gone) {
			for i := range 30 {
				next := hold(t, senders[i%2], t.Name(), l.in.run)
				received := len(l.in.all())
				eventually(t, 5*time.Second, "messages arrive", func() bool { return len(l.in.all()) > received+20 })
				_ = next.Close()
				within(t, 5*time.Second, "end", next.Exit)
			}
			hold(t, senders[0], t.Name(), l.in.run)
		},
		"Close": func(t *testing.T, l *ledger, senders []*gone.Gone) {
			began := make(chan *gone.Gone, 100)
			start := func() {
				g := startNode(t, locks)
				runOne(t, g, t.Name(), func(r *gone.GoneRunner) {
					began <- g
					l.in.run(r)
				})
			}
			start()
			for range 10 {
				holder := within(t, 5*time.Second, "a tenure", began)
				received := len(l.in.all())
				eventually(t, 5*time.Second, "messages arrive", func() bool { return len(l.in.all()) > received+20 })
				start()
				if err := holder.Close(); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			senders := []*gone.Gone{startNode(t, locks), startNode(t, locks)}
			var l ledger
			stop := make(chan struct{})
			wait := hammer(t, &l, t.Name(), stop, senders...)
			hand(t, &l, senders)
			close(stop)
			wait()
			if c := l.check(t); c.not+c.unknown > 0 || c.received < 100 {
				t.Errorf("%+v", c)
			}
			inOrder(t, l.in.all())
		})
	}
}

// A process that was started anew on the address of one that died is named by
// the lock service until the lock expires.
func TestDataForATenureBeforeARestartIsRefused(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	locks := s.locks(0)
	restarted, sender := startNode(t, locks), startNode(t, locks)
	s.do("SET", "a", restarted.Addr()+" 4711 secret", "PX", 60_000)

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	isOnly(t, sender.SendDataContext(ctx, "a", []byte("early")), gone.ErrNotDelivered, gone.ErrNoHolder)

	var l ledger
	began := make(chan struct{})
	runOne(t, restarted, "a", func(r *gone.GoneRunner) {
		close(began)
		l.in.run(r)
	})
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			if err := l.send(context.Background(), sender, "a", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	select {
	case <-began:
		t.Fatal("two holders")
	case <-time.After(100 * time.Millisecond):
	}
	s.do("DEL", "a")
	s.do("PUBLISH", "gone:a", 0)
	within(t, 5*time.Second, "a tenure", began)
	all.Wait()
	l.check(t)
}

func TestDataBelongsToTheCallerWhenSendDataReturns(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other := startNode(t, locks), startNode(t, locks)
	var l ledger
	hold(t, holder, "a", l.in.run)
	var all sync.WaitGroup
	for from, g := range []*gone.Gone{holder, other} {
		for i := range 8 {
			all.Go(func() {
				buf := make([]byte, 0, 4096)
				for n := range 50 {
					buf = fmt.Appendf(buf[:0], "%d %d %d %s", from, i, n, strings.Repeat("x", 1000))
					data := string(buf)
					err := g.SendData("a", buf)
					clear(buf[:cap(buf)])
					l.sent(data, err)
				}
			})
		}
	}
	all.Wait()
	if c := l.check(t); c.received != 800 {
		t.Errorf("%+v", c)
	}
}

func TestTheHandlerOwnsWhatItReceived(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other := startNode(t, locks), startNode(t, locks)
	var wrong atomic.Int32
	kept := make(chan [][]byte, 1)
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		var all [][]byte
		defer func() { kept <- all }()
		for {
			select {
			case data := <-r.Data:
				if len(data) != 100 || !bytes.Equal(data, bytes.Repeat(data[:1], 100)) {
					wrong.Add(1)
				}
				// Neither may reach a neighbour in the same frame.
				all = append(all, data)
				_ = append(data, bytes.Repeat([]byte("!"), 1000)...)
				for i := range data {
					data[i] = '?'
				}
			case <-r.Exit:
				return
			}
		}
	})
	var all sync.WaitGroup
	for _, g := range []*gone.Gone{holder, other} {
		for i := range 100 {
			all.Go(func() {
				for range 20 {
					if err := g.SendData("a", bytes.Repeat([]byte{byte('a' + i%26)}, 100)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	_ = holder.Close()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d messages were changed by the handler of others", n)
	}
	for _, data := range within(t, 5*time.Second, "end", kept) {
		if !bytes.Equal(data, bytes.Repeat([]byte("?"), 100)) {
			t.Errorf("%q was changed under the handler", data)
		}
	}
}

func TestDataOfAnySizeUpToTheLimit(t *testing.T) {
	locks := startRedis(t).locks(0)
	const most = 300_000
	holder, other := startNode(t, locks, gone.WithMaxMessageSize(most)), startNode(t, locks, gone.WithMaxMessageSize(most))
	generous := startNode(t, locks, gone.WithMaxMessageSize(most+1))
	received := make(chan []byte, 1)
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		for {
			select {
			case data := <-r.Data:
				received <- data
			case <-r.Exit:
				return
			}
		}
	})
	for _, g := range []*gone.Gone{holder, other, generous} {
		for _, n := range []int{0, 1, 1000, 64 << 10, most} {
			data := bytes.Repeat([]byte{byte(n)}, n)
			if err := g.SendData("a", data); err != nil {
				t.Errorf("%d bytes: %v", n, err)
			} else if got := <-received; !bytes.Equal(got, data) {
				t.Errorf("%d bytes: got %d others", n, len(got))
			}
		}
		began := time.Now()
		isOnly(t, g.SendData("a", make([]byte, most+1)), gone.ErrNotDelivered, gone.ErrTooLarge)
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
	}
}

func TestMemoryIsBoundedWhateverTheNumberOfBlockedSenders(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, other := startNode(t, locks), startNode(t, locks)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const senders, size = 10_000, 16 << 10 // 160 MB if each were copied
	for name, g := range map[string]*gone.Gone{"here": holder, "elsewhere": other} {
		t.Run(name, func(t *testing.T) {
			open := make(chan struct{})
			var received atomic.Int32
			r := hold(t, holder, name, func(r *gone.GoneRunner) {
				<-open
				for extend := time.Tick(r.TTL() / 3); ; {
					select {
					case <-r.Data:
						received.Add(1)
					case <-extend:
						_ = r.Extend()
					case <-r.Exit:
						return
					}
				}
			})
			defer r.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			data := make([]byte, size)
			before := heap()
			var all, started sync.WaitGroup
			for range senders {
				started.Add(1)
				all.Go(func() {
					started.Done()
					if err := g.SendDataContext(ctx, name, data); err != nil {
						t.Error(err)
					}
				})
			}
			started.Wait()
			var most uint64
			for range 3 {
				time.Sleep(50 * time.Millisecond)
				most = max(most, heap())
			}
			if more := int(most - before); more > 48<<20 {
				t.Errorf("%d blocked senders of one slice hold %d MB", senders, more>>20)
			}
			close(open)
			all.Wait()
			eventually(t, 5*time.Second, "each is received", func() bool { return received.Load() == senders })
		})
	}
}

func TestSendsToThousandsOfIDs(t *testing.T) {
	locks := startRedis(t).locks(0)
	holder, sender := startNode(t, locks), startNode(t, locks)
	const ids = 1000
	var l ledger
	var all sync.WaitGroup
	for i := range ids {
		runOne(t, holder, fmt.Sprint("id", i), l.in.run)
	}
	for i := range ids {
		all.Go(func() {
			if err := l.send(context.Background(), sender, fmt.Sprint("id", i), fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l.check(t)
}

// fourMethods hides every extra of a lock.
type fourMethods struct{ gone.GoneLock }

func TestALockWithTheFourMethodsAloneWorks(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	locks := func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLock(s.addr, id, value)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = l.Close() })
		return fourMethods{l}, nil
	}
	here, other := startNode(t, locks), startNode(t, locks)
	var l ledger
	stop := make(chan struct{})
	wait := hammer(t, &l, "a", stop, here, other)
	for i := range 6 {
		g := []*gone.Gone{here, other}[i%2]
		tokens := make(chan uint64, 1)
		r := hold(t, g, "a", func(r *gone.GoneRunner) {
			tokens <- r.FencingToken()
			l.in.run(r)
		})
		if token := <-tokens; token != 0 {
			t.Errorf("fencing token %d of a lock that has none", token)
		}
		received := len(l.in.all())
		eventually(t, 5*time.Second, "messages arrive", func() bool { return len(l.in.all()) > received+20 })
		_ = r.Close()
		within(t, 5*time.Second, "end", r.Exit)
	}
	hold(t, here, "a", l.in.run)
	close(stop)
	wait()
	if c := l.check(t); c.not+c.unknown > 0 {
		t.Errorf("%+v", c)
	}
	inOrder(t, l.in.all())
}

// A proxy carries the connections to a node, until told otherwise.
type proxy struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	gate sync.RWMutex // locked while it stalls
	open map[net.Conn]bool
	all  sync.WaitGroup
}

// behindProxy starts a node that others reach through a proxy.
func behindProxy(t testing.TB, newLock gone.LockFactory) (*gone.Gone, *proxy) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, open: map[net.Conn]bool{}}
	t.Cleanup(p.close)
	for range 10 {
		// The port that a Gone binds can't be asked for when it advertises another.
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.to = free.Addr().String()
		_ = free.Close()
		g, err := gone.NewGone("tcp://"+l.Addr().String(), newLock, gone.WithBind("tcp://"+p.to))
		if err == nil {
			t.Cleanup(func() { _ = g.Close() })
			p.all.Go(p.accept)
			return g, p
		}
	}
	t.Fatal("no free port")
	return nil, nil
}

func (p *proxy) accept() {
	for {
		from, err := p.l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = from.Close()
			continue
		}
		p.mu.Lock()
		p.open[from], p.open[to] = true, true
		p.mu.Unlock()
		p.all.Go(func() { p.copy(from, to) })
		p.all.Go(func() { p.copy(to, from) })
	}
}

func (p *proxy) copy(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.gate.RLock()
		_, err = to.Write(buf[:n])
		p.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

// reset breaks all connections, with whatever is on its way.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	clear(p.open)
}

func (p *proxy) close() {
	_ = p.l.Close()
	p.reset()
	p.all.Wait()
}

func TestAfterConnectionsBreakOrStallNothingIsLostDoubledOrOutOfOrder(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	holder, toHolder := behindProxy(t, locks)
	sender, toSender := behindProxy(t, locks)
	var l ledger
	hold(t, holder, "a", l.in.run)
	stop := make(chan struct{})
	wait := hammer(t, &l, "a", stop, sender)
	received := 0
	for i := range 10 {
		// Some hundred messages between one trouble and the next.
		eventually(t, 10*time.Second, "messages go on", func() bool { return len(l.in.all()) > received+100 })
		received = len(l.in.all())
		p := []*proxy{toHolder, toSender}[i%2]
		if i == 5 { // for long enough that the holder counts as silent
			p.gate.Lock()
			time.Sleep(1200 * time.Millisecond)
			p.gate.Unlock()
			continue
		}
		p.reset()
	}
	eventually(t, 10*time.Second, "messages go on", func() bool { return len(l.in.all()) > received })
	close(stop)
	wait()
	if c := l.check(t); c.not+c.unknown > 0 {
		t.Errorf("%+v", c)
	}
	inOrder(t, l.in.all())
}

// Nobody can tell whether the handler received what its node does not answer.
func TestTheOutcomeIsUnknownOnlyWhereTheHolderIsSilent(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	holder, toHolder := behindProxy(t, locks)
	sender := startNode(t, locks)
	var l ledger
	open := make(chan struct{})
	hold(t, holder, "a", func(r *gone.GoneRunner) {
		select {
		case <-open:
			l.in.run(r)
		case <-r.Exit:
		}
	})
	send := func(data string, within time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		return l.send(ctx, sender, "a", data)
	}
	isOnly(t, send("1", 4*time.Second), gone.ErrNotDelivered, gone.ErrBusy) // connects, too
	toHolder.gate.Lock()
	began := time.Now()
	isOnly(t, send("2", 2*time.Second), gone.ErrOutcomeUnknown, gone.ErrUnreachable, context.DeadlineExceeded)
	if d := time.Since(began); d > atOnce {
		t.Errorf("it took %v", d)
	}
	toHolder.gate.Unlock()
	close(open)
	if err := send("3", 30*time.Second); err != nil {
		t.Error(err)
	}
	l.check(t)
}
