package main

import (
	"fmt"

	"github.com/gomodule/redigo/redis"
)

// Redis Streams: a caller's XADD, a consumer group on each stream whose consumer
// answers on the caller's list, and BLPOP there. What streams is a pipeline of
// XADD, acknowledged by Redis alone.
var courierStreams = courier{nameStreams, openStreams}

// streamLength is how many messages Redis and JetStream keep of what is
// streamed.
const streamLength = 100_000

// serveStream is the consumer of a stream.
func serveStream(r role, ready func(...string)) error {
	conn, err := redis.Dial("tcp", r.Redis)
	if err != nil {
		return err
	}
	stream := r.IDs[0]
	if _, err := conn.Do("XGROUP", "CREATE", stream, "group", "$", "MKSTREAM"); err != nil {
		return err
	}
	go func() {
		for {
			streams, err := redis.Values(conn.Do("XREADGROUP", "GROUP", "group", "one", "COUNT", 256, "BLOCK", 0, "STREAMS", stream, ">"))
			if err != nil {
				return
			}
			entries, _ := redis.Values(streams[0].([]any)[1], nil)
			// One round trip for all that has come.
			for _, e := range entries {
				e := e.([]any)
				fields, _ := redis.ByteSlices(e[1], nil)
				_ = conn.Send("XACK", stream, "group", e[0])
				_ = conn.Send("XDEL", stream, e[0])
				_ = conn.Send("RPUSH", fields[3], "")
			}
			_ = conn.Flush()
			for range 3 * len(entries) {
				_, _ = conn.Receive()
			}
		}
	}()
	ready()
	return nil
}

func openStreams(w *way, s *server, receivers int) error {
	dial := func() (redis.Conn, error) {
		conn, err := redis.Dial("tcp", s.addr)
		if err == nil {
			w.onStop(func() { _ = conn.Close() })
		}
		return conn, err
	}
	streams := names("stream ", receivers)
	for _, stream := range streams {
		if _, err := w.child(role{Name: "redis stream", Redis: s.addr, IDs: []string{stream}}); err != nil {
			return err
		}
	}
	w.sender = func(caller int) (sender, error) {
		conn, err := dial()
		reply := fmt.Sprint("reply ", caller)
		return func(to int, data []byte) error {
			_ = conn.Send("XADD", streams[to], "*", "data", data, "reply", reply)
			_, err := conn.Do("BLPOP", reply, 10)
			return err
		}, err
	}
	pipeline, err := dial()
	if err != nil {
		return err
	}
	acks := countAcks(func() error { _, err := pipeline.Receive(); return err })
	w.stream = func(msgs [][]byte) error {
		for _, data := range msgs {
			if err := pipeline.Send("XADD", "batches", "MAXLEN", "~", streamLength, "*", "data", data); err != nil {
				return err
			}
		}
		acks.expect(len(msgs))
		return pipeline.Flush()
	}
	w.settle = acks.wait
	return nil
}
