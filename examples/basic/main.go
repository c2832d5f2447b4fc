// The smallest program with gone: a goroutine that runs on exactly one of the
// processes started with this program, and gets what is typed into any of them.
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
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/glogger"
	"github.com/golang/glog"
)

var redisAddr = flag.String("redis", ":6379", "address of Redis")

func redisLock(id, value string) (gone.GoneLock, error) {
	addr, err := net.ResolveTCPAddr("tcp", *redisAddr)
	if err != nil {
		return nil, err
	}
	return gone.NewRedisLock(addr, id, value)
}

func runner(r *gone.GoneRunner) {
	glog.V(1).Infof("The goroutine runs here now.")
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-r.Exit:
			glog.V(1).Infof("Exit signalled; exiting runner.")
			return
		case data := <-r.Data:
			glog.V(1).Infof("Received data: %v", string(data))
		case <-ticker.C:
			err := r.Extend()
			if err != nil {
				glog.V(1).Infof("Failed to extend lock; exiting runner: %v", err)
				return
			}
		}
	}
}

func main() {
	_ = flag.Set("logtostderr", "true")
	_ = flag.Set("v", "1")
	addr := flag.String("addr", "tcp://127.0.0.1:6381", "address that the other processes reach this one at")
	flag.Parse()

	g, err := gone.NewGone(*addr, redisLock, gone.WithLogger(glogger.New()))
	if err != nil {
		glog.Exitf("%v", err)
	}
	r, err := g.RunOne("unique_identifier", runner)
	if err != nil {
		glog.Exitf("%v", err)
	}

	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if err := r.SendData(lines.Bytes()); err != nil {
				glog.Errorf("%v", err)
			}
		}
	}()

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	<-stop.Done()
	if err := g.Close(); err != nil { // hands over: another process takes over at once
		glog.Exitf("%v", err)
	}
}
