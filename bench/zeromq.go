package main

import (
	"errors"
	"fmt"
	"sync"

	"github.com/gomodule/redigo/redis"
	zmq4 "github.com/pebbe/zmq4"
)

// What ZeroMQ does without gone. The first two are yardsticks: a loop that
// sends and nothing acknowledged, and a message there and back.
var (
	courierPlain = courier{namePlain, openPlain}
	courierTrip  = courier{nameTrip, openTrip}
	// The original's design: for each message a GET for the holder's address
	// and a REQ/REP round trip.
	courierOriginal = courier{"the original's design", openOriginal}
)

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

// servePlain receives in a loop. A message of one byte ends a run; the number
// received goes back.
func servePlain(r role, ready func(...string)) error {
	n := 0
	return serveLoop(ready, r.Addrs[0], func(b []byte) (answer []byte) {
		if n++; len(b) == 1 {
			answer, n = []byte(fmt.Sprint(n-1)), 0
		}
		return answer
	})
}

// serveTrip sends back what it receives.
func serveTrip(r role, ready func(...string)) error {
	return serveLoop(ready, r.Addrs[0], func(b []byte) []byte { return b })
}

// serveLoop answers what comes on a PULL by a PUSH, where there is an answer.
func serveLoop(ready func(...string), back string, answer func([]byte) []byte) error {
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
	go func() {
		for {
			b, err := pull.RecvBytes(0)
			if err != nil {
				return
			}
			if b := answer(b); b != nil {
				_, _ = push.SendBytes(b, 0)
			}
		}
	}()
	ready(at)
	return nil
}

// openLoop is a PUSH to a child and a PULL back.
func openLoop(w *way, name string) (push, pull *zmq4.Socket, err error) {
	pull, at, err := bound(zmq4.PULL)
	if err != nil {
		return nil, nil, err
	}
	w.onStop(func() { _ = pull.Close() })
	c, err := w.child(role{Name: name, Addrs: []string{at}})
	if err != nil {
		return nil, nil, err
	}
	if push, err = zmq4.NewSocket(zmq4.PUSH); err != nil {
		return nil, nil, err
	}
	w.onStop(func() { _ = push.Close() })
	return push, pull, errors.Join(push.SetLinger(0), push.Connect(c.addrs[0]))
}

func openPlain(w *way, _ *server, _ int) error {
	push, pull, err := openLoop(w, "plain")
	sent := 0
	w.stream = func(msgs [][]byte) error {
		for _, data := range msgs {
			if _, err := push.SendBytes(data, 0); err != nil {
				return err
			}
		}
		sent += len(msgs)
		return nil
	}
	w.settle = func() error {
		if _, err := push.SendBytes([]byte{0}, 0); err != nil {
			return err
		}
		got, err := pull.Recv(0)
		if err == nil && got != fmt.Sprint(sent) {
			err = fmt.Errorf("%s of %d arrived", got, sent)
		}
		sent = 0
		return err
	}
	return err
}

func openTrip(w *way, _ *server, _ int) error {
	push, pull, err := openLoop(w, "trip")
	send := func(_ int, data []byte) error {
		if _, err := push.SendBytes(data, 0); err != nil {
			return err
		}
		_, err := pull.RecvBytes(0)
		return err
	}
	w.sender = func(int) (sender, error) { return send, nil }
	return err
}

func serveOriginal(_ role, ready func(...string)) error {
	rep, at, err := bound(zmq4.REP)
	if err != nil {
		return err
	}
	go func() {
		for {
			if _, err := rep.RecvBytes(0); err != nil {
				return
			}
			_, _ = rep.Send("", 0)
		}
	}()
	ready(at)
	return nil
}

// openOriginal has one socket for all goroutines, as the original had; the
// mutex is what it takes for that not to end the process.
func openOriginal(w *way, s *server, _ int) error {
	c, err := w.child(role{Name: "original"})
	if err != nil {
		return err
	}
	if _, err := s.conn.Do("SET", "original", c.addrs[0]); err != nil {
		return err
	}
	req, err := zmq4.NewSocket(zmq4.REQ)
	if err != nil {
		return err
	}
	w.onStop(func() { _ = req.Close() })
	if err := req.Connect(c.addrs[0]); err != nil {
		return err
	}
	pool := (&line{addr: s.addr}).pool()
	w.onStop(func() { _ = pool.Close() })
	var mu sync.Mutex
	send := func(_ int, data []byte) error {
		conn := pool.Get()
		_, err := redis.String(conn.Do("GET", "original"))
		_ = conn.Close()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := req.SendBytes(data, 0); err != nil {
			return err
		}
		_, err = req.RecvBytes(0)
		return err
	}
	w.sender = func(int) (sender, error) { return send, nil }
	return nil
}
