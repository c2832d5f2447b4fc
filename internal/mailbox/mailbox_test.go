package mailbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// An answer is what an origin was told about one number.
type answer struct {
	s     wire.Status
	count uint64 // of a batch
}

// An origin is a sender on another node. It fails when a number gets two answers.
type origin struct {
	t    *testing.T
	name string
	mu   sync.Mutex
	told map[uint64]answer
	all  int // answers, each for some adjoining numbers

	taken   map[uint64]bool
	replies map[uint64]string // and whether they are failures
}

func newOrigin(t *testing.T, name string) *origin {
	return &origin{t: t, name: name, told: map[uint64]answer{}, taken: map[uint64]bool{}}
}

func (o *origin) Answer(number, count uint64, s wire.Status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all++
	if strings.HasPrefix(o.name, "batch") {
		o.noteLocked(number, answer{s, count})
		return
	}
	for n := number; n < number+count; n++ {
		if s == wire.Taken {
			o.taken[n] = true
			continue
		}
		o.noteLocked(n, answer{s, 1})
	}
}

func (o *origin) noteLocked(number uint64, a answer) {
	if before, twice := o.told[number]; twice {
		o.t.Errorf("%s: %d was %v, now %v", o.name, number, before, a)
	}
	o.told[number] = a
}

func (o *origin) note(number uint64, s wire.Status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noteLocked(number, answer{s, 0})
}

func (o *origin) get(number uint64) wire.Status {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told[number].s
}

func (o *origin) Flush() {}

func (o *origin) From() string { return o.name }

func (o *origin) Reply(number uint64, payload []byte, failed bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.noteLocked(number, answer{wire.Received, 1})
	if o.replies == nil {
		o.replies = map[uint64]string{}
	}
	o.replies[number] = fmt.Sprintf("%s %v", payload, failed)
	return nil
}

// A handler has a box in a room of its own.
type handler struct {
	*Box
	t     *testing.T
	exit  context.CancelFunc
	lose  context.CancelFunc
	lease time.Time
	inbox *Inbox[Delivery]
}

// wholes is an inbox for deliveries as they are.
func wholes() *Inbox[Delivery] {
	return NewInbox(func(_, d Delivery) Delivery { return d })
}

const largest = 100 // reply

// inBox runs a test with a box whose handler is the test.
func inBox(t *testing.T, test func(h *handler, o *origin)) {
	synctest.Test(t, func(t *testing.T) {
		var r *Room
		tick := pulse.New(func(now time.Time) time.Time { return r.Tick(now) })
		r = NewRoom(tick, largest)
		ctx, exit := context.WithCancel(context.Background())
		held, lose := context.WithCancel(context.Background())
		defer lose()
		h := &handler{t: t, exit: exit, lose: lose, lease: time.Now().Add(24 * time.Hour), inbox: wholes()}
		h.Box = r.Begin(ctx, held, "a", 7, func() time.Duration {
			if ctx.Err() != nil {
				return 0
			}
			return time.Until(h.lease)
		}, h.inbox)
		test(h, newOrigin(t, "o"))
		h.end()
		tick.Stop()
		r.Close()
	})
}

func (h *handler) end() {
	h.exit()
	h.Shut()
}

// arrive is a message from another node.
func (h *handler) arrive(o *origin, number uint64, payload string, budget time.Duration) wire.Status {
	m := h.room.Message()
	m.Payload, m.Origin, m.Number, m.Expires = []byte(payload), o, number, time.Now().Add(budget)
	return h.arrived(m, false)
}

func (h *handler) arrived(m *Message, try bool) wire.Status {
	s := h.Arrive(m, try, true)
	if s != 0 {
		h.room.Free(m)
	}
	return s
}

// batch is n messages from another node, "<number>.0" and so on.
func (h *handler) batch(o *origin, chain *Chain, number uint64, n int, budget time.Duration) wire.Status {
	var msgs [][]byte
	for i := range n {
		msgs = append(msgs, fmt.Appendf(nil, "%s %d.%d", o.name, number, i))
	}
	var w wire.Writer
	w.Reset(nil)
	w.Batch(1, number, 1, msgs)
	_, body, err := wire.ParseFrame(header(w.Bytes()))
	if err != nil {
		h.t.Fatal(err)
	}
	r := wire.NewReader(body)
	it, _ := r.Next()
	m := h.room.Message()
	m.Payload, m.Batch, m.Chain, m.Origin, m.Number, m.Expires = it.Payload, n, chain, o, number, time.Now().Add(budget)
	return h.arrived(m, false)
}

func header(frame []byte) []byte {
	wire.PutHeader(frame, wire.Header{Kind: wire.Items, Number: 1})
	return frame
}

func (h *handler) try(o *origin, number uint64) wire.Status {
	m := h.room.Message()
	m.Origin, m.Number, m.Expires = o, number, time.Now().Add(time.Second)
	return h.arrived(m, true)
}

func (h *handler) send(payload string, d time.Duration, try bool) wire.Status {
	if h.Hand([]byte(payload), nil) {
		return wire.Received
	}
	return h.Send(context.Background(), Call{Data: []byte(payload), Deadline: time.Now().Add(d), Try: try}).Status
}

// next is what the handler receives, "" when there is nothing.
func (h *handler) next() string {
	time.Sleep(callAfter)
	synctest.Wait()
	select {
	case data := <-h.Data:
		synctest.Wait()
		return string(data)
	default:
		return ""
	}
}

func TestMessagesAreReceivedInTheOrderInWhichTheyCame(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		b := newOrigin(t, "batch")
		h.arrive(o, 1, "0", time.Hour)
		go h.send("1", time.Hour, false)
		synctest.Wait()
		h.batch(b, nil, 1, 2, time.Hour)
		h.arrive(o, 2, "4", time.Hour)
		want := []string{"0", "1", "batch 1.0", "batch 1.1", "4", ""}
		for _, w := range want {
			if got := h.next(); got != w {
				t.Errorf("received %q, want %q", got, w)
			}
		}
		time.Sleep(time.Millisecond)
		if o.get(1) != wire.Received || o.get(2) != wire.Received || b.get(1) != wire.Received || b.told[1].count != 2 {
			t.Errorf("told %v, %v", o.told, b.told)
		}
	})
}

// A message counts as received when the handler takes it, not before.
func TestNothingIsAnsweredBeforeTheHandlerHasTakenIt(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		b := newOrigin(t, "batch")
		if s := h.arrive(o, 1, "x", time.Hour); s != 0 {
			t.Errorf("answered %d", s)
		}
		h.batch(b, nil, 1, 2, time.Hour)
		time.Sleep(time.Second)
		if o.get(1) != 0 {
			t.Errorf("told %v", o.told)
		}
		h.next()
		h.next() // of the batch, of which one is left
		time.Sleep(time.Second)
		if o.get(1) != wire.Received || b.get(1) != 0 {
			t.Errorf("told %v, %v", o.told, b.told)
		}
	})
}

func TestABoxIsBoundedByCountAndByBytes(t *testing.T) {
	for name, c := range map[string]struct{ size, most int }{
		"count":        {0, mostMessages},
		"bytes":        {1 << 20, mostBytes >> 20},
		"one too many": {mostBytes + 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBox(t, func(h *handler, o *origin) {
				payload := string(make([]byte, c.size))
				for number := range uint64(c.most) {
					if s := h.arrive(o, number+1, payload, time.Hour); s != 0 {
						t.Fatalf("%d: %d", number+1, s)
					}
				}
				last := uint64(c.most) + 1
				full := func() bool {
					m := h.room.Message()
					m.Payload, m.Origin, m.Number, m.Expires = []byte(payload), o, last, time.Now().Add(time.Second)
					s := h.arrived(m, false)
					if s == 0 {
						last++
					}
					return s == wire.Busy
				}
				if !full() {
					t.Error("one more is taken")
				}
				// Room is made by what is received, …
				h.next()
				if full() {
					t.Error("no room after one was received")
				}
				// … withdrawn, …
				h.Cancel(o, last-1)
				if full() {
					t.Error("no room after one was withdrawn")
				}
				// … or has expired.
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if full() {
					t.Error("no room after one has expired")
				}
				// Senders on this node wait with their own data.
				if s := h.send(payload, time.Second, false); s != wire.Expired {
					t.Errorf("a sender here: %d", s)
				}
				h.end()
				if n, bytes := h.Waiting(); n != 0 || bytes != 0 {
					t.Errorf("%d messages and %d bytes are left", n, bytes)
				}
				if uint64(len(o.told)) != last-1 {
					t.Errorf("%d of %d are answered", len(o.told), last-1)
				}
			})
		})
	}
}

func TestWhatWaitsTooLongIsRefused(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		b := newOrigin(t, "batch")
		h.arrive(o, 1, "x", time.Second) // on offer
		h.arrive(o, 2, "y", 3*time.Second)
		h.arrive(o, 3, "z", time.Second)
		h.batch(b, nil, 1, 3, 2*time.Second)
		time.Sleep(time.Second + reportAfter)
		if o.get(1) != wire.Expired || o.get(2) != 0 || o.get(3) != wire.Expired {
			t.Errorf("told %v", o.told)
		}
		if got := h.next(); got != "y" {
			t.Errorf("received %q", got)
		}
		h.next()
		time.Sleep(time.Second)
		if b.get(1) != wire.Expired || b.told[1].count != 1 {
			t.Errorf("told %v: one of the batch was received", b.told)
		}
		if got := h.next(); got != "" {
			t.Errorf("received %q", got)
		}
	})
}

func TestWhatIsCancelledIsNotReceived(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		other := newOrigin(t, "other")
		for number := range uint64(3) {
			h.arrive(o, number+1, "x", time.Hour)
			h.arrive(other, number+1, "y", time.Hour)
		}
		synctest.Wait()
		h.Cancel(o, 1) // on offer
		h.Cancel(o, 2)
		h.Cancel(o, 9)
		time.Sleep(reportAfter)
		if o.get(1) != wire.Expired || o.get(2) != wire.Expired || len(o.told) != 2 {
			t.Errorf("told %v", o.told)
		}
		h.Drop(other)
		synctest.Wait()
		if got := h.next(); got != "x" {
			t.Errorf("received %q", got)
		}
		if got := h.next(); got != "" {
			t.Errorf("received %q", got)
		}
	})
}

func TestWhoGivesUpOnThisNodeIsNotReceived(t *testing.T) {
	inBox(t, func(h *handler, _ *origin) {
		var all sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		for range 1000 {
			all.Go(func() {
				if s := h.Send(ctx, Call{Data: []byte("x"), Deadline: time.Now().Add(time.Hour)}).Status; s != wire.Expired {
					t.Errorf("told %d", s)
				}
			})
		}
		var last wire.Status
		all.Go(func() { last = h.send("last", time.Hour, false) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		if got := h.next(); got != "last" {
			t.Errorf("received %q", got)
		}
		all.Wait()
		if last != wire.Received {
			t.Errorf("told %d", last)
		}
	})
}

// A message that must not wait is for a handler that is receiving right now.
func TestAMessageThatMustNotWaitIsReceivedAtOnceOrRefused(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		if s := h.try(o, 1); s != wire.Busy {
			t.Errorf("nobody receives: %d", s)
		}
		if s := h.send("", time.Hour, true); s != wire.Busy {
			t.Errorf("nobody receives: %d", s)
		}
		for _, try := range []func() wire.Status{
			func() wire.Status { return h.try(o, 2) },
			func() wire.Status { return h.send("", time.Hour, true) },
		} {
			go func() { <-h.Data }()
			synctest.Wait()
			if s := try(); s != wire.Received {
				t.Errorf("a handler receives: %d", s)
			}
		}
		// One that takes what waits receives, too.
		go h.Take(1, nil)
		synctest.Wait()
		if s := h.send("", time.Hour, true); s != wire.Received {
			t.Errorf("a handler takes: %d", s)
		}
		go h.Take(1, nil)
		synctest.Wait()
		if s := h.try(o, 3); s != 0 || o.get(3) != wire.Received {
			t.Errorf("a handler takes: %d, %v", s, o.told)
		}
		// Not if another is before it.
		h.arrive(o, 4, "x", time.Hour)
		if s := h.try(o, 5); s != wire.Busy {
			t.Errorf("another is before it: %d", s)
		}
	})
}

// What was handed over a moment ago is reported still, maybe: the handler that
// receives again is not busy.
func TestAHandlerThatReceivesIsNotBusyWithWhatItHas(t *testing.T) {
	for range 100 {
		inBox(t, func(h *handler, o *origin) {
			h.arrive(o, 1, "x", time.Hour)
			synctest.Wait()
			told := make(chan struct{})
			slow := &slowOrigin{told: told}
			m := h.room.Message()
			m.Origin, m.Number, m.Expires = slow, 1, time.Now().Add(time.Hour)
			h.arrived(m, false)
			<-h.Data
			<-h.Data
			go func() { <-h.Data }()
			synctest.Wait() // the pump is telling
			if s := h.try(o, 2); s != wire.Received {
				t.Errorf("told %d", s)
			}
			close(told)
		})
	}
}

// While the pump tells a result, what came meanwhile is not on offer yet.
func TestNoMessageOvertakesAnother(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		told := make(chan struct{})
		m := h.room.Message()
		m.Origin, m.Number, m.Expires = &slowOrigin{told: told}, 1, time.Now().Add(time.Hour)
		h.arrived(m, false)
		<-h.Data
		synctest.Wait()
		h.arrive(o, 1, "first", time.Hour)
		got := make(chan string, 2)
		go func() {
			got <- string(<-h.Data)
			got <- string(<-h.Data)
		}()
		synctest.Wait()
		h.arrive(o, 2, "second", time.Hour)
		close(told)
		if a, b := <-got, <-got; a != "first" || b != "second" {
			t.Errorf("received %q, then %q", a, b)
		}
	})
}

type slowOrigin struct{ told chan struct{} }

func (o *slowOrigin) Answer(uint64, uint64, wire.Status) { <-o.told }
func (o *slowOrigin) Flush()                             {}
func (o *slowOrigin) From() string                       { return "slow" }
func (o *slowOrigin) Reply(uint64, []byte, bool) error   { return nil }

func TestNothingIsReceivedAfterTheLeaseEvenBeforeExit(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.lease = time.Now().Add(time.Second)
		b := newOrigin(t, "batch")
		h.arrive(o, 1, "on offer", time.Hour)
		h.batch(b, nil, 1, 2, time.Hour)
		time.Sleep(2 * time.Second)
		// What is on offer when the lease ends is withdrawn when Exit closes.
		h.exit()
		synctest.Wait()
		if got := h.next(); got != "" {
			t.Errorf("received %q", got)
		}
		got := make(chan []Delivery)
		go func() { got <- h.Take(10, nil) }()
		if taken := <-got; len(taken) > 0 {
			t.Errorf("took %v", taken)
		}
		go func() {
			select {
			case data := <-h.Data:
				t.Errorf("received %q", data)
			case d := <-h.inbox.C:
				t.Errorf("received %q", d.Data)
			case <-time.After(time.Second):
			}
		}()
		synctest.Wait()
		if s := h.arrive(o, 2, "late", time.Hour); s != wire.Ended {
			t.Errorf("what came later: %d", s)
		}
		if s := h.send("late", time.Hour, false); s != wire.Ended {
			t.Errorf("what was sent here: %d", s)
		}
		if s := h.send("late", time.Hour, true); s != wire.Ended {
			t.Errorf("what was sent here: %d", s)
		}
		h.Shut()
		if o.get(1) != wire.Ended || b.get(1) != wire.Ended {
			t.Errorf("what waited: %v, %v", o.told, b.told)
		}
		time.Sleep(time.Second)
	})
}

// The lease's clock may jump while the timers of Exit stand still.
func TestALeaseThatIsOverHandsNothingOverThoughExitIsOpen(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.lease = time.Now()
		go func() {
			select {
			case data := <-h.Data:
				t.Errorf("received %q", data)
			case <-time.After(time.Second):
			}
		}()
		synctest.Wait()
		if s := h.arrive(o, 1, "x", time.Hour); s != wire.Ended {
			t.Errorf("told %d", s)
		}
		if s := h.send("x", time.Hour, false); s != wire.Ended {
			t.Errorf("told %d", s)
		}
		if h.Open() {
			t.Error("it is open")
		}
		time.Sleep(2 * time.Second)
	})
}

func TestWhenShutReturnsAllThatWaitedIsRefusedAndTold(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		var here wire.Status
		var all sync.WaitGroup
		for number := range uint64(100) {
			h.arrive(o, number+1, "x", time.Hour)
		}
		all.Go(func() { here = h.send("y", time.Hour, false) })
		h.next()
		h.end()
		o.mu.Lock()
		n := len(o.told)
		o.mu.Unlock()
		if n != 100 || o.get(1) != wire.Received || o.get(2) != wire.Ended {
			t.Errorf("%d of 100 are told, %v", n, o.told)
		}
		if all.Wait(); here != wire.Ended {
			t.Errorf("a sender here: %d", here)
		}
		if h.room.Box("a") != nil {
			t.Error("the box is there")
		}
	})
}

// Also where nobody has the pump: the handler has taken, and may come again.
func TestWhenShutReturnsAllIsToldThoughTheHandlerTakes(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		h.arrive(o, 1, "x", time.Hour)
		h.Take(1, nil)
		h.arrive(o, 2, "y", time.Hour)
		h.end()
		o.mu.Lock() // at once
		defer o.mu.Unlock()
		if o.told[1].s != wire.Received || o.told[2].s != wire.Ended {
			t.Errorf("told %v", o.told)
		}
	})
}

func TestEachSenderIsToldItsOwnResults(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		other := newOrigin(t, "other")
		h.arrive(o, 1, "x", time.Hour)
		h.arrive(other, 2, "y", time.Hour)
		h.arrive(o, 3, "z", time.Hour)
		h.end()
		if len(o.told) != 2 || len(other.told) != 1 || o.get(3) != wire.Ended || other.get(2) != wire.Ended {
			t.Errorf("one was told %v, the other %v", o.told, other.told)
		}
	})
}

func TestTheEndOfATenureLeavesTheNextOneOnItsNodeAlone(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		next := h.room.Begin(context.Background(), context.Background(), "a", 8, func() time.Duration { return time.Hour }, wholes())
		h.end()
		if h.room.Box("a") != next {
			t.Error("it is gone")
		}
		next.Shut()
	})
}

// A message leaves once, through whichever door.
func TestEachMessageLeavesOnceThroughDataInboxOrTake(t *testing.T) {
	for _, seed := range linktest.Seeds(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		inBox(t, func(h *handler, o *origin) {
			b := newOrigin(t, "batch")
			chain := &Chain{}
			var mu sync.Mutex
			count := map[string]int{}
			take := func(data ...[]byte) {
				mu.Lock()
				defer mu.Unlock()
				for _, d := range data {
					count[string(d)]++
				}
			}
			var doors sync.WaitGroup
			for range 2 {
				doors.Go(func() {
					for h.Box.exit.Err() == nil {
						select {
						case data := <-h.Data:
							take(data)
						case d := <-h.inbox.C:
							take(d.Data)
						case <-h.Box.exit.Done():
						}
						time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
					}
				})
				doors.Go(func() {
					for h.Box.exit.Err() == nil {
						for _, d := range h.Take(1+rand.IntN(10), nil) {
							take(d.Data)
						}
						time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
					}
				})
			}
			local := newOrigin(t, "local")
			var senders sync.WaitGroup
			for number := range uint64(200) {
				number++
				budget := time.Duration(1+r.IntN(20)) * time.Millisecond
				switch r.IntN(4) {
				case 0:
					senders.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), budget)
						defer cancel()
						local.note(number, h.Send(ctx, Call{Data: fmt.Append(nil, "local ", number), Deadline: time.Now().Add(time.Hour), Try: rand.IntN(4) == 0}).Status)
					})
				case 1:
					if s := h.batch(b, chain, number, 1+r.IntN(20), budget); s != 0 {
						b.note(number, s)
					}
				default:
					if s := h.arrive(o, number, fmt.Sprint("o ", number), budget); s != 0 {
						o.note(number, s)
					}
				}
				if r.IntN(10) == 0 {
					h.Cancel(o, number-min(uint64(r.IntN(5)), number-1))
				}
				time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
			}
			if r.IntN(2) == 0 {
				time.Sleep(time.Second)
			}
			h.end()
			doors.Wait()
			senders.Wait()
			for msg, n := range count {
				if n != 1 {
					t.Errorf("seed %d: %q was received %d times", seed, msg, n)
				}
			}
			for _, o := range []*origin{o, local} {
				for number, a := range o.told {
					if n := count[fmt.Sprint(o.name, " ", number)]; (a.s == wire.Received) != (n == 1) {
						t.Errorf("seed %d: %s %d: %d, but received %d times", seed, o.name, number, a.s, n)
					}
				}
			}
			numbers := []uint64{}
			for number := range b.told {
				numbers = append(numbers, number)
			}
			slices.Sort(numbers)
			whole := true
			for _, number := range numbers {
				a, n := b.told[number], 0
				for i := range 20 {
					got := count[fmt.Sprintf("batch %d.%d", number, i)]
					if n += got; got == 1 && n != i+1 {
						t.Errorf("seed %d: batch %d: %d was received without what is before it", seed, number, i)
					}
				}
				if uint64(n) != a.count {
					t.Errorf("seed %d: batch %d: %d were received, told %v", seed, number, n, a)
				}
				if !whole && n > 0 {
					t.Errorf("seed %d: batch %d was received behind one that was not", seed, number)
				}
				whole = whole && a.s == wire.Received
			}
		})
	}
}

func TestAFullBoxEmptiesInOneGo(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		for number := range uint64(mostMessages) {
			h.arrive(o, number+1, "x", time.Hour)
		}
		synctest.Wait()
		var got []Delivery
		for len(got) < mostMessages {
			got = h.Take(mostMessages, got)
		}
		if o.all > 10 {
			t.Errorf("%d answers", o.all)
		}
	})
}

// A frame may carry hundreds of messages; one that waits must not keep it.
func TestWhatTheHandlerGetsIsItsOwn(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		data := []byte("mine")
		go func() { _ = h.Send(context.Background(), Call{Data: data, Deadline: time.Now().Add(time.Hour)}) }()
		synctest.Wait()
		got := <-h.Data
		copy(got, "his ")
		if string(data) != "mine" {
			t.Error("a sender's data was changed by the handler")
		}
		go func() { _ = h.Send(context.Background(), Call{Data: data, Deadline: time.Now().Add(time.Hour)}) }()
		synctest.Wait()
		got = h.Take(1, nil)[0].Data
		copy(got, "his ")
		if string(data) != "mine" || cap(got) > len(got) {
			t.Errorf("a sender's data was changed by the handler, or what is behind it can be: %d of %d", len(got), cap(got))
		}
		frame := []byte("frame")
		m := h.room.Message()
		m.Payload, m.Origin, m.Number, m.Expires = frame[1:3], o, 1, time.Now().Add(time.Hour)
		h.Arrive(m, false, true)
		copy(frame, "xxxxx")
		if got := h.next(); got != "ra" {
			t.Errorf("it shares its frame: %q", got)
		}
	})
}

// What waits for one who comes to Take again and again is not left to him for long.
func TestAHandlerMayGoFromTakeToAnotherDoor(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		for number, door := range []func() string{
			func() string { return string(<-h.Data) },
			func() string { return string((<-h.inbox.C).Data) },
		} {
			h.arrive(o, uint64(2*number), "taken", time.Hour)
			h.Take(1, nil)
			h.arrive(o, uint64(2*number+1), "there", time.Hour)
			go h.send("here", time.Hour, false)
			began := time.Now()
			if got := door() + door(); got != "therehere" || time.Since(began) > callAfter {
				t.Errorf("received %q after %v", got, time.Since(began))
			}
		}
	})
}

// A handler that takes one at a time may keep it for long.
func TestAMessageThatIsKeptKeepsNotItsBatchAlive(t *testing.T) {
	inBox(t, func(h *handler, o *origin) {
		heap := func() int {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		b := newOrigin(t, "batch")
		var kept []Delivery
		before := heap()
		for number := range uint64(100) {
			h.batch(b, nil, number+1, 4000, time.Hour)
			kept = h.Take(1, kept)
			h.Take(4000, nil)
		}
		if more := (heap() - before) >> 20; more > 2 {
			t.Errorf("%d messages keep %d MB alive", len(kept), more)
		}
		runtime.KeepAlive(kept)
	})
}

func TestWhatASlowObserverIsBehindIsBounded(t *testing.T) {
	r := NewRoom(pulse.New(func(time.Time) time.Time { return time.Time{} }), largest)
	told := 0
	r.Observe = func(Taken) {
		time.Sleep(time.Microsecond)
		told++
	}
	exit, end := context.WithCancel(t.Context())
	in := NewInbox(func(_, d Delivery) Delivery { return d })
	b := r.Begin(exit, exit, "a", 1, func() time.Duration { return time.Hour }, in)
	go func() {
		for range b.Data {
		}
	}()
	const n = 2 * mostUntold
	for range n {
		if !b.Hand(nil, nil) {
			b.Send(t.Context(), Call{Deadline: time.Now().Add(time.Hour)})
		}
		b.mu.Lock()
		behind := len(b.taken.untold)
		b.mu.Unlock()
		if behind > mostUntold+1 {
			t.Fatalf("%d untold", behind)
		}
	}
	end()
	b.Shut()
	b.Tell()
	close(b.Data)
	if told != n {
		t.Errorf("told of %d", told)
	}
	r.Close()
}
