package main

import (
	"bytes"
	"fmt"

	"github.com/gomodule/redigo/redis"
)

// Redis lists: a caller pushes a request, which begins with the name of its
// reply list, to the list of the receiver and waits for its own, in one round
// trip on a connection of its own.
var courierLists = courier{nameLists, openLists}

// serveList replies to what is pushed to a list. In one round trip it replies to
// all that it took before and takes all that waits, up to 256, as the consumer
// of a stream does.
func serveList(r role, ready func(...string)) error {
	conn, err := redis.Dial("tcp", r.Redis)
	if err != nil {
		return err
	}
	list := r.IDs[0]
	go func() {
		for taken := [][]byte(nil); ; {
			for _, request := range taken {
				reply, data, _ := bytes.Cut(request, []byte("\n"))
				_ = conn.Send("LPUSH", reply, data)
			}
			_ = conn.Send("BRPOP", list, 0)
			_ = conn.Send("RPOP", list, 255)
			_ = conn.Flush()
			for range taken {
				_, _ = conn.Receive()
			}
			first, err := redis.ByteSlices(conn.Receive())
			if err != nil {
				return
			}
			more, err := redis.ByteSlices(conn.Receive())
			if err != nil && err != redis.ErrNil {
				return
			}
			taken = append(more, first[1])
		}
	}()
	ready()
	return nil
}

func openLists(w *way, s *server, receivers int) error {
	lists := names("list ", receivers)
	for _, list := range lists {
		if _, err := w.child(role{Name: "redis list", Redis: s.addr, IDs: []string{list}}); err != nil {
			return err
		}
	}
	w.sender = func(caller int) (sender, error) {
		conn, err := redis.Dial("tcp", s.addr)
		if err != nil {
			return nil, err
		}
		w.onStop(func() { _ = conn.Close() })
		reply := fmt.Sprint("reply ", caller)
		request := []byte(reply + "\n")
		return func(to int, data []byte) error {
			_ = conn.Send("LPUSH", lists[to], append(request, data...))
			got, err := redis.ByteSlices(conn.Do("BRPOP", reply, 10))
			if err != nil {
				return err
			}
			return check(got[1], data)
		}, nil
	}
	return nil
}
