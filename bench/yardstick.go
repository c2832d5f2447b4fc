package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// The yardsticks are what ZeroMQ does without gone, and without any
// acknowledgement: a loop that sends, and a message there and back.

// servePlain receives in a loop. A message of one byte ends a run; the number
// received goes to the second address.
func servePlain(r role, ready func(...string)) error {
	return serveZMQ(ready, r.Addrs[0], func(pull, push *zmq4.Socket) {
		for n := 0; ; n++ {
			b, err := pull.RecvBytes(0)
			if err != nil {
				return
			}
			if len(b) == 1 {
				_, _ = push.Send(fmt.Sprint(n), 0)
				n = -1
			}
		}
	})
}

// serveEcho sends back what it receives.
func serveEcho(r role, ready func(...string)) error {
	return serveZMQ(ready, r.Addrs[0], func(pull, push *zmq4.Socket) {
		for {
			b, err := pull.RecvBytes(0)
			if err != nil {
				return
			}
			_, _ = push.SendBytes(b, 0)
		}
	})
}

func serveZMQ(ready func(...string), back string, serve func(pull, push *zmq4.Socket)) error {
	pull, at, err := bound(zmq4.PULL)
	if err != nil {
		return err
	}
	push, err := zmq4.NewSocket(zmq4.PUSH)
	if err != nil {
		return err
	}
	if err := push.Connect(back); err != nil {
		return err
	}
	go serve(pull, push)
	ready(at)
	return nil
}

func bound(kind zmq4.Type) (*zmq4.Socket, string, error) {
	s, err := zmq4.NewSocket(kind)
	if err != nil {
		return nil, "", err
	}
	if err := s.Bind("tcp://127.0.0.1:*"); err != nil {
		return nil, "", err
	}
	at, err := s.GetLastEndpoint()
	return s, at, err
}

// A loop is a PUSH to a child and a PULL back.
type loop struct {
	child *child
	push  *zmq4.Socket
	pull  *zmq4.Socket
}

func startLoop(name string) (*loop, error) {
	pull, at, err := bound(zmq4.PULL)
	if err != nil {
		return nil, err
	}
	c, err := startChild(role{Name: name, Addrs: []string{at}})
	if err != nil {
		return nil, err
	}
	push, err := zmq4.NewSocket(zmq4.PUSH)
	if err == nil {
		err = errors.Join(push.SetLinger(0), push.Connect(c.addrs[0]))
	}
	return &loop{c, push, pull}, err
}

func (l *loop) stop() {
	l.child.stop()
	_ = l.push.Close()
	_ = l.pull.Close()
}

// plain sends for d and returns how many arrived a second.
func (l *loop) plain(d time.Duration, size int) (float64, error) {
	data := make([]byte, size)
	sent := 0
	began := time.Now()
	for ; sent&63 != 0 || time.Since(began) < d; sent++ {
		if _, err := l.push.SendBytes(data, 0); err != nil {
			return 0, err
		}
	}
	if _, err := l.push.SendBytes([]byte{0}, 0); err != nil {
		return 0, err
	}
	got, err := l.pull.Recv(0)
	if err == nil && got != fmt.Sprint(sent) {
		err = fmt.Errorf("%s of %d arrived", got, sent)
	}
	return float64(sent) / time.Since(began).Seconds(), err
}

// roundTrip sends one after the other for d.
func (l *loop) roundTrip(d time.Duration, size int) (figure, error) {
	return load(1, d, size, func(int) sender {
		return func(data []byte) error {
			if _, err := l.push.SendBytes(data, 0); err != nil {
				return err
			}
			_, err := l.pull.RecvBytes(0)
			return err
		}
	})
}

// rotate is a list that begins elsewhere in each round, so that changes of the
// machine's load meet all alike.
func rotate[T any](list []T, round int) []T {
	first := round % len(list)
	return slices.Concat(list[first:], list[:first])
}
