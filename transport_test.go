package gone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// startTransport starts a transport on an address and hands the payloads that
// it receives to got.
func startTransport(t *testing.T, addr string, got func(payload []byte)) *transport {
	t.Helper()
	o, err := newOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTransport(addr, o, func(frame []byte) {
		r, err := wire.NewReader(frame)
		for it, e := r.Next(); err == nil && it != nil; it, e = r.Next() {
			err = e
			got(it.Payload)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	return tr
}

// A sink keeps the numbers that it is given, in order.
type sink struct {
	mu  sync.Mutex
	got []uint32
}

func (s *sink) take(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, binary.BigEndian.Uint32(payload))
}

func (s *sink) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

// unusedAddr is an address at which nobody listens.
func unusedAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "tcp://" + l.Addr().String()
}

var someTenure = wire.Target{Flow: 1, Token: 1, ID: "a"}

// put appends a payload, and returns where it waits.
func put(t *testing.T, tr *transport, addr string, payload []byte) (*peer, position, bool) {
	t.Helper()
	p, err := tr.peer(addr)
	if err != nil {
		t.Error(err)
		return nil, position{}, false
	}
	w := p.begin()
	if w == nil {
		return p, position{}, false
	}
	pos := p.position(w.Data(&someTenure, 1, 1, 0, 0, payload))
	p.end()
	return p, pos, true
}

func number(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

func TestWhatIsTakenBackNeverArrivesAndAllElseDoesOnceInOrder(t *testing.T) {
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	addr := unusedAddr(t)
	const writers, each = 8, 1000
	back := make([]bool, writers*each)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			type sent struct {
				n   int
				p   *peer
				pos position
			}
			var before []sent
			for j := range each {
				n := i*each + j
				p, pos, ok := put(t, from, addr, append(number(n), make([]byte, r.IntN(2000))...))
				if !ok {
					t.Error("no room")
					return
				}
				before = append(before, sent{n, p, pos})
				if r.IntN(3) > 0 {
					p.flush()
				}
				if s := before[r.IntN(len(before))]; r.IntN(3) == 0 && !back[s.n] {
					back[s.n] = s.p.withdraw(s.pos)
				}
				if r.IntN(200) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			p, _ := from.peer(addr)
			p.flush()
		})
	}
	// Nobody listened at first.
	time.Sleep(10 * time.Millisecond)
	var s sink
	startTransport(t, addr, s.take)
	all.Wait()

	want := 0
	for _, b := range back {
		if !b {
			want++
		}
	}
	if want == len(back) || want < len(back)/10 {
		t.Errorf("%d of %d were taken back", len(back)-want, len(back))
	}
	until(t, "all arrive", func() bool { return s.len() >= want })
	last := map[uint32]uint32{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.got {
		if back[n] {
			t.Errorf("%d was taken back, and arrived", n)
		}
		if before, ok := last[n/each]; ok && n <= before {
			t.Errorf("%d arrived after %d", n, before)
		}
		last[n/each] = n
	}
	if len(s.got) != want {
		t.Errorf("%d arrived, want %d", len(s.got), want)
	}
}

func TestWhatWaitsForADeadPeerIsBoundedAndThenGivenUp(t *testing.T) {
	tr := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	addr := unusedAddr(t)
	payload := make([]byte, 1<<20)
	n := 0
	for ; n < 2*peerBytes>>20; n++ {
		p, _, ok := put(t, tr, addr, payload)
		if !ok {
			break
		}
		p.flush()
	}
	p, err := tr.peer(addr)
	if err != nil {
		t.Fatal(err)
	}
	if n < peerBytes>>20 || n > peerBytes>>20+2 {
		t.Errorf("%d MB wait", n)
	}
	// What it has been given may be used again, as after any other loss.
	if again, err := tr.peer(addr); again != p || err != nil {
		t.Errorf("got %v, %v", again, err)
	}

	age(p, peerIdle)
	until(t, "it is given up", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.size == 0 && len(p.queue) == 0 && !p.flushing
	})
	age(p, peerIdle)
	tr.closeIdle()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.peers) != 0 {
		t.Error("the dead peer stays")
	}
}

func TestWhatWaitsForAllPeersIsBoundedAndAnHonestOneGetsItsShare(t *testing.T) {
	tr := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	tr.waitAtMost = 4 << 20
	payload := make([]byte, frameSize/4)
	total := 0
	const dead = 20
	for range dead {
		addr := unusedAddr(t)
		for {
			p, _, ok := put(t, tr, addr, payload)
			if !ok {
				break
			}
			p.flush()
			if total += len(payload); total > peerBytes {
				t.Fatal("more and more waits")
			}
		}
	}
	// A frame is closed when it has grown over its size, and one is open.
	if most := int(tr.waitAtMost) + dead*2*(frameSize+len(payload)); total > most {
		t.Errorf("%d bytes wait, more than %d", total, most)
	}
	var got sink
	honest := startTransport(t, "tcp://127.0.0.1:0", got.take)
	for n := 1; n <= 100; n++ {
		p, _, ok := put(t, tr, honest.addr, payload)
		if !ok {
			t.Fatal("no room for an honest peer's message")
		}
		p.flush()
		until(t, "an honest peer's message", func() bool { return got.len() == n })
	}
	for _, p := range tr.peers {
		age(p, peerIdle)
	}
	until(t, "what is given up does not count", func() bool { return tr.waiting.Load() == 0 })
}

// age makes a peer look as if nothing had happened for d.
func age(p *peer, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = p.used.Add(-d)
	p.stalled = p.stalled.Add(-d)
}

func TestPeersAreClosedWhenIdleAndOpenedAgain(t *testing.T) {
	var s sink
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	to := startTransport(t, "tcp://127.0.0.1:0", s.take)
	for n := range 3 {
		p, _, ok := put(t, from, to.addr, number(n))
		if !ok {
			t.Fatal("no room")
		}
		p.flush()
		until(t, "it arrives", func() bool { return s.len() == n+1 })
		until(t, "the flusher is done", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return !p.flushing
		})
		from.closeIdle()
		if w := p.begin(); w == nil {
			t.Fatal("a peer was closed that was used just now")
		}
		p.end()
		age(p, peerIdle)
		from.closeIdle()
		if w := p.begin(); w != nil {
			t.Fatal("an idle peer was not closed")
		}
		if p.withdraw(position{0, 20}) {
			t.Error("what has left was taken back")
		}
	}
}

// A peer may be closed as idle just when it is used again.
func TestNothingIsLostWhenAPeerIsClosedBesideItsWriters(t *testing.T) {
	var s sink
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	to := startTransport(t, "tcp://127.0.0.1:0", s.take)
	stop := make(chan struct{})
	var closer, writers sync.WaitGroup
	closed := 0
	closer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			from.mu.Lock()
			before := from.peers[to.addr]
			from.mu.Unlock()
			if before != nil && s.len() > 0 { // connections are made one at a time
				before.mu.Lock()
				before.used = before.used.Add(-peerIdle)
				before.mu.Unlock()
				from.closeIdle()
				if from.mu.Lock(); from.peers[to.addr] != before {
					closed++
				}
				from.mu.Unlock()
			}
			time.Sleep(time.Millisecond)
		}
	})
	const each = 200
	for i := range 4 {
		writers.Go(func() {
			for j := 0; j < each; {
				if p, _, ok := put(t, from, to.addr, number(i*each+j)); ok {
					p.flush()
					j++
				}
				time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
			}
		})
	}
	writers.Wait()
	close(stop)
	closer.Wait()
	until(t, "all arrive", func() bool { return s.len() == 4*each })
	if closed == 0 {
		t.Error("the peer was never closed")
	}
}

func TestCloseSendsWhatWaitsAndDoesNotWaitForTheDead(t *testing.T) {
	var s sink
	to := startTransport(t, "tcp://127.0.0.1:0", s.take)
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	p, _, _ := put(t, from, to.addr, number(0))
	p.flush()
	until(t, "there is a connection", func() bool { return s.len() == 1 })
	for n := range 1000 {
		put(t, from, to.addr, number(n+1))
	}
	dead := unusedAddr(t)
	for n := range 1000 {
		d, _, _ := put(t, from, dead, append(number(n), make([]byte, 1000)...))
		d.flush()
	}
	p.flush()
	began := time.Now()
	from.close()
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %v", d)
	}
	until(t, "all arrive", func() bool { return s.len() == 1001 })
	if _, err := from.peer(to.addr); err == nil {
		t.Error("a new peer after close")
	}
}

// Frames of largest payloads fit through the receiver's limit.
func TestThePayloadOfTheLargestSizeArrivesWithWhateverShareItsFrame(t *testing.T) {
	got := make(chan int, 100)
	to := startTransport(t, "tcp://127.0.0.1:0", func(payload []byte) { got <- len(payload) })
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	var p *peer
	sizes := []int{frameSize - 1000, DefaultMaxMessageSize, 0, DefaultMaxMessageSize}
	for _, n := range sizes {
		p, _, _ = put(t, from, to.addr, bytes.Repeat([]byte("x"), n))
	}
	p.flush()
	for _, want := range sizes {
		select {
		case n := <-got:
			if n != want {
				t.Errorf("got %d bytes, want %d", n, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%d bytes did not arrive", want)
		}
	}
}

func TestADeadPeerCostsNoGoroutineAndNoBusyLoop(t *testing.T) {
	tr := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	before := runtime.NumGoroutine()
	for i := range 50 {
		p, _, ok := put(t, tr, unusedAddr(t), fmt.Append(nil, i))
		if !ok {
			t.Fatal("no room")
		}
		p.flush()
	}
	until(t, "all flushers gave way to timers", func() bool { return runtime.NumGoroutine() <= before })
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, p := range tr.peers {
		p := p
		until(t, "it is tried ever more seldom", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.stall == stallMost
		})
	}
}

func TestAFloodOfNewAddressesDoesNotTakeAllTheTimeThereIs(t *testing.T) {
	tr := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	tr.most = 1024
	made, began := 0, time.Now()
	for n := 1; n < 60_000 && time.Since(began) < time.Second/10; n++ {
		if _, err := tr.peer(fmt.Sprintf("tcp://127.0.0.1:%d", n)); err == nil {
			made++
		} else if !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
	}
	free := tr.most/4 + 1 // of those there may be any number at once
	if most := free + int(time.Since(began)/peerPace) + 1; made < free || made > most {
		t.Errorf("%d peers were made, want %d to %d", made, free, most)
	}
}

// Answers go to whatever address a frame names.
func TestJunkAddressesAreBoundedAndKeepNoHonestPeerOut(t *testing.T) {
	from := startTransport(t, "tcp://127.0.0.1:0", func([]byte) {})
	from.most = 8
	var got sink
	honest := startTransport(t, "tcp://127.0.0.1:0", got.take)
	sent := 0
	send := func(to *transport) {
		t.Helper()
		p, _, ok := put(t, from, to.addr, number(sent))
		if !ok {
			t.Fatal("no room for an honest peer's message")
		}
		p.flush()
		sent++
		until(t, "an honest peer's message", func() bool { return got.len() == sent })
	}
	send(honest)
	before, err := from.peer(honest.addr)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 100 {
		p, err := from.peer(unusedAddr(t))
		if err != nil {
			refused++
			continue
		}
		if w := p.begin(); w != nil {
			w.Data(&someTenure, 1, 1, 0, 0, []byte("junk"))
			p.end()
			p.flush()
		}
		send(honest)
	}
	if n := len(from.peers); n > from.most || refused == 0 {
		t.Errorf("%d peers, %d refused", n, refused)
	}
	if p, _ := from.peer(honest.addr); p != before {
		t.Error("the honest peer had to make room")
	}
	late := startTransport(t, "tcp://127.0.0.1:0", got.take)
	until(t, "room for another honest peer", func() bool {
		_, err := from.peer(late.addr)
		return err == nil
	})
	send(late)
}

// A context that has ended must not be connected through.
func TestAClosedPeerIsNotConnectedWhenItsNameIsResolved(t *testing.T) {
	tr := startTransport(t, "tcp://127.0.0.1:*", func([]byte) {})
	p, err := tr.peer("tcp://localhost:9")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the name is resolved", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.resolved
	})
	p.mu.Lock()
	p.w.Ask(&wire.Target{Flow: 1, Token: 1, ID: "a"}, 1, 1)
	p.shut()
	p.mu.Unlock()
	p.drain()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.resolved {
		t.Error("it was connected")
	}
}
