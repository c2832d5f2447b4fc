package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/mailbox"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/wire"
)

// When is an outcome known, and which reason is named? Each of these is a way in
// which a sender could be told less than is known, or more.

// steady is a network in which each frame takes as long.
func (c *cluster) steady(d time.Duration) {
	c.net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Delay: d} })
}

// three are the nodes of a cluster: in most tests the holder, a sender, and who
// comes next.
func (c *cluster) three() (a, b, d *member) {
	return c.node(clusterAddrs[0]), c.node(clusterAddrs[1]), c.node(clusterAddrs[2])
}

func (c *cluster) wants(err error, what ...error) {
	c.t.Helper()
	for _, w := range what {
		if !errors.Is(err, w) {
			c.t.Errorf("%v, want %v", err, w)
		}
	}
	if what == nil && err != nil {
		c.t.Error(err)
	}
}

// in is a context that ends after d, with the bubble's test at the latest.
func (c *cluster) in(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	c.t.Cleanup(cancel)
	return ctx
}

// asks is how often the lock service has been asked for a holder.
func (c *cluster) asks() int {
	c.service.mu.Lock()
	defer c.service.mu.Unlock()
	return c.service.asked
}

// A holder that closes does not know of one whose first message is on its way.
func TestAPlannedEndIsSeenByNoSenderHoweverLongTheWay(t *testing.T) {
	for _, known := range []bool{false, true} {
		for _, quiet := range []time.Duration{0, 4 * time.Second, 6 * time.Second, 3 * time.Minute} {
			for _, way := range []time.Duration{time.Millisecond, 60 * time.Millisecond, 200 * time.Millisecond} {
				inCluster(t, 0, func(c *cluster) {
					c.steady(way)
					a, b, d := c.three()
					a.compete("a")
					c.await("a")
					if known {
						c.wants(c.send(context.Background(), b, "a", "s0", 1))
					}
					time.Sleep(quiet)
					c.senders.Go(func() {
						if err := c.send(context.Background(), b, "a", "s", 1); err != nil {
							t.Errorf("way %v, known %v, quiet for %v: %v", way, known, quiet, err)
						}
					})
					time.Sleep(5 * time.Millisecond) // the lock service has named the holder
					d.compete("a")
					a.leave()
					c.start(a.Addr())
					c.senders.Wait()
				})
			}
		}
	}
}

// However long, up to five minutes.
func TestAHolderThatIsSilentIsWaitedFor(t *testing.T) {
	for _, how := range []linktest.Fate{{Lost: true}, {Refused: true}} {
		inCluster(t, 0, func(c *cluster) {
			a, b, _ := c.three()
			c.steady(time.Millisecond)
			c.paceBy(func() { time.Sleep(time.Second / 2) })
			a.compete("a")
			c.await("a")
			for i := range 3 {
				c.senders.Go(func() { c.wants(c.send(c.in(time.Hour), b, "a", fmt.Sprint("s", i), 1)) })
			}
			time.Sleep(200 * time.Millisecond)
			c.net.Weather(func(from, to string, _ []byte) linktest.Fate {
				if from == b.Addr() || to == b.Addr() {
					return how
				}
				return linktest.Fate{}
			})
			time.Sleep(4 * time.Minute)
			c.steady(time.Millisecond)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			for _, s := range c.sends {
				if s.ended.IsZero() {
					t.Errorf("%v has no result", s)
				}
			}
		})
	}
}

func TestASlowHandlerAndASlowNetworkCostNoCallToTheLockService(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.paceBy(func() { time.Sleep(time.Second) })
		a.compete("a")
		c.await("a")
		c.steady(150 * time.Millisecond)
		before := c.asks()
		for i := range 10 {
			time.Sleep(7 * time.Millisecond)
			c.senders.Go(func() { c.wants(c.send(c.in(time.Minute), b, "a", fmt.Sprint("s", i), 1)) })
		}
		c.senders.Wait()
		if n := c.asks() - before; n > 2 {
			t.Errorf("the lock service was asked %d times", n)
		}
	})
}

// A message that was taken back before it left says nothing of the holder.
func TestAHastySenderCostsNoCallToTheLockService(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		a.compete("a")
		c.await("a")
		c.steady(time.Millisecond)
		c.wants(c.send(context.Background(), b, "a", "s", 1))
		before := c.asks()
		c.net.Weather(func(string, string, []byte) linktest.Fate { return linktest.Fate{Refused: true} })
		c.wants(c.send(c.in(10*time.Millisecond), b, "a", "s", 2), ErrNotDelivered, ErrUnreachable)
		c.steady(time.Millisecond)
		time.Sleep(3 * time.Second)
		c.wants(c.send(context.Background(), b, "a", "s", 3))
		if n := c.asks() - before; n > 0 {
			t.Errorf("the lock service was asked %d times", n)
		}
	})
}

// Its holder may have died meanwhile, and then the outcome would be unknown.
func TestARouteThatWasNotUsedForLongIsConfirmedFirst(t *testing.T) {
	for _, batch := range []bool{false, true} {
		inCluster(t, 0, func(c *cluster) {
			a, b, d := c.three()
			a.compete("a")
			c.await("a")
			send := func(number int) {
				if batch {
					_, err := c.sendBatch(context.Background(), b, "a", "s", 10*number, 3)
					c.wants(err)
				} else {
					c.wants(c.send(context.Background(), b, "a", "s", number))
				}
			}
			send(1)
			before := c.asks()
			for i := range 10 {
				send(i + 2)
				time.Sleep(time.Second)
			}
			if n := c.asks() - before; n > 0 {
				t.Errorf("the lock service was asked %d times for 10 messages", n)
			}
			time.Sleep(20 * time.Second)
			d.compete("a")
			a.crash()
			time.Sleep(2 * clusterTTL)
			send(20)
		})
	}
}

// A process that took the address of one that died is named by the lock service
// until the lock expires.
func TestAnAddressWithoutTheTenureIsNotTriedAgainAndAgain(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, d := c.three()
		a.compete("a")
		c.await("a")
		a.crash()
		c.start(a.Addr())
		var tries atomic.Int32
		c.net.Weather(func(_, to string, frame []byte) linktest.Fate {
			if _, body, err := wire.ParseFrame(frame); err == nil && to == a.Addr() {
				for r := wire.NewReader(body); ; {
					it, _ := r.Next()
					if it == nil {
						break
					}
					if it.Kind == wire.Request {
						tries.Add(1)
					}
				}
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		for i := range 100 {
			c.senders.Go(func() { c.wants(c.send(context.Background(), b, "a", fmt.Sprint("s", i), 1)) })
		}
		time.Sleep(clusterTTL)
		d.compete("a")
		c.senders.Wait()
		if n := tries.Load(); n > 1500 { // with growing pauses
			t.Errorf("%d tries for 100 messages", n)
		}
	})
}

func TestASenderOnTheHoldersNodeKeepsItsDeadlineWhoeverIsBeforeIt(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		stuck := make(chan struct{})
		c.handlers.Add(1)
		r, err := a.RunOne("a", func(r *GoneRunner) {
			for r.Extend() == nil {
				select {
				case <-stuck:
					return
				case <-time.After(time.Second):
				}
			}
		})
		c.wants(err)
		go func() { defer c.handlers.Done(); <-r.Exit }()
		c.await("a")
		patient, cancel := context.WithTimeout(context.Background(), time.Hour)
		c.senders.Go(func() { c.wants(c.send(patient, a, "a", "s", 1), ErrNotDelivered) })
		time.Sleep(time.Millisecond)
		began := time.Now()
		for i, n := range []*member{a, b, a} {
			c.senders.Go(func() {
				c.wants(c.send(context.Background(), n, "a", fmt.Sprint("t", i), 1), ErrNotDelivered, ErrBusy)
				if d := time.Since(began); d > DefaultSendTimeout+10*time.Millisecond {
					t.Errorf("it took %v", d)
				}
			})
		}
		c.senders.Go(func() { c.wants(c.try(b, "a", "u", 1), ErrNotDelivered, ErrBusy) })
		time.Sleep(time.Minute)
		cancel()
		c.senders.Wait()
		close(stuck)
	})
}

// The holder that this node knew has died, and the next one ran here for a while.
func TestWhoWaitedForAHandlerHereAsksTheNextHolderFirst(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, d := c.three()
		b.compete("a")
		c.await("a")
		c.wants(c.send(context.Background(), a, "a", "s", 1))
		b.crash()
		time.Sleep(2 * clusterTTL)
		c.paceBy(func() { time.Sleep(2 * time.Second) })
		a.compete("a")
		c.await("a")
		for i := range 3 {
			c.senders.Go(func() { c.wants(c.send(context.Background(), a, "a", fmt.Sprint("t", i), 1)) })
		}
		time.Sleep(time.Second)
		d.compete("a")
		a.stop("a")
		c.senders.Wait()
	})
}

// A stream that is left for another is not one whose tenure has ended.
func TestALateAnswerOfTheLockServiceStopsNobodyForGood(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, d := c.three()
		a.compete("a")
		c.await("a")
		before := c.service.holds["a"].token
		a.stop("a")
		time.Sleep(time.Second)
		d.compete("a")
		c.await("a")
		c.steady(time.Millisecond)
		c.wants(c.send(context.Background(), b, "a", "s", 1))
		r, err := b.routes.get("a")
		c.wants(err)
		// The holder is cut off for a while, a message has not left …
		c.net.Weather(func(_, to string, _ []byte) linktest.Fate { return linktest.Fate{Refused: to == d.Addr()} })
		c.senders.Go(func() { c.wants(c.send(context.Background(), b, "a", "s1", 1)) })
		time.Sleep(1500 * time.Millisecond)
		// … and what the service said before arrives now.
		r.mu.Lock()
		r.learnLocked(a.Addr(), before, nil)
		r.mu.Unlock()
		time.Sleep(time.Second)
		c.steady(time.Millisecond)
		c.senders.Wait()
		c.wants(c.send(context.Background(), b, "a", "s", 2))
	})
}

func TestTrySendDataDoesNotWaitForALockServiceThatHangs(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		_, b, _ := c.three()
		c.service.slowBy(time.Minute)
		began := time.Now()
		err := c.try(b, "a", "s", 1)
		c.wants(err, ErrNotDelivered, errNotAnswered)
		if errors.Is(err, ErrNoHolder) {
			t.Error(err)
		}
		if d := time.Since(began); d > tryTimeout+10*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		c.service.slowBy(0)
	})
}

func TestTheLockThatHolderAsksIsNotClosed(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		_, b, _ := c.three()
		c.service.slowBy(time.Minute)
		_, err := b.Holder(c.in(time.Second), "a")
		c.wants(err, context.DeadlineExceeded)
		r, err := b.routes.get("a")
		c.wants(err)
		if r.retireIdle() {
			t.Error("the route was evicted")
		}
		time.Sleep(2 * time.Minute)
		if !r.retireIdle() {
			t.Error("the route is kept")
		}
		c.service.slowBy(0)
	})
}

func TestLongRoutesAndStreamsOfManyIDsAreBounded(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		closed := 0
		b.routes.newLock = func(id, value string) (GoneLock, error) {
			return closing{&playedLock{s: c.service, n: b, id: id, value: value}, &closed}, nil
		}
		const ids = routesMost + routesMost/16
		for i := range ids {
			r, err := b.routes.get(fmt.Sprint("id", i))
			if err != nil {
				t.Fatal(err)
			}
			r.mu.Lock()
			r.learnLocked(a.Addr(), 1, nil)
			if i%2 == 0 { // the holder has fallen silent
				r.stream, r.last = nil, r.stream
			}
			r.mu.Unlock()
		}
		if n := len(b.routes.ids); n > routesMost || closed != ids-n {
			t.Errorf("%d routes of %d ids, %d locks closed", n, ids, closed)
		}
		l, err := b.mesh.To(a.Addr())
		c.wants(err)
		if n := len(b.streams.On(l)); n > routesMost {
			t.Errorf("%d streams of %d routes", n, len(b.routes.ids))
		}
	})
}

type closing struct {
	*playedLock
	n *int
}

func (l closing) Close() error {
	*l.n++
	return nil
}

// A sender may have got its route just before it was forgotten.
func TestASenderDoesNotWaitForARouteThatWasForgotten(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		a.compete("a")
		c.await("a")
		for i, between := range []func(r *route){
			func(*route) {},
			func(r *route) { _, _ = r.next(context.Background(), time.Now().Add(time.Second)) },
		} {
			r, err := b.routes.get("a")
			c.wants(err)
			between(r)
			synctest.Wait()
			b.routes.mu.Lock()
			b.routes.evictLocked()
			b.routes.mu.Unlock()
			began := time.Now()
			if s, err := r.next(context.Background(), time.Now().Add(time.Hour)); s != nil || err != nil {
				t.Errorf("got %v, %v", s, err)
			}
			if s, err := r.lookOnce(context.Background()); s != nil || err != nil {
				t.Errorf("got %v, %v", s, err)
			}
			if d := time.Since(began); d > 0 {
				t.Errorf("it took %v", d)
			}
			c.wants(c.send(context.Background(), b, "a", "s", i+1))
		}
	})
}

// Sends on a node that is closed end with what is known.
func TestCloseEndsTheSendsOfItsNodeWithinAboutASecond(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		c.paceBy(func() { time.Sleep(4 * time.Second) })
		a.compete("a")
		c.await("a")
		for i := range 5 {
			c.senders.Go(func() {
				if err := c.send(c.in(time.Hour), b, "a", fmt.Sprint("s", i), 1); err != nil {
					c.wants(err, ErrNotDelivered, ErrClosed)
				}
			})
			c.senders.Go(func() {
				c.wants(c.send(c.in(time.Hour), b, "nobody's", fmt.Sprint("s", i), 1), ErrNotDelivered, ErrClosed)
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		b.leave()
		if d := time.Since(began); d > sendsMost+500*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		c.senders.Wait()
		c.wants(b.SendData("a", nil), ErrNotDelivered, ErrClosed)
	})
}

// Those who wait for room are not let in by those who leave.
func TestCloseEndsTheSendsThatWaitForTheirTurn(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		a.ignore("a")
		big := make([]byte, DefaultMaxMessageSize)
		batch := [][]byte{big, big, big, big, big, big}
		for range 20 {
			c.senders.Go(func() { c.wants(b.SendDataContext(c.in(time.Hour), "a", big), ErrNotDelivered, ErrClosed) })
			c.senders.Go(func() {
				_, err := b.SendBatch(c.in(time.Hour), "a", batch)
				c.wants(err, ErrNotDelivered, ErrClosed)
			})
			c.senders.Go(func() {
				_, err := b.Request(c.in(time.Hour), "a", big)
				c.wants(err, ErrNotDelivered, ErrClosed)
			})
		}
		time.Sleep(time.Second)
		began := time.Now()
		b.leave()
		if d := time.Since(began); d > sendsMost+500*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		c.senders.Wait()
	})
}

// ignore has a node hold an id with a handler that receives nothing.
func (n *member) ignore(id string) {
	n.c.handlers.Add(1)
	r, err := n.RunOne(id, func(r *GoneRunner) {
		for {
			select {
			case <-r.Exit:
				return
			case <-time.After(clusterTTL / 3):
				_ = r.Extend()
			}
		}
	})
	n.c.wants(err)
	go func() { defer n.c.handlers.Done(); <-r.Exit }()
	n.c.await(id)
}

// For as long, what is under way may still be received: here, by the next holder.
func TestCloseWaitsForTheSendsOfItsNode(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.senders.Go(func() { c.wants(c.send(context.Background(), b, "a", "s", 1)) })
		time.Sleep(time.Second)
		time.AfterFunc(sendsMost/4, func() { a.compete("a") })
		b.leave()
		c.senders.Wait()
	})
}

// Close waits for handlers before it refuses to send.
func TestAHandlerThatIsToEndMayStillSend(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		a.compete("a")
		c.handlers.Add(1)
		r, err := b.RunOne("b", func(r *GoneRunner) {
			<-r.Exit
			time.Sleep(10 * time.Millisecond) // Close is well under way
			c.wants(c.send(context.Background(), b, "a", "its last word", 1))
		})
		c.wants(err)
		go func() { defer c.handlers.Done(); <-r.Exit }()
		c.await("a")
		c.await("b")
		b.leave()
	})
}

// What it has taken before leave is taken, Close answers before: here, a frame that is
// being dealt with.
func TestCloseAnswersWhatItIsDealingWith(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		taken := make(chan struct{})
		a.host.Receive(func(frame []byte, from string) { // as Gone.receive, but slowly
			a.receiving.Lock()
			defer a.receiving.Unlock()
			l, items, _ := a.mesh.Receive(frame, from)
			if items == nil {
				return
			}
			close(taken)
			for i := 0; l.Begin() != nil; i++ { // until no more frames are taken
				l.End()
				if runtime.Gosched(); i == 10_000_000 {
					t.Error("Close goes on taking frames")
					break
				}
			}
			for range 10_000 { // time for a Bye that comes too early
				runtime.Gosched()
			}
			_ = a.streams.Receive(l, items)
		})
		end := b.ask(a, 1)
		<-taken
		a.leave()
		if r := <-end; r.Status != wire.Absent {
			t.Errorf("%+v, want an answer", r)
		}
	})
}

// Here, what waits for a handler that is late to see that it must end.
func TestCloseAnswersWhatWaitsForAHandlerThatDoesNotReturn(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		in := mailbox.NewInbox(func(m *Message, _ mailbox.Delivery) *Message { return m })
		box := a.room.Begin(context.Background(), context.Background(), "a", 1, func() time.Duration { return time.Hour }, in)
		end := b.ask(a, 1)
		time.Sleep(time.Second)
		if n, _ := box.Waiting(); n != 1 {
			t.Fatal("it does not wait")
		}
		a.leave()
		if r := <-end; r.Status != wire.Ended {
			t.Errorf("%+v, want an answer", r)
		}
	})
}

// Close waits for a second until others have acknowledged what they were told.
func TestCloseTellsItsAnswersThoughFramesAreLost(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		a.compete("a")
		c.await("a")
		c.wants(c.send(context.Background(), b, "a", "s", 1))
		c.net.Weather(func(from, _ string, _ []byte) linktest.Fate {
			return linktest.Fate{Lost: from == a.Addr(), Delay: time.Millisecond}
		})
		c.senders.Go(func() { c.wants(c.send(context.Background(), b, "a", "s", 2)) })
		time.Sleep(50 * time.Millisecond) // the handler has it
		time.AfterFunc(farewellMost/2, func() { c.steady(time.Millisecond) })
		a.leave()
		c.senders.Wait()
	})
}

// Nothing of it goes on: no timer, and no goroutine.
func TestANodeThatIsClosedIsFreed(t *testing.T) {
	net := linktest.New()
	start := func(addr string) *Gone {
		g, err := newPlayed(addr, net.Host(addr), func() time.Duration { return 0 },
			func(string, string) (GoneLock, error) { return nil, nil }, WithLogger(slog.New(slog.DiscardHandler)))
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	other := start(clusterAddrs[0])
	defer other.Close()
	closed := func() weak.Pointer[Gone] {
		g := start(clusterAddrs[1])
		l, err := g.mesh.To(other.Addr())
		if err != nil {
			t.Fatal(err)
		}
		s, err := g.streams.Open(l, "a", 1)
		if err != nil {
			t.Fatal(err)
		}
		s.Send(context.Background(), stream.Call{Deadline: time.Now().Add(time.Minute)}, time.Now())
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		return weak.Make(g)
	}()
	for i := 0; closed.Value() != nil; i++ {
		if i == 100 {
			t.Fatal("something holds it")
		}
		runtime.GC()
	}
}

// ask sends a message to a tenure of "a" on a node, whoever holds that.
func (n *member) ask(to *member, token uint64) <-chan stream.Result {
	l, err := n.mesh.To(to.Addr())
	n.c.wants(err)
	s, err := n.streams.Open(l, "a", token)
	n.c.wants(err)
	end := make(chan stream.Result, 1)
	go func() {
		end <- s.Send(context.Background(), stream.Call{Deadline: time.Now().Add(time.Minute)}, time.Now())
	}()
	return end
}

// A tenure that has said that it is over is not sent to again, though its lock is not
// free yet and the lock service names it.
func TestATenureThatIsOverIsNotAskedAgainAndAgain(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, d := c.three()
		c.steady(time.Millisecond)
		leave := make(chan struct{})
		c.handlers.Add(1)
		r, err := a.RunOne("a", func(r *GoneRunner) { <-r.Data; <-leave })
		c.wants(err)
		go func() { defer c.handlers.Done(); <-r.Exit }()
		c.await("a")
		c.wants(b.SendData("a", nil))
		a.stop("a")
		time.Sleep(time.Millisecond)
		d.compete("a")
		frames := 0
		c.net.Weather(func(from, to string, frame []byte) linktest.Fate {
			if h, _, _ := wire.ParseFrame(frame); h.Kind == wire.Items && from == b.Addr() && to == a.Addr() {
				frames++
			}
			return linktest.Fate{Delay: time.Millisecond}
		})
		c.wants(c.send(context.Background(), b, "a", "s", 1))
		if frames > 2 { // the message, and that its stream is closed
			t.Errorf("%d frames", frames)
		}
		close(leave)
	})
}

// A tenure that is over tells of the one that has followed it on its node.
func TestTheNextTenureOnTheSameNodeIsFoundWithoutTheLockService(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.steady(time.Millisecond)
		for i := range 3 {
			a.compete("a")
			c.await("a")
			before := c.asks()
			c.wants(c.send(context.Background(), b, "a", "s", i+1))
			if n := c.asks() - before; i > 0 && n > 0 {
				t.Errorf("%d calls to the lock service", n)
			}
			a.stop("a")
			for c.holder("a") != nil {
				time.Sleep(time.Millisecond)
			}
		}
	})
}

// The reason is part of the result.
func TestTheReasonOfAResultIsNamed(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, _ := c.three()
		c.wants(c.send(context.Background(), b, "a", "s", 1), ErrNotDelivered, ErrNoHolder)
		c.wants(c.try(b, "a", "s", 2), ErrNotDelivered, ErrNoHolder)
		c.wants(b.SendData("a", make([]byte, DefaultMaxMessageSize+1)), ErrNotDelivered, ErrTooLarge)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		c.wants(c.send(ctx, b, "a", "s", 3), ErrNotDelivered, context.Canceled)
		a.compete("a")
		c.await("a")
		c.wants(c.send(context.Background(), b, "a", "s", 4))
		a.crash()
		err := c.send(c.in(2*time.Second), b, "a", "s", 5)
		if c.wants(err, ErrNotDelivered, ErrUnreachable); err != nil && !strings.Contains(err.Error(), a.Addr()) {
			t.Errorf("%v does not name the holder", err)
		}
	})
}

// What waits for it is refused when Exit closes, and goes to the next holder.
func TestAHandlerThatIgnoresExitHoldsUpNoSender(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		a, b, d := c.three()
		stuck := make(chan struct{})
		c.handlers.Add(1)
		r, err := a.RunOne("a", func(*GoneRunner) { <-stuck })
		c.wants(err)
		go func() { defer c.handlers.Done(); <-r.Exit }()
		c.await("a")
		d.compete("a")
		for i, n := range []*member{a, b} {
			c.senders.Go(func() { c.wants(c.send(context.Background(), n, "a", fmt.Sprint("s", i), 1)) })
		}
		c.senders.Wait()
		close(stuck)
	})
}
