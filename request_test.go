package gone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

// asks has requests made on the holder's node and on another.
func asks(t *testing.T, test func(t *testing.T, g, holder *gone.Gone)) {
	for _, name := range []string{"here", "there"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			locks := startRedis(t).locks(0)
			holder := startNode(t, locks)
			g := holder
			if name == "there" {
				g = startNode(t, locks)
			}
			test(t, g, holder)
		})
	}
}

func soon(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestARequestReturnsWhatTheHandlerReplied(t *testing.T) {
	t.Parallel()
	echo := func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			if string(m.Data) == "fail" {
				_ = m.Fail(errors.New("no such order"))
				continue
			}
			_ = m.Reply(m.Data)
		}
	}
	asks(t, func(t *testing.T, g, holder *gone.Gone) {
		hold(t, holder, t.Name(), echo)
		for _, data := range []string{"", "a", strings.Repeat("large", 200_000)} {
			reply, err := g.Request(context.Background(), t.Name(), []byte(data))
			if err != nil || string(reply) != data {
				t.Errorf("%d bytes of reply, %v", len(reply), err)
			}
		}
		reply, err := g.Request(context.Background(), t.Name(), []byte("fail"))
		failed := (*gone.HandlerError)(nil)
		if reply != nil || !errors.As(err, &failed) || failed.Text != "no such order" {
			t.Error(reply, err)
		}
		if errors.Is(err, gone.ErrNotDelivered) || errors.Is(err, gone.ErrOutcomeUnknown) {
			t.Error("a failure is neither:", err)
		}
		if err := g.SendData(t.Name(), []byte("fail")); err != nil {
			t.Error("a send wants no reply:", err)
		}
	})
}

func TestRepliesMayComeLateFromAnywhereAndInAnyOrder(t *testing.T) {
	t.Parallel()
	const n = 10_000
	var open []*gone.Message
	all := make(chan struct{})
	gather := func(r *gone.GoneRunner) {
		for batch := range r.Batches(100) {
			if open = append(open, batch...); len(open) == n {
				break
			}
		}
		var replies sync.WaitGroup
		for i := range open { // the last one first
			m := open[n-1-i]
			replies.Go(func() { _ = m.Reply(append([]byte("re: "), m.Data...)) })
		}
		replies.Wait()
		<-all
	}
	locks := startRedis(t).locks(10 * time.Second)
	holder, g := startNode(t, locks), startNode(t, locks)
	hold(t, holder, t.Name(), gather)
	ctx := soon(t, time.Minute)
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			want := fmt.Sprint("re: ", i)
			reply, err := g.Request(ctx, t.Name(), fmt.Append(nil, i))
			if err != nil || string(reply) != want {
				t.Errorf("%q, %v, want %q", reply, err, want)
			}
		})
	}
	callers.Wait()
	close(all)
}

func TestARequestThatWasNotReceivedIsNotDelivered(t *testing.T) {
	t.Parallel()
	asks(t, func(t *testing.T, g, holder *gone.Gone) {
		hold(t, holder, t.Name(), stuck)
		_, err := g.Request(soon(t, 3*time.Second), t.Name(), nil)
		isOnly(t, err, gone.ErrNotDelivered, gone.ErrBusy, context.DeadlineExceeded)
		_, err = g.Request(soon(t, 2*time.Second), "nobody", nil)
		isOnly(t, err, gone.ErrNotDelivered, gone.ErrNoHolder, context.DeadlineExceeded)
		_, err = g.Request(soon(t, 10*time.Second), t.Name(), make([]byte, gone.DefaultMaxMessageSize+1))
		isOnly(t, err, gone.ErrNotDelivered, gone.ErrTooLarge)
	})
}

func TestARequestThatWasReceivedAndNotAnsweredHasNoReply(t *testing.T) {
	t.Parallel()
	asks(t, func(t *testing.T, g, holder *gone.Gone) {
		got := make(chan *gone.Message, 10)
		hold(t, holder, t.Name(), func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				if string(m.Data) == "return" {
					return
				}
				got <- m
			}
		})
		// At the deadline; and the handler sees how long its caller waits.
		ctx := soon(t, 3*time.Second)
		_, err := g.Request(ctx, t.Name(), nil)
		isOnly(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply, context.DeadlineExceeded)
		m := <-got
		until, ok := m.Context().Deadline()
		want, _ := ctx.Deadline()
		// The time that is left is told; the handler's is later by as long as that took.
		if d := until.Sub(want); !ok || d < -time.Second/4 || d > 2*time.Second {
			t.Errorf("the handler's deadline is %v after the caller's", d)
		}
		within(t, time.Second, "the message's context ends", m.Context().Done())
		if err := m.Reply(nil); !errors.Is(err, gone.ErrNoReply) {
			t.Error("a reply that nobody waits for:", err)
		}
		if addr := m.From(); addr != g.Addr() {
			t.Errorf("it is from %q, not %q", addr, g.Addr())
		}
		// When the handler returns.
		_, err = g.Request(soon(t, 10*time.Second), t.Name(), []byte("return"))
		isOnly(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
		// When the caller gives up.
		call, cancel := context.WithCancel(context.Background())
		failed := make(chan error)
		go func() {
			_, err := g.Request(call, t.Name(), nil)
			failed <- err
		}()
		m = within(t, 10*time.Second, "the request", got)
		cancel()
		isOnly(t, <-failed, gone.ErrOutcomeUnknown, gone.ErrNoReply, context.Canceled)
		within(t, time.Second, "the message's context ends", m.Context().Done())
	})
}

func TestAHandlerThatIsToEndMayStillReply(t *testing.T) {
	t.Parallel()
	got, end := make(chan struct{}), make(chan struct{})
	last := func(r *gone.GoneRunner) {
		m := <-r.Inbox
		got <- struct{}{}
		<-r.Exit
		if m.Context().Err() != nil {
			t.Error("the message's context has ended though its sender waits")
		}
		<-end
		_ = m.Reply([]byte("the last"))
	}
	locks := startRedis(t).locks(0)
	holder, g := startNode(t, locks), startNode(t, locks)
	r := hold(t, holder, t.Name(), last)
	replied := make(chan string)
	go func() {
		reply, err := g.Request(context.Background(), t.Name(), nil)
		replied <- fmt.Sprint(string(reply), err)
	}()
	<-got
	_ = r.Close()
	end <- struct{}{}
	if s := within(t, 10*time.Second, "the reply", replied); s != "the last<nil>" {
		t.Error(s)
	}
}

// Also when the lock is lost while the handler answers what it has.
func TestTheContextOfARequestEndsWhenTheLockIsLost(t *testing.T) {
	for _, lost := range []error{gone.ErrLockLost, gone.ErrLeaseExpired} {
		for _, stopping := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				got, leave := make(chan *gone.Message, 1), make(chan struct{})
				r := gonetest.Runner(t, func(r *gone.GoneRunner) {
					got <- <-r.Inbox
					<-leave
				})
				go func() { _, _ = r.Request(soon(t, time.Hour), nil) }()
				m := <-got
				ctx := m.Context()
				if stopping {
					r.End(gone.ErrClosed)
				}
				synctest.Wait()
				if ctx.Err() != nil {
					t.Error("it has ended while the lock is held")
				}
				r.End(lost)
				synctest.Wait()
				if ctx.Err() == nil || m.Context().Err() == nil {
					t.Errorf("it goes on after %v, stopping: %v", lost, stopping)
				}
				close(leave)
			})
		}
	}
}

func TestAReplyOverTheLimitIsAnErrorOfReply(t *testing.T) {
	t.Parallel()
	asks(t, func(t *testing.T, g, holder *gone.Gone) {
		told := make(chan error, 1)
		hold(t, holder, t.Name(), func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				told <- m.Reply(bytes.Repeat([]byte("x"), gone.DefaultMaxMessageSize+1))
			}
		})
		_, err := g.Request(soon(t, 10*time.Second), t.Name(), nil)
		isOnly(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Error("the caller was not told:", err)
		}
		if err := within(t, time.Second, "Reply", told); !errors.Is(err, gone.ErrTooLarge) {
			t.Error(err)
		}
	})
}

func TestAHandlersRequestToItselfIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	g := startNode(t, startRedis(t).locks(0))
	refused := make(chan error, 3)
	hold(t, g, t.Name(), func(r *gone.GoneRunner) {
		m := <-r.Inbox
		_, err := r.Request(context.Background(), nil)
		refused <- err
		for _, ctx := range []context.Context{r.Context(), m.Context()} {
			_, err := g.Request(ctx, t.Name(), nil)
			refused <- err
		}
		_ = m.Reply(nil)
		<-r.Exit
	})
	if _, err := g.Request(soon(t, 10*time.Second), t.Name(), nil); err != nil {
		t.Error(err)
	}
	for range 3 {
		err := within(t, time.Second, "an error at once", refused)
		isOnly(t, err, gone.ErrNotDelivered)
	}
}

func TestHandlersThatAskEachOtherInACircleEndByTheirDeadlines(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(5 * time.Second)
	a, b := startNode(t, locks), startNode(t, locks)
	ids := [2]string{t.Name() + " a", t.Name() + " b"}
	var failed atomic.Int64
	for i, g := range []*gone.Gone{a, b} {
		hold(t, g, ids[i], func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				reply, err := g.Request(m.Context(), ids[1-i], nil)
				if err != nil {
					failed.Add(1)
					_ = m.Fail(err)
					continue
				}
				_ = m.Reply(reply)
			}
		})
	}
	began := time.Now()
	_, err := a.Request(soon(t, time.Second), ids[0], nil)
	if d := time.Since(began); err == nil || d < 500*time.Millisecond || d > atOnce {
		t.Errorf("%v after %v", err, d)
	}
	eventually(t, 10*time.Second, "both handlers are told", func() bool { return failed.Load() >= 2 })
}

// While the lock service does not answer, and the lease lasts.
func TestMessagesFlowWhileRedisIsSlow(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	g := startNode(t, s.locks(12*time.Second)) // it is extended after 4, for up to 3
	hold(t, g, "a", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_ = m.Reply(nil)
		}
	})
	s.signal(syscall.SIGSTOP)
	defer s.signal(syscall.SIGCONT)
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := g.Request(soon(t, 2*time.Second), "a", nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Close does not wait for the reply of a handler that has not returned in time.
func TestCloseEndsRequestsThatAHandlerOfThisNodeDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := startNode(t, startRedis(t).locks(0), gone.WithCloseTimeout(20*time.Millisecond))
	leave, got := make(chan struct{}), make(chan *gone.Message, 1)
	r := hold(t, g, "a", func(r *gone.GoneRunner) {
		got <- <-r.Inbox
		<-leave
	})
	failed := make(chan error, 1)
	go func() {
		_, err := g.Request(soon(t, time.Minute), "a", nil)
		failed <- err
	}()
	m := within(t, 10*time.Second, "the request", got)
	began := time.Now()
	if err := g.Close(); err == nil || time.Since(began) > atOnce {
		t.Errorf("Close: %v after %v", err, time.Since(began))
	}
	isOnly(t, <-failed, gone.ErrOutcomeUnknown, gone.ErrNoReply, gone.ErrClosed)
	if err := m.Reply(nil); !errors.Is(err, gone.ErrNoReply) {
		t.Error("a reply that nobody waits for:", err)
	}
	close(leave)
	within(t, 5*time.Second, "end", r.Exit)
}

// Of what is too much at once some is refused; the link, and all else on it, stays.
func TestLargeRepliesThatAreTooManyAtOnceEndNoLink(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(2 * time.Minute)
	holder, g := startNode(t, locks), startNode(t, locks)
	const n = 300 // more than twice what is kept for a link
	var replied, refused atomic.Int64
	all := make(chan struct{})
	hold(t, holder, t.Name(), func(r *gone.GoneRunner) {
		var open []*gone.Message
		for m := range r.Messages() {
			if open = append(open, m); len(open) == n {
				break
			}
		}
		large := make([]byte, gone.DefaultMaxMessageSize)
		var replies sync.WaitGroup
		for _, m := range open {
			replies.Go(func() {
				switch err := m.Reply(large); {
				case err == nil:
					replied.Add(1)
				case errors.Is(err, gone.ErrBusy):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		replies.Wait()
		close(all)
		<-r.Exit
	})
	var got atomic.Int64
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			switch _, err := g.Request(soon(t, time.Minute), t.Name(), nil); {
			case err == nil:
				got.Add(1)
			default:
				isOnly(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
				if errors.Is(err, gone.ErrUnreachable) {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	within(t, 10*time.Second, "all replies", all)
	if replied.Load() != got.Load() || got.Load()+refused.Load() != n {
		t.Errorf("%d replied, %d refused, %d got one", replied.Load(), refused.Load(), got.Load())
	}
}
