package gone

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/boottime"
	"github.com/Diggs/go-one/internal/wire"
)

// A ledgerOfFates notes every answer about every number, as its sender sees it.
type ledgerOfFates struct {
	t *testing.T

	mu    sync.Mutex
	fates map[wire.Return]map[uint64]wire.Status
	overs map[wire.Return][]uint64
}

func newLedgerOfFates(t *testing.T) *ledgerOfFates {
	return &ledgerOfFates{t: t, fates: map[wire.Return]map[uint64]wire.Status{}, overs: map[wire.Return][]uint64{}}
}

func (l *ledgerOfFates) reply(in *inflow, _ uint64, vs []verdict) {
	for _, v := range vs {
		l.note(in.from, v.seq, v.s)
	}
}

func (l *ledgerOfFates) overTo(_ string, to wire.Return, _ uint64, received []uint64) {
	l.mu.Lock()
	l.overs[to] = received
	l.mu.Unlock()
	for _, seq := range received {
		l.note(to, seq, wire.Received)
	}
}

// note takes one answer.
func (l *ledgerOfFates) note(to wire.Return, seq uint64, s wire.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before := l.fates[to][seq]; before != 0 && s != 0 && s != before {
		l.t.Errorf("%d of %v was %d, now %d", seq, to, before, s)
	}
	if s == 0 || s == wire.Pending || s == wire.Missing {
		return
	}
	if l.fates[to] == nil {
		l.fates[to] = map[uint64]wire.Status{}
	}
	l.fates[to][seq] = s
}

// Items come as they like: in any order, again and again, late, forged.
func TestANumberHasOneFateWhateverComes(t *testing.T) {
	var received, refused int
	for seed := range uint64(150) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			exit, end := context.WithCancel(context.Background())
			defer end()
			l := newLedgerOfFates(t)
			left := func() time.Duration {
				if exit.Err() != nil {
					return 0
				}
				return time.Hour
			}
			m := newMailbox(exit, "a", 7, left, l)
			var ts tenures
			ts.begin(m)
			context.AfterFunc(exit, m.shut)

			const numbers = 40
			low := map[wire.Return]uint64{}
			var log [][]byte
			senders := []wire.Return{{To: 1, Flow: 1}, {To: 1, Flow: 2}, {To: 2, Flow: 1}}
			for step := range 600 {
				if step == 400 {
					end()
					synctest.Wait()
					ts.end(m, time.Now())
				}
				synctest.Wait()
				from := senders[r.IntN(len(senders))]
				// A frame may be older than others that have arrived: its low is.
				it := wire.Item{Flow: from.Flow, Token: 7, ID: []byte("a")}
				it.Low = 1 + r.Uint64N(low[from]+1)
				it.Seq = it.Low + r.Uint64N(numbers)
				switch op := r.IntN(20); {
				case op < 8:
					it.Kind = wire.Data
					it.Budget = r.Uint64N(30)
					if it.Seq > 1 && r.IntN(3) == 0 {
						it.After = 1
					}
					it.Payload = fmt.Appendf(nil, "%v %d", from, it.Seq)
				case op < 10:
					it.Kind = wire.Ask
				case op < 12:
					it.Kind = wire.Cancel
				case op < 13: // what has a fate is settled
					for f := l.fates[from]; f[low[from]+1] != 0; low[from]++ {
					}
					it.Kind = wire.Settled
					it.Low = low[from] + 1
				case op < 14: // somebody else's tenure, or id
					it.Kind = []wire.Kind{wire.Data, wire.Ask, wire.Cancel}[r.IntN(3)]
					it.Payload = []byte("forged")
					it.Token = []uint64{0, 6, 8}[r.IntN(3)]
					if s, current := ts.asked(from.To, nil, &it, false); s != wire.Stranger || current != 7 && step < 400 {
						t.Errorf("another tenure's item: %d, %d", s, current)
					}
					continue
				case op < 15: // no honest sender is so far ahead
					it.Kind = []wire.Kind{wire.Data, wire.Ask, wire.Cancel}[r.IntN(3)]
					it.Payload = []byte("forged")
					it.Seq = low[from] + 1 + inflowSpan + r.Uint64N(100) // or much more
					if r.IntN(2) == 0 {
						it.Seq += r.Uint64N(1 << 60)
					}
					if s, _ := ts.asked(from.To, nil, &it, false); s != 0 {
						t.Errorf("a number out of bounds: %d", s)
					}
					continue
				case op < 19:
					select {
					case data := <-m.data:
						log = append(log, data)
					default:
					}
					continue
				default:
					time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
					continue
				}
				s, _ := ts.asked(from.To, []byte("tcp://10.0.0.1:1"), &it, r.IntN(2) == 0)
				synctest.Wait()
				if it.Kind != wire.Settled {
					l.note(from, it.Seq, s)
				}
				if step >= 400 && it.Kind != wire.Settled && it.Seq > low[from] && l.fates[from][it.Seq] == 0 {
					t.Errorf("%d of %v has no fate after the end", it.Seq, from)
				}
			}
			synctest.Wait()

			count := map[string]int{}
			for _, data := range log {
				if count[string(data)]++; count[string(data)] > 1 {
					t.Errorf("%s was received twice", data)
				}
			}
			for from, fates := range l.fates {
				for seq, s := range fates {
					n := count[fmt.Sprintf("%v %d", from, seq)]
					if (s == wire.Received) != (n == 1) {
						t.Errorf("%d of %v: %d, but received %d times", seq, from, s, n)
					}
					if s == wire.Received {
						received++
					} else {
						refused++
					}
				}
				var over []uint64
				for seq, s := range fates {
					if s == wire.Received && seq > low[from] {
						over = append(over, seq)
					}
				}
				slices.Sort(over)
				// What was settled since is of no interest any more.
				told := slices.DeleteFunc(slices.Clone(l.overs[from]), func(seq uint64) bool { return seq <= low[from] })
				if !slices.Equal(told, over) {
					t.Errorf("%v was told %v at the end, want %v", from, told, over)
				}
			}
			if len(log) > 0 && len(l.fates) == 0 {
				t.Error("nothing was answered")
			}
			for _, data := range log {
				if bytes.Contains(data, []byte("forged")) {
					t.Error("the handler received what was forged")
				}
			}
		})
	}
	if received < 1000 || refused < 1000 {
		t.Errorf("%d received, %d refused: too little to tell", received, refused)
	}
}

// inMailbox runs a test with a mailbox whose handler is the test.
func inMailbox(t *testing.T, test func(m *mailbox, l *ledgerOfFates, end func())) {
	synctest.Test(t, func(t *testing.T) {
		exit, cancel := context.WithCancel(context.Background())
		l := newLedgerOfFates(t)
		m := newMailbox(exit, "a", 7, func() time.Duration {
			if exit.Err() != nil {
				return 0
			}
			return time.Hour
		}, l)
		end := func() {
			cancel()
			m.shut()
		}
		test(m, l, end)
		end()
	})
}

func data(seq, budget uint64, n int) *wire.Item {
	return &wire.Item{Kind: wire.Data, Flow: 1, Low: 1, Seq: seq, Budget: budget, Payload: make([]byte, n)}
}

func TestAMailboxIsBoundedByCountAndByBytes(t *testing.T) {
	for name, c := range map[string]struct{ size, most int }{
		"count":        {0, mailboxMessages},
		"bytes":        {1 << 20, mailboxBytes >> 20},
		"one too many": {mailboxBytes + 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inMailbox(t, func(m *mailbox, l *ledgerOfFates, _ func()) {
				for seq := range uint64(c.most) {
					if s := m.arrived(1, nil, data(seq+1, 1000, c.size), false, time.Now()); s != 0 {
						t.Fatalf("%d: %d", seq+1, s)
					}
				}
				last := uint64(c.most) + 1
				from := wire.Return{To: 1, Flow: 1}
				if s := m.arrived(1, nil, data(last, 1000, c.size), false, time.Now()); s != wire.Busy {
					t.Errorf("one more: %d", s)
				}
				// Room is made by what is received, …
				synctest.Wait()
				<-m.data
				synctest.Wait()
				if s := m.arrived(1, nil, data(last+1, 1000, c.size), false, time.Now()); s != 0 {
					t.Errorf("after one was received: %d", s)
				}
				// … withdrawn, …
				l.note(from, last+1, m.cancel(1, nil, data(last+1, 0, 0), time.Now()))
				synctest.Wait()
				if s := l.fates[from][last+1]; s != wire.Expired {
					t.Errorf("withdrawn: %d", s)
				}
				if s := m.arrived(1, nil, data(last+2, 1000, c.size), false, time.Now()); s != 0 {
					t.Errorf("after one was withdrawn: %d", s)
				}
				// … or has expired.
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if m.queue.n != 0 || m.queue.bytes != 0 {
					t.Errorf("%d messages and %d bytes are left", m.queue.n, m.queue.bytes)
				}
				if n := len(l.fates[from]); n != c.most+2 { // all but the busy one
					t.Errorf("%d fates", n)
				}
			})
		})
	}
}

func TestTheNumberOfSendersThatAMailboxRemembersIsBounded(t *testing.T) {
	inMailbox(t, func(m *mailbox, _ *ledgerOfFates, _ func()) {
		for i := range uint64(mailboxFlows) {
			if s := m.arrived(i+1, nil, data(1, 0, 0), false, time.Now()); s != wire.Busy {
				t.Fatalf("sender %d: %d", i, s)
			}
		}
		// One more is not answered: what it has sent could not be remembered.
		if s := m.arrived(mailboxFlows+1, nil, data(1, 1000, 0), false, time.Now()); s != 0 {
			t.Errorf("one too many: %d", s)
		}
		synctest.Wait()
		select {
		case <-m.data:
			t.Error("the handler received what is not remembered")
		default:
		}
		time.Sleep(inflowIdle + time.Second)
		if s := m.arrived(mailboxFlows+1, nil, data(1, 0, 0), false, time.Now()); s != wire.Busy {
			t.Errorf("after the others were silent for long: %d", s)
		}
	})
}

// A number that is far ahead makes all before it be remembered.
func TestTheNumbersThatAMailboxRemembersAreBoundedAndAnHonestSenderGoesOn(t *testing.T) {
	inMailbox(t, func(m *mailbox, _ *ledgerOfFates, _ func()) {
		far := func(from uint64) wire.Status {
			return m.cancel(from, nil, &wire.Item{Flow: 1, Low: 1, Seq: inflowSpan}, time.Now())
		}
		n := uint64(0)
		for ; far(n+10) == wire.Expired; n++ {
			if n > mailboxFlows {
				t.Fatal("no bound")
			}
		}
		if want := uint64(mailboxSpan / inflowSpan); n != want {
			t.Errorf("%d senders, want %d", n, want)
		}
		// An honest one that is new, as far as its share goes, and with numbers
		// that are as high as they come after a long time.
		for seq := uint64(1); seq < 3*inflowSpan; seq++ {
			it := data(seq, 0, 0)
			if seq > inflowShare {
				it.Low = seq - inflowShare + 1
			}
			if s := m.arrived(1, nil, it, false, time.Now()); s != wire.Busy {
				t.Fatalf("number %d: %d", seq, s)
			}
			if s := m.ask(1, nil, it, time.Now()); s != wire.Busy {
				t.Fatalf("number %d, asked for again: %d", seq, s)
			}
		}
		total := 0
		for _, f := range m.flows {
			total += len(f.fates)
		}
		if total != m.span || total > mailboxSpan+mailboxFlows*inflowShare {
			t.Errorf("%d numbers are remembered, %d counted", total, m.span)
		}
		time.Sleep(inflowIdle + time.Second)
		if s := far(2); s != wire.Expired {
			t.Errorf("after the others were silent for long: %d", s)
		}
	})
}

func TestNothingIsReceivedAfterTheLeaseEvenBeforeExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedgerOfFates(t)
		until := time.Now().Add(time.Second)
		m := newMailbox(t.Context(), "a", 7, func() time.Duration { return time.Until(until) }, l)
		if s := m.arrived(1, nil, data(1, 5000, 0), false, time.Now()); s != 0 {
			t.Fatal(s)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		select {
		case <-m.data:
			t.Error("received after the lease")
		default:
		}
		if s := l.fates[wire.Return{To: 1, Flow: 1}][1]; s != wire.NotHere {
			t.Errorf("what waited: %d", s)
		}
		got := make(chan []byte)
		go func() {
			select {
			case data := <-m.data:
				got <- data
			case <-time.After(time.Second):
				close(got)
			}
		}()
		synctest.Wait()
		if s := m.arrived(1, nil, data(2, 5000, 0), false, time.Now()); s != wire.NotHere {
			t.Errorf("what came later: %d", s)
		}
		if s := m.local(context.Background(), nil, time.Now().Add(time.Second), false); s != wire.NotHere {
			t.Errorf("what was sent here: %d", s)
		}
		// Nor by one that has never had anything to do.
		idle := newMailbox(t.Context(), "a", 8, func() time.Duration { return time.Until(until) }, l)
		idle.data = m.data
		if s := idle.arrived(2, nil, data(1, 5000, 0), false, time.Now()); s != wire.NotHere {
			t.Errorf("the first that came later: %d", s)
		}
		if data, ok := <-got; ok {
			t.Errorf("received %q", data)
		}
		m.shut()
	})
}

// A message without a budget is for a handler that is receiving right now.
func TestAMessageThatMustNotWaitIsReceivedAtOnceOrRefused(t *testing.T) {
	inMailbox(t, func(m *mailbox, _ *ledgerOfFates, _ func()) {
		if s := m.arrived(1, nil, data(1, 0, 0), false, time.Now()); s != wire.Busy {
			t.Errorf("nobody receives: %d", s)
		}
		if s := m.local(context.Background(), nil, time.Now().Add(time.Hour), true); s != wire.Busy {
			t.Errorf("nobody receives: %d", s)
		}
		for i, send := range []func() wire.Status{
			func() wire.Status { return m.arrived(1, nil, data(2, 0, 0), false, time.Now()) },
			func() wire.Status { return m.local(context.Background(), nil, time.Now().Add(time.Hour), true) },
		} {
			go func() { <-m.data }()
			synctest.Wait()
			if s := send(); s != wire.Received {
				t.Errorf("%d: a handler receives: %d", i, s)
			}
		}
	})
}

// Ten thousand senders give up at once, those that came first first.
func TestWithdrawalsCostTheSameHoweverManyWait(t *testing.T) {
	inMailbox(t, func(m *mailbox, l *ledgerOfFates, _ func()) {
		const n = mailboxMessages
		for seq := range uint64(n) {
			m.arrived(1, nil, data(seq+1, 1000, 0), false, time.Now())
		}
		began := realtime()
		for seq := range uint64(n) {
			s := m.cancel(1, nil, data(seq+1, 0, 0), time.Now())
			synctest.Wait()
			l.note(wire.Return{To: 1, Flow: 1}, seq+1, s)
		}
		// A look at all that wait for each would take many seconds.
		if d := realtime() - began; d > time.Second {
			t.Errorf("it took %v", d)
		}
		for seq, s := range l.fates[wire.Return{To: 1, Flow: 1}] {
			if s != wire.Expired {
				t.Fatalf("%d: %d", seq, s)
			}
		}
		if len(l.fates[wire.Return{To: 1, Flow: 1}]) != n || m.queue.n != 0 {
			t.Errorf("%d fates, %d wait", len(l.fates[wire.Return{To: 1, Flow: 1}]), m.queue.n)
		}
	})
}

// realtime is not the bubble's.
func realtime() time.Duration { return boottime.Now() }

func TestTheEndOfATenureIsToldUntilItIsConfirmed(t *testing.T) {
	inMailbox(t, func(m *mailbox, l *ledgerOfFates, end func()) {
		go func() { <-m.data }()
		synctest.Wait()
		from := wire.Return{To: 1, Flow: 1}
		m.arrived(1, nil, data(1, 1000, 0), false, time.Now())
		m.arrived(1, nil, data(2, 1000, 0), false, time.Now())
		end()
		if got := l.overs[from]; !slices.Equal(got, []uint64{1}) {
			t.Errorf("told %v", got)
		}
		if s := l.fates[from][2]; s != wire.NotHere {
			t.Errorf("what waited: %d", s)
		}
		if n := m.tell(); n != 1 {
			t.Errorf("%d senders have not confirmed", n)
		}
		m.settled(1, nil, &wire.Item{Flow: 1, Low: 3})
		clear(l.overs)
		if n := m.tell(); n != 0 || len(l.overs) != 0 {
			t.Errorf("%d senders have not confirmed, told %v", n, l.overs)
		}
	})
}

// One that has gone for good can't confirm.
func TestTheEndOfATenureDoesNotWaitForASenderThatWasSilentForLong(t *testing.T) {
	inMailbox(t, func(m *mailbox, l *ledgerOfFates, end func()) {
		m.arrived(1, nil, data(1, 0, 0), false, time.Now())
		time.Sleep(inflowFresh)
		end()
		clear(l.overs)
		if n := m.tell(); n != 0 || len(l.overs) != 1 {
			t.Errorf("%d to wait for, %d told", n, len(l.overs))
		}
	})
}

// A frame may carry hundreds of messages; one that waits must not keep it.
func TestAMessageThatWaitsDoesNotKeepItsFrame(t *testing.T) {
	inMailbox(t, func(m *mailbox, _ *ledgerOfFates, _ func()) {
		frame := []byte("frame with a message in it")
		it := data(1, 1000, 0)
		it.Payload = frame[13:20]
		m.arrived(1, nil, it, true, time.Now())
		clear(frame)
		synctest.Wait()
		if got := string(<-m.data); got != "message" {
			t.Errorf("got %q", got)
		}
	})
}

// nobodyAsks has no use for verdicts.
type nobodyAsks struct{}

func (nobodyAsks) reply(*inflow, uint64, []verdict)             {}
func (nobodyAsks) overTo(string, wire.Return, uint64, []uint64) {}

// From the arrival of a remote sender's message to the handler: one at a time,
// each handed over before the next arrives, and frames full of them.
func BenchmarkHandOver(b *testing.B) {
	for _, crowd := range []uint64{1, 256} {
		b.Run(fmt.Sprint("messages=", crowd), func(b *testing.B) {
			b.ReportAllocs()
			m := newMailbox(b.Context(), "a", 7, func() time.Duration { return time.Hour }, nobodyAsks{})
			quit := make(chan struct{})
			took := make(chan struct{}, crowd)
			var handler sync.WaitGroup
			handler.Go(func() {
				for {
					select {
					case <-m.data:
						took <- struct{}{}
					case <-quit:
						return
					}
				}
			})
			it := wire.Item{Kind: wire.Data, Flow: 1, Token: 7, Budget: 10_000, Low: 1, Payload: make([]byte, 128)}
			addr := []byte("tcp://10.0.0.1:1")
			for b.Loop() {
				now := time.Now()
				for range crowd {
					it.Seq++
					m.asked(1, addr, &it, true, now)
				}
				for range crowd {
					<-took
				}
				it.Low = it.Seq // settled but for one
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(crowd), "ns/message")
			m.shut()
			close(quit)
			handler.Wait()
		})
	}
}
