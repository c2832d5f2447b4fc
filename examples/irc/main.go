// The demo of gone: one bot in an IRC room, run by exactly one of several
// processes, that says whatever is posted through any of them. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "node" {
		os.Exit(runNode(os.Args[2:]))
	}
	os.Exit(runDemo(os.Args[1:]))
}

func runDemo(args []string) int {
	flags := flag.NewFlagSet("irc", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "irc [flags]       starts everything; irc node -h shows how to start one node by hand")
		flags.PrintDefaults()
	}
	var cfg config
	flags.StringVar(&cfg.redis, "redis", "", "address of Redis; an embedded one by default")
	cfg.define(flags)
	flags.StringVar(&cfg.irc, "irc", "", "address of an IRC server; an embedded one by default")
	flags.StringVar(&cfg.room, "room", "#gone", "the room")
	flags.StringVar(&cfg.http, "http", "127.0.0.1:0", "address of the load balancer; port 0 is any free port")
	flags.IntVar(&cfg.webs, "web", 3, "number of web nodes, 2 to 9")
	flags.IntVar(&cfg.workers, "workers", 2, "number of worker nodes, 0 to 9")
	script := flags.Bool("script", false, "play the story without a person; also when there is no terminal")
	_ = flags.Parse(args)
	if flags.NArg() > 0 || cfg.webs < 2 || cfg.workers < 0 || max(cfg.webs, cfg.workers) > 9 {
		fmt.Fprintln(os.Stderr, "irc: 2 to 9 web nodes, 0 to 9 workers, and no other arguments")
		return 2
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		*script = true
	}
	logs, err := os.MkdirTemp("", "gone-irc-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "irc:", err)
		return 1
	}
	cfg.logs = logs
	if *script {
		cfg.onLine = func(line string) { fmt.Println("   ", line) }
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()

	began := time.Now()
	d, err := startDemo(ctx, cfg)
	if err != nil {
		fmt.Fprintf(os.Stderr, "irc: cannot start: %v\n", err)
		_ = os.Remove(logs) // it stays when a node has written into it
		return 1
	}
	s := &story{demo: d, tell: func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }}
	if *script {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		err = s.run(ctx)
		cancel()
	} else {
		(&view{demo: d, out: os.Stdout}).run(ctx, os.Stdin)
		fmt.Println("Stopping the nodes …")
	}
	if err := errors.Join(err, d.close(), d.room.verdict()); err != nil {
		fmt.Fprintf(os.Stderr, "\nThe story did not hold:\n%v\nWhat the nodes wrote is in %s.\n", err, logs)
		return 1
	}
	fmt.Printf("\nThe story holds (%v).\n%s\n", time.Since(began).Round(time.Second), s.summary())
	_ = os.RemoveAll(logs)
	return 0
}
