package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS: the server, each responder and the requester are a process each. What
// streams is JetStream's async publish, acknowledged by the server when it is in
// its memory.
var (
	courierNATS        = courier{nameNATS, openNATS("nats responder", nothing)}
	courierNATSReplies = courier{nameNATS, openNATS("nats replies", same)}
)

// serveNATS keeps what JetStream wants to keep in the directory at Addrs[0].
func serveNATS(r role, ready func(...string)) error {
	s, err := natsd.NewServer(&natsd.Options{
		Host: "127.0.0.1", Port: natsd.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: r.Addrs[0],
	})
	if err != nil {
		return err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("the server does not start")
	}
	ready(s.ClientURL())
	return nil
}

// serveNATSResponder answers on a subject.
func serveNATSResponder(reply answer) func(role, func(...string)) error {
	return func(r role, ready func(...string)) error {
		nc, err := nats.Connect(r.Addrs[0])
		if err != nil {
			return err
		}
		_, err = nc.Subscribe(r.IDs[0], func(m *nats.Msg) { _ = m.Respond(reply(m.Data)) })
		if err == nil {
			err = nc.Flush()
		}
		ready()
		return err
	}
}

func openNATS(responder string, want answer) func(*way, *server, int) error {
	return func(w *way, _ *server, receivers int) error {
		dir, err := os.MkdirTemp("", "bench-nats-")
		if err != nil {
			return err
		}
		w.onStop(func() { _ = os.RemoveAll(dir) })
		server, err := w.child(role{Name: "nats", Addrs: []string{dir}})
		if err != nil {
			return err
		}
		subjects := names("data.", receivers)
		for _, subject := range subjects {
			if _, err := w.child(role{Name: responder, Addrs: server.addrs, IDs: []string{subject}}); err != nil {
				return err
			}
		}
		nc, err := nats.Connect(server.addrs[0])
		if err != nil {
			return err
		}
		w.onStop(nc.Close)
		send := func(to int, data []byte) error {
			reply, err := nc.Request(subjects[to], data, 10*time.Second)
			if err != nil {
				return err
			}
			return check(reply.Data, want(data))
		}
		w.sender = func(int) (sender, error) { return send, nil }
		return streamToJetStream(w, nc)
	}
}

func streamToJetStream(w *way, nc *nats.Conn) error {
	var failed atomic.Pointer[error]
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { failed.Store(&err) }))
	if err != nil {
		return err
	}
	_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: "batches", Subjects: []string{"batches"}, Storage: jetstream.MemoryStorage, MaxMsgs: streamLength,
	})
	w.stream = func(msgs [][]byte) error {
		for _, data := range msgs {
			if _, err := js.PublishAsync("batches", data, jetstream.WithStallWait(patience)); err != nil {
				return err
			}
		}
		return nil
	}
	w.settle = func() error {
		select {
		case <-js.PublishAsyncComplete():
		case <-time.After(patience):
			return fmt.Errorf("%d are not acknowledged", js.PublishAsyncPending())
		}
		if err := failed.Load(); err != nil {
			return *err
		}
		return nil
	}
	return err
}
