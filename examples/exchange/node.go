package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
)

// expiry of the lock: a crash is noticed this fast.
const expiry = 2 * time.Second

// runNode is one process: a web server, and a candidate for the session. Its
// stdout is one line, the address to post to; its log goes to stderr.
func runNode(args []string) error {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	var service lockService
	flags.StringVar(&service.redis, "redis", "redis://127.0.0.1:6379", "Redis, as a URL")
	service.define(flags)
	addr := flags.String("gone", "tcp://127.0.0.1:0", "address that the other nodes reach this one at")
	http := flags.String("http", "127.0.0.1:0", "address of the web server")
	supervised := flags.Bool("supervised", false, "end when stdin is closed")
	var d desk
	flags.StringVar(&d.node, "name", "web1", "the node's name")
	flags.StringVar(&d.exchange, "exchange", "127.0.0.1:7000", "address of the exchange")
	flags.StringVar(&d.account, "account", "acme", "the account, and the session's id: the same on all nodes")
	_ = flags.Parse(args)

	if *supervised {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
	}
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	locks, end, err := service.locks(stop)
	if err != nil {
		return err
	}
	defer end()
	g, err := gone.NewGone(*addr, locks, gone.WithControl())
	if err != nil {
		return err
	}
	defer g.Close()
	if err := compete(stop, g, d.account, d.run); err != nil {
		return err
	}
	w := &web{gone: g, id: d.account}
	err = w.serve(stop, *http, func(addr string) { fmt.Println(addr) })
	// All that was posted here is answered. Now the session is handed over, if
	// it is here.
	return cmp.Or(err, g.Close())
}

// compete calls RunOne, again for some time while the lock service can't be used.
func compete(ctx context.Context, g *gone.Gone, id string, handler func(*gone.GoneRunner)) (err error) {
	for began := time.Now(); ; pause(ctx, 200*time.Millisecond) {
		if _, err = g.RunOne(id, handler); err == nil || ctx.Err() != nil || time.Since(began) > patience/3 {
			return err
		}
	}
}
