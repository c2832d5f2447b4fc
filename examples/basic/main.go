// The smallest program with gone: a goroutine that runs on exactly one of the
// processes started with this program, and answers what is typed into any of
// them.
//
// Start a Redis, and then in three terminals:
//
//	go run ./examples/basic -addr tcp://127.0.0.1:6381
//	go run ./examples/basic -addr tcp://127.0.0.1:6382
//	go run ./examples/basic -addr tcp://127.0.0.1:6383
//
// Type a line into each: all of them show up in the same terminal. End that
// process with Ctrl-C, and another one takes over at once; kill -9 it, and
// another one takes over when the lock has expired, within 30 seconds.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/glogger"
	"github.com/golang/glog"
)

func handler(r *gone.GoneRunner) {
	glog.Info("The goroutine runs here now.")
	lines := 0
	for m := range r.Messages() { // until another process has to take over
		lines++
		glog.Infof("Received %s", m.Data)
		_ = m.Reply(fmt.Appendf(nil, "%s is line %d", m.Data, lines))
	}
	glog.Infof("It ends: %v", context.Cause(r.Context()))
}

func main() {
	_ = flag.Set("logtostderr", "true")
	redis := flag.String("redis", "redis://127.0.0.1:6379", "Redis")
	addr := flag.String("addr", "tcp://127.0.0.1:6381", "address that the other processes reach this one at")
	flag.Parse()

	g, err := gone.NewGone(*addr, gone.RedisLocks(*redis), gone.WithLogger(glogger.New()))
	if err != nil {
		glog.Exit(err)
	}
	r, err := g.RunOne("unique_identifier", handler)
	if err != nil {
		glog.Exit(err)
	}

	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			answer, err := r.Request(context.Background(), lines.Bytes()) // or r.SendData, which waits for none
			if err != nil {
				glog.Error(err)
				continue
			}
			glog.Infof("Answer: %s", answer)
		}
	}()

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	<-stop.Done()
	if err := g.Close(); err != nil { // hands over: another process takes over at once
		glog.Exit(err)
	}
}
