package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/gomodule/redigo/redis"
)

// A node is one process. It competes for the bot like every other node, and
// besides that it is a web server or a background worker that posts through
// whichever node has the bot. Its events go to stdout as JSON lines, for the
// supervisor; gone's log goes to stderr.

// sendWithin bounds one SendData; it is longer than a failover takes.
const sendWithin = 6 * time.Second

func runNode(args []string) int {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	name := flags.String("name", "web1", "the node's name, and its nick in the room: at most 7 characters")
	role := flags.String("role", "web", "what the node does besides competing for the bot: web or worker")
	id := flags.String("id", "irc-bot", "the singleton's id: the same on all nodes")
	addr := flags.String("gone", "tcp://127.0.0.1:0", "address that the other nodes reach this one at")
	var service lockService
	flags.StringVar(&service.redis, "redis", "127.0.0.1:6379", "address of Redis")
	service.define(flags)
	ircAddr := flags.String("irc", "127.0.0.1:6667", "address of the IRC server")
	room := flags.String("room", "#gone", "the room")
	httpAddr := flags.String("http", "127.0.0.1:0", "address of the web server")
	supervised := flags.Bool("supervised", false, "end when stdin is closed")
	_ = flags.Parse(args)

	log := slog.New(slog.NewJSONHandler(os.Stdout, nil)).With("node", *name)
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
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	g, err := gone.NewGone(*addr, locks,
		gone.WithSendTimeout(sendWithin), gone.WithControl(),
		gone.WithLogger(slog.New(slog.NewTextHandler(os.Stderr, nil))))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer g.Close()

	pool := newPool(service.redis)
	defer pool.Close()
	b := &bot{node: *name, server: *ircAddr, room: *room, redis: pool, log: log}
	if err := compete(stop, g, *id, b.run); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}

	// Both roles return when told to stop and when what they had in hand is
	// done. Only then does the node hand over the bot, if it has it: until the
	// end its own bot can say what it is asked to.
	switch *role {
	case "web":
		err = (&web{gone: g, id: *id, log: log}).serve(stop, *httpAddr)
	case "worker":
		err = (&worker{gone: g, id: *id, name: *name, redis: pool, log: log}).work(stop)
	default:
		err = fmt.Errorf("unknown role %q", *role)
	}
	if err = cmp.Or(err, g.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// compete calls RunOne, again for some time while the lock service can't be used.
func compete(ctx context.Context, g *gone.Gone, id string, handler func(*gone.GoneRunner)) (err error) {
	for began := time.Now(); ; pause(ctx, 200*time.Millisecond) {
		if _, err = g.RunOne(id, handler); err == nil || ctx.Err() != nil || time.Since(began) > sendWithin {
			return err
		}
	}
}

func newPool(addr string) *redis.Pool {
	return &redis.Pool{
		MaxIdle: 4,
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, "tcp", addr,
				redis.DialConnectTimeout(2*time.Second), redis.DialReadTimeout(5*time.Second), redis.DialWriteTimeout(2*time.Second))
		},
	}
}
