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
