package gone_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/wire"
)

// What one process can make another do, or keep, that speaks the protocol.

// tenure starts a node that holds "a".
func tenure(t *testing.T, in *inbox) (g *gone.Gone, token uint64) {
	t.Helper()
	g = startNode(t, startRedis(t).locks(0))
	hold(t, g, "a", in.run)
	h, err := g.Holder(context.Background(), "a")
	must(t, err)
	return g, h.Token
}

// A Hello can be doubled, or come when its process is long gone.
func TestALateOrDoubledHelloEndsNoGoodLink(t *testing.T) {
	t.Parallel()
	var in inbox
	g, token := tenure(t, &in)
	p := startPuppet(t, keypair{})
	e := p.open(g, keypair{})
	old := *e // what another process at this address had, or never got
	old.mine, old.theirs = 4711, 0
	oldest := old
	oldest.mine, oldest.theirs = 4712, 4713
	e.say(e.frame(message(1, token, "a", "0")))
	for i := range 20 {
		e.say(e.hello(false), old.hello(false), oldest.hello(false), oldest.hello(true), e.hello(true))
		e.say(e.frame(func(w *wire.Writer) { w.Request(1, uint64(i+2), 10_000, 0, fmt.Append(nil, i+1)) }))
	}
	e.answers(21)
	var want []string
	for i := range 21 {
		want = append(want, fmt.Sprint(i))
	}
	in.is(t, want)
	// The link to come has proved nothing yet; when it has, the other one is over.
	w, ok := p.dial(g, keypair{}).greeting(10*time.Second, func(w wire.Greeting) bool { return w.Welcome && w.Echo == old.mine })
	if !ok {
		t.Fatal("no Welcome")
	}
	old.theirs = w.Link
	old.sent, old.taken = 0, 0
	e.say(old.frame(message(1, token, "a", "of the next process")))
	old.answers(1)
	e.say(e.frame(func(w *wire.Writer) { w.Request(1, 100, 10_000, 0, []byte("of the last one")) }))
	e.say(old.frame(func(w *wire.Writer) { w.Request(1, 2, 10_000, 0, []byte("last")) }))
	old.answers(1)
	in.is(t, append(want, "of the next process", "last"))
	if s := g.Stats(); s.Malformed != 0 {
		t.Errorf("%+v", s)
	}
}

// What was sent to a process that has died is not sent to the next one on its
// address, and what had not left is.
func TestANewProcessGetsNoFrameOfItsPredecessor(t *testing.T) {
	t.Parallel()
	p := startPuppet(t, keypair{})
	g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(p.identity), nil })
	results := make(chan error, 1)
	send := func(data string) {
		results <- g.SendDataContext(deadline(t, 20*time.Second), "a", []byte(data))
	}
	go send("to the first")
	first := p.accept(g, keypair{})
	if string(first.item(wire.Request).Payload) != "to the first" {
		t.Fatal("not the first message")
	}
	next := p.dial(g, keypair{})
	next.say(next.hello(false)) // it was begun anew
	w, ok := next.greeting(10*time.Second, func(w wire.Greeting) bool { return w.Welcome && w.Echo == next.mine })
	if !ok || w.Link == first.theirs {
		t.Fatalf("welcome to %d, the predecessor's is %d", w.Link, first.theirs)
	}
	next.theirs = w.Link
	next.say(next.control(wire.Ack)) // which proves it
	if err := within(t, 10*time.Second, "the first message", results); !errors.Is(err, gone.ErrOutcomeUnknown) {
		t.Errorf("to a process that has died: %v", err)
	}
	go send("to the second")
	var got []string
	for end := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(end); {
		for _, it := range next.take(time.Second) {
			if it.Kind == wire.Request {
				got = append(got, string(it.Payload))
				// That of the predecessor, which has come late, says nothing.
				first.say(first.frame(func(w *wire.Writer) { w.Answer(it.Stream, it.Number, 1, wire.Absent, 0) }))
				next.say(next.frame(func(w *wire.Writer) { w.Answer(it.Stream, it.Number, 1, wire.Received, 0) }))
			}
		}
	}
	must(t, within(t, 10*time.Second, "the second message", results))
	if !slices.Equal(got, []string{"to the second"}) {
		t.Errorf("the new process was sent %q", got)
	}
	// All else that arrives is meant for the predecessor, and says so.
	if frame := next.next(500*time.Millisecond, func(frame []byte) bool {
		h, body, err := wire.ParseFrame(frame)
		return err == nil && h.Kind == wire.Items && h.Link == next.mine && strings.Contains(string(body), "to the first")
	}); frame != nil {
		t.Errorf("%x", frame)
	}
}

// heap is how much memory Go has in use.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// resident is how much memory the process has, with what ZeroMQ has.
func resident(t *testing.T) int {
	t.Helper()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Log("no figure of this system's: ", err)
		return 0
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	must(t, err)
	return pages * os.Getpagesize()
}

func TestThousandsOfHellosLeaveNothingBehind(t *testing.T) { hellosLeaveNothing(t, 500, 2000) }

func TestLongAHundredThousandHellosLeaveNothingBehind(t *testing.T) {
	memory := hellosLeaveNothing(t, 20_000, 100_000)
	if memory > 64<<20 {
		t.Errorf("%d MB more", memory>>20)
	}
}

// hellosLeaveNothing has strangers greet a node, each with an address of its own,
// to which the answer goes. What ZeroMQ and the allocators keep for good they keep
// of the first ones; it returns how much more memory the process has after the
// others, which says something only where nothing else runs.
func hellosLeaveNothing(t *testing.T, first, all int) (memory int) {
	locks := startRedis(t).locks(0)
	g, honest := startNode(t, locks), startNode(t, locks)
	var in inbox
	hold(t, g, "a", in.run)
	must(t, honest.SendData("a", []byte("x")))
	s := attacker(t, g, zmq4.PUSH)
	push(t, s, []byte("not a frame"))
	// Both ends of its connection count as before: they go on until the test ends.
	eventually(t, 10*time.Second, "the strangers' connection is there", func() bool { return g.Stats().Malformed == 1 })
	before := takeStock(t)
	files := func(r residue) (n int) {
		for _, m := range r.files {
			n += m
		}
		return n
	}
	flood := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			push(t, s, stranger(i))
			if i%1000 == 0 {
				if err := honest.SendDataContext(deadline(t, 30*time.Second), "a", []byte("x")); err != nil {
					t.Error(err)
				}
			}
		}
		late := startNode(t, locks) // who is not kept out
		must(t, late.SendData("a", []byte("x")))
		must(t, late.Close())
		eventually(t, time.Minute, "links, sockets and goroutines are as before", func() bool {
			time.Sleep(50 * time.Millisecond)
			now := takeStock(t)
			return files(now) <= files(before) && len(now.goroutines) <= len(before.goroutines)
		})
	}
	flood(0, first)
	memory = resident(t)
	flood(first, all)
	memory = resident(t) - memory
	must(t, honest.SendData("a", []byte("x")))
	if n := g.Stats().Malformed; n != 1 {
		t.Errorf("%d were counted as malformed", n)
	}
	return memory
}

// What is for such a peer is kept until it is acknowledged, up to a bound.
func TestAPeerThatNeverAcknowledgesHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	deaf := startPuppet(t, keypair{})
	g := startNode(t, func(id, value string) (gone.GoneLock, error) {
		if strings.HasPrefix(id, "deaf") {
			return heldBy(deaf.identity), nil
		}
		return locks(id, value)
	}, gone.WithSendTimeout(6*time.Second))
	other := startNode(t, locks)
	var mine, others inbox
	hold(t, g, "a", mine.run)
	hold(t, other, "b", others.run)
	must(t, other.SendData("a", []byte("x")))
	must(t, g.SendData("b", []byte("x")))

	const sends = 80
	results := make(chan error, sends)
	large := make([]byte, 1<<20)
	for i := range sends { // more than is kept, to many ids
		go func() { results <- g.SendData(fmt.Sprint("deaf ", i), large) }()
	}
	e := deaf.accept(g, keypair{})
	question := func(w *wire.Writer) {
		for n := uint64(1); w.Len() < 32<<10; n += 2 { // so that each is answered by itself
			w.Request(1, n, 1000, 0, nil)
		}
	}
	for range 10 {
		e.say(e.frame(question))
	}
	for began := time.Now(); time.Since(began) < 1500*time.Millisecond; {
		if err := other.SendDataContext(deadline(t, 15*time.Second), "a", []byte("x")); err != nil {
			t.Error("to the node: ", err)
		}
		if err := g.SendDataContext(deadline(t, 15*time.Second), "b", []byte("x")); err != nil {
			t.Error("of the node: ", err)
		}
	}
	count := map[string]int{}
	for range sends {
		err := within(t, 10*time.Second, "the end of a send", results)
		switch {
		case errors.Is(err, gone.ErrOutcomeUnknown):
			count["unknown"]++
		case errors.Is(err, gone.ErrNotDelivered):
			count["not delivered"]++
		default:
			t.Error(err)
		}
	}
	// 4 MB are sent without an acknowledgement; of these alone nobody can tell.
	if count["unknown"] == 0 || count["unknown"] > 10 {
		t.Errorf("%v", count)
	}
}

// Of what a peer opens without an end, some is not taken; what it has is its own.
// Not beside other tests, as it measures the memory of the process.
func TestAPeerThatOpensVeryManyStreamsHoldsUpNobodyElse(t *testing.T) {
	var in inbox
	g, token := tenure(t, &in)
	honest, greedy := startPuppet(t, keypair{}).open(g, keypair{}), startPuppet(t, keypair{}).open(g, keypair{})
	honest.say(honest.frame(message(1, token, "a", "0")))
	honest.answers(1)
	memory := heap()
	const each, frames = 10_000, 30
	for i := range uint64(frames) {
		greedy.say(greedy.frame(func(w *wire.Writer) {
			for n := range uint64(each) {
				w.Open(i*each+n+1, 0, token, "a")
			}
		}))
	}
	number := uint64(1)
	ask := func(e *wireEnd, stream uint64) wire.Status {
		t.Helper()
		number++
		e.say(e.frame(func(w *wire.Writer) { w.Request(stream, number, 10_000, 0, fmt.Append(nil, stream)) }))
		return e.answers(1)[stream<<32|number]
	}
	if s := ask(greedy, 7); s != wire.Received {
		t.Errorf("in a stream that there is: %d", s)
	}
	if s := ask(greedy, frames*each); s != wire.Busy {
		t.Errorf("in one too many: %d", s)
	}
	// Numbers are used again: what is open stays what it is, what is closed can be
	// another, and what has closed more than it had has them no more.
	greedy.say(greedy.frame(func(w *wire.Writer) {
		w.Open(7, 0, token-1, "b")
		w.Close(8)
		w.Close(8)
		w.Close(1 << 60)
		w.Open(8, 0, token-1, "a")
		w.Open(frames*each, 0, token, "a") // in place of the one that was closed twice
	}))
	for stream, want := range map[uint64]wire.Status{7: wire.Received, 8: wire.Absent, frames * each: wire.Busy} {
		if s := ask(greedy, stream); s != want {
			t.Errorf("stream %d: %d, want %d", stream, s, want)
		}
	}
	if s := ask(honest, 1); s != wire.Received {
		t.Errorf("an honest peer: %d", s)
	}
	if more := (heap() - memory) >> 20; more > 64 {
		t.Errorf("%d MB more", more)
	}
	in.is(t, []string{"0", "7", "7", "1"})
}

// A range can say more than there is.
func TestHostileRangesCostNothing(t *testing.T) {
	t.Parallel()
	p := startPuppet(t, keypair{})
	g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(p.identity), nil })
	sent := make(chan error, 1)
	go func() { sent <- g.SendDataContext(deadline(t, time.Minute), "a", []byte("data")) }()
	e := p.accept(g, keypair{})
	e.item(wire.Request)
	const most = 1<<64 - 1
	began := time.Now()
	for range 20 {
		e.say(e.frame(func(w *wire.Writer) {
			for n := range uint64(2_000) {
				w.Answer(1, 2+n, most, wire.Received, 0)
				w.Answer(2, 0, most, wire.Ended, most)
				w.Answer(most, n, most, wire.Received, 0)
				w.Cancel(n+1, most)
			}
		}))
	}
	e.say(e.frame(func(w *wire.Writer) { w.Answer(1, 0, most, wire.Received, 0) }))
	must(t, within(t, time.Minute, "the answer", sent))
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("it took %v", d)
	}
}
