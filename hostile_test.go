package gone_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/wire"
)

// underAttack runs a plain node with a handler, and an honest sender to it, and
// checks that the handler receives what that sends during the attack, and
// nothing else.
func underAttack(t *testing.T, attack func(t *testing.T, g *gone.Gone, token uint64)) {
	t.Helper()
	locks := startRedis(t).locks(0)
	g, honest := startNode(t, locks), startNode(t, locks)
	var l ledger
	hold(t, g, "a", l.in.run)
	h, err := honest.Holder(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for n := 1; ; n++ {
			if err := l.send(context.Background(), honest, "a", fmt.Sprint("honest ", n)); err != nil {
				t.Error(err)
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	attack(t, g, h.Token)
	close(over)
	sending.Wait()
	if err := l.send(context.Background(), honest, "a", "honest 1000000000"); err != nil {
		t.Error(err)
	}
	l.check(t)
	inOrder(t, l.in.all())
}

// dial connects to a node's port as anybody can.
func dial(t *testing.T, g *gone.Gone) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.Addr(), "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// attacker is a ZeroMQ socket of somebody's.
func attacker(t *testing.T, g *gone.Gone, kind zmq4.Type) *zmq4.Socket {
	t.Helper()
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ctx.NewSocket(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(s.Close(), ctx.Term()) })
	if err := errors.Join(s.SetLinger(0), s.SetSndtimeo(5*time.Second), s.Connect(g.Addr())); err != nil {
		t.Fatal(err)
	}
	return s
}

func push(t *testing.T, s *zmq4.Socket, frames ...[]byte) {
	t.Helper()
	for _, frame := range frames {
		if _, err := s.SendBytes(frame, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestRandomBytesReachNoHandler(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, _ uint64) {
		for i := range 200 {
			c := dial(t, g)
			b := randomBytes(1 + rand.IntN(4096))
			if i%2 == 0 { // as far as the greeting goes, ZMTP
				b = append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, byte(i % 4), 0}, b...)
			}
			_, _ = c.Write(b)
			_ = c.(*net.TCPConn).CloseWrite()
		}
	})
}

func TestMalformedFramesAreCountedAndReachNoHandler(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		e := startPuppet(t, keypair{}).open(g, keypair{})
		e.say(e.frame(func(w *wire.Writer) { w.Open(1, 0, token, "a") }))
		const n = 200
		header := len(e.control(wire.Ack))
		for i := range n {
			// The number is the one that is due; a copy would not be looked at.
			frame := e.frame(func(w *wire.Writer) { w.Request(1, uint64(i), 1000, 0, []byte("forged")) })
			switch i % 5 {
			case 0:
				frame = randomBytes(1 + rand.IntN(200))
				e.sent--
			case 1: // no whole header
				frame = frame[:rand.IntN(header)]
				e.sent--
			case 2: // a length that is not there
				frame = frame[:header+1+rand.IntN(len(frame)-header-1)]
			case 3:
				frame[1] = 2 // a version to come
				e.sent--
			case 4:
				frame = wire.AppendHello(nil, false, uint64(i), 0, e.identity)[:22]
				e.sent--
			}
			e.say(frame)
		}
		eventually(t, 10*time.Second, "they are counted", func() bool { return g.Stats().Malformed >= n*9/10 })
		// They have not spoilt the link.
		e.say(e.frame(message(2, token+1, "a", "forged")))
		e.answers(1)
		if got := g.Stats().Malformed; got > n {
			t.Errorf("%d were counted of %d", got, n)
		}
	})
}

func TestWrongSocketTypesReachNoHandler(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		e := startPuppet(t, keypair{}).open(g, keypair{})
		frame := e.frame(message(1, token, "a", "forged"))
		for _, kind := range []zmq4.Type{zmq4.REQ, zmq4.DEALER, zmq4.PUB, zmq4.PAIR, zmq4.ROUTER} {
			s := attacker(t, g, kind)
			_ = s.SetSndtimeo(200 * time.Millisecond)
			_, _ = s.SendBytes(frame, 0)
		}
	})
}

func TestAnOversizeFrameEndsItsConnectionAndNothingElse(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		e := startPuppet(t, keypair{}).open(g, keypair{})
		e.say(e.frame(message(1, token, "a", strings.Repeat("x", 4*gone.DefaultMaxMessageSize))))
		// One that only says so.
		c := dial(t, g)
		_, _ = c.Write(append(append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'}, make([]byte, 48)...),
			0x02, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection is open")
		}
	})
}

func TestHalfOpenConnectionsDoNotKeepHonestOnesOut(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, _ uint64) {
		var all []net.Conn
		for i := range 1000 {
			c := dial(t, g)
			if i%2 == 0 {
				_, _ = c.Write([]byte{0xff}) // and no more
			}
			all = append(all, c)
		}
		// Another honest one gets in beside them.
		locks := startRedis(t).locks(0)
		late := startNode(t, locks)
		other := startNode(t, locks)
		var in inbox
		hold(t, late, "b", in.run)
		if err := other.SendData("b", []byte("data")); err != nil {
			t.Error(err)
		}
		// They are ended, though they do nothing.
		_ = all[0].SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, all[0]); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection that stalls is open")
		}
	})
}

// Whoever can read the wire can repeat what he read, through any connection.
func TestReplayedFramesAreReceivedOnce(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	g := startNode(t, locks)
	var in inbox
	hold(t, g, "a", in.run)
	h, err := g.Holder(context.Background(), "a")
	must(t, err)
	e := startPuppet(t, keypair{}).open(g, keypair{})
	hello := e.hello(false)
	first := e.frame(message(1, h.Token, "a", "once"))
	second := e.frame(func(w *wire.Writer) { w.Request(1, 2, 10_000, 0, []byte("twice")) })
	s := attacker(t, g, zmq4.PUSH)
	for range 100 {
		e.say(first, second, hello)
		push(t, s, hello, second, first)
	}
	// Those of a link that is over fit nowhere, the next one's least of all.
	bye := e.control(wire.Bye)
	eventually(t, 10*time.Second, "Bye is acknowledged", func() bool {
		e.say(bye) // again and again, as a node does
		return nil != e.next(time.Second/4, func(frame []byte) bool {
			h, _, err := wire.ParseFrame(frame)
			return err == nil && h.Link == e.mine && h.Ack == 3
		})
	})
	next := e.open(g, keypair{})
	for range 100 {
		push(t, s, hello, first, second)
	}
	next.say(next.frame(message(1, h.Token, "a", "last")))
	next.answers(1)
	push(t, s, hello, first, second)
	next.say(next.frame(func(w *wire.Writer) { w.Request(1, 2, 10_000, 0, []byte("very last")) }))
	next.answers(1)
	in.is(t, []string{"once", "twice", "last", "very last"})
	if n := g.Stats().Malformed; n != 0 {
		t.Errorf("%d well-formed frames were counted", n)
	}
}

// A tenure that is over, one to come, none, another id: nothing is received
// there, and it is said which tenure there is.
func TestForgedTokensReachNoHandler(t *testing.T) {
	t.Parallel()
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		e := startPuppet(t, keypair{}).open(g, keypair{})
		stream, want := uint64(0), map[uint64]wire.Status{}
		forge := func(token uint64, id string, s wire.Status) {
			stream++
			e.say(e.frame(message(stream, token, id, "forged")))
			want[stream<<32|1] = s
		}
		for range 100 {
			for _, forged := range []uint64{0, 1, token - 1, token + 1, 1<<64 - 1} {
				forge(forged, "a", wire.Absent)
			}
			forge(token, "b", wire.Absent)
		}
		// A stream that nobody has opened, and a batch in one that has none.
		e.say(e.frame(func(w *wire.Writer) {
			w.Request(1<<40, 1, 1000, 0, []byte("forged"))
			w.Open(1<<20, 0, token, "a")
			w.Batch(1<<20, 1, 1000, [][]byte{[]byte("forged")})
			w.Open(1<<21, wire.Chained, token, "a")
			w.Request(1<<21, 1, 1000, 0, []byte("forged"))
		}))
		got := e.answers(len(want) + 2) // none of the chain's message is received, which is no count
		for n, s := range want {
			if got[n] != s {
				t.Errorf("stream %d: status %d, want %d", n>>32, got[n], s)
			}
		}
	})
}

// An answer that does not come over the link to the holder, or answers what was
// not asked, changes nothing, although everything else in it is right.
func TestAForgedAcknowledgementIsNotBelieved(t *testing.T) {
	t.Parallel()
	p := startPuppet(t, keypair{})
	g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(p.identity), nil })
	sent := make(chan error, 1)
	send := func() { sent <- g.SendDataContext(deadline(t, time.Minute), "a", []byte("data")) }
	go send()
	e := p.accept(g, keypair{})
	e.item(wire.Open) // with the request

	other := startPuppet(t, keypair{}).open(g, keypair{}) // with a link of its own
	forge := func(stream uint64) func(w *wire.Writer) {
		return func(w *wire.Writer) {
			w.Answer(stream, 0, 1<<64-1, wire.Received, 0)
			w.Answer(stream, 1, 1, wire.Absent, 17)
			w.Reply(stream, 1, []byte("forged"))
		}
	}
	for _, stream := range []uint64{1, 2, 1 << 63} {
		other.say(other.frame(forge(stream)))
		stray := *other
		stray.theirs = rand.Uint64() | 1
		other.say(stray.frame(forge(stream)))
	}
	nothing := func() {
		t.Helper()
		select {
		case err := <-sent:
			t.Fatalf("ended by a forged answer: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	nothing()
	// The holder's own, of another stream, or of what was not asked.
	e.say(e.frame(func(w *wire.Writer) {
		w.Answer(2, 1, 1, wire.Received, 0)
		w.Answer(1, 0, 1, wire.Received, 0)
		w.Answer(1, 2, 1<<64-1, wire.Received, 0)
		w.Answer(1, 1<<63, 1<<63, wire.Received, 0)
		w.Answer(1, 1, 0, wire.Received, 0)
	}))
	nothing()
	e.say(e.frame(func(w *wire.Writer) { w.Answer(1, 0, 1<<64-1, wire.Received, 0) }))
	must(t, within(t, 10*time.Second, "the answer", sent))

	// What was answered ahead is not.
	go send()
	e.item(wire.Request)
	nothing()
	e.say(e.frame(func(w *wire.Writer) { w.Answer(1, 2, 1, wire.Received, 0) }))
	must(t, within(t, 10*time.Second, "the answer", sent))
	err := g.SendDataContext(deadline(t, 2*time.Second), "a", []byte("data"))
	if !errors.Is(err, gone.ErrOutcomeUnknown) {
		t.Errorf("without an answer: %v", err)
	}
}

// Nor does a hostile answer to a batch end more than the batch.
func TestAnAnswerToABatchThatCannotBeIsUnknown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(w *wire.Writer, stream, n uint64)
		is     error
		n      int
	}{
		"received, but not all": {func(w *wire.Writer, stream, _ uint64) { w.Answer(stream, 1, 1, wire.Received, 0) }, gone.ErrOutcomeUnknown, 0},
		"received, but none":    {func(w *wire.Writer, stream, _ uint64) { w.Answer(stream, 1, 0, wire.Received, 0) }, gone.ErrOutcomeUnknown, 0},
		"more than there were":  {func(w *wire.Writer, stream, _ uint64) { w.Answer(stream, 1, 1<<64-1, wire.Received, 0) }, nil, 3},
		"all of them":           {func(w *wire.Writer, stream, n uint64) { w.Answer(stream, 1, n, wire.Received, 0) }, nil, 3},
		"a reply":               {func(w *wire.Writer, stream, _ uint64) { w.Reply(stream, 1, []byte("x")) }, gone.ErrOutcomeUnknown, 0},
		"a failure":             {func(w *wire.Writer, stream, _ uint64) { w.Failure(stream, 1, []byte("x")) }, gone.ErrOutcomeUnknown, 0},
		"no reply":              {func(w *wire.Writer, stream, n uint64) { w.Answer(stream, 1, n, wire.NoReply, 0) }, nil, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPuppet(t, keypair{})
			g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(p.identity), nil })
			sent := make(chan error, 1)
			var n int
			go func() {
				var err error
				n, err = g.SendBatch(deadline(t, time.Minute), "a", [][]byte{{1}, {2}, {3}})
				sent <- err
			}()
			e := p.accept(g, keypair{})
			b := e.item(wire.Batch)
			e.say(e.frame(func(w *wire.Writer) { test.answer(w, b.Stream, b.Count) }))
			err := within(t, 9*time.Second, "the end of the batch", sent)
			if !errors.Is(err, test.is) || n != test.n {
				t.Errorf("%d were received, %v", n, err)
			}
		})
	}
}

// The handler's side tells requests apart by their numbers.
func TestARequestWithANumberThatWasUsedBeforeIsRefused(t *testing.T) {
	t.Parallel()
	g := startNode(t, startRedis(t).locks(0))
	got := make(chan *gone.Message, 100)
	hold(t, g, "a", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			got <- m
		}
	})
	h, err := g.Holder(context.Background(), "a")
	must(t, err)
	e := startPuppet(t, keypair{}).open(g, keypair{})
	const most = 1<<64 - 1
	numbers := []uint64{1, 1, 3, 2, 3, 4, most, most, 0, 1, most}
	e.say(e.frame(func(w *wire.Writer) {
		w.Open(1, 0, h.Token, "a")
		for _, n := range numbers {
			w.Request(1, n, 60_000, wire.WantsReply, fmt.Append(nil, n))
		}
		w.Open(2, 0, h.Token, "a")
		w.Request(2, 1, 60_000, 0, []byte("last"))
	}))
	seen := map[string]bool{}
	for m := range got {
		if seen[string(m.Data)] {
			t.Errorf("%s was received twice", m.Data)
		}
		if seen[string(m.Data)] = true; string(m.Data) == "last" {
			break
		}
	}
	if !seen["1"] || !seen["3"] || !seen["4"] {
		t.Errorf("received %v", seen)
	}
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// heldBy is a lock that a node at an address holds for good.
type heldBy string

func (h heldBy) Lock() error               { return gone.ErrLockHeld }
func (h heldBy) Extend() error             { return gone.ErrLockLost }
func (h heldBy) Unlock()                   {}
func (h heldBy) GetValue() (string, error) { return string(h), nil }

// What stands in the lock service is somebody's.
func TestAHostileAddressOfTheHolderIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{
		"", "garbage", "tcp://*:1", "tcp://0.0.0.0:1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", "ipc:///tmp/x", "inproc://a",
		"tcp://127.0.0.1:1;2", "tcp://a\nb:1", "tcp://\x00:1", "tcp://[::1:1", "tcp://" + strings.Repeat("a", 10_000) + ":1",
		"tcp://127.0.0.1 :1", "pgm://a;b:1", "tcp://127.0.0.1:1/../../x",
	} {
		g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(addr), nil })
		err := g.SendDataContext(deadline(t, 400*time.Millisecond), "a", []byte("data"))
		if !errors.Is(err, gone.ErrNotDelivered) {
			t.Errorf("%.40q: %v", addr, err)
			continue
		}
		_, ofHolder := g.Holder(context.Background(), "a")
		for _, err := range []error{err, ofHolder} {
			if err == nil || len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x00\n") || !strings.Contains(err.Error(), `holder of "a"`) {
				t.Errorf("%.40q: the error is not fit to be logged: %.200q", addr, err)
			}
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

// fewFiles makes the test binary a node that runs out of file descriptors.
const fewFiles = "GONE_TEST_FEW_FILES"

// While all file descriptors are taken, nobody new gets in; when they are free
// again, everybody does.
func TestANodeOutlivesTheEndOfItsFileDescriptors(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fewFiles+"="+redis.addr.Name)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	say := func(want string) {
		t.Helper()
		b := make([]byte, 1)
		if _, err := io.ReadFull(out, b); err != nil || string(b) != want {
			t.Fatalf("the node says %q (%v), want %q", b, err, want)
		}
	}
	say("h") // it holds
	before := startNode(t, redis.locks(0))
	if err := before.SendData("a", []byte("data")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(in, "t") // take all
	say("t")
	if err := before.SendData("a", []byte("data")); err != nil {
		t.Errorf("through a connection that there is: %v", err)
	}
	late := startNode(t, redis.locks(0))
	if err := late.SendDataContext(deadline(t, time.Second), "a", []byte("data")); err == nil {
		t.Error("a new connection without a file descriptor")
	}
	_, _ = io.WriteString(in, "f") // free them
	say("f")
	if err := late.SendDataContext(deadline(t, 30*time.Second), "a", []byte("data")); err != nil {
		t.Errorf("after they were free again: %v", err)
	}
}

// runOutOfFiles is main of the node of that test.
func runOutOfFiles(sock string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 128, Max: 128}))
	g, err := gone.NewGone("tcp://127.0.0.1:0", locksAt(&net.UnixAddr{Net: "unix", Name: sock}, 0))
	fail(err)
	began := make(chan struct{})
	_, err = g.RunOne("a", func(r *gone.GoneRunner) {
		close(began)
		for {
			select {
			case <-r.Exit:
				return
			case <-r.Data:
			}
		}
	})
	fail(err)
	<-began
	fmt.Print("h")
	var taken []*os.File
	b := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(b); err != nil {
			os.Exit(0)
		}
		switch b[0] {
		case 't':
			// Some are given back yet, as of the node's look at its own address.
			for got := time.Now(); time.Since(got) < time.Second; time.Sleep(10 * time.Millisecond) {
				for f, err := os.Open(os.DevNull); err == nil; f, err = os.Open(os.DevNull) {
					taken, got = append(taken, f), time.Now()
				}
			}
			fmt.Print("t")
		case 'f':
			for _, f := range taken {
				_ = f.Close()
			}
			fmt.Print("f")
		}
	}
}

// A name server that does not answer, and an address that has to be asked for:
// in a frame, or in the lock service.
func TestAHostNameWithoutAnAddressStopsNobodyElse(t *testing.T) {
	asked := make(chan string, 100)
	silent := func(ctx context.Context, _, addr string) (net.Conn, error) {
		asked <- addr
		<-ctx.Done()
		return nil, ctx.Err()
	}
	nameServer.Store(&silent)
	defer nameServer.Store(nil)
	pair := newKeypair(t)
	for name, opts := range map[string][]gone.Option{"plain": nil, "curve": {pair.option()}} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			suffix := ""
			if opts != nil {
				suffix = " " + pair.public
			}
			s.do("SET", "evil", "tcp://a.example:1"+suffix+" 1790000000000000 secret")
			g, err := gone.NewGone("tcp://127.0.0.1:*", s.locks(0), opts...)
			must(t, err)
			honest := startNode(t, s.locks(0), opts...)
			var in inbox
			hold(t, g, "a", in.run)
			must(t, honest.SendData("a", []byte("x")))
			if opts == nil {
				push(t, attacker(t, g, zmq4.PUSH), wire.AppendHello(nil, false, 1, 0, "tcp://b.example:1"))
				<-asked
			}
			var sends sync.WaitGroup
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for _, from := range []*gone.Gone{g, honest} {
				sends.Go(func() {
					err := from.SendDataContext(ctx, "evil", []byte("x"))
					if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrUnreachable) {
						t.Error(err)
					}
				})
			}
			<-asked
			for range 100 {
				if err := honest.SendDataContext(deadline(t, 10*time.Second), "a", []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			time.AfterFunc(2*time.Second, cancel) // it is known by now that nobody is reached
			sends.Wait()
			must(t, g.Close())
		})
	}
}

func TestAHostNameIsAnAddress(t *testing.T) {
	s := startRedis(t)
	g, err := gone.NewGone("tcp://localhost:*", s.locks(0))
	must(t, err)
	defer g.Close()
	if !strings.HasPrefix(g.Addr(), "tcp://localhost:") {
		t.Error(g.Addr())
	}
	var in inbox
	hold(t, g, "a", in.run)
	must(t, startNode(t, s.locks(0)).SendData("a", []byte("x")))
}
