package gone_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/wire"
)

// A puppet is a process that speaks the protocol, and says with it whatever its
// test wants. One goroutine at a time uses it.
type puppet struct {
	t        *testing.T
	ctx      *zmq4.Context
	pull     *zmq4.Socket
	identity string
	keys     keypair
	unread   [][]byte
}

// startPuppet starts one, with a pair of keys or with the zero pair.
func startPuppet(t *testing.T, keys keypair) *puppet {
	t.Helper()
	p := &puppet{t: t, keys: keys}
	var err error
	p.ctx, err = zmq4.NewContext()
	must(t, err)
	t.Cleanup(func() { _ = p.ctx.Term() })
	p.pull = p.socket(zmq4.PULL)
	if keys != (keypair{}) { // who connects is not asked for his key
		must(t, errors.Join(p.pull.SetCurveServer(1), p.pull.SetCurveSecretkey(keys.secret)))
	}
	must(t, p.pull.Bind("tcp://127.0.0.1:*"))
	p.identity, err = p.pull.GetLastEndpoint()
	must(t, err)
	if keys != (keypair{}) {
		p.identity += " " + keys.public
	}
	return p
}

func (p *puppet) socket(kind zmq4.Type) *zmq4.Socket {
	p.t.Helper()
	s, err := p.ctx.NewSocket(kind)
	must(p.t, err)
	p.t.Cleanup(func() { _ = s.Close() })
	must(p.t, errors.Join(s.SetLinger(0), s.SetSndtimeo(10*time.Second), s.SetImmediate(true)))
	return s
}

// next returns the first frame that arrives and fits, in so long, or nil. What
// does not fit is kept for who wants it.
func (p *puppet) next(patience time.Duration, fits func(frame []byte) bool) []byte {
	p.t.Helper()
	for i, frame := range p.unread {
		if fits(frame) {
			p.unread = append(p.unread[:i:i], p.unread[i+1:]...)
			return frame
		}
	}
	for end := time.Now().Add(patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		must(p.t, p.pull.SetRcvtimeo(left.Round(time.Millisecond)+time.Millisecond))
		frame, err := p.pull.RecvBytes(0)
		if err != nil {
			continue
		}
		if fits(frame) {
			return frame
		}
		p.unread = append(p.unread, frame)
	}
}

// A wireEnd is the puppet's end of a link.
type wireEnd struct {
	*puppet
	push         *zmq4.Socket
	mine, theirs uint64 // numbers of the link
	sent, taken  uint64 // numbered frames
}

// dial connects to a node under a number for the link, and says nothing yet.
func (p *puppet) dial(g *gone.Gone, server keypair) *wireEnd {
	p.t.Helper()
	e := &wireEnd{puppet: p, push: p.socket(zmq4.PUSH), mine: rand.Uint64() | 1}
	if server != (keypair{}) {
		must(p.t, e.push.ClientAuthCurve(server.public, p.keys.public, p.keys.secret))
	}
	must(p.t, e.push.Connect(g.Addr()))
	return e
}

func (e *wireEnd) say(frames ...[]byte) {
	e.t.Helper()
	push(e.t, e.push, frames...)
}

func (e *wireEnd) hello(welcome bool) []byte {
	return wire.AppendHello(nil, welcome, e.mine, e.theirs, e.identity)
}

// greeting waits for a Hello or a Welcome.
func (e *wireEnd) greeting(patience time.Duration, fits func(wire.Greeting) bool) (g wire.Greeting, ok bool) {
	e.t.Helper()
	return g, nil != e.next(patience, func(frame []byte) bool {
		var err error
		g, err = wire.ParseHello(frame)
		return err == nil && fits(g)
	})
}

// open shakes hands, as who begins.
func (p *puppet) open(g *gone.Gone, server keypair) *wireEnd {
	p.t.Helper()
	e := p.dial(g, server)
	e.say(e.hello(false))
	w, ok := e.greeting(10*time.Second, func(w wire.Greeting) bool { return w.Welcome && w.Echo == e.mine })
	if !ok {
		p.t.Fatal("no Welcome")
	}
	e.theirs = w.Link
	return e
}

// accept shakes hands with a node that has begun, or begins.
func (p *puppet) accept(g *gone.Gone, server keypair) *wireEnd {
	p.t.Helper()
	e := p.dial(g, server)
	h, ok := e.greeting(10*time.Second, func(h wire.Greeting) bool { return !h.Welcome })
	if !ok {
		p.t.Fatal("no Hello")
	}
	e.theirs = h.Link
	e.say(e.hello(true))
	return e
}

// frame makes the next numbered frame.
func (e *wireEnd) frame(items func(w *wire.Writer)) []byte {
	var w wire.Writer
	w.Reset(nil)
	items(&w)
	e.sent++
	wire.PutHeader(w.Bytes(), wire.Header{Kind: wire.Items, Link: e.theirs, From: e.mine, Number: e.sent, Ack: e.taken})
	return w.Bytes()
}

// control makes a frame of a header alone.
func (e *wireEnd) control(k wire.FrameKind) []byte {
	h := wire.Header{Kind: k, Link: e.theirs, From: e.mine, Ack: e.taken}
	if k == wire.Bye {
		e.sent++
		h.Number = e.sent
	}
	return wire.AppendFrame(nil, h)
}

// take returns the items of the next frame of the link that is new, in so long,
// or nil, and acknowledges it.
func (e *wireEnd) take(patience time.Duration) (items []wire.Item) {
	e.t.Helper()
	body := e.hear(patience)
	if body == nil {
		return nil
	}
	e.say(e.control(wire.Ack))
	r := wire.NewReader(body)
	for {
		it, err := r.Next()
		must(e.t, err)
		if it == nil {
			return items
		}
		items = append(items, *it)
	}
}

// hear is take without an acknowledgement.
func (e *wireEnd) hear(patience time.Duration) (body []byte) {
	e.t.Helper()
	e.next(patience, func(frame []byte) bool {
		h, rest, err := wire.ParseFrame(frame)
		if err != nil || h.Kind != wire.Items || h.Link != e.mine || h.Number != e.taken+1 {
			return false
		}
		e.taken, body = h.Number, rest
		return true
	})
	return body
}

// item waits for the next item of a kind, and drops what is before it.
func (e *wireEnd) item(k wire.Kind) wire.Item {
	e.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		for _, it := range e.take(time.Second) {
			if it.Kind == k {
				return it
			}
		}
	}
	e.t.Fatal("no item of kind ", k)
	return wire.Item{}
}

// answers waits until so many requests of a stream are answered, and returns how.
func (e *wireEnd) answers(n int) map[uint64]wire.Status {
	e.t.Helper()
	all := map[uint64]wire.Status{}
	for end := time.Now().Add(20 * time.Second); len(all) < n; {
		if time.Now().After(end) {
			e.t.Fatalf("%d answers, want %d", len(all), n)
		}
		for _, it := range e.take(time.Second) {
			for i := range it.Count {
				if it.Kind == wire.Answer {
					all[it.Stream<<32|it.Number+i] = it.Status
				}
			}
		}
	}
	return all
}

// message is what a node says that sends one, in a stream of its own.
func message(stream, token uint64, id, data string) func(w *wire.Writer) {
	return func(w *wire.Writer) {
		w.Open(stream, 0, token, id)
		w.Request(stream, 1, 10_000, 0, []byte(data))
	}
}

// stranger makes a Hello of nobody's, whom no one can connect to.
func stranger(i int) []byte {
	at := binary.BigEndian.AppendUint32(nil, uint32(i))
	return wire.AppendHello(nil, false, rand.Uint64()|1, 0, fmt.Sprintf("tcp://127.%d.%d.%d:1", 1+at[1], at[2], at[3]))
}
