package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	"github.com/Diggs/go-one/internal/wire"
)

// An Attack is what somebody does who can reach the ports and knows the
// protocol, but is no member of the cluster.
type Attack struct {
	Name   string
	Stalls bool // honest senders must keep four fifths of their throughput
	Memory int  // how much the attacked process may grow, in MB
	Gap    bool // libzmq does not bound it on a plain wire
	// Do attacks until ctx ends, or until it has tried n times.
	Do func(ctx context.Context, s *siege, n int)
	N  int
}

// A siege is one attacked node, one honest node that sends to it, and what the
// attacker knows.
type siege struct {
	redis   *Redis
	curve   Pair // of the cluster
	strange Pair // of the attacker
	target  *process
	honest  *process
	tape    *tape
	at      string // the attacked port itself
	holder  string // identity of the attacked node, as honest ones know it
	token   uint64
	zmq     *zmq4.Context

	tried atomic.Int64
}

// The attacks, in an order in which none spoils the next one's start.
func attacks() []Attack {
	return []Attack{
		{Name: "connections of random bytes, half of them with the beginning of a ZeroMQ greeting", Memory: 32, N: 2000, Do: randomBytes},
		{Name: "a forged frame by ZMTP 1.0 and 2.0, which have no mechanism", Memory: 32, N: 1000, Do: oldVersions},
		{Name: "valid ZeroMQ, broken frame: cut, wrong lengths, unknown items, another version, random", Memory: 32, N: 100_000, Do: brokenFrames},
		{Name: "a forged frame from a REQ, DEALER or PAIR socket, and a SUB", Memory: 32, N: 300, Do: wrongSockets},
		{Name: "a frame of 64 MB, and one that only claims 2⁶³ bytes", Memory: 64, N: 40, Do: oversize},
		{Name: "half-open connections: nothing, or one byte, is ever sent; opened again when closed", Stalls: true, Memory: 128, N: 4000, Do: halfOpen},
		{Name: "slow loris: a greeting at one byte every 100 ms", Stalls: true, Memory: 128, N: 1000, Do: slowLoris},
		{Name: "the handshake, then the first bytes of a frame, then silence", Stalls: true, Memory: 128, N: 1000, Do: stalledFrames},
		{Name: "honest connections recorded byte by byte and replayed", Memory: 64, N: 200, Do: replay},
		{Name: "honest frames recorded and replayed through a connection of the attacker's", Memory: 64, N: 100_000, Do: replayFrames},
		{Name: "forged acknowledgements: wrong incarnation; or all right, but not from the holder", Memory: 64, N: 2_000_000, Do: forgedAnswers},
		{Name: "forged tokens: none, old, near, future, another id's", Memory: 64, N: 200_000, Do: forgedTokens},
		{Name: "frames that each name another address for the answer", Memory: 256, N: 50_000, Do: junkAddresses},
		{Name: "questions (MB of them) in the name of nodes that don't read the answers", Memory: 800, N: 400, Do: deafAskers},
		{Name: "forged numbers: far ahead, settled to the end, of 100,000 senders", Memory: 128, N: 100_000, Do: forgedNumbers},
		{Name: "partial frames: the handshake, then all of a message of 1 MB but the last byte", Memory: 256, N: 200, Gap: true, Do: partialFrames},
		{Name: "a message of endlessly many parts (MB)", Memory: 128, N: 500, Gap: true, Do: endlessParts},
	}
}

const nowhere = "tcp://127.0.0.1:9"

// A greeting and a PUSH socket's first command.
var (
	greeting = append(append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0}, "NULL"...), make([]byte, 48)...)
	ready    = []byte("\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH")
)

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// forged is a frame with a message, as the node of an identity would send it.
func (s *siege) forged(token uint64, id, identity string) []byte {
	var w wire.Writer
	w.Reset(nil, rand.Uint64()|1, identity)
	w.Data(&wire.Target{Flow: 1, Token: token, ID: id}, 1, 1, 1000, 0, []byte("forged"))
	return w.Bytes()
}

// dial connects to a port as anybody can. Nil: it could not.
func dial(addr string) net.Conn {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil
	}
	return c
}

// each calls do n times, 16 at a time, or until ctx ends.
func (s *siege) each(ctx context.Context, n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(i)
			}
		})
	}
	wg.Wait()
}

// hold opens n connections and keeps so many open until ctx ends; open makes
// one and does with it what it will.
func (s *siege) hold(ctx context.Context, n int, open func(net.Conn)) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, 64)
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				turn <- struct{}{}
				c := dial(s.at)
				<-turn
				if c == nil {
					time.Sleep(time.Second)
					continue
				}
				s.tried.Add(1)
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				open(c)
				_, _ = io.Copy(io.Discard, c) // until it is closed
				stop()
				_ = c.Close()
				sleep(ctx, time.Second)
			}
		})
	}
	wg.Wait()
}

// push sends frames through a ZeroMQ socket to an address. Where there are
// keys, it has the server's public key, as everybody may, and one of its own.
func (s *siege) push(ctx context.Context, to string, kind zmq4.Type, frames func(i int) []byte, n int) {
	soc, err := s.zmq.NewSocket(kind)
	if err != nil {
		return
	}
	defer soc.Close()
	// Immediate: a frame that is not on a connection is not tried.
	err = errors.Join(soc.SetLinger(500*time.Millisecond), soc.SetSndtimeo(500*time.Millisecond), soc.SetImmediate(true))
	if s.curve != (Pair{}) {
		err = errors.Join(err, soc.ClientAuthCurve(s.curve.Public, s.strange.Public, s.strange.Secret))
	}
	if kind == zmq4.SUB {
		err = errors.Join(err, soc.SetSubscribe(""))
	}
	if errors.Join(err, soc.Connect(to)) != nil {
		return
	}
	for i := range n {
		if ctx.Err() != nil {
			return
		}
		frame := frames(i)
		s.tried.Add(1)
		if _, err := soc.SendBytes(frame, 0); err != nil {
			break // it is not connected, or not any more
		}
	}
	time.Sleep(100 * time.Millisecond)
}

func randomBytes(ctx context.Context, s *siege, n int) {
	s.each(ctx, n, func(i int) {
		c := dial(s.at)
		if c == nil {
			return
		}
		defer c.Close()
		s.tried.Add(1)
		b := noise(1 + rand.IntN(4096))
		if i%2 == 0 {
			b = append(slices.Clone(greeting[:10+rand.IntN(len(greeting)-10)]), b...)
		}
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
	})
}

func oldVersions(ctx context.Context, s *siege, n int) {
	s.each(ctx, n, func(i int) {
		frame := s.forged(s.token, "load", nowhere)
		c := dial(s.at)
		if c == nil {
			return
		}
		defer c.Close()
		s.tried.Add(1)
		if i%2 == 0 { // 1.0: an empty identity, then a message, each length, flags, bytes
			_, _ = c.Write(append([]byte{1, 0, byte(1 + len(frame)), 0}, frame...))
		} else { // 2.0: signature, revision, PUSH, an empty identity, a message
			_, _ = c.Write(append([]byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1, 8, 0, 0, 0, byte(len(frame))}, frame...))
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
	})
}

func brokenFrames(ctx context.Context, s *siege, n int) {
	good := s.forged(s.token, "load", nowhere)
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		frame := slices.Clone(good)
		switch i % 6 {
		case 0:
			frame = noise(1 + rand.IntN(300))
		case 1: // at least the last byte of the message is missing
			frame = frame[:rand.IntN(len(frame))]
		case 2:
			frame[1] = byte(rand.IntN('1')) // a version that never was
		case 3: // an item of a kind that there is not, before the message
			at := 11 + len(nowhere)
			frame = slices.Concat(frame[:at], []byte{byte(7 + rand.IntN(9))}, frame[at:])
		case 4: // a message without a tenure
			frame = append(frame[:11+len(nowhere)], 2, 1, 1, 0, 1, 'x')
		case 5: // a length of 2⁶⁴−1
			frame = append(frame[:len(frame)-len("forged")-1], 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)
		}
		return frame
	}, n)
}

func wrongSockets(ctx context.Context, s *siege, n int) {
	kinds := []zmq4.Type{zmq4.REQ, zmq4.DEALER, zmq4.PAIR, zmq4.SUB} // the others send only to whom they know
	s.each(ctx, n, func(i int) {
		s.push(ctx, s.url(), kinds[i%len(kinds)], func(int) []byte { return s.forged(s.token, "load", nowhere) }, 1)
	})
}

func oversize(ctx context.Context, s *siege, n int) {
	// Not by append: the race detector would look at every byte, which takes
	// seconds, and this process and the tape in it stand still meanwhile.
	huge := make([]byte, 64<<20)
	copy(huge, s.forged(s.token, "load", nowhere))
	for i := range n {
		if i%2 == 0 {
			s.push(ctx, s.url(), zmq4.PUSH, func(int) []byte { return huge }, 1)
			continue
		}
		if c := dial(s.at); c != nil {
			s.shake(c)
			_, _ = c.Write([]byte{2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
		s.tried.Add(1)
	}
}

func halfOpen(ctx context.Context, s *siege, n int) {
	s.hold(ctx, n, func(c net.Conn) {
		if rand.IntN(2) == 0 {
			_, _ = c.Write([]byte{0xff})
		}
	})
}

func slowLoris(ctx context.Context, s *siege, n int) {
	s.hold(ctx, n, func(c net.Conn) {
		for _, b := range greeting {
			if _, err := c.Write([]byte{b}); err != nil || sleep(ctx, 100*time.Millisecond) {
				return
			}
		}
	})
}

func sleep(ctx context.Context, d time.Duration) (ended bool) {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(d):
		return false
	}
}

// shake makes the handshake of a PUSH socket; where there are keys, as far as
// one gets without: the greeting.
func (s *siege) shake(c net.Conn) {
	if s.curve != (Pair{}) {
		g := slices.Clone(greeting)
		copy(g[12:], "CURVE")
		_, _ = c.Write(g)
		return
	}
	_, _ = c.Write(greeting)
	_, _ = c.Write(ready)
	// Its greeting and its command, so that it has read these.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.ReadFull(c, make([]byte, len(greeting)+len(ready)))
	_ = c.SetReadDeadline(time.Time{})
}

func stalledFrames(ctx context.Context, s *siege, n int) {
	s.hold(ctx, n, func(c net.Conn) {
		s.shake(c)
		_, _ = c.Write([]byte{2, 0, 0, 0, 0, 0, 0x10, 0, 0, 'G', '1'}) // a frame of 1 MB
	})
}

func partialFrames(ctx context.Context, s *siege, n int) {
	part := append([]byte{2, 0, 0, 0, 0, 0, 0x10, 0, 0}, make([]byte, 1<<20-1)...)
	s.hold(ctx, n, func(c net.Conn) {
		s.shake(c)
		_, _ = c.Write(part)
	})
}

func endlessParts(ctx context.Context, s *siege, n int) {
	c := dial(s.at)
	if c == nil {
		return
	}
	defer c.Close()
	s.shake(c)
	part := append([]byte{3, 0, 0, 0, 0, 0, 0x10, 0, 0}, make([]byte, 1<<20)...) // and more to come
	for range n {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		s.tried.Add(1)
		if _, err := c.Write(part); err != nil || ctx.Err() != nil {
			break
		}
	}
	time.Sleep(300 * time.Millisecond)
}

func replay(ctx context.Context, s *siege, n int) {
	tapes := s.tape.all()
	s.each(ctx, n, func(i int) {
		c := dial(s.at)
		if c == nil {
			return
		}
		defer c.Close()
		s.tried.Add(1)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(tapes[i%len(tapes)])
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
	})
}

// frames are those that a plain connection has carried.
func frames(tape []byte) (all [][]byte) {
	if len(tape) < len(greeting) {
		return nil
	}
	for tape = tape[len(greeting):]; len(tape) > 1; {
		flags, n, head := tape[0], int(tape[1]), 2
		if flags&2 != 0 {
			if len(tape) < 9 {
				break
			}
			n, head = int(binary.BigEndian.Uint64(tape[1:])), 9
		}
		if n < 0 || len(tape)-head < n {
			break
		}
		if flags&4 == 0 {
			all = append(all, tape[head:head+n])
		}
		tape = tape[head+n:]
	}
	return all
}

func replayFrames(ctx context.Context, s *siege, n int) {
	var all [][]byte
	for _, tape := range s.tape.all() {
		all = append(all, frames(tape)...)
	}
	if len(all) == 0 { // nothing in it can be read
		all = [][]byte{s.forged(s.token, "load", nowhere)}
	}
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte { return all[i%len(all)] }, n)
}

// forgedAnswers knows, on a plain wire, the incarnation of the honest node: it
// is in every frame.
func forgedAnswers(ctx context.Context, s *siege, n int) {
	var me uint64
	for _, tape := range s.tape.all() {
		for _, f := range frames(tape) {
			if r, err := wire.NewReader(f); err == nil {
				me = r.From
			}
		}
	}
	const many = 1000 // in a frame
	s.push(ctx, s.honestURL(), zmq4.PUSH, func(i int) []byte {
		var w wire.Writer
		from, to := nowhere, wire.Return{To: me, Flow: uint64(1 + i%8)}
		if i%2 == 0 {
			from, to.To = s.holder, rand.Uint64()|1
		}
		w.Reset(nil, rand.Uint64()|1, from)
		base := uint64(i/16%4) * many
		for seq := base; seq < base+many; seq++ {
			st := wire.Received
			if i%3 == 0 {
				st = wire.NotHere
			}
			w.Reply(to, s.token, seq, st)
		}
		w.Over(to, 0, []uint64{base + 1, base + 2})
		s.tried.Add(many)
		return w.Bytes()
	}, n/many)
}

func forgedTokens(ctx context.Context, s *siege, n int) {
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		switch i % 7 {
		case 0:
			return s.forged(0, "load", nowhere)
		case 1:
			return s.forged(s.token-1-rand.Uint64N(1e6), "load", nowhere)
		case 2:
			return s.forged(s.token+1+rand.Uint64N(1e6), "load", nowhere)
		case 3:
			return s.forged(1<<64-1, "load", nowhere)
		case 4:
			return s.forged(rand.Uint64()|1, "load", nowhere)
		case 5:
			return s.forged(s.token, "another id", nowhere)
		default:
			return s.forged(s.token, "stuck", nowhere)
		}
	}, n)
}

func junkAddresses(ctx context.Context, s *siege, n int) {
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		addr := fmt.Sprintf("tcp://127.%d.%d.%d:%d", 1+i>>16&0x7f, i>>8&0xff, i&0xff, 1+rand.IntN(65535))
		if s.curve != (Pair{}) {
			addr += " " + s.strange.Public
		}
		return s.forged(1, "load", addr) // it is answered: there is no such tenure
	}, n)
}

func deafAskers(ctx context.Context, s *siege, n int) {
	var deaf []string
	for range 32 {
		soc, err := s.zmq.NewSocket(zmq4.PULL)
		if err != nil {
			return
		}
		defer soc.Close()
		if errors.Join(soc.SetLinger(0), soc.SetRcvhwm(1), soc.SetRcvbuf(4096), soc.Bind("tcp://127.0.0.1:*")) != nil {
			return
		}
		addr, err := soc.GetLastEndpoint()
		if err != nil {
			return
		}
		deaf = append(deaf, addr)
	}
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		var w wire.Writer
		w.Reset(nil, rand.Uint64()|1, deaf[i%len(deaf)])
		for seq := uint64(1); w.Len() < 1<<20; seq++ {
			w.Ask(&wire.Target{Flow: 1, Token: 1, ID: "load"}, 1, seq)
		}
		return w.Bytes()
	}, n)
}

func forgedNumbers(ctx context.Context, s *siege, n int) {
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		var w wire.Writer
		w.Reset(nil, rand.Uint64()|1, nowhere)
		t := &wire.Target{Flow: 1, Token: s.token, ID: "load"}
		switch i % 4 {
		case 0:
			w.Cancel(t, 1, 64<<10)
		case 1:
			w.Cancel(t, 1<<63, 1<<63+64<<10-1)
		case 2:
			w.Ask(t, 1, 1<<64-1)
		case 3:
			w.Cancel(t, 0, 0)
			w.Settled(t, 1<<64-1)
		}
		return w.Bytes()
	}, n)
}

// url and honestURL are where ZeroMQ connects to.
func (s *siege) url() string       { return "tcp://" + s.at }
func (s *siege) honestURL() string { addr, _, _ := strings.Cut(s.honest.addr, " "); return addr }

// A tape is a proxy before the attacked port, for honest senders, that keeps
// the beginning of what each connection carried.
type tape struct {
	ln  net.Listener
	mu  sync.Mutex
	got []*[]byte
}

const tapeLength = 256 << 10

func newTape(at string) (*tape, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tape{ln: ln}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up := dial(at)
			if up == nil {
				_ = c.Close()
				continue
			}
			end := sync.OnceFunc(func() { _, _ = c.Close(), up.Close() })
			kept := &[]byte{}
			t.mu.Lock()
			t.got = append(t.got, kept)
			t.mu.Unlock()
			go func() {
				defer end()
				_, _ = io.Copy(c, up)
			}()
			go func() {
				defer end()
				b := make([]byte, 64<<10)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					t.mu.Lock()
					if room := tapeLength - len(*kept); room > 0 {
						*kept = append(*kept, b[:min(n, room)]...)
					}
					t.mu.Unlock()
					if _, err := up.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return t, nil
}

func (t *tape) all() (got [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.got {
		got = append(got, slices.Clone(*b))
	}
	return got
}
