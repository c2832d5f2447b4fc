package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	"github.com/Diggs/go-one/internal/wire"
)

// A foothold is what an attacker has of the protocol: an end of a link to a node
// where the wire is plain, and the form of its frames where it is not.
type foothold struct {
	identity     string
	mine, theirs uint64 // numbers of the link
	next         uint64 // number of the next frame
	streams      uint64
	leave        func()
}

// enter opens a link to a node at an address. What comes over it is read until
// leave, or, if it is deaf, not at all.
func (s *siege) enter(to string, deaf bool) *foothold {
	f := &foothold{identity: nowhere, mine: rand.Uint64() | 1, theirs: rand.Uint64() | 1, next: 1, leave: func() {}}
	if s.curve != (Pair{}) { // nobody answers
		f.identity += " " + s.strange.Public
		return f
	}
	pull, err := s.zmq.NewSocket(zmq4.PULL)
	if err != nil {
		return f
	}
	err = errors.Join(pull.SetLinger(0), pull.SetRcvtimeo(100*time.Millisecond))
	if deaf {
		err = errors.Join(err, pull.SetRcvhwm(1), pull.SetRcvbuf(4096))
	}
	if err = errors.Join(err, pull.Bind("tcp://127.0.0.1:*")); err == nil {
		f.identity, err = pull.GetLastEndpoint()
	}
	if err != nil {
		_ = pull.Close()
		return f
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for ctx.Err() == nil && !f.greet(ctx, s, to, pull) {
	}
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer pull.Close()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if deaf {
				<-stop
			} else {
				_, _ = pull.RecvBytes(0)
			}
		}
	})
	f.leave = sync.OnceFunc(func() {
		close(stop)
		reading.Wait()
	})
	return f
}

// greet says a Hello and reports whether it was answered.
func (f *foothold) greet(ctx context.Context, s *siege, to string, pull *zmq4.Socket) bool {
	s.push(ctx, to, zmq4.PUSH, func(int) []byte { return wire.AppendHello(nil, false, f.mine, 0, f.identity) }, 1)
	frame, err := pull.RecvBytes(0)
	if err != nil {
		return false
	}
	g, err := wire.ParseHello(frame)
	if err != nil || g.Echo != f.mine {
		return false
	}
	f.theirs = g.Link
	return true
}

// frame makes the frame that is due, which is the last one until another is
// asked for.
func (f *foothold) frame(items func(w *wire.Writer)) []byte {
	var w wire.Writer
	w.Reset(nil)
	items(&w)
	wire.PutHeader(w.Bytes(), wire.Header{Kind: wire.Items, Link: f.theirs, From: f.mine, Number: f.next})
	f.next++
	return w.Bytes()
}

// forged makes a frame with a message to a tenure, in a stream of its own.
func (f *foothold) forged(token uint64, id string) []byte {
	f.streams++
	return f.frame(func(w *wire.Writer) {
		w.Open(f.streams, 0, token, id)
		w.Request(f.streams, 1, 1000, 0, []byte("forged"))
	})
}

// again makes the frame that was made last the one that is due, as it was not
// taken.
func (f *foothold) again() { f.next-- }

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
