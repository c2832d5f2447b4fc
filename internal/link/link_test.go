package link_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// A process has one mesh, and notes what it gets.
type process struct {
	t     *testing.T
	net   *linktest.Network
	host  *linktest.Host
	mesh  *link.Mesh
	tick  *pulse.Pulse
	frees sync.Once

	mu      sync.Mutex
	got     []string
	changes []link.Change
}

const here, there = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"

func start(t *testing.T, net *linktest.Network, identity string, limits link.Limits) *process {
	p := &process{t: t, net: net, host: net.Host(identity)}
	p.tick = pulse.New(func(now time.Time) time.Time {
		next := p.mesh.Tick(now)
		p.note()
		return next
	})
	p.mesh = link.NewMesh(link.Config{
		Identity: identity, Carrier: p.host, Limits: limits,
		Vouches: func(identity []byte, from string) bool { return string(identity) == from },
	}, p.tick)
	p.host.Receive(p.receive)
	t.Cleanup(p.free)
	return p
}

func (p *process) receive(frame []byte, from string) {
	l, items, err := p.mesh.Receive(frame, from)
	if err != nil && err != link.ErrStranger {
		p.t.Errorf("%s: %v", p.host.Identity, err)
	}
	p.mu.Lock()
	for r := wire.NewReader(items); ; {
		it, err := r.Next()
		if err != nil {
			p.t.Error(err)
		}
		if it == nil {
			break
		}
		p.got = append(p.got, string(it.Payload))
	}
	p.mu.Unlock()
	if items != nil {
		l.Flush()
	}
	p.note()
}

func (p *process) note() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes = append(p.changes, p.mesh.Changes()...)
}

// received returns what was.
func (p *process) received() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// whats are the changes that the process was told of, but for the opening that each link's
// begin with.
func (p *process) whats() (ws []link.What) {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	opened := map[*link.Link]bool{}
	for _, c := range p.changes {
		if c.What == link.Opened && !opened[c.Link] {
			opened[c.Link] = true
			continue
		}
		ws = append(ws, c.What)
	}
	return ws
}

// free ends the process without a word to others.
func (p *process) free() {
	p.frees.Do(func() {
		p.host.Crash()
		p.tick.Stop()
		p.mesh.Close()
	})
}

// bye is the end of a process in its real order.
func (p *process) bye(patience time.Duration) {
	p.mesh.Refuse()
	p.mesh.Farewell(patience)
	p.free()
}

func (p *process) to(identity string) *link.Link {
	l, err := p.mesh.To(identity)
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// send appends a request and flushes.
func send(t *testing.T, l *link.Link, payload string) link.Position {
	pos, ok := post(l, payload)
	if !ok {
		t.Errorf("%q is not taken", payload)
	}
	return pos
}

func post(l *link.Link, payload string) (pos link.Position, ok bool) {
	w := l.Begin()
	if w == nil {
		return pos, false
	}
	pos = l.Position(w.Request(1, 1, 1, 0, []byte(payload)))
	l.End()
	l.Flush()
	return pos, true
}

// inBubble runs a test with two processes.
func inBubble(t *testing.T, test func(t *testing.T, net *linktest.Network, a, b *process)) {
	synctest.Test(t, func(t *testing.T) {
		net := linktest.New()
		steady(net, time.Millisecond)
		a, b := start(t, net, here, link.Limits{}), start(t, net, there, link.Limits{})
		test(t, net, a, b)
		a.free()
		b.free()
	})
}

func steady(net *linktest.Network, d time.Duration) {
	net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Delay: d} })
}

func numbered(n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

func kind(frame []byte) wire.FrameKind {
	h, _, _ := wire.ParseFrame(frame)
	return h.Kind
}

// isHello reports whether a frame is a Hello or Welcome, and which.
func isHello(frame []byte) (g wire.Greeting, ok bool) {
	g, err := wire.ParseHello(frame)
	return g, err == nil
}

func TestEveryFrameIsTakenOnceAndInOrderWhateverTheCarrierDoes(t *testing.T) {
	for _, seed := range linktest.Seeds(20) {
		inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
			r := rand.New(rand.NewPCG(seed, 0))
			upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
			net.Weather(func(string, string, []byte) linktest.Fate {
				how := linktest.Fate{
					Lost:    r.IntN(4) == 0,
					Refused: r.IntN(10) == 0,
					Delay:   upTo(50 * time.Millisecond),
				}
				if r.IntN(4) == 0 {
					how.Again = 1 + upTo(time.Second)
				}
				return how
			})
			ab, ba := a.to(there), b.to(here)
			const n = 200
			pause := make([]time.Duration, n)
			for i := range pause {
				pause[i] = upTo(20 * time.Millisecond)
			}
			for i := range n {
				for _, l := range []*link.Link{ab, ba} {
					for l.Silent() { // in such weather it may be for a while
						time.Sleep(10 * time.Millisecond)
					}
					send(t, l, fmt.Sprint(i))
				}
				time.Sleep(pause[i])
			}
			time.Sleep(time.Minute)
			for _, p := range []*process{a, b} {
				if got := p.received(); !slices.Equal(got, numbered(n)) {
					t.Errorf("seed %d: %s got %v", seed, p.host.Identity, got)
				}
			}
			if ab.Over() || ba.Over() {
				t.Errorf("seed %d: a link has ended", seed)
			}
		})
	}
}

// After a frame that is missing none is taken, and it is asked for at once.
func TestAGapIsClosedBeforeTheTimer(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		lost := false
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			how := linktest.Fate{Delay: time.Millisecond}
			if from == here && kind(frame) == wire.Items && !lost {
				lost, how.Lost = true, true
			}
			return how
		})
		for i := range 5 {
			send(t, l, fmt.Sprint(i+1))
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(10 * time.Millisecond) // the timer is at 200 ms
		if got := b.received(); !slices.Equal(got, numbered(6)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestTheFirstMessageCostsOneRoundTripMore(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		steady(net, 50*time.Millisecond)
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(151 * time.Millisecond)
		if got := b.received(); len(got) != 1 {
			t.Errorf("got %v", got)
		}
		send(t, l, "1")
		time.Sleep(51 * time.Millisecond)
		if got := b.received(); len(got) != 2 {
			t.Errorf("got %v", got)
		}
	})
}

func TestALinkThatBothOpenAtOnceIsOne(t *testing.T) {
	for _, offset := range []time.Duration{0, time.Microsecond, time.Millisecond, 2 * time.Millisecond} {
		inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
			ab := a.to(there)
			send(t, ab, "0")
			time.Sleep(offset)
			ba := b.to(here)
			send(t, ba, "0")
			time.Sleep(time.Second)
			send(t, a.to(there), "1")
			send(t, b.to(here), "1")
			time.Sleep(10 * time.Second)
			for _, p := range []*process{a, b} {
				if got := p.received(); !slices.Equal(got, numbered(2)) {
					t.Errorf("got %v", got)
				}
				if ws := p.whats(); len(ws) > 0 || p.mesh.Count() != 1 {
					t.Errorf("%v, %d links", ws, p.mesh.Count())
				}
			}
			if a.to(there) != ab || b.to(here) != ba {
				t.Error("there is another link")
			}
		})
	}
}

func TestSilenceIsNoticedWithinASecondAndSoIsItsEnd(t *testing.T) {
	for _, how := range []linktest.Fate{{Lost: true}, {Refused: true}} {
		for _, oneWay := range []bool{true, false} {
			inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
				l := a.to(there)
				send(t, l, "0")
				time.Sleep(time.Second)
				net.Weather(func(from, _ string, _ []byte) linktest.Fate {
					if from == here || !oneWay {
						return how
					}
					return linktest.Fate{}
				})
				send(t, l, "1")
				limit := time.Second
				if how.Refused {
					limit = 300 * time.Millisecond
				}
				time.Sleep(limit + 10*time.Millisecond)
				if ws := a.whats(); !slices.Equal(ws, []link.What{link.Silent}) || !l.Silent() {
					t.Errorf("%+v: %v", how, ws)
				}
				time.Sleep(4 * time.Minute)
				net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{} })
				time.Sleep(1100 * time.Millisecond)
				if ws := a.whats(); !slices.Equal(ws, []link.What{link.Silent, link.Recovered}) || l.Silent() {
					t.Errorf("%+v: %v", how, ws)
				}
				if got := b.received(); !slices.Equal(got, numbered(2)) {
					t.Errorf("got %v", got)
				}
			})
		}
	}
}

// Whoever waits for the answer to something that was taken must learn it.
func TestSilenceIsNoticedWhenNothingIsDue(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		b.free()
		for end := time.Now().Add(1700 * time.Millisecond); time.Now().Before(end); {
			next := l.Probe(time.Now())
			time.Sleep(time.Until(next))
		}
		if !l.Silent() {
			t.Error("nobody has noticed")
		}
	})
}

func TestALinkEndsAfterFiveMinutesOfSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		b.free()
		pos := send(t, l, "1")
		time.Sleep(5*time.Minute + 10*time.Second)
		if !l.Over() || a.mesh.Count() != 0 {
			t.Errorf("over: %v, %d links", l.Over(), a.mesh.Count())
		}
		if l.Recall(pos) != true {
			t.Error("it has never left: there was no connection")
		}
	})
}

// Recall's promise: true means that it never arrives.
func TestWhatWasTakenBackNeverArrives(t *testing.T) {
	for seed := range uint64(200) {
		inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
			r := rand.New(rand.NewPCG(seed, 0))
			net.Weather(func(string, string, []byte) linktest.Fate {
				return linktest.Fate{
					Lost:    r.IntN(8) == 0,
					Refused: r.IntN(2) == 0,
					Delay:   time.Duration(r.Int64N(int64(20 * time.Millisecond))),
				}
			})
			l := a.to(there)
			void := map[string]bool{}
			for i := range 100 {
				pos := send(t, l, fmt.Sprint(i))
				time.Sleep(time.Duration(rand.Int64N(int64(2 * time.Millisecond))))
				if rand.IntN(2) == 0 {
					void[fmt.Sprint(i)] = l.Recall(pos)
				}
			}
			time.Sleep(time.Minute)
			got := b.received()
			for i := range 100 {
				name := fmt.Sprint(i)
				if arrived := slices.Contains(got, name); arrived == void[name] {
					t.Errorf("seed %d: %s was taken back: %v, arrived: %v", seed, name, void[name], arrived)
				}
			}
			if len(void) == 0 || len(got) == 0 {
				t.Error("too little to tell")
			}
		})
	}
}

// Each end of a link: of what can be recalled then, nothing was taken.
func TestAtTheEndOfALinkWhatWasNotTakenIsKnownWhereItCanBe(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		taken := send(t, l, "0")
		time.Sleep(time.Second)
		b.mesh.Refuse()
		late := send(t, l, "1")
		time.Sleep(10 * time.Millisecond)
		b.mesh.Farewell(time.Second)
		time.Sleep(10 * time.Millisecond)
		if !l.Over() {
			t.Fatal("the link goes on after a Bye")
		}
		if l.Recall(taken) {
			t.Error("what was taken can be recalled")
		}
		if !l.Recall(late) {
			t.Error("what was certainly not taken can't be recalled")
		}
		if got := b.received(); !slices.Equal(got, numbered(1)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestWithAnotherProcessOnTheAddressWhatHasNotLeftIsKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Lost: true} })
		left := send(t, l, "1")
		time.Sleep(time.Millisecond)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		stays := send(t, l, "2")
		time.Sleep(time.Millisecond)
		b.free()
		c := start(t, net, there, link.Limits{})
		net.Weather(func(_, _ string, frame []byte) linktest.Fate {
			return linktest.Fate{Refused: kind(frame) == wire.Items}
		})
		time.Sleep(3 * time.Second)
		steady(net, time.Millisecond)
		if !l.Over() || l.Recall(left) || !l.Recall(stays) {
			t.Errorf("over: %v, recalled %v, %v", l.Over(), l.Recall(left), l.Recall(stays))
		}
		if got := c.received(); len(got) > 0 {
			t.Errorf("the new process got %v", got)
		}
		send(t, a.to(there), "3")
		time.Sleep(time.Second)
		if got := c.received(); !slices.Equal(got, []string{"3"}) {
			t.Errorf("the new process got %v", got)
		}
		c.free()
	})
}

// The process that ends waits until its Bye is acknowledged, and so is what it
// had sent before.
func TestAnEndIsToldThoughFramesAreLost(t *testing.T) {
	for _, lost := range []wire.FrameKind{wire.Bye, wire.Ack} {
		inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
			l := a.to(there)
			send(t, l, "0")
			time.Sleep(time.Second)
			n := 0
			net.Weather(func(_, _ string, frame []byte) linktest.Fate {
				how := linktest.Fate{Delay: time.Millisecond}
				if kind(frame) == lost {
					n++
					how.Lost = n == 1
				}
				return how
			})
			began := time.Now()
			b.bye(time.Second)
			if d := time.Since(began); d < 200*time.Millisecond || d > 300*time.Millisecond {
				t.Errorf("kind %d lost: it took %v", lost, d)
			}
			if !l.Over() {
				t.Errorf("kind %d lost: the end was not told", lost)
			}
		})
	}
}

func TestAFarewellDoesNotWaitForTheSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		b.free()
		send(t, l, "1")
		time.Sleep(2 * time.Second)
		began := time.Now()
		a.bye(time.Second)
		if d := time.Since(began); d > 0 {
			t.Errorf("it took %v", d)
		}
	})
}

func TestAFarewellThatIsNotAnsweredEndsAfterItsPatience(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		b.free()
		began := time.Now()
		a.bye(time.Second)
		if d := time.Since(began); d != time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Neither takes the other's Bye as a frame, as neither takes any.
func TestTwoThatEndAtOnceDoNotWaitForEachOther(t *testing.T) {
	for _, offset := range []time.Duration{0, 100 * time.Microsecond, 2 * time.Millisecond} {
		inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
			send(t, a.to(there), "0")
			time.Sleep(time.Second)
			var both sync.WaitGroup
			began := time.Now()
			both.Go(func() { a.bye(time.Second) })
			time.Sleep(offset)
			both.Go(func() { b.bye(time.Second) })
			both.Wait()
			if d := time.Since(began); d > 10*time.Millisecond {
				t.Errorf("%v apart: it took %v", offset, d)
			}
		})
	}
}

// The other side has this side's number by then, and may have sent.
func TestAHalfOpenLinkTakesLeave(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		steady(net, 20*time.Millisecond)
		l := a.to(there)
		pos := send(t, l, "0")
		time.Sleep(45 * time.Millisecond) // the Welcome has arrived, the frame has not
		b.bye(time.Second)
		if !l.Over() || !l.Recall(pos) {
			t.Errorf("over: %v, known not to be taken: %v", l.Over(), l.Recall(pos))
		}
		if got := b.received(); len(got) > 0 {
			t.Errorf("got %v", got)
		}
	})
}

func hello(id, echo uint64, identity string) []byte {
	return wire.AppendHello(nil, false, id, echo, identity)
}

// A Hello can be doubled, or very late.
func TestAnOldHelloChangesNothing(t *testing.T) {
	for _, when := range []time.Duration{0, 500 * time.Microsecond, 1500 * time.Microsecond, 2500 * time.Microsecond, time.Second} {
		for _, delay := range []time.Duration{0, 700 * time.Microsecond, 1700 * time.Microsecond, 2700 * time.Microsecond} {
			inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
				ab := a.to(there)
				send(t, ab, "0")
				time.Sleep(when)
				send(t, b.to(here), "0")
				net.Inject(there, here, hello(4711, 0, there), delay)
				net.Inject(here, there, hello(4712, 0, here), delay)
				time.Sleep(2 * time.Second)
				send(t, ab, "1")
				send(t, b.to(here), "1")
				time.Sleep(10 * time.Second)
				for _, p := range []*process{a, b} {
					if got, ws := p.received(), p.whats(); !slices.Equal(got, numbered(2)) || slices.Contains(ws, link.Silent) || p.mesh.Count() != 1 {
						t.Errorf("Hello after %v: got %v, %v, %d links", when+delay, got, ws, p.mesh.Count())
					}
				}
			})
		}
	}
}

// A Hello that comes between another one and the first frame must not lead the
// answers astray.
func TestAnOldHelloDoesNotTurnALinkThatIsBeingOpened(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		// The Welcomes to this side's Hello are lost: it learns from the other
		// side's Hello who it speaks with, and that it is open from a frame.
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			g, ok := isHello(frame)
			return linktest.Fate{Delay: time.Millisecond, Lost: from == there && ok && g.Welcome}
		})
		send(t, b.to(here), "0")
		l := a.to(there)
		time.Sleep(1500 * time.Microsecond)
		net.Inject(there, here, hello(4711, 0, there), 0)
		steady(net, time.Millisecond)
		pos := send(t, l, "0")
		time.Sleep(20 * time.Second)
		for _, p := range []*process{a, b} {
			if got := p.received(); !slices.Equal(got, numbered(1)) {
				t.Errorf("%s got %v", p.host.Identity, got)
			}
			if ws := p.whats(); slices.Contains(ws, link.Ended) {
				t.Errorf("%s: %v; known not to be taken: %v", p.host.Identity, ws, l.Recall(pos))
			}
		}
	})
}

// The side that was asked forgets a link that was not proved to it, when for the one
// that asked it has long been open.
func TestALinkThatOneSideHasForgottenBeforeItWasOpenThereGoesOn(t *testing.T) {
	for _, cut := range []time.Duration{2 * time.Second, 4 * time.Second, time.Minute} {
		inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
			net.Weather(func(from, _ string, frame []byte) linktest.Fate {
				_, ok := isHello(frame)
				return linktest.Fate{Delay: time.Millisecond, Lost: from == here && !ok}
			})
			l := a.to(there)
			time.Sleep(10 * time.Millisecond)
			net.Weather(func(from, _ string, _ []byte) linktest.Fate {
				return linktest.Fate{Delay: time.Millisecond, Lost: from == here}
			})
			pos := send(t, l, "0")
			time.Sleep(cut)
			if l.Recall(pos) {
				t.Error("the link was not open")
			}
			steady(net, time.Millisecond)
			time.Sleep(3 * time.Second)
			if got := b.received(); !slices.Equal(got, numbered(1)) {
				t.Errorf("got %v", got)
			}
			if ws := a.whats(); slices.Contains(ws, link.Ended) {
				t.Errorf("%v", ws)
			}
		})
	}
}

// But not one that was open: its frames were taken.
func TestALinkThatIsOverIsNotGoneOnWith(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Lost: true} })
		b.mesh.Drop(func(string) bool { return false })
		time.Sleep(5 * time.Second) // it is forgotten
		send(t, l, "1")
		steady(net, time.Millisecond)
		time.Sleep(3 * time.Second)
		if got := b.received(); !slices.Equal(got, numbered(1)) {
			t.Errorf("got %v", got)
		}
		if ws := a.whats(); !slices.Contains(ws, link.Ended) {
			t.Errorf("%v", ws)
		}
	})
}

func TestStrangersHellosLeaveNothingBehind(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, _ *process) {
		for i := range 100_000 {
			id := fmt.Sprintf("tcp://10.%d.%d.%d:2", 1+i>>16, i>>8&255, i&255)
			a.receive(hello(uint64(i+1), 0, id), id)
			if i%1000 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if n := a.mesh.Count(); n > 4096 {
			t.Errorf("%d links", n)
		}
		time.Sleep(time.Millisecond)
		send(t, a.to(there), "0") // and nobody is kept out
		time.Sleep(10 * time.Second)
		if n := a.mesh.Count(); n != 1 {
			t.Errorf("%d links are left", n)
		}
	})
}

// A frame that arrives after its link has ended, or that somebody else sends.
func TestFramesThatFitNowhereAreIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		var frames [][]byte
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			if from == here && kind(frame) == wire.Items {
				frames = append(frames, slices.Clone(frame))
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		synctest.Wait()
		forged := slices.Clone(frames[0])
		wire.PutHeader(forged, wire.Header{Kind: wire.Items, Link: link0(forged), Number: 2, Ack: 0})
		net.Inject("tcp://10.0.0.9:1", there, forged, 0)
		time.Sleep(time.Millisecond)
		b.free()
		c := start(t, net, there, link.Limits{})
		synctest.Wait()
		for _, f := range slices.Clone(frames) {
			net.Inject(here, there, f, time.Millisecond)
		}
		time.Sleep(time.Second)
		if got := b.received(); !slices.Equal(got, numbered(1)) {
			t.Errorf("got %v", got)
		}
		if got := c.received(); len(got) > 0 {
			t.Errorf("the new process got %v", got)
		}
		c.free()
	})
}

func link0(frame []byte) uint64 {
	h, _, _ := wire.ParseFrame(frame)
	return h.Link
}

func TestAnotherVersionIsNamedAndNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := linktest.New()
		a := start(t, net, here, link.Limits{})
		b := net.Host(there)
		b.Receive(func(frame []byte, _ string) {
			g, err := wire.ParseHello(frame)
			if err != nil {
				t.Errorf("got a frame: %x", frame)
				return
			}
			h := wire.AppendHello(nil, true, 4711, g.Link, there)
			h[2], h[3] = wire.Version+1, wire.Version+2
			net.Inject(there, here, h, time.Millisecond)
		})
		l := a.to(there)
		pos := send(t, l, "0")
		time.Sleep(2 * time.Second)
		if !l.Silent() || l.Trouble() == nil {
			t.Errorf("silent: %v, %v", l.Silent(), l.Trouble())
		}
		if !l.Recall(pos) {
			t.Error("it can't be recalled")
		}
		a.free()
	})
}

// A lone message never waits for others, however often the carrier took nothing
// before.
func TestALoneMessageIsNotHeldAfterTheCarrierStalled(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		send(t, l, "1")
		time.Sleep(200 * time.Millisecond)
		steady(net, 0)
		time.Sleep(time.Second)
		send(t, l, "2")
		time.Sleep(time.Microsecond)
		if got := b.received(); !slices.Equal(got, numbered(3)) {
			t.Errorf("got %v", got)
		}
	})
}

func TestManyMessagesShareAFrameWhileOthersAreOnTheirWay(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		frames := 0
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			if from == here && kind(frame) == wire.Items {
				frames++
			}
			return linktest.Fate{Delay: 10 * time.Millisecond}
		})
		for i := range 100 {
			send(t, l, fmt.Sprint(i+1))
		}
		time.Sleep(12 * time.Millisecond) // held for a millisecond at most
		if got := b.received(); !slices.Equal(got, numbered(101)) {
			t.Errorf("got %d", len(got))
		}
		if frames > 4 {
			t.Errorf("%d frames", frames)
		}
	})
}

// A peer that never acknowledges is sent a window and no more, keeps so many
// bytes, and holds up nobody else.
func TestWhatIsKeptForAPeerThatNeverAcknowledgesIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b *process) {
		deaf := start(t, net, "tcp://10.0.0.3:1", link.Limits{})
		dead := a.to(deaf.host.Identity)
		send(t, dead, "0")
		send(t, a.to(there), "0")
		time.Sleep(time.Second)
		sent := 0
		net.Weather(func(_, to string, frame []byte) linktest.Fate {
			if to == deaf.host.Identity {
				if sent += len(frame); kind(frame) == wire.Items {
					return linktest.Fate{Lost: true}
				}
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		payload := string(make([]byte, 100<<10))
		kept := 0
		for ; kept < 2000; kept++ {
			if _, ok := post(dead, payload); !ok {
				break
			}
		}
		if bytes := kept * len(payload); bytes < 60<<20 || bytes > 66<<20 {
			t.Errorf("%d bytes are kept", bytes)
		}
		if sent > 5<<20 {
			t.Errorf("%d bytes have left without an acknowledgement", sent)
		}
		send(t, a.to(there), "1")
		time.Sleep(10 * time.Millisecond)
		if got := b.received(); !slices.Equal(got, numbered(2)) {
			t.Errorf("another got %v", got)
		}
		steady(net, time.Millisecond)
		time.Sleep(10 * time.Second)
		if got := deaf.received(); len(got) != kept+1 {
			t.Errorf("%d of %d arrived in the end", len(got), kept+1)
		}
		deaf.free()
	})
}

// Answers are never refused: a link that keeps too many ends.
func TestALinkWhosePeerNeverAcknowledgesAnswersEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, _ *process) {
		l := a.to(there)
		send(t, l, "0")
		time.Sleep(time.Second)
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Lost: true} })
		for range 200 {
			if w := l.BeginAnswer(); w != nil {
				w.Reply(1, 1, make([]byte, 1<<20))
				l.End()
				l.Flush()
			}
		}
		if !l.Over() {
			t.Error("it goes on")
		}
	})
}

func TestAllLinksTogetherKeepABoundedNumberOfBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := linktest.New()
		a := start(t, net, here, link.Limits{Bytes: 4 << 20})
		net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		kept := 0
		payload := string(make([]byte, 100<<10))
		for i := range 20 {
			l := a.to(fmt.Sprintf("tcp://10.0.1.%d:1", i))
			for {
				if _, ok := post(l, payload); !ok {
					break
				}
				kept += len(payload)
			}
		}
		if kept > 4<<20+21*len(payload) {
			t.Errorf("%d bytes", kept)
		}
		a.mesh.Drop(func(string) bool { return false })
		l := a.to("tcp://10.0.2.1:1")
		for n := 0; n < 3<<20; n += len(payload) {
			if _, ok := post(l, payload); !ok {
				t.Fatal("what links kept that have ended is counted")
			}
		}
		a.free()
	})
}

func TestALinkThatBothLeaveForIdlenessIsOpenedAgainAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *linktest.Network, a, b *process) {
		send(t, a.to(there), "0")
		time.Sleep(3 * time.Minute)
		for _, p := range []*process{a, b} {
			for _, l := range p.mesh.Idle(time.Now(), 2*time.Minute) {
				if l.RefuseIdle(time.Now(), 2*time.Minute) {
					l.Bye()
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
		send(t, a.to(there), "1")
		time.Sleep(10 * time.Millisecond)
		if got := b.received(); !slices.Equal(got, numbered(2)) {
			t.Errorf("got %v", got)
		}
		time.Sleep(10 * time.Second)
		for _, p := range []*process{a, b} {
			if n := p.mesh.Count(); n != 1 {
				t.Errorf("%d links", n)
			}
		}
	})
}
