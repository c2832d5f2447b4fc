package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
)

// A process has the rooms from links to mailboxes.
type process struct {
	t     *testing.T
	host  *linktest.Host
	tick  *pulse.Pulse
	mesh  *link.Mesh
	room  *mailbox.Room
	mux   *stream.Mux
	frees sync.Once

	changing sync.Mutex
}

const here, there = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"

const maxSize = 1 << 20

func start(t *testing.T, net *linktest.Network, identity string) *process {
	p := &process{t: t, host: net.Host(identity)}
	p.tick = pulse.New(func(now time.Time) time.Time {
		next := pulse.Earliest(p.mesh.Tick(now), pulse.Earliest(p.mux.Tick(now), p.room.Tick(now)))
		p.changes()
		return next
	})
	p.mesh = link.NewMesh(link.Config{
		Identity: identity, Carrier: p.host,
		Vouches: func([]byte, string) bool { return true },
	}, p.tick)
	p.room = mailbox.NewRoom(p.tick, maxSize)
	p.mux = stream.NewMux(p.room, p.tick)
	p.host.Receive(func(frame []byte, from string) {
		l, items, err := p.mesh.Receive(frame, from)
		if items != nil {
			err = p.mux.Receive(l, items)
		}
		if err != nil {
			t.Error(err)
		}
		p.changes()
	})
	return p
}

func (p *process) changes() {
	p.changing.Lock()
	defer p.changing.Unlock()
	for _, c := range p.mesh.Changes() {
		if c.What == link.Ended {
			p.mux.Ended(c.Link)
		}
	}
}

func (p *process) free() {
	p.frees.Do(func() {
		p.host.Crash()
		for _, b := range p.room.All() {
			b.Shut()
		}
		p.tick.Stop()
		p.mesh.Close()
		p.room.Close()
	})
}

// whole is an inbox for deliveries as they are.
func whole() *mailbox.Inbox[mailbox.Delivery] {
	return mailbox.NewInbox(func(_, d mailbox.Delivery) mailbox.Delivery { return d })
}

// A tenure of the id "a".
type tenure struct {
	*mailbox.Box
	end func()
	let func() // lets a stuck handler go on

	mu  sync.Mutex
	got []string
}

// holds begins a tenure, whose handler takes what comes after pace, or is stuck
// until it is let.
func (p *process) holds(token uint64, pace func()) *tenure {
	ctx, cancel := context.WithCancel(context.Background())
	h := &tenure{Box: p.room.Begin(ctx, ctx, "a", token, func() time.Duration {
		if ctx.Err() != nil {
			return 0
		}
		return time.Hour
	}, whole())}
	h.end = func() { cancel(); h.Shut() }
	stuck := make(chan struct{})
	h.let = sync.OnceFunc(func() { close(stuck) })
	if pace == nil {
		pace = func() { <-stuck }
	}
	go func() {
		for {
			pace()
			select {
			case data := <-h.Data:
				h.mu.Lock()
				h.got = append(h.got, string(data))
				h.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return h
}

func (h *tenure) received() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.got)
}

func (p *process) stream(identity string, token uint64) *stream.Stream {
	l, err := p.mesh.To(identity)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := p.mux.Open(l, "a", token)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// inBubble runs a test with a sender, a holder whose token is 7, and the stream
// from one to the other.
func inBubble(t *testing.T, pace func(), test func(net *linktest.Network, a, b *process, s *stream.Stream, h *tenure)) {
	synctest.Test(t, func(t *testing.T) {
		net := linktest.New()
		steady(net)
		a, b := start(t, net, here), start(t, net, there)
		h := b.holds(7, pace)
		test(net, a, b, a.stream(there, 7), h)
		h.let()
		h.end()
		a.free()
		b.free()
	})
}

func steady(net *linktest.Network) {
	net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Delay: time.Millisecond} })
}

func ready() {}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

func send(s *stream.Stream, data string, d time.Duration) stream.Result {
	return s.Send(context.Background(), stream.Call{Data: []byte(data), Deadline: in(d)}, time.Now())
}

func batch(n int, size int) (msgs [][]byte) {
	for i := range n {
		msgs = append(msgs, fmt.Appendf(nil, "%d%s", i, strings.Repeat(" ", size)))
	}
	return msgs
}

// isPrefix fails unless the first n of a batch were received, and no other.
func isPrefix(t *testing.T, got []string, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d were received, the sender says %d", len(got), n)
	}
	for i, g := range got {
		if strings.TrimSpace(g) != fmt.Sprint(i) {
			t.Errorf("%q is number %d", strings.TrimSpace(g), i)
		}
	}
}

func TestARequestHasTheAnswerOfItsTenure(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		if r := send(s, "x", time.Second); r.Status != wire.Received {
			t.Errorf("%+v", r)
		}
		if r := send(a.stream(there, 6), "no", time.Second); r.Status != wire.Absent {
			t.Errorf("a tenure that was not here: %+v", r)
		}
		h.end()
		if r := send(s, "no", time.Second); r.Status != wire.Ended {
			t.Errorf("a tenure that is over: %+v", r)
		}
		if s.Over() != wire.Ended || s.Current() != 0 {
			t.Errorf("over: %v, current %d", s.Over(), s.Current())
		}
		next := b.holds(8, ready)
		old := a.stream(there, 7)
		if r := send(old, "no", time.Second); r.Status != wire.Absent || old.Current() != 8 {
			t.Errorf("%+v, current %d", r, old.Current())
		}
		if got := append(h.received(), next.received()...); !slices.Equal(got, []string{"x"}) {
			t.Errorf("received %v", got)
		}
		next.end()
	})
}

func TestADeadlineIsKeptAndItsResultIsKnown(t *testing.T) {
	inBubble(t, nil, func(_ *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		began := time.Now()
		r := send(s, "x", 3*time.Second)
		if d := time.Since(began); r.Status != wire.Expired || r.Unsent || d > 3*time.Second || d < 2800*time.Millisecond {
			t.Errorf("%+v after %v: the refusal has to be back before the deadline", r, d)
		}
		h.let()
		if got := h.received(); len(got) > 0 {
			t.Errorf("received %v", got)
		}
	})
}

// The sender gives up, and is told at once.
func TestWhatIsWithdrawnIsNotReceived(t *testing.T) {
	inBubble(t, nil, func(_ *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		began := time.Now()
		r := s.Send(ctx, stream.Call{Data: []byte("x"), Deadline: in(time.Hour)}, time.Now())
		if d := time.Since(began); r.Status != wire.Expired || d > 1010*time.Millisecond {
			t.Errorf("%+v after %v", r, d)
		}
		n, r := s.SendBatch(ctx, batch(10, 0), stream.Call{Deadline: in(time.Hour)})
		if n != 0 || r.Status != wire.Expired {
			t.Errorf("%d, %+v", n, r)
		}
		h.let()
		if got := h.received(); len(got) > 0 {
			t.Errorf("received %v", got)
		}
	})
}

func TestAWithdrawalThatIsNotAnsweredLeavesAnUnknownOutcomeSoon(t *testing.T) {
	inBubble(t, nil, func(net *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(500*time.Millisecond, func() {
			net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Lost: true} })
			cancel()
		})
		began := time.Now()
		r := s.Send(ctx, stream.Call{Data: []byte("x"), Deadline: in(time.Hour)}, time.Now())
		if d := time.Since(began); r.Status != stream.Unknown || d > 710*time.Millisecond {
			t.Errorf("%+v after %v", r, d)
		}
		h.let()
	})
}

func TestWhatHasNotLeftIsNeverUnknown(t *testing.T) {
	inBubble(t, ready, func(net *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		if r := send(s, "x", time.Second); r.Status != wire.Received {
			t.Fatalf("%+v", r)
		}
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		for _, f := range []func() stream.Result{
			func() stream.Result { return send(s, "no", time.Second) },
			func() stream.Result {
				_, r := s.SendBatch(context.Background(), batch(3, 0), stream.Call{Deadline: in(time.Second)})
				return r
			},
		} {
			// Where the silence is known already it can go elsewhere at once.
			if r := f(); r.Status != wire.Expired && r.Status != stream.Elsewhere || !r.Unsent {
				t.Errorf("%+v", r)
			}
		}
		steady(net)
		time.Sleep(10 * time.Second)
		if got := h.received(); !slices.Equal(got, []string{"x"}) {
			t.Errorf("received %v", got)
		}
	})
}

// A holder that is silent is abandoned when another is known.
func TestWhatIsAbandonedIsUnknownOnlyWhereItHadLeft(t *testing.T) {
	inBubble(t, nil, func(net *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		var all sync.WaitGroup
		var left, not stream.Result
		all.Go(func() { left = send(s, "left", time.Hour) })
		time.Sleep(time.Second)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		all.Go(func() { not = send(s, "no", time.Hour) })
		time.Sleep(time.Second)
		s.Abandon()
		all.Wait()
		if left.Status != stream.Unknown || not.Status != stream.Elsewhere {
			t.Errorf("%+v, %+v", left, not)
		}
		steady(net)
		h.let()
		time.Sleep(10 * time.Second)
		if got := h.received(); slices.Contains(got, "no") {
			t.Errorf("received %v", got)
		}
		if r := send(s, "no", time.Second); r.Status != stream.Elsewhere {
			t.Errorf("after all: %+v", r)
		}
	})
}

func TestRetiringAStreamWaitsForWhatHasLeft(t *testing.T) {
	inBubble(t, nil, func(_ *linktest.Network, a, _ *process, s *stream.Stream, h *tenure) {
		var all sync.WaitGroup
		var r stream.Result
		all.Go(func() { r = send(s, "x", time.Hour) })
		time.Sleep(time.Second)
		s.Retire()
		time.Sleep(time.Second)
		h.let()
		all.Wait()
		if r.Status != wire.Received {
			t.Errorf("%+v", r)
		}
		time.Sleep(time.Hour)
		if ss := a.mux.On(s.Link()); len(ss) > 0 {
			t.Errorf("%d streams are left", len(ss))
		}
	})
}

func TestAStreamThatWasNotUsedForLongIsNotTrusted(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		single := func() stream.Result { return send(s, "x", time.Second) }
		many := func() stream.Result {
			_, r := s.SendBatch(context.Background(), batch(3, 0), stream.Call{Deadline: in(time.Second)})
			return r
		}
		for _, f := range []func() stream.Result{single, many} {
			for range 5 {
				if r := f(); r.Status != wire.Received {
					t.Errorf("%+v", r)
				}
				time.Sleep(4 * time.Second)
			}
			time.Sleep(2 * time.Second)
			before := len(h.received())
			if r := f(); r.Status != stream.Elsewhere || len(h.received()) != before {
				t.Errorf("%+v", r)
			}
			s.Use()
		}
	})
}

func TestABatchIsReceivedInOrderInFewFrames(t *testing.T) {
	inBubble(t, ready, func(net *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		send(s, "x", time.Second)
		frames := 0
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			if k, _, _ := wire.ParseFrame(frame); from == here && k.Kind == wire.Items {
				frames++
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		const n = 5000
		got, r := s.SendBatch(context.Background(), batch(n, 100), stream.Call{Deadline: in(10 * time.Second)})
		if got != n || r.Status != wire.Received {
			t.Errorf("%d, %+v", got, r)
		}
		isPrefix(t, h.received()[1:], n)
		if most := n*110/(60<<10) + 10; frames > most {
			t.Errorf("%d frames, at most %d", frames, most)
		}
	})
}

// Whatever happens on the way, the count is that of what was received, unless the
// outcome is unknown; and nothing is received without what is before it.
func TestABatchIsReceivedUpToItsFirstRefusal(t *testing.T) {
	results := map[wire.Status]int{}
	for _, seed := range linktest.Seeds(75) {
		r := rand.New(rand.NewPCG(seed, 0))
		slow := func() { time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Microsecond)))) }
		inBubble(t, slow, func(net *linktest.Network, a, _ *process, s *stream.Stream, h *tenure) {
			net.Weather(func(string, string, []byte) linktest.Fate {
				how := linktest.Fate{Lost: r.IntN(20) == 0, Refused: r.IntN(5) == 0}
				how.Delay = time.Duration(r.Int64N(int64(3 * time.Millisecond)))
				return how
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			at := time.Duration(rand.Int64N(int64(100 * time.Millisecond)))
			var timer *time.Timer
			deadline := in(10 * time.Second)
			switch seed % 6 {
			case 0:
				timer = time.AfterFunc(at, cancel)
			case 1:
				deadline = in(at)
			case 2:
				timer = time.AfterFunc(at, h.end)
			case 3:
				timer = time.AfterFunc(at, func() {
					for _, s := range a.mux.On(s.Link()) {
						s.TakeBack()
					}
				})
			case 4:
				timer = time.AfterFunc(at, func() {
					for _, s := range a.mux.On(s.Link()) {
						s.Abandon()
					}
				})
			case 5:
				timer = time.AfterFunc(at, a.mux.Withdraw)
			}
			n, end := s.SendBatch(ctx, batch(400, 2000), stream.Call{Deadline: deadline})
			if timer != nil {
				timer.Stop()
			}
			results[end.Status]++
			time.Sleep(10 * time.Second)
			got := h.received()
			if end.Status == stream.Unknown {
				n = max(n, len(got))
			}
			isPrefix(t, got, n)
		})
	}
	if len(results) < 5 {
		t.Errorf("too little to tell: %v", results)
	}
}

// The protocol's side of it, whoever sends.
func TestInAChainNothingIsReceivedBehindWhatWasNot(t *testing.T) {
	for name, bad := range map[string]func(w *wire.Writer){
		"taken back": func(w *wire.Writer) {
			at := w.Batch(9, 2, 1000, batch(1, 0))
			wire.Withdraw(w.Bytes(), at)
		},
		"too large": func(w *wire.Writer) { w.Batch(9, 2, 1000, [][]byte{make([]byte, maxSize+1)}) },
		"no batch":  func(w *wire.Writer) { w.Request(9, 2, 1000, 0, nil) },
	} {
		inBubble(t, ready, func(net *linktest.Network, a, _ *process, s *stream.Stream, h *tenure) {
			l := s.Link()
			frame := func(f func(w *wire.Writer)) {
				w := l.Begin()
				f(w)
				l.End()
				l.Flush()
			}
			frame(func(w *wire.Writer) {
				w.Open(9, wire.Chained, 7, "a")
				w.Batch(9, 1, 1000, batch(2, 0))
			})
			time.Sleep(time.Second)
			frame(bad)
			frame(func(w *wire.Writer) { w.Batch(9, 3, 1000, batch(1, 0)) })
			time.Sleep(time.Second)
			if got := h.received(); !slices.Equal(got, []string{"0", "1"}) {
				t.Errorf("%s: received %v", name, got)
			}
		})
	}
}

// What one node has under way to one tenure is bounded by count and by bytes.
func TestAWindowIsBoundedAndItsReasonIsTheHandler(t *testing.T) {
	for _, c := range []struct{ size, most int }{{1, 2048}, {100 << 10, 40}, {maxSize, 4}} {
		inBubble(t, nil, func(_ *linktest.Network, _, b *process, s *stream.Stream, h *tenure) {
			ctx, cancel := context.WithCancel(context.Background())
			var all sync.WaitGroup
			data := make([]byte, c.size)
			for range c.most + 10 {
				all.Go(func() { s.Send(ctx, stream.Call{Data: data, Deadline: in(time.Hour)}, time.Now()) })
			}
			time.Sleep(time.Second)
			if n, bytes := h.Waiting(); n != c.most {
				t.Errorf("%d messages of %d bytes wait, %d bytes, want %d", n, c.size, bytes, c.most)
			}
			if r := s.Send(ctx, stream.Call{Data: data, Deadline: in(time.Hour), Flags: wire.Try}, time.Now()); r.Status != wire.Busy {
				t.Errorf("try: %+v", r)
			}
			began := time.Now()
			if r := send(s, "x", time.Second); r.Status != wire.Expired || r.Unsent || time.Since(began) != time.Second {
				t.Errorf("%+v after %v", r, time.Since(began))
			}
			if n, r := s.SendBatch(ctx, batch(2, 0), stream.Call{Deadline: in(time.Second)}); n != 0 || r.Status != wire.Expired || r.Unsent {
				t.Errorf("batch: %d, %+v", n, r)
			}
			cancel()
			all.Wait()
			h.let()
		})
	}
}

func TestAMessageThatIsTooLargeForTheHolderIsNamed(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, _, _ *process, s *stream.Stream, _ *tenure) {
		if r := s.Send(context.Background(), stream.Call{Data: make([]byte, maxSize+1), Deadline: in(time.Second)}, time.Now()); r.Status != wire.Oversized {
			t.Errorf("%+v", r)
		}
		msgs := [][]byte{{1}, make([]byte, maxSize+1), {2}}
		if n, r := s.SendBatch(context.Background(), msgs, stream.Call{Deadline: in(time.Second)}); n != 0 && n != 1 || r.Status != wire.Oversized {
			t.Errorf("%d, %+v", n, r)
		}
	})
}

// Requests that are answered one after the other share an answer.
func TestAnswersToAdjoiningRequestsAreOne(t *testing.T) {
	inBubble(t, nil, func(net *linktest.Network, _, _ *process, s *stream.Stream, h *tenure) {
		answers := 0
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			if h, body, _ := wire.ParseFrame(frame); from == there && h.Kind == wire.Items {
				for r := wire.NewReader(body); ; {
					it, _ := r.Next()
					if it == nil {
						break
					}
					answers++
				}
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() {
				if r := send(s, "x", time.Minute); r.Status != wire.Received {
					t.Errorf("%+v", r)
				}
			})
		}
		time.Sleep(time.Second)
		h.let()
		all.Wait()
		if answers > 50 {
			t.Errorf("%d answers to 500 requests", answers)
		}
	})
}

// What is forged, or comes for a request that is over, changes nothing.
func TestAnswersThatNobodyWaitsForAreIgnored(t *testing.T) {
	inBubble(t, nil, func(_ *linktest.Network, _, b *process, s *stream.Stream, h *tenure) {
		var all sync.WaitGroup
		var r stream.Result
		all.Go(func() { r = send(s, "x", 10*time.Second) })
		time.Sleep(time.Second)
		l, err := b.mesh.To(here)
		if err != nil {
			t.Fatal(err)
		}
		w := l.BeginAnswer()
		w.Answer(1, 2, 1<<60, wire.Received, 0)
		w.Answer(1, 0, 1, wire.Busy, 0)
		w.Answer(2, 1, 1, wire.Received, 0)
		w.Reply(99, 1, nil)
		w.Cancel(99, 1)
		w.Close(99)
		l.End()
		l.Flush()
		time.Sleep(time.Second)
		h.let()
		all.Wait()
		if r.Status != wire.Received {
			t.Errorf("%+v", r)
		}
		if r := send(s, "y", time.Second); r.Status != wire.Received {
			t.Errorf("%+v", r)
		}
	})
}

func TestTheStreamsThatOthersCanOpenAreBounded(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		const most = 32 << 10
		l := s.Link()
		for i := range uint64(most + 10) {
			w := l.Begin()
			w.Open(i+1, 0, 7, "a")
			l.End()
		}
		for _, c := range []struct {
			stream uint64
			got    int
		}{{most, 1}, {most + 1, 1}} {
			w := l.Begin()
			w.Request(c.stream, 1, 1000, 0, nil)
			l.End()
			l.Flush()
			time.Sleep(time.Second)
			if got := h.received(); len(got) != c.got {
				t.Errorf("stream %d: %d are received, want %d", c.stream, len(got), c.got)
			}
		}
	})
}

// A number that is in use stays what it is.
func TestAStreamIsNotOpenedTwice(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		l := s.Link()
		w := l.Begin()
		w.Open(10, 0, 7, "a")
		w.Open(10, 0, 7, "another")
		w.Request(10, 1, 1000, 0, []byte("x"))
		l.End()
		l.Flush()
		time.Sleep(time.Second)
		if got := h.received(); len(got) != 1 {
			t.Errorf("received %v", got)
		}
	})
}

// However often its node comes and goes.
func TestWhatASenderThatIsGoneHadOpenedIsNotCounted(t *testing.T) {
	inBubble(t, ready, func(_ *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		const most, most1 = 256 << 10, 32 << 10
		for range most/most1 + 1 {
			l, err := a.mesh.To(s.Link().Identity)
			if err != nil {
				t.Fatal(err)
			}
			for i := range uint64(most1) {
				if w := l.Begin(); w != nil {
					w.Open(i+1, 0, 7, "a")
					l.End()
				}
			}
			l.Flush()
			time.Sleep(time.Second)
			for _, p := range []*process{a, b} {
				p.mesh.Drop(func(string) bool { return false })
			}
			time.Sleep(time.Second)
		}
		l, err := a.mesh.To(s.Link().Identity)
		if err != nil {
			t.Fatal(err)
		}
		next, err := a.mux.Open(l, "a", 7)
		if err != nil {
			t.Fatal(err)
		}
		if r := send(next, "x", time.Second); r.Status != wire.Received {
			t.Errorf("%+v", r)
		}
	})
}

func TestWhatWaitsOfASenderThatIsGoneIsDropped(t *testing.T) {
	inBubble(t, nil, func(net *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		go send(s, "x", time.Hour)
		time.Sleep(time.Second)
		a.free()
		c := start(t, net, here) // whose Hello says so
		if r := c.stream(there, 7).Send(context.Background(), stream.Call{Deadline: in(time.Second), Flags: wire.Try}, time.Now()); r.Status != wire.Busy {
			t.Errorf("%+v", r)
		}
		if n, _ := h.Waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
		h.let()
		c.free()
		s.Abandon()
	})
}

// A node ends a connection on which a larger frame comes, and one of a version that
// knows no Context has no room for it.
func TestAFrameIsNoLargerForWhatGoesWithItsRequests(t *testing.T) {
	inBubble(t, ready, func(net *linktest.Network, a, b *process, s *stream.Stream, h *tenure) {
		largest := 0
		net.Weather(func(_, _ string, frame []byte) linktest.Fate {
			largest = max(largest, len(frame))
			return linktest.Fate{Delay: time.Millisecond}
		})
		said := make([]byte, wire.MaxContext)
		post := func(all *sync.WaitGroup, size int) {
			all.Go(func() {
				r := s.Send(context.Background(), stream.Call{Data: make([]byte, size), Context: said, Deadline: in(time.Minute)}, time.Now())
				if r.Status != wire.Received {
					t.Errorf("%d bytes: %+v", size, r)
				}
			})
			synctest.Wait()
		}
		var all sync.WaitGroup
		for range 15 { // while the link is opening they wait in one frame
			post(&all, 250)
		}
		post(&all, maxSize)
		all.Wait()
		if before := maxSize + link.FrameSize + wire.Overhead; largest < maxSize || largest > before {
			t.Errorf("a frame of %d bytes, at most %d", largest, before)
		}
	})
}
