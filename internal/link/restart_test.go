package link_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/wire"
)

// Processes that are begun anew at one address, and what their predecessors said,
// late or twice.

// late has the Hellos of the process here lost, so that it is the one that is asked.
// Of the frames of the process there only those of some kinds come, 5 s late.
func late(net *linktest.Network, comes func(wire.FrameKind) bool) {
	net.Weather(func(from, _ string, frame []byte) linktest.Fate {
		switch g, ok := isHello(frame); {
		case from == here && ok && !g.Welcome:
			return linktest.Fate{Lost: true}
		case from == there && !ok:
			return linktest.Fate{Delay: 5 * time.Second, Lost: !comes(kind(frame))}
		}
		return linktest.Fate{Delay: time.Millisecond}
	})
}

func TestAHelloOfADeadProcessEndsNoLinkOfItsSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a0, b *process) {
		number := uint64(0)
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			if g, ok := isHello(frame); ok && from == here && number == 0 {
				number = g.Link
			}
			return linktest.Fate{Delay: time.Millisecond, Lost: from == there}
		})
		a0.to(there)
		time.Sleep(10 * time.Millisecond)
		ba := b.to(here) // the link that the other side has asked for
		time.Sleep(10 * time.Millisecond)
		a0.free()
		a1 := start(t, net, here, link.Limits{})
		steady(net, time.Millisecond)
		ab := a1.to(there)
		send(t, ab, "0")
		send(t, ba, "0")
		time.Sleep(5 * time.Second)
		net.Inject(here, there, hello(number, 0, here), 0)
		time.Sleep(time.Millisecond)
		send(t, ab, "1")
		time.Sleep(10 * time.Second)
		if ab.Over() || ba.Over() || !slices.Equal(b.received(), numbered(2)) {
			t.Errorf("%v, %v, got %v", a1.whats(), b.whats(), b.received())
		}
		a1.free()
	})
}

// Whose link was forgotten here before it was open.
func TestWhatADeadProcessHasSentOpensNoLinkBesideThatOfItsSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b0 *process) {
		net.Weather(func(from, _ string, frame []byte) linktest.Fate {
			switch g, ok := isHello(frame); {
			case from == here:
				return linktest.Fate{Delay: time.Millisecond}
			case ok && !g.Welcome:
				return linktest.Fate{Delay: time.Millisecond, Again: 20 * time.Second}
			}
			return linktest.Fate{Delay: 20 * time.Second}
		})
		send(t, b0.to(here), "of the dead")
		time.Sleep(500 * time.Millisecond)
		b0.free()
		steady(net, time.Millisecond)
		time.Sleep(4500 * time.Millisecond)
		b1 := start(t, net, there, link.Limits{})
		ab := a.to(there)
		send(t, ab, "0")
		send(t, b1.to(here), "0")
		for i := range 200 { // what the dead one has sent arrives meanwhile
			time.Sleep(100 * time.Millisecond)
			send(t, ab, fmt.Sprint(i+1))
		}
		time.Sleep(time.Second)
		if got := b1.received(); ab.Over() || !slices.Equal(got, numbered(201)) {
			t.Errorf("%v, got %d", a.whats(), len(got))
		}
		if got := a.received(); !slices.Equal(got, numbered(1)) {
			t.Errorf("got %v", got)
		}
		b1.free()
	})
}

func TestAFrameOfADeadProcessIsNotTakenInPlaceOfItsSuccessors(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b0 *process) {
		late(net, func(wire.FrameKind) bool { return true })
		a.to(there)
		send(t, b0.to(here), "of the dead")
		time.Sleep(300 * time.Millisecond)
		b0.free()
		steady(net, time.Millisecond)
		b1 := start(t, net, there, link.Limits{})
		ba := b1.to(here)
		time.Sleep(7 * time.Second)
		for _, s := range numbered(2) {
			send(t, ba, s)
			time.Sleep(time.Second)
		}
		if got := a.received(); ba.Over() || !slices.Equal(got, numbered(2)) {
			t.Errorf("%v, got %v", b1.whats(), got)
		}
		b1.free()
	})
}

func TestTheByeOfADeadProcessSaysNothingOfItsSuccessor(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a, b0 *process) {
		late(net, func(k wire.FrameKind) bool { return k == wire.Bye })
		ab := a.to(there)
		b0.to(here)
		time.Sleep(300 * time.Millisecond)
		b0.bye(100 * time.Millisecond)
		steady(net, time.Millisecond)
		b1 := start(t, net, there, link.Limits{})
		b1.to(here)
		time.Sleep(3 * time.Second)
		pos := send(t, ab, "0")
		time.Sleep(5 * time.Second)
		if got := b1.received(); ab.Recall(pos) || !slices.Equal(got, numbered(1)) {
			t.Errorf("%v, got %v", a.whats(), got)
		}
		b1.free()
	})
}

// Nothing is late: a process is closed before its new link is open, of which the
// other side has told it the number of the old one.
func TestTheByeOfASuccessorSaysNothingOfTheDead(t *testing.T) {
	inBubble(t, func(t *testing.T, net *linktest.Network, a0, b *process) {
		ba := b.to(here)
		pos := send(t, ba, "0")
		time.Sleep(500 * time.Millisecond)
		a0.free()
		net.Weather(func(from, _ string, _ []byte) linktest.Fate {
			return linktest.Fate{Delay: time.Millisecond, Lost: from == here}
		})
		a1 := start(t, net, here, link.Limits{})
		a1.to(there)
		send(t, ba, "1") // it gets silent, and says Hello
		time.Sleep(4 * time.Second)
		steady(net, time.Millisecond)
		a1.bye(50 * time.Millisecond)
		time.Sleep(time.Second)
		if ba.Recall(pos) || !slices.Equal(a0.received(), numbered(1)) {
			t.Error("what was taken is said to be certainly not taken")
		}
	})
}

// All of it at once, at random. GONE_SEEDS is how many times, GONE_SEED one again.
func TestAFrameIsTakenOnceAndInOrderOrItsLinkEndsAndTellsTheTruth(t *testing.T) {
	for _, seed := range linktest.Seeds(20) {
		synctest.Test(t, func(t *testing.T) {
			(&storm{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 7)), net: linktest.New(), next: map[*link.Link]int{}}).play()
		})
	}
}

// A storm is two addresses with process after process, in bad weather.
type storm struct {
	t    *testing.T
	seed uint64
	net  *linktest.Network
	now  [2]*process
	all  []*process
	sent []parcel
	next map[*link.Link]int

	mu   sync.Mutex // of what the weather needs, too
	rand *rand.Rand
	cut  map[string]bool
}

// A parcel is a frame with its link and its place there as the payload.
type parcel struct {
	by      *process
	over    *link.Link
	at      link.Position
	payload string
}

func (s *storm) one(of int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(of)
}

func (s *storm) upTo(d time.Duration) time.Duration { return 1 + time.Duration(s.one(int(d))) }

func (s *storm) start(i int) {
	s.now[i] = start(s.t, s.net, []string{here, there}[i], link.Limits{})
	s.all = append(s.all, s.now[i])
}

func (s *storm) play() {
	latest := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 8 * time.Second}[s.one(4)]
	s.net.Weather(func(from, _ string, _ []byte) linktest.Fate {
		s.mu.Lock()
		lost := s.cut[from]
		s.mu.Unlock()
		f := linktest.Fate{Lost: lost || s.one(5) == 0, Delay: time.Millisecond}
		if s.one(6) == 0 {
			f.Delay = s.upTo(latest)
		}
		if s.one(5) == 0 {
			f.Again = s.upTo(latest)
		}
		return f
	})
	s.start(0)
	s.start(1)
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(s.upTo(50 * time.Millisecond)) {
		i := s.one(2)
		switch what := s.one(200); {
		case what < 2:
			if s.one(2) == 0 {
				s.now[i].free()
			} else {
				s.now[i].bye(s.upTo(500 * time.Millisecond))
			}
			time.Sleep(s.upTo(200 * time.Millisecond))
			s.start(i)
		case what < 3:
			s.now[i].mesh.Drop(func(string) bool { return false })
		case what < 8:
			a, b := s.one(3) == 0, s.one(3) == 0
			s.mu.Lock()
			s.cut = map[string]bool{here: a, there: b}
			s.mu.Unlock()
		case what < 120:
			s.send(s.now[i], []string{there, here}[i])
		}
	}
	steady(s.net, time.Millisecond)
	time.Sleep(30 * time.Second)
	s.check()
	for _, p := range s.now {
		p.free()
	}
}

func (s *storm) send(p *process, to string) {
	l := p.to(to)
	if _, known := s.next[l]; !known {
		s.next[l] = len(s.next) << 32
	}
	payload := strconv.Itoa(s.next[l])
	if at, ok := post(l, payload); ok {
		s.next[l]++
		s.sent = append(s.sent, parcel{p, l, at, payload})
	}
}

func (s *storm) check() {
	got := map[string]int{}
	for _, p := range s.all {
		last := map[int]int{} // by link
		for _, payload := range p.received() {
			got[payload]++
			n, _ := strconv.Atoi(payload)
			l, at := n>>32, n&(1<<32-1)
			if before, known := last[l]; known && at != before+1 || !known && at != 0 {
				s.t.Errorf("seed %d: link %d: %d after %d", s.seed, l, at, before)
			}
			last[l] = at
		}
	}
	for _, f := range s.sent {
		alive := f.by == s.now[0] || f.by == s.now[1]
		switch n := got[f.payload]; {
		case n > 1:
			s.t.Errorf("seed %d: taken %d times", s.seed, n)
		case n > 0 && f.over.Recall(f.at):
			s.t.Errorf("seed %d: taken, and said to be certainly not: %v", s.seed, f.over.Trouble())
		case n == 0 && alive && !f.over.Over() && !f.over.Silent():
			s.t.Errorf("seed %d: lost on a link that goes on", s.seed)
		}
	}
}
