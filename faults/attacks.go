package main

import (
	"context"
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
		{Name: "forged acknowledgements: wrong link, wrong number; or all right, but not over the link to the holder", Memory: 64, N: 2_000_000, Do: forgedAnswers},
		{Name: "forged tokens: none, old, near, future, another id's", Memory: 64, N: 200_000, Do: forgedTokens},
		{Name: "Hellos that each name another address for the answer", Memory: 256, N: 50_000, Do: junkAddresses},
		{Name: "questions (MB of them) of nodes that don't read the answers", Memory: 800, N: 400, Do: deafAskers},
		{Name: "forged numbers: of frames, streams, requests, acknowledgements, to the end; of 100,000 processes", Memory: 128, N: 100_000, Do: forgedNumbers},
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
	f := s.enter(s.url(), false)
	defer f.leave()
	frame := f.forged(s.token, "load")
	s.each(ctx, n, func(i int) {
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
	f := s.enter(s.url(), false)
	defer f.leave()
	open := f.frame(func(w *wire.Writer) { w.Open(1<<40, 0, s.token, "load") })
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		if i == 0 {
			return open
		}
		frame := f.frame(func(w *wire.Writer) { w.Request(1<<40, uint64(i), 1000, 0, []byte("forged")) })
		header, body := slices.Clone(frame[:frameHeader]), frame[frameHeader:]
		switch i % 6 {
		case 0:
			frame = noise(1 + rand.IntN(300))
			f.again()
		case 1: // at least the last byte of the message is missing
			if frame = frame[:rand.IntN(len(frame))]; len(frame) < frameHeader {
				f.again()
			}
		case 2:
			frame[1] = byte(2 + rand.IntN(254)) // a version that there is not
			f.again()
		case 3: // an item of a kind that there is not, into which the message falls
			frame = slices.Concat(header, []byte{byte(19 + rand.IntN(200)), byte(len(body) + rand.IntN(100))}, body)
		case 4: // a message in a stream that nobody has opened
			frame = append(header, byte(wire.Request), 5, 1, 1, 1, 0, 'x')
		case 5: // a length of 2⁶⁴−1
			frame = append(append(header, byte(wire.Request), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), body[2:]...)
		}
		return frame
	}, n)
}

// frameHeader is the size of a frame without items.
var frameHeader = len(wire.AppendFrame(nil, wire.Header{}))

func wrongSockets(ctx context.Context, s *siege, n int) {
	f := s.enter(s.url(), false)
	defer f.leave()
	frame := f.forged(s.token, "load")
	kinds := []zmq4.Type{zmq4.REQ, zmq4.DEALER, zmq4.PAIR, zmq4.SUB} // the others send only to whom they know
	s.each(ctx, n, func(i int) {
		s.push(ctx, s.url(), kinds[i%len(kinds)], func(int) []byte { return frame }, 1)
	})
}

func oversize(ctx context.Context, s *siege, n int) {
	f := s.enter(s.url(), false)
	defer f.leave()
	// Not by append: the race detector would look at every byte, which takes
	// seconds, and this process and the tape in it stand still meanwhile.
	huge := make([]byte, 64<<20)
	copy(huge, f.forged(s.token, "load"))
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
		_, _ = c.Write([]byte{2, 0, 0, 0, 0, 0, 0x10, 0, 0, 'G', wire.Version}) // a frame of 1 MB
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

func replayFrames(ctx context.Context, s *siege, n int) {
	var all [][]byte
	for _, tape := range s.tape.all() {
		all = append(all, frames(tape)...)
	}
	if len(all) == 0 { // nothing in it can be read
		f := s.enter(s.url(), false)
		all = [][]byte{f.forged(s.token, "load")}
	}
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte { return all[i%len(all)] }, n)
}

// forgedAnswers knows, on a plain wire, the number by which the honest node goes
// on its link to the holder: it is in its Hello. It has a link of its own, too.
func forgedAnswers(ctx context.Context, s *siege, n int) {
	f := s.enter(s.honestURL(), false)
	defer f.leave()
	me := f.theirs
	for _, tape := range s.tape.all() {
		for _, frame := range frames(tape) {
			if g, err := wire.ParseHello(frame); err == nil {
				me = g.Link
			}
		}
	}
	const many = 1000 // in a frame
	s.push(ctx, s.honestURL(), zmq4.PUSH, func(i int) []byte {
		base := uint64(i/16%4) * many
		frame := f.frame(func(w *wire.Writer) {
			for n := base; n < base+many; n++ {
				st := wire.Received
				if i%3 == 0 {
					st = wire.Absent
				}
				w.Answer(uint64(1+i%8), n, 1, st, s.token)
			}
			w.Answer(uint64(1+i%8), 0, 1<<64-1, wire.Received, 0)
		})
		s.tried.Add(many)
		switch i % 4 {
		case 0: // a link that there is not
			wire.PutHeader(frame, wire.Header{Kind: wire.Items, Link: rand.Uint64() | 1, Number: uint64(i), Ack: 1<<64 - 1})
			f.again()
		case 1: // the holder's, and a number that was used, or is far ahead
			wire.PutHeader(frame, wire.Header{Kind: wire.Items, Link: me, From: f.theirs, Number: 1 + rand.Uint64N(2)<<63, Ack: 1<<64 - 1})
			f.again()
		}
		return frame
	}, n/many)
}

func forgedTokens(ctx context.Context, s *siege, n int) {
	f := s.enter(s.url(), false)
	defer f.leave()
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		switch i % 7 {
		case 0:
			return f.forged(0, "load")
		case 1:
			return f.forged(s.token-1-rand.Uint64N(1e6), "load")
		case 2:
			return f.forged(s.token+1+rand.Uint64N(1e6), "load")
		case 3:
			return f.forged(1<<64-1, "load")
		case 4:
			return f.forged(rand.Uint64()|1, "load")
		case 5:
			return f.forged(s.token, "another id")
		default:
			return f.forged(s.token, "stuck")
		}
	}, n)
}

func junkAddresses(ctx context.Context, s *siege, n int) {
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		addr := fmt.Sprintf("tcp://127.%d.%d.%d:%d", 1+i>>16&0x7f, i>>8&0xff, i&0xff, 1+rand.IntN(65535))
		if s.curve != (Pair{}) {
			addr += " " + s.strange.Public
		}
		return wire.AppendHello(nil, false, rand.Uint64()|1, 0, addr) // it is answered
	}, n)
}

func deafAskers(ctx context.Context, s *siege, n int) {
	var deaf []*foothold
	for range 32 {
		f := s.enter(s.url(), true)
		defer f.leave()
		deaf = append(deaf, f)
	}
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		return deaf[i%len(deaf)].frame(func(w *wire.Writer) {
			for n := uint64(1); w.Len() < 1<<20; n += 2 { // so that each is answered by itself
				w.Request(1, n, 1000, 0, nil) // in a stream that there is not
			}
		})
	}, n)
}

func forgedNumbers(ctx context.Context, s *siege, n int) {
	f := s.enter(s.url(), false)
	defer f.leave()
	const most = 1<<64 - 1
	s.push(ctx, s.url(), zmq4.PUSH, func(i int) []byte {
		frame := f.frame(func(w *wire.Writer) {
			w.Open(most-uint64(i), wire.Chained, s.token, "load")
			w.Cancel(most-uint64(i), most)
			w.Request(most-uint64(i), most, 1<<63, wire.Try, []byte("forged")) // where batches are due
			w.Close(most - uint64(i))
			w.Close(most)
			w.Answer(uint64(i), 0, most, wire.Received, most)
		})
		switch i % 4 {
		case 0: // one more who says that he is this one
			f.again()
			return wire.AppendHello(nil, false, rand.Uint64()|1, f.theirs+1, f.identity)
		case 1:
			f.again()
			wire.PutHeader(frame, wire.Header{Kind: wire.Items, Link: f.theirs, From: f.mine, Number: most - uint64(i), Ack: most})
		case 2:
			f.again()
			return wire.AppendFrame(nil, wire.Header{Kind: wire.Gap, Link: f.theirs, From: f.mine, Ack: most - uint64(i)})
		}
		return frame
	}, n)
}

// url and honestURL are where ZeroMQ connects to.
func (s *siege) url() string       { return "tcp://" + s.at }
func (s *siege) honestURL() string { addr, _, _ := strings.Cut(s.honest.addr, " "); return addr }
