package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	gone "github.com/Diggs/go-one"
)

// expiry of the locks: after it, other workers drive the devices of one that crashed.
const expiry = 10 * time.Second

func newNode(redis string, opts ...gone.Option) (*gone.Gone, error) {
	locks := gone.RedisLocks(redis, func(l *gone.RedisLock) { l.Expiry = expiry })
	return gone.NewGone("tcp://127.0.0.1:0", locks, append(opts, gone.WithCluster("devices"))...)
}

func deviceID(i int) string { return fmt.Sprint("device", i) }

// runWorker is one process. It runs all devices, as all workers do, and holds its share
// of them. It says its address when it is ready, and obeys orders until there are no
// more: then it hands over what it holds.
func runWorker(args []string) error {
	flags := flag.NewFlagSet("worker", flag.ExitOnError)
	redis := flags.String("redis", "redis://127.0.0.1:6379", "Redis, as a URL")
	name := flags.String("name", "w1", "the worker's name")
	devices := flags.Int("devices", 1000, "number of devices, the same for all workers")
	_ = flags.Parse(args)

	g, err := newNode(*redis, gone.WithBalance(), gone.WithControl())
	if err != nil {
		return err
	}
	for i := 0; i < *devices && err == nil; i++ {
		for tries := 0; tries == 0 || err != nil && tries < 10; tries++ { // a lock service that is too busy
			_, err = g.RunOne(deviceID(i), drive(*name))
		}
	}
	fmt.Println(g.Addr())
	for orders := bufio.NewScanner(os.Stdin); err == nil && orders.Scan(); {
		switch orders.Text() {
		case "drain":
			err = g.Drain(context.Background())
		case "resume":
			err = g.Resume()
		}
		fmt.Println("done")
	}
	return errors.Join(err, g.Close())
}

// drive is the handler of each device. A real one would connect to its device here, which
// nobody else does meanwhile.
func drive(worker string) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_ = m.Reply(fmt.Appendf(nil, "%s %d", worker, r.FencingToken()))
		}
	}
}
