//go:build unix

// A lock for a lock service of one's own, here files in a directory that all nodes
// share, and a program that runs on it. In two terminals:
//
//	go run ./examples/lock -dir /tmp/locks
//	go run ./examples/lock -dir /tmp/locks
//
// One of them counts. End it with Ctrl-C, or kill -9 it, and the other one does.
package main

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
)

func count(r *gone.GoneRunner) {
	for n := 1; r.Extend() == nil; n++ {
		log.Printf("counting here: %d, with token %d", n, r.FencingToken())
		select {
		case <-time.After(r.TTL() / 10):
		case <-r.Exit:
		}
	}
}

func main() {
	dir := flag.String("dir", "/tmp/locks", "directory that all nodes share")
	ttl := flag.Duration("ttl", 5*time.Second, "how long a lock lasts when its node has died")
	flag.Parse()
	if err := os.MkdirAll(*dir, 0o700); err != nil {
		log.Fatal(err)
	}
	g, err := gone.NewGone("tcp://127.0.0.1:0", Locks(*dir, *ttl))
	if err == nil {
		_, err = g.RunOne("counter", count)
	}
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
	if err := g.Close(); err != nil {
		log.Fatal(err)
	}
}
