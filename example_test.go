package gone_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/gomodule/redigo/redis"
	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
)

// A node of a cluster: it competes for the id, and sends to it.
func Example() {
	newLock := func(id, value string) (gone.GoneLock, error) {
		return gone.NewRedisLock(exampleRedis, id, value)
	}
	g, err := gone.NewGone("tcp://127.0.0.1:0", newLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	_, err = g.RunOne("greeter", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			fmt.Printf("received %s\n", m.Data)
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	if err := g.SendData("greeter", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	// Output: received hello
}

// A handler with a loop of its own. Extend goes on beside it: messages flow while
// the lock service is slow, and if the lock is lost Exit closes.
func ExampleGoneRunner_Extend() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	r, err := g.RunOne("clock", func(r *gone.GoneRunner) {
		ticker := time.NewTicker(r.TTL() / 3)
		defer ticker.Stop()
		for {
			select {
			case <-r.Exit:
				return
			case data := <-r.Data:
				fmt.Printf("received %s\n", data)
			case <-ticker.C:
				go r.Extend()
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := r.SendData([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	// Output: received hello
}

// A question to the handler, and its answer.
func ExampleGone_Request() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	stock := map[string]string{"apples": "12"}
	_, err = g.RunOne("stock", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			if n, ok := stock[string(m.Data)]; ok {
				_ = m.Reply([]byte(n))
			} else {
				_ = m.Fail(fmt.Errorf("no %s here", m.Data))
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, what := range []string{"apples", "pears"} {
		reply, err := g.Request(ctx, "stock", []byte(what))
		failed := (*gone.HandlerError)(nil)
		switch {
		case err == nil:
			fmt.Printf("%s: %s\n", what, reply)
		case errors.As(err, &failed):
			fmt.Printf("%s: failed: %s\n", what, failed.Text)
		case errors.Is(err, gone.ErrNotDelivered):
			fmt.Printf("%s: nobody has received it, ask again\n", what)
		case errors.Is(err, gone.ErrOutcomeUnknown):
			fmt.Printf("%s: it may have been received\n", what)
		}
	}
	// Output:
	// apples: 12
	// pears: failed: no pears here
}

// What a caller can tell from an error.
func ExampleGone_SendDataContext() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = g.SendDataContext(ctx, "nobody", []byte("hello"))
	switch {
	case err == nil:
		fmt.Println("the handler has it")
	case errors.Is(err, gone.ErrNotDelivered):
		fmt.Println("nobody has it, nobody will:", errors.Is(err, gone.ErrNoHolder))
	case errors.Is(err, gone.ErrOutcomeUnknown):
		fmt.Println("somebody may have it")
	}
	// Output: nobody has it, nobody will: true
}

// A resource that refuses a token lower than one it has seen is safe from a
// handler that was paused past its deadline.
func ExampleGoneRunner_FencingToken() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	tokens := make(chan uint64)
	r, err := g.RunOne("writer", func(r *gone.GoneRunner) {
		select {
		case tokens <- r.FencingToken(): // returning ends the tenure
		case <-r.Exit:
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	first, second := <-tokens, <-tokens
	fmt.Println(first < second)
	r.Close()
	<-r.Exit
	// Output: true
}

// A pool of one's own brings the password, TLS, the database and timeouts.
func ExampleNewRedisLockPool() {
	pool := &redis.Pool{
		MaxActive: 8,
		MaxIdle:   8,
		Wait:      true,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, exampleRedis.Network(), exampleRedis.String(),
				redis.DialDatabase(1),
				redis.DialReadTimeout(5*time.Second),
				redis.DialWriteTimeout(5*time.Second))
		},
	}
	defer pool.Close()
	newLock := func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLockPool(pool, id, value)
		if err == nil {
			l.Expiry = 10 * time.Second
		}
		return l, err
	}

	l, err := newLock("door", "tcp://10.0.0.7:6381")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Lock())
	fmt.Println(l.GetValue())
	l.Unlock()
	// Output:
	// <nil>
	// tcp://10.0.0.7:6381 <nil>
}

// Bind one address, advertise another; log through slog.
func ExampleNewGone() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock,
		gone.WithBind("tcp://*:0"),
		gone.WithSendTimeout(5*time.Second),
		gone.WithMaxMessageSize(64<<10),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	_, port, err := net.SplitHostPort(g.Addr()[len("tcp://"):])
	fmt.Println(port != "0", err)
	// Output: true <nil>
}

// One key pair for the whole cluster: who has it is a member.
func ExampleWithCurve() {
	public, secret, err := zmq4.NewCurveKeypair() // once; kept where passwords are
	if err != nil {
		log.Fatal(err)
	}
	a, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock, gone.WithCurve(public, secret))
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	b, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock, gone.WithCurve(public, secret))
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()

	_, err = a.RunOne("vault", func(r *gone.GoneRunner) {
		for {
			select {
			case <-r.Exit:
				return
			case data := <-r.Data:
				fmt.Printf("received %s\n", data)
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := b.SendData("vault", []byte("hello")); err != nil {
		log.Fatal(err)
	}
	// Output: received hello
}

// A pair for each node: none can pose as another, and one can be shut out while
// the others run.
func ExampleGone_AllowKeys() {
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		log.Fatal(err)
	}
	others := make([]string, 2) // their public keys
	for i := range others {
		if others[i], _, err = zmq4.NewCurveKeypair(); err != nil {
			log.Fatal(err)
		}
	}
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock,
		gone.WithCurve(public, secret), gone.WithAllowedKeys(others...))
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	fmt.Println(g.AllowKeys(others[0])) // the other one is out from now on
	// Output: <nil>
}

// A handler that takes all that waits at once, for throughput.
func ExampleGoneRunner_Batches() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	sums := make(chan int)
	_, err = g.RunOne("sum", func(r *gone.GoneRunner) {
		sum, received := 0, 0
		for batch := range r.Batches(1000) { // valid until the next step
			for _, m := range batch {
				sum += int(m.Data[0])
			}
			if received += len(batch); received == 3 {
				sums <- sum
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	n, err := g.SendBatch(context.Background(), "sum", [][]byte{{1}, {2}, {3}}) // in order, and pipelined
	fmt.Println(n, err)
	fmt.Println(<-sums)
	// Output:
	// 3 <nil>
	// 6
}

// Data may be dropped rather than waited for, as in a select with a default.
func ExampleGone_TrySendData() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	begun := make(chan bool)
	_, err = g.RunOne("display", func(r *gone.GoneRunner) {
		begun <- true
		<-r.Exit // it never receives
	})
	if err != nil {
		log.Fatal(err)
	}
	<-begun
	err = g.TrySendData("display", []byte("21 °C"))
	fmt.Println(errors.Is(err, gone.ErrNotDelivered), errors.Is(err, gone.ErrBusy))
	// Output: true true
}

// Answers may be given later, from another goroutine, and in another order: the loop
// goes on receiving meanwhile.
func ExampleMessage_Reply() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	_, err = g.RunOne("greeter", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			go func() {
				// m.Context() ends when nobody waits for the answer any more.
				_ = m.Reply(append([]byte("hello "), m.Data...))
			}()
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	reply, err := g.Request(context.Background(), "greeter", []byte("Ann"))
	fmt.Printf("%s %v\n", reply, err)
	// Output: hello Ann <nil>
}

// Why a tenure ended tells a handler what it may still do.
func ExampleGoneRunner_Context() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock)
	if err != nil {
		log.Fatal(err)
	}
	_, err = g.RunOne("writer", func(r *gone.GoneRunner) {
		for range r.Messages() {
			continue
		}
		switch err := context.Cause(r.Context()); {
		case errors.Is(err, gone.ErrLockLost):
			fmt.Println("another may run already: touch nothing")
		default: // ErrClosed, ErrYielded: the lock is kept until this returns
			fmt.Println("time to clean up:", err)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := g.SendData("writer", nil); err != nil { // it runs
		log.Fatal(err)
	}
	_ = g.Close()
	// Output: time to clean up: gone: closed
}

// A node that serves its clients while its ids move away, as before a restart.
func ExampleGone_Drain() {
	nodes := make([]*gone.Gone, 2)
	for i := range nodes {
		var err error
		if nodes[i], err = gone.NewGone("tcp://127.0.0.1:0", newExampleLock); err != nil {
			log.Fatal(err)
		}
		defer nodes[i].Close()
		_, err = nodes[i].RunOne("drained", func(r *gone.GoneRunner) {
			for range r.Messages() {
				continue
			}
		})
		if err != nil {
			log.Fatal(err)
		}
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := nodes[0].Drain(ctx); err != nil { // its handlers have returned
		log.Fatal(err)
	}
	fmt.Println(nodes[0].SendData("drained", []byte("hello"))) // the other one has it
	h, err := nodes[0].Holder(ctx, "drained")
	fmt.Println(h.Addr == nodes[1].Addr(), err)
	// Output:
	// <nil>
	// true <nil>
}

// A Redis that others use, a short TTL, and no locks from a Redis that has just
// restarted and may have forgotten who holds them.
func ExampleRedisLocks() {
	newLock := gone.RedisLocks("unix://"+exampleRedis.String(), func(l *gone.RedisLock) {
		l.Prefix = "shop:"
		l.Expiry = 10 * time.Second
		l.RestartGuard = false // true where Redis may lose its data in a restart
	})
	l, err := newLock("till", "tcp://10.0.0.7:6381")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Lock())
	l.Unlock()
	// Output: <nil>
}

// Each node holds its share of the ids, this one twice as many as others.
func ExampleWithBalance() {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newExampleLock, gone.WithBalance(), gone.WithWeight(2))
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	for _, device := range []string{"lamp", "door", "pump"} { // on every node that may run them
		if _, err := g.RunOne(device, func(r *gone.GoneRunner) {
			for range r.Messages() {
				continue
			}
		}); err != nil {
			log.Fatal(err)
		}
	}
	nodes, err := g.Nodes(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(nodes), nodes[0].Weight)
	// Output: 1 2
}
