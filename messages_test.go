package gone

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/mailbox"
)

// takingStage is a node whose handler is given what feed has.
type takingStage struct {
	deadStage
	feed chan []byte
}

func (s takingStage) begin(r *GoneRunner, _ func() time.Duration) (end func()) {
	r.take = func(_ int, into []mailbox.Delivery) []mailbox.Delivery {
		select {
		case data := <-s.feed:
			return append(into, mailbox.Delivery{Data: data})
		case <-r.Exit:
			return into
		}
	}
	return s.end
}

func TestTheLoopKeepsTheLeaseWhileItComesRoundAndABodyThatHangsLosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var extends atomic.Int64
		stage := takingStage{deadStage{func() {}}, make(chan []byte)}
		one := onStage(stage, newBubbleClock().now, onExtend{generousLock{}, func() error { extends.Add(1); return nil }})
		got := make(chan string, 2)
		var lost atomic.Bool
		one.handler = func(r *GoneRunner) {
			for batch := range r.Batches(10) {
				got <- string(batch[0].Data)
				if string(batch[0].Data) == "hang" {
					<-r.Exit
					lost.Store(true)
					_ = r.Close()
				}
			}
		}
		go one.run()
		stage.feed <- []byte("a")
		time.Sleep(10 * leaseTTL) // waiting for messages is healthy
		if n := extends.Load(); n < 29 || n > 31 || <-got != "a" {
			t.Errorf("%d Extends in ten TTLs", n)
		}
		stage.feed <- []byte("hang")
		time.Sleep(2 * leaseTTL)
		if !lost.Load() {
			t.Error("a body that hangs keeps the lease")
		}
		<-one.runner.Exit
	})
}

// Whenever the loop begins, and however often.
func TestALoopThatBeginsLateOrAgainAndAgainKeepsTheLease(t *testing.T) {
	for name, handler := range map[string]func(r *GoneRunner){
		"late": func(r *GoneRunner) {
			time.Sleep(leaseTTL * 6 / 10)
			for range r.Messages() {
			}
		},
		"again and again": func(r *GoneRunner) {
			for r.Context().Err() == nil {
				for range r.Messages() {
					break
				}
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			stage := takingStage{deadStage{func() {}}, make(chan []byte)}
			one := onStage(stage, newBubbleClock().now, generousLock{})
			one.handler = func(r *GoneRunner) {
				handler(r)
				if errors.Is(context.Cause(r.Context()), ErrLockLost) {
					t.Errorf("%s: %v", name, context.Cause(r.Context()))
				}
				_ = r.Close()
			}
			go one.run()
			time.Sleep(leaseTTL)
			for range 20 {
				select {
				case stage.feed <- nil:
				case <-one.runner.Exit:
				}
				time.Sleep(leaseTTL / 5)
			}
			retire(one)
		})
	}
}
