package gone

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// When is an outcome known, and which reason is named? Each of these is a way in
// which a sender could be told less than is known, or more.

// A holder that closes does not know of one whose first message is on its way.
func TestAPlannedEndIsSeenByNoSenderHoweverLongTheWay(t *testing.T) {
	for _, known := range []bool{false, true} {
		for _, quiet := range []time.Duration{0, flowFresh - time.Second, flowFresh + time.Second, inflowFresh + time.Second} {
			for _, latency := range []time.Duration{time.Millisecond, stragglers + 10*time.Millisecond, 200 * time.Millisecond} {
				inCluster(t, 0, func(c *cluster) {
					c.setNet(func(_, _ string) carriage { return carriage{delay: latency} })
					n := c.node(clusterAddrs[1])
					ct := c.acquire("a", clusterAddrs[0], func() {})
					if known {
						if err := c.send(context.Background(), n, "a", "s0 1", false); err != nil {
							t.Error(err)
						}
					}
					time.Sleep(quiet)
					c.senders.Go(func() {
						if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
							t.Errorf("latency %v, known %v, quiet for %v: %v", latency, known, quiet, err)
						}
					})
					time.Sleep(5 * time.Millisecond) // the lock service has named the holder
					ct.end()
					c.release("a")
					ct.n.settleSenders()
					c.start(clusterAddrs[0]) // the process is gone, another comes
					ct = c.acquire("a", clusterAddrs[2], func() {})
					c.senders.Wait()
					ct.end()
				})
			}
		}
	}
}

func TestWhoWaitedForAHolderIsServedByItHoweverLateItIsReady(t *testing.T) {
	for _, waited := range []time.Duration{0, 300 * time.Millisecond, 2 * time.Second} {
		for _, latency := range []time.Duration{time.Millisecond, 110 * time.Millisecond, 250 * time.Millisecond} {
			for _, tokens := range []bool{true, false} {
				inCluster(t, 0, func(c *cluster) {
					c.setNet(func(_, _ string) carriage { return carriage{delay: latency} })
					n := c.node(clusterAddrs[2])
					if !tokens {
						n.routes.newLock = func(id, _ string) (GoneLock, error) { return tokenless{clusterLock{c, id}}, nil }
					}
					for i := range 3 {
						c.senders.Go(func() {
							if err := c.send(context.Background(), n, "a", fmt.Sprintf("s%d 1", i), false); err != nil {
								t.Errorf("latency %v, waited %v, tokens %v: %v", latency, waited, tokens, err)
							}
						})
					}
					time.Sleep(waited)
					// The lock service names it before it knows.
					c.mu.Lock()
					c.holders["a"] = clusterHolder{clusterAddrs[0], c.token + 1}
					c.mu.Unlock()
					time.Sleep(latency + 30*time.Millisecond)
					ct := c.acquire("a", clusterAddrs[0], func() {})
					c.senders.Wait()
					ct.end()
				})
			}
		}
	}
}

func TestASenderOnTheHoldersNodeKeepsItsDeadlineWhoeverIsBeforeIt(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		stuck := make(chan struct{})
		ct := c.acquire("a", clusterAddrs[0], func() { <-stuck })
		here := c.node(clusterAddrs[0])
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		c.senders.Go(func() { _ = c.send(ctx, here, "a", "s 1", false) })
		time.Sleep(time.Millisecond)
		began := time.Now()
		for i, n := range []*clusterNode{here, c.node(clusterAddrs[1]), here} {
			c.senders.Go(func() {
				err := c.send(context.Background(), n, "a", fmt.Sprintf("t%d 1", i), false)
				if !errors.Is(err, ErrNotDelivered) || !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
				if d := time.Since(began); d > n.opts.sendTimeout+10*time.Millisecond {
					t.Errorf("it took %v", d)
				}
			})
		}
		time.Sleep(time.Minute)
		cancel()
		c.senders.Wait()
		close(stuck)
		ct.end()
	})
}

func TestSendersOnTheHoldersNodeAreServedInTheirOrder(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		ready := make(chan struct{})
		ct := c.acquire("a", clusterAddrs[0], func() { <-ready })
		for i := range 10 {
			c.senders.Go(func() {
				if err := c.send(context.Background(), c.node(clusterAddrs[0]), "a", fmt.Sprintf("all %d", i+1), false); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Millisecond)
		}
		close(ready)
		c.senders.Wait()
		ct.end()
	})
}

// What fills the window to a handler that is stuck says nothing of the holder.
func TestTheReasonOfAFullWindowIsTheHandlerNotTheHolder(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		stuck := make(chan struct{})
		ct := c.acquire("a", clusterAddrs[0], func() { <-stuck })
		n := c.node(clusterAddrs[1])
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		for i := range windowMessages {
			c.senders.Go(func() { _ = c.send(ctx, n, "a", fmt.Sprint("s", i, " 1"), false) })
		}
		time.Sleep(time.Second)
		began := time.Now()
		if err := c.send(context.Background(), n, "a", "try 1", true); !errors.Is(err, ErrBusy) {
			t.Errorf("TrySendData: %v", err)
		}
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("TrySendData took %v", d)
		}
		if err := c.send(context.Background(), n, "a", "t 1", false); !errors.Is(err, ErrBusy) {
			t.Errorf("SendData: %v", err)
		}
		if err := c.sendBatch(context.Background(), n, "a", []string{"b 1", "b 2"}); !errors.Is(err, ErrBusy) {
			t.Errorf("SendBatch: %v", err)
		}
		cancel()
		c.senders.Wait()
		close(stuck)
		ct.end()
	})
}

// A tenure remembers many thousands of senders, and one that was silent for long
// makes room for another.
func TestWhatTheHolderMayHaveForgottenIsUnknownAndNotSentAgain(t *testing.T) {
	for _, gaveUp := range []bool{false, true} {
		inCluster(t, 0, func(c *cluster) {
			ct := c.acquire("a", clusterAddrs[0], func() {})
			n := c.node(clusterAddrs[1])
			if err := c.send(context.Background(), n, "a", "s0 1", false); err != nil {
				t.Error(err)
			}
			other := func(i int) {
				var w wire.Writer
				w.Reset(nil, 4711, clusterAddrs[2])
				w.Ask(&wire.Target{Flow: uint64(i + 1), Token: c.token, ID: "a"}, 1, 1)
				ct.n.in <- w.Bytes()
			}
			for i := range mailboxFlows - 1 {
				if other(i); i%1000 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			time.Sleep(time.Second)
			// The answer is lost, and soon so is all else.
			var cut atomic.Bool
			c.setNet(func(from, to string) carriage {
				return carriage{lost: cut.Load() || from == clusterAddrs[0], delay: time.Millisecond}
			})
			timeout := time.Hour
			if gaveUp {
				timeout = inflowIdle + time.Minute
			}
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			c.senders.Go(func() {
				if err := c.send(ctx, n, "a", "s 1", false); !errors.Is(err, ErrOutcomeUnknown) {
					t.Error(err)
				}
			})
			time.Sleep(100 * time.Millisecond)
			cut.Store(true)
			time.Sleep(inflowIdle + time.Minute - time.Second)
			other(mailboxFlows)
			time.Sleep(500 * time.Millisecond)
			c.setNet(func(_, _ string) carriage { return carriage{delay: time.Millisecond} })
			c.senders.Wait()
			ct.end()
		})
	}
}

// A flow that is left for another is not one whose tenure has ended.
func TestALateAnswerOfTheLockServiceStopsNobodyForGood(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[2])
		old := c.acquire("a", clusterAddrs[0], func() {})
		before := c.token
		ct := c.acquire("a", clusterAddrs[1], func() {})
		if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
			t.Error(err)
		}
		r := c.route(n, "a")
		// The holder is cut off for a while, a message has not left …
		var cut atomic.Bool
		cut.Store(true)
		c.setNet(func(_, to string) carriage {
			return carriage{wait: cut.Load() && to == clusterAddrs[1], lost: cut.Load()}
		})
		c.senders.Go(func() {
			if err := c.send(context.Background(), n, "a", "s1 1", false); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(silentAfter + 500*time.Millisecond)
		// … and what the service said before arrives now.
		old.end()
		r.mu.Lock()
		r.learn(clusterAddrs[0], before, nil)
		r.mu.Unlock()
		time.Sleep(time.Second)
		cut.Store(false)
		c.senders.Wait()
		if err := c.send(context.Background(), n, "a", "s 2", false); err != nil {
			t.Errorf("everything works again: %v", err)
		}
		ct.end()
	})
}

// No tenure has the token 0.
func TestWithoutATokenNothingIsSentThatCouldBeReceived(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[2])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return tokenless{clusterLock{c, id}}, nil }
		c.setNet(func(_, _ string) carriage { return carriage{lost: true} })
		c.holders["a"] = clusterHolder{clusterAddrs[0], 1}
		if err := c.send(context.Background(), n, "a", "s 1", false); !errors.Is(err, ErrNotDelivered) {
			t.Error(err)
		}
	})
}

func TestTheOutcomeOfWhatWasDroppedHereIsKnown(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		ct := c.acquire("a", clusterAddrs[0], func() {})
		n := c.node(clusterAddrs[1])
		if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
			t.Error(err)
		}
		c.setNet(func(_, _ string) carriage { return carriage{wait: true} })
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		c.senders.Go(func() {
			if err := c.send(ctx, n, "a", "s 2", false); !errors.Is(err, ErrNotDelivered) {
				t.Error(err)
			}
		})
		p := n.transport.peers[clusterAddrs[0]]
		for range 2 { // as drain does, each time
			time.Sleep(peerIdle + time.Second)
			p.mu.Lock()
			if !p.w.Empty() {
				p.seal()
			}
			p.queue = p.queue[1:]
			p.drop(1)
			p.mu.Unlock()
		}
		c.senders.Wait()
		ct.end()
	})
}

// The holder that this node knew has died, and the next one ran here for a while.
func TestWhoWaitedForAHandlerHereAsksTheNextHolderFirst(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		here := c.node(clusterAddrs[0])
		c.setNet(func(_, _ string) carriage { return carriage{delay: time.Millisecond} })
		died := c.acquire("a", clusterAddrs[1], func() {})
		if err := c.send(context.Background(), here, "a", "s 1", false); err != nil {
			t.Fatal(err)
		}
		c.setNet(func(from, to string) carriage {
			return carriage{delay: time.Millisecond, lost: from == clusterAddrs[1] || to == clusterAddrs[1]}
		})
		died.end()
		time.Sleep(time.Second)
		stuck := make(chan struct{})
		ct := c.acquire("a", clusterAddrs[0], func() { <-stuck })
		c.senders.Go(func() {
			if err := c.send(context.Background(), here, "a", "s 2", false); err != nil {
				t.Errorf("planned hand-over: %v", err)
			}
		})
		time.Sleep(flowFresh + 3*time.Second)
		ct.exit()
		close(stuck)
		<-ct.done
		c.release("a")
		ct = c.acquire("a", clusterAddrs[2], func() {})
		c.senders.Wait()
		ct.end()
	})
}

// The answers to questions that were asked before the data was sent say nothing
// of the data.
func TestALongWayCostsNoSecondCopy(t *testing.T) {
	for _, latency := range []time.Duration{time.Millisecond, 110 * time.Millisecond, 320 * time.Millisecond} {
		inCluster(t, 0, func(c *cluster) {
			c.setNet(func(_, _ string) carriage { return carriage{delay: latency} })
			ct := c.acquire("a", clusterAddrs[0], func() {})
			data := c.dataTo(clusterAddrs[0])
			for i := range 3 {
				if err := c.send(context.Background(), c.node(clusterAddrs[1]), "a", fmt.Sprint("s ", i+1), false); err != nil {
					t.Error(err)
				}
				if n := data.Load(); n != int32(i+1) {
					t.Errorf("latency %v: %d copies of %d messages", latency, n, i+1)
				}
				time.Sleep(flowFresh + time.Second)
			}
			ct.end()
		})
	}
}

// Only an answer that was given before, and has not arrived, says that the way is
// broken.
func TestTheFirstQuestionDoesNotCostTheConnection(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		c.setNet(func(_, _ string) carriage { return carriage{delay: time.Millisecond} })
		ct := c.acquire("a", clusterAddrs[0], func() {})
		ended := c.token
		time.Sleep(2 * renewAfter)
		ct.end()
		n := c.node(clusterAddrs[1])
		for _, token := range []uint64{ended, 4711} { // over, and never known
			f, err := n.delivery.newFlow("a", clusterAddrs[0], token, func(*flow, bool) {})
			if err != nil {
				t.Fatal(err)
			}
			m := n.delivery.message([]byte("data"), time.Now().Add(time.Minute), false)
			if s := f.send(context.Background(), m, time.Now()); s != wire.NotHere && s != wire.Stranger {
				t.Errorf("fate %d", s)
			}
		}
		p := c.node(clusterAddrs[0]).transport.peers[clusterAddrs[1]]
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.renewal {
			t.Error("it is replaced though nothing was lost")
		}
	})
}

// A hung lock is asked, and does not answer.
type hungLock struct {
	clusterLock
	d time.Duration
}

func (l hungLock) Holder() (string, uint64, error) {
	time.Sleep(l.d)
	return l.clusterLock.Holder()
}

func TestTrySendDataDoesNotWaitForALockServiceThatHangs(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[2])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return hungLock{clusterLock{c, id}, time.Minute}, nil }
		began := time.Now()
		err := c.send(context.Background(), n, "a", "s 1", true)
		if !errors.Is(err, ErrNotDelivered) || !errors.Is(err, errNotAnswered) || errors.Is(err, ErrNoHolder) {
			t.Error(err)
		}
		if d := time.Since(began); d > tryTimeout+10*time.Millisecond {
			t.Errorf("it took %v", d)
		}
	})
}

// A timer that has fired can't be stopped, and may be late.
func TestAClosedNodeAsksNoLockWhereAHolderWas(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[0])
		ct := c.acquire("a", clusterAddrs[1], func() {})
		if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
			t.Fatal(err)
		}
		r := c.route(n, "a")
		f := r.known()
		r.waiting++ // so that look would go on
		n.cancel()
		n.routes.close()
		f.silence(f, true)
		if r.mu.Lock(); r.looking {
			t.Error("a look has begun")
		}
		r.mu.Unlock()
		ct.end()
	})
}

func TestTheLockThatHolderAsksIsNotClosed(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[0])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return hungLock{clusterLock{c, id}, time.Minute}, nil }
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := n.Holder(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		r := c.route(n, "a")
		if r.retireIdle() {
			t.Error("the route was evicted")
		}
		time.Sleep(time.Minute)
		if !r.retireIdle() {
			t.Error("the route is kept")
		}
	})
}
