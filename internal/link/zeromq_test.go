package link_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
	"github.com/Diggs/go-one/internal/zmq"
)

// Links over what they are made for.

type carrier struct{ *zmq.Carrier }

func (c carrier) Dial(identity string) (link.Conn, error) {
	conn, err := c.Carrier.Dial(identity)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// An end is a mesh with a socket.
type end struct {
	t       *testing.T
	carrier *zmq.Carrier
	mesh    *link.Mesh
	tick    *pulse.Pulse
	close   func()
}

const largest = 1 << 20 // payload

// startEnd starts one at an address, and hands over the payloads that it gets.
func startEnd(t *testing.T, addr string, got func(payload []byte)) *end {
	t.Helper()
	c, err := zmq.Listen(zmq.Config{Advertise: addr, MaxFrame: largest + 64<<10 + wire.Overhead, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	e := &end{t: t, carrier: c}
	e.tick = pulse.New(func(now time.Time) time.Time { return e.mesh.Tick(now) })
	e.mesh = link.NewMesh(link.Config{Identity: c.Identity, Carrier: carrier{c}, Vouches: func([]byte, string) bool { return true }}, e.tick)
	c.Receive(func(frame []byte, from string) {
		_, items, err := e.mesh.Receive(frame, from)
		for r := wire.NewReader(items); err == nil; {
			var it *wire.Item
			if it, err = r.Next(); it == nil {
				break
			}
			got(it.Payload)
		}
		if err != nil {
			t.Error(err)
		}
	})
	e.close = sync.OnceFunc(func() {
		e.tick.Stop()
		e.mesh.Close()
		c.Close()
	})
	t.Cleanup(e.close)
	return e
}

// put appends a payload on the way to an address.
func (e *end) put(addr string, payload []byte) (l *link.Link, pos link.Position, ok bool) {
	l, err := e.mesh.To(addr)
	if err != nil {
		e.t.Error(err)
		return nil, pos, false
	}
	w := l.Begin()
	if w == nil {
		return l, pos, false
	}
	pos = l.Position(w.Request(1, 1, 1, 0, payload))
	l.End()
	return l, pos, true
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

func number(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// until polls for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

// unusedAddr is an address at which nobody listens: its port is bound until it is
// released or the test ends, so that nobody else is given it.
func unusedAddr(t *testing.T) (addr string, release func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { _ = syscall.Close(fd) })
	t.Cleanup(release)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("tcp://127.0.0.1:", name.(*syscall.SockaddrInet4).Port), release
}

func nothing([]byte) {}

func TestOverZeroMQWhatIsTakenBackNeverArrivesAndAllElseDoesOnceInOrder(t *testing.T) {
	t.Parallel()
	from := startEnd(t, "tcp://127.0.0.1:0", nothing)
	addr, release := unusedAddr(t)
	const writers, each = 8, 1000
	began := time.Now()
	back := make([]bool, writers*each)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			type sent struct {
				n   int
				l   *link.Link
				pos link.Position
			}
			var before []sent
			for j := range each {
				n := i*each + j
				payload := append(number(n), make([]byte, r.IntN(2000))...)
				l, pos, ok := from.put(addr, payload)
				for ; !ok && !t.Failed(); time.Sleep(time.Millisecond) { // on a busy machine the link is silent
					if l, pos, ok = from.put(addr, payload); time.Since(began) > time.Minute {
						t.Error("no room")
					}
				}
				before = append(before, sent{n, l, pos})
				if r.IntN(3) > 0 || j == each-1 {
					l.Flush()
				}
				if s := before[r.IntN(len(before))]; r.IntN(3) == 0 && !back[s.n] {
					back[s.n] = s.l.Recall(s.pos)
				}
				if r.IntN(200) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	time.Sleep(10 * time.Millisecond) // nobody listened at first
	var s sink
	release()
	startEnd(t, addr, s.take)
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

// A link may be left as idle just when it is used again: in each round there
// are writers and one who leaves, and a round ends when the link was left.
func TestOverZeroMQNothingIsLostWhenALinkIsLeftBesideItsWriters(t *testing.T) {
	t.Parallel()
	var s sink
	to := startEnd(t, "tcp://127.0.0.1:0", s.take)
	from := startEnd(t, "tcp://127.0.0.1:0", nothing)
	addr := to.carrier.Addr
	var left atomic.Int64
	stop := make(chan struct{})
	var leaver sync.WaitGroup
	leaver.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			for _, l := range from.mesh.Idle(time.Now(), 0) {
				l.Refuse()
				if l.Bye() {
					left.Add(1)
				}
			}
		}
	})
	const rounds, writers, each = 40, 4, 5
	for round := range rounds {
		before := left.Load()
		var writing sync.WaitGroup
		for i := range writers {
			writing.Go(func() {
				for j := 0; j < each; {
					if l, _, ok := from.put(addr, number((round*writers+i)*each+j)); ok {
						l.Flush()
						j++
					}
					time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond)
				}
			})
		}
		writing.Wait()
		until(t, "the link is left", func() bool { return left.Load() > before })
	}
	close(stop)
	leaver.Wait()
	until(t, "all arrive", func() bool { return s.len() == rounds*writers*each })
}

func TestOverZeroMQAFarewellSendsWhatWaitsAndDoesNotWaitForTheDead(t *testing.T) {
	t.Parallel()
	var s sink
	to := startEnd(t, "tcp://127.0.0.1:0", s.take)
	from := startEnd(t, "tcp://127.0.0.1:0", nothing)
	for n := range 1000 {
		if _, _, ok := from.put(to.carrier.Addr, number(n)); !ok {
			t.Fatal("no room")
		}
	}
	dead, _ := unusedAddr(t)
	for n := range 1000 {
		d, _, _ := from.put(dead, append(number(n), make([]byte, 1000)...))
		d.Flush()
	}
	until(t, "there is a link", func() bool { return s.len() > 0 })
	began := time.Now()
	from.mesh.Refuse()
	from.mesh.Farewell(time.Minute)
	from.close()
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
	if n := s.len(); n != 1000 {
		t.Errorf("%d have arrived", n)
	}
	if _, err := from.mesh.To(to.carrier.Addr); err == nil {
		t.Error("a new link after close")
	}
}

// Frames of largest payloads fit through the receiver's limit.
func TestOverZeroMQThePayloadOfTheLargestSizeArrivesWithWhateverSharesItsFrame(t *testing.T) {
	t.Parallel()
	got := make(chan int, 100)
	to := startEnd(t, "tcp://127.0.0.1:0", func(payload []byte) { got <- len(payload) })
	from := startEnd(t, "tcp://127.0.0.1:0", nothing)
	var l *link.Link
	sizes := []int{64<<10 - 1000, largest, 0, largest}
	for _, n := range sizes {
		l, _, _ = from.put(to.carrier.Addr, bytes.Repeat([]byte("x"), n))
	}
	l.Flush()
	for _, want := range sizes {
		select {
		case n := <-got:
			if n != want {
				t.Errorf("got %d bytes, want %d", n, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%d bytes did not arrive", want)
		}
	}
}

// A context that has ended must not be connected through.
func TestOverZeroMQAClosedLinkIsNotConnectedWhenItsNameIsResolved(t *testing.T) {
	t.Parallel()
	for i := range 20 {
		e := startEnd(t, "tcp://127.0.0.1:0", nothing)
		l, _, _ := e.put("tcp://localhost:9", number(i))
		l.Flush()
		time.Sleep(time.Duration(i*100) * time.Microsecond) // sooner or later than the name has its address
		closed := make(chan struct{})
		go func() {
			e.close()
			close(closed)
		}()
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatal("a socket was opened that nobody closes")
		}
	}
}
