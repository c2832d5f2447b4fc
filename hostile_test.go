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
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		s := attacker(t, g, zmq4.PUSH)
		good := frameTo("a", token, "tcp://127.0.0.1:9", "forged")
		const n = 200
		for i := range n {
			switch frame := append([]byte(nil), good...); i % 4 {
			case 0:
				push(t, s, randomBytes(1+rand.IntN(200)))
			case 1:
				push(t, s, frame[:rand.IntN(len(frame)-1)])
			case 2: // a length that is not there
				push(t, s, frame[:len(frame)-1])
			case 3:
				frame[1] = '2' // a version to come
				push(t, s, frame)
			}
		}
		eventually(t, 10*time.Second, "they are counted", func() bool { return g.Stats().Malformed >= n*9/10 })
	})
}

func TestWrongSocketTypesReachNoHandler(t *testing.T) {
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		for _, kind := range []zmq4.Type{zmq4.REQ, zmq4.DEALER, zmq4.PUB, zmq4.PAIR, zmq4.ROUTER} {
			s := attacker(t, g, kind)
			_ = s.SetSndtimeo(200 * time.Millisecond)
			_, _ = s.SendBytes(frameTo("a", token, "tcp://127.0.0.1:9", "forged"), 0)
		}
	})
}

func TestAnOversizeFrameEndsItsConnectionAndNothingElse(t *testing.T) {
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		s := attacker(t, g, zmq4.PUSH)
		push(t, s, frameTo("a", token, "tcp://127.0.0.1:9", strings.Repeat("x", 64<<20)))
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

// Whoever can read the wire can repeat what he read.
func TestReplayedFramesAreReceivedOnce(t *testing.T) {
	locks := startRedis(t).locks(0)
	g := startNode(t, locks)
	var in inbox
	hold(t, g, "a", in.run)
	h, err := g.Holder(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	s := attacker(t, g, zmq4.PUSH)
	frame := frameTo("a", h.Token, "tcp://127.0.0.1:9", "once")
	for range 100 {
		push(t, s, frame)
	}
	push(t, s, frameTo("a", h.Token, "tcp://127.0.0.1:9", "last"))
	eventually(t, 10*time.Second, "the last frame", func() bool {
		got := in.all()
		return len(got) > 0 && got[len(got)-1] == "last"
	})
	if got := in.all(); len(got) != 2 {
		t.Errorf("received %q", got)
	}
}

// A tenure that is over, one to come, none, another id: nothing is received
// there, and the address for the answer costs nothing lasting.
func TestForgedTokensReachNoHandler(t *testing.T) {
	underAttack(t, func(t *testing.T, g *gone.Gone, token uint64) {
		s := attacker(t, g, zmq4.PUSH)
		for i := range 500 {
			to := fmt.Sprintf("tcp://127.0.%d.%d:%d", i/250, i%250, 1+i)
			for _, forged := range []uint64{0, 1, token - 1, token + 1, 1<<64 - 1} {
				push(t, s, frameTo("a", forged, to, "forged"))
			}
			push(t, s, frameTo("b", token, to, "forged"))
		}
	})
}

// An answer that comes from another address than that of the holder changes
// nothing, although everything else in it is right.
func TestAForgedAcknowledgementIsNotBelieved(t *testing.T) {
	ctx, err := zmq4.NewContext()
	if err != nil {
		t.Fatal(err)
	}
	pull, err := ctx.NewSocket(zmq4.PULL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(pull.Close(), ctx.Term()) }()
	if err := errors.Join(pull.SetRcvtimeo(10*time.Second), pull.Bind("tcp://127.0.0.1:*")); err != nil {
		t.Fatal(err)
	}
	holder, err := pull.GetLastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	g := startNode(t, func(string, string) (gone.GoneLock, error) { return heldBy(holder), nil })
	sent := make(chan error, 1)
	go func() { sent <- g.SendData("a", []byte("data")) }()
	frame, err := pull.RecvBytes(0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := wire.NewReader(frame)
	if err != nil {
		t.Fatal(err)
	}
	it, err := r.Next()
	if err != nil || it == nil {
		t.Fatal(it, err)
	}
	s := attacker(t, g, zmq4.PUSH)
	answer := func(from string, st wire.Status) {
		var w wire.Writer
		w.Reset(nil, 4711, from)
		w.Reply(wire.Return{To: r.From, Flow: it.Flow}, it.Token, it.Seq, st)
		push(t, s, w.Bytes())
	}
	answer("tcp://127.0.0.1:9", wire.Received)
	answer("tcp://127.0.0.1:9", wire.NotHere)
	answer(holder, wire.Received)
	// Through one connection they come in order.
	if err := <-sent; err != nil {
		t.Error(err)
	}
	sent <- g.SendDataContext(deadline(t, 500*time.Millisecond), "a", []byte("data"))
	answer("tcp://127.0.0.1:9", wire.Received)
	if err := <-sent; err == nil {
		t.Error("nil without an answer of the holder")
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
	g, err := gone.NewGone("tcp://127.0.0.1:0", func(id, value string) (gone.GoneLock, error) {
		return gone.NewRedisLock(&net.UnixAddr{Net: "unix", Name: sock}, id, value)
	})
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
			for f, err := os.Open(os.DevNull); err == nil; f, err = os.Open(os.DevNull) {
				taken = append(taken, f)
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
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
		asked <- addr
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	before := net.DefaultResolver
	net.DefaultResolver = silent
	defer func() { net.DefaultResolver = before }()
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
				push(t, attacker(t, g, zmq4.PUSH), frameTo("nothing", 1, "tcp://b.example:1", "x"))
				<-asked
			}
			var sends sync.WaitGroup
			for _, from := range []*gone.Gone{g, honest} {
				sends.Go(func() {
					err := from.SendDataContext(deadline(t, 4*time.Second), "evil", []byte("x"))
					if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrUnreachable) {
						t.Error(err)
					}
				})
			}
			<-asked
			for range 100 {
				if err := honest.SendDataContext(deadline(t, time.Second), "a", []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
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
