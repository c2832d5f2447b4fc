// The demo of requests: one session with an exchange, held by exactly one of
// several processes, each of which takes orders and returns the exchange's
// answer. See README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	run := runDemo
	if len(os.Args) > 1 && os.Args[1] == "node" {
		os.Args = os.Args[1:]
		run = runNode
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runDemo(args []string) error {
	flags := flag.NewFlagSet("exchange", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "exchange [flags]       starts everything; exchange node -h shows how to start one node by hand")
		flags.PrintDefaults()
	}
	cfg := config{tell: func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }}
	flags.StringVar(&cfg.redis, "redis", "", "Redis, as a URL; an embedded one by default")
	cfg.define(flags)
	flags.IntVar(&cfg.nodes, "nodes", 3, "number of nodes, 2 to 9")
	flags.IntVar(&cfg.clients, "traders", 6, "number of traders, 1 to 26")
	script := flags.Bool("script", false, "play the story without a person")
	rounds := flags.Int("rounds", 1, "how often, with -script")
	_ = flags.Parse(args)
	if flags.NArg() > 0 || min(cfg.nodes-1, cfg.clients, *rounds) < 1 || cfg.nodes > 9 || cfg.clients > 26 {
		flags.Usage()
		os.Exit(2)
	}
	var err error
	if cfg.logs, err = os.MkdirTemp("", "gone-exchange-"); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()

	began := time.Now()
	d, err := startDemo(cfg)
	if err != nil {
		return fmt.Errorf("cannot start: %w", err)
	}
	if *script {
		err = d.play(ctx, *rounds)
	} else {
		d.obey(ctx, commands(os.Stdin))
	}
	d.tell("== What it came to")
	if err := errors.Join(err, d.close(), d.judge()); err != nil {
		return fmt.Errorf("\nIt did not hold:\n%w\nThe journal, and what the nodes wrote, is in %s", err, cfg.logs)
	}
	fmt.Printf("\nIt holds (%v).\n", time.Since(began).Round(time.Second))
	return os.RemoveAll(cfg.logs)
}

// commands are the lines that are typed.
func commands(in *os.File) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

const help = `kill, freeze, thaw, stop, start   a node: the one that is named, or whose turn it is
  slow, cut                         the exchange: its answers, the connection
  Enter shows how things are; quit ends everything and judges it. Post with
    curl -d '{"quantity": 3}' http://ADDRESS/orders`

// obey does what a person wants, until that is enough.
func (d *demo) obey(ctx context.Context, commands <-chan string) {
	d.status()
	d.tell("%s", help)
	for {
		select {
		case <-ctx.Done():
			return
		case command, open := <-commands:
			if !open || command == "quit" {
				return
			}
			verb, name, _ := strings.Cut(command, " ")
			if err := d.do(ctx, verb, name); err != nil {
				d.tell("%v", err)
			}
		}
	}
}

func (d *demo) do(ctx context.Context, verb, name string) error {
	if name == "" {
		name, _, _ = d.exchange.session(firm)
		switch verb {
		case "thaw":
			name = d.cluster.first(frozen)
		case "start":
			name = d.cluster.first(down)
		}
	}
	switch verb {
	case "":
		d.status()
	case "kill":
		return d.overcome(ctx, name, d.cluster.kill)
	case "freeze":
		return d.overcome(ctx, name, d.cluster.freeze)
	case "thaw":
		return d.cluster.thaw(name)
	case "stop":
		return d.cluster.stop(name)
	case "start":
		return d.cluster.start(name)
	case "slow":
		return d.slow(ctx)
	case "cut":
		return d.cut(ctx)
	default:
		return fmt.Errorf("%q is no command", verb)
	}
	return nil
}

func (d *demo) status() {
	holder, token, live := d.exchange.session(firm)
	for _, n := range d.cluster.views() {
		has := ""
		if live && n.name == holder {
			has = fmt.Sprintf("has the session, with fencing token %d", token)
		}
		d.tell("%s %-7s %s  %s", n.name, n.state, n.http, has)
	}
	executions, _ := d.exchange.figures()
	d.tell("%d orders are executed", executions)
}
