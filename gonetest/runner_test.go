package gonetest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

// stuck is a handler that receives nothing.
func stuck(r *gone.GoneRunner) { <-r.Exit }

// An inbox is a handler that keeps what it receives.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (b *inbox) run(r *gone.GoneRunner) {
	for {
		select {
		case <-r.Exit:
			return
		case data := <-r.Data:
			b.mu.Lock()
			b.got = append(b.got, string(data))
			b.mu.Unlock()
		}
	}
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// A failure is a test that is expected to fail.
type failure struct {
	testing.TB
	mu       sync.Mutex
	said     strings.Builder
	cleanups []func()
}

func (f *failure) Helper()                           {}
func (f *failure) Cleanup(do func())                 { f.cleanups = append(f.cleanups, do) }
func (f *failure) Error(args ...any)                 { f.say(fmt.Sprintln(args...)) }
func (f *failure) Errorf(format string, args ...any) { f.say(fmt.Sprintf(format, args...)) }

func (f *failure) Fatal(args ...any) {
	f.Error(args...)
	runtime.Goexit()
}

func (f *failure) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

func (f *failure) say(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said.WriteString(what)
}

// of runs a test, and returns what it says of its failure.
func (f *failure) of(test func(t testing.TB)) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(f)
	}()
	<-done
	for _, do := range slices.Backward(f.cleanups) {
		do()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said.String()
}

func TestTheHandlerReceivesWhatIsSentInOrder(t *testing.T) {
	test := func(t *testing.T) {
		var in inbox
		r := gonetest.Runner(t, in.run)
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprint(i))
			must(t, r.Send([]byte(want[i])))
		}
		r.End(gone.ErrClosed)
		<-r.Done()
		if got := in.all(); !slices.Equal(got, want) {
			t.Errorf("received %q", got)
		}
	}
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}

func TestASendEndsAsOnACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := gonetest.Runner(t, func(r *gone.GoneRunner) {
			time.Sleep(3 * time.Second)
			<-r.Data
			<-r.Exit
		})
		must(t, r.Send(nil))
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("received after %v", d)
		}
		is(t, r.Send(nil), gone.ErrNotDelivered, gone.ErrBusy)
		if d := time.Since(began); d != 3*time.Second+gone.DefaultSendTimeout {
			t.Errorf("not received after %v", d)
		}
		is(t, r.Send(make([]byte, gone.DefaultMaxMessageSize+1)), gone.ErrNotDelivered, gone.ErrTooLarge)
	})
}

func TestWhatAHandlerThatReturnsHasNotReceivedIsNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := gonetest.Runner(t, func(*gone.GoneRunner) { time.Sleep(time.Second) })
		began := time.Now()
		var senders sync.WaitGroup
		for range 3 {
			senders.Go(func() { is(t, r.Send(nil), gone.ErrNotDelivered, gone.ErrNoHolder) })
		}
		senders.Wait()
		<-r.Done()
		is(t, r.Send(nil), gone.ErrNotDelivered, gone.ErrNoHolder)
		if d := time.Since(began); d != time.Second {
			t.Errorf("it took %v", d)
		}
		is(t, context.Cause(r.Runner().Context()), gone.ErrHandlerReturned)
	})
}

func TestARequestIsAnsweredAsTheHandlerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var later *gone.Message
		r := gonetest.Runner(t, func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				switch string(m.Data) {
				case "reply":
					must(t, m.Reply([]byte("yes")))
				case "fail":
					must(t, m.Fail(errTimeout))
				case "later":
					later = m
				case "return":
					return
				}
			}
		})
		ask := func(what string) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			reply, err := r.Request(ctx, []byte(what))
			return string(reply), err
		}
		if reply, err := ask("reply"); reply != "yes" || err != nil {
			t.Errorf("got %q, %v", reply, err)
		}
		_, err := ask("fail")
		if failed := new(gone.HandlerError); !errors.As(err, &failed) || failed.Error() != "timeout" {
			t.Errorf("got %v", err)
		}
		began := time.Now()
		_, err = ask("later")
		is(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
		if deadline, ok := later.Context().Deadline(); !ok || !deadline.Equal(began.Add(time.Second)) || later.Context().Err() == nil {
			t.Errorf("the handler saw the deadline %v, and %v", deadline, later.Context().Err())
		}
		is(t, later.Reply(nil), gone.ErrNoReply)
		_, err = ask("return")
		is(t, err, gone.ErrOutcomeUnknown, gone.ErrNoReply)
		if errors.Is(err, context.Canceled) {
			t.Errorf("%v: nobody has cancelled", err)
		}
		_, err = ask("too late")
		is(t, err, gone.ErrNotDelivered, gone.ErrNoHolder)
	})
}

func TestARequestIsWithdrawnWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := gonetest.Runner(t, stuck)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := r.Request(ctx, nil)
		is(t, err, gone.ErrNotDelivered, context.Canceled)
	})
}

func TestAHandlerThatReceivesDataAloneGivesEmptyReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := gonetest.Runner(t, new(inbox).run)
		if reply, err := r.Request(t.Context(), []byte("a")); len(reply) > 0 || err != nil {
			t.Errorf("got %q, %v", reply, err)
		}
	})
}

func TestExitClosesForTheCauseThatTheTestWants(t *testing.T) {
	for _, cause := range []error{gone.ErrClosed, gone.ErrLockLost, gone.ErrLeaseExpired} {
		test := func(t *testing.T) {
			causes := make(chan error, 1)
			r := gonetest.Runner(t, func(r *gone.GoneRunner) {
				<-r.Exit
				causes <- context.Cause(r.Context())
			})
			r.End(cause)
			<-r.Done()
			got := <-causes
			is(t, got, cause)
			if errors.Is(got, gone.ErrLeaseExpired) != (cause == gone.ErrLeaseExpired) {
				t.Errorf("got %v, want %v", got, cause)
			}
		}
		t.Run(cause.Error(), func(t *testing.T) { synctest.Test(t, test) })
		t.Run(cause.Error()+", in real time", test)
	}
	t.Run("while Extends fail", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			r := gonetest.Runner(t, stuck)
			r.FailExtends(errTimeout)
			r.End(gone.ErrLockLost)
			<-r.Done()
			if d := time.Since(began); d > 0 {
				t.Errorf("it took %v", d)
			}
		})
	})
	t.Run("no other", func(t *testing.T) {
		said := new(failure).of(func(t testing.TB) { gonetest.Runner(t, stuck).End(errTimeout) })
		if !strings.Contains(said, "no tenure ends for timeout") {
			t.Error(said)
		}
	})
}

func TestATenureEndsByItselfWhenNobodyExtends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := gonetest.Runner(t, stuck, gonetest.TTL(ttl))
		<-r.Done()
		if d := time.Since(began); d != ttl*9/10 {
			t.Errorf("after %v", d)
		}
		is(t, context.Cause(r.Runner().Context()), gone.ErrLeaseExpired)
	})
}

// keep extends every third of the TTL.
func keep(r *gone.GoneRunner) {
	every := time.NewTicker(r.TTL() / 3)
	defer every.Stop()
	for {
		select {
		case <-r.Exit:
			return
		case <-every.C:
			_ = r.Extend()
		}
	}
}

func TestExtendsAreCountedAndKeepTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := gonetest.Runner(t, keep, gonetest.TTL(ttl))
		time.Sleep(10 * ttl)
		if n := r.Extends(); n != 29 && n != 30 {
			t.Errorf("%d Extends in ten TTLs", n)
		}
		if left := time.Until(r.Runner().Deadline()); left <= 0 {
			t.Errorf("%v to the deadline", left)
		}
	})
	t.Run("by Messages", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := gonetest.Runner(t, func(r *gone.GoneRunner) {
				for m := range r.Messages() {
					<-m.Context().Done() // it hangs
				}
			}, gonetest.TTL(ttl))
			time.Sleep(10 * ttl)
			if n := r.Extends(); n < 29 || n > 31 {
				t.Errorf("%d Extends in ten TTLs", n)
			}
			must(t, r.Send(nil))
			<-r.Done()
			is(t, context.Cause(r.Runner().Context()), gone.ErrLeaseExpired)
		})
	})
}

func TestExtendsThatFailLoseTheLeaseAtTheDeadlineOrAtOnce(t *testing.T) {
	for fails, ends := range map[error]time.Duration{
		errTimeout:       ttl * 9 / 10,
		gone.ErrLockLost: ttl / 3,
	} {
		t.Run(fails.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r := gonetest.Runner(t, keep, gonetest.TTL(ttl))
				r.FailExtends(fails)
				<-r.Done()
				if d := time.Since(began); d != ends {
					t.Errorf("Exit closed after %v, want %v", d, ends)
				}
				is(t, context.Cause(r.Runner().Context()), gone.ErrLockLost)
			})
		})
	}
	t.Run("for a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := gonetest.Runner(t, keep, gonetest.TTL(ttl))
			r.FailExtends(errTimeout)
			time.Sleep(ttl / 2)
			r.FailExtends(nil)
			time.Sleep(ttl)
			if err := r.Runner().Context().Err(); err != nil || r.Extends() == 0 {
				t.Errorf("%v after %d Extends", err, r.Extends())
			}
		})
	})
}

func TestIDTTLAndTokenAreThoseThatWereChosen(t *testing.T) {
	r := gonetest.Runner(t, stuck, gonetest.ID("irc:#room"), gonetest.TTL(ttl), gonetest.Token(7))
	if g := r.Runner(); g.ID() != "irc:#room" || g.TTL() != ttl || g.FencingToken() != 7 {
		t.Errorf("%q, %v, %d", g.ID(), g.TTL(), g.FencingToken())
	}
	r = gonetest.Runner(t, stuck)
	if g := r.Runner(); g.ID() != "id" || g.TTL() != gone.DefaultExpiry || g.FencingToken() != 1 {
		t.Errorf("%q, %v, %d", g.ID(), g.TTL(), g.FencingToken())
	}
}

func TestAHandlerIsCalledOnceHoweverItEnds(t *testing.T) {
	for name, end := range map[string]func(*gonetest.Tenure){
		"returns": func(*gonetest.Tenure) {},
		"closed":  func(r *gonetest.Tenure) { r.End(gone.ErrClosed) },
		"lost":    func(r *gonetest.Tenure) { r.End(gone.ErrLockLost) },
		"expired": func(r *gonetest.Tenure) { r.End(gone.ErrLeaseExpired) },
		"forgot":  func(r *gonetest.Tenure) { r.Locks.Forget("id"); _ = r.Runner().Extend() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				r := gonetest.Runner(t, func(r *gone.GoneRunner) {
					calls.Add(1)
					if name != "returns" {
						<-r.Exit
					}
				})
				end(r)
				<-r.Done()
				time.Sleep(time.Hour)
				if n := calls.Load(); n != 1 {
					t.Errorf("called %d times", n)
				}
			})
		})
	}
}

func TestAPanicOfTheHandlerFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := new(failure).of(func(t testing.TB) {
			<-gonetest.Runner(t, func(*gone.GoneRunner) { panic("a lemon") }).Done()
		})
		if !strings.Contains(said, "a lemon") || !strings.Contains(said, "runner_test.go") {
			t.Error(said)
		}
	})
}

func TestAHandlerThatIgnoresExitFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := new(failure).of(func(t testing.TB) {
			gonetest.Runner(t, func(*gone.GoneRunner) { time.Sleep(time.Minute) })
		})
		time.Sleep(time.Minute)
		if !strings.Contains(said, `the handler of "id" has not returned`) {
			t.Error(said)
		}
	})
}

func TestNothingIsLeftWhenTheTestEnds(t *testing.T) {
	before := runtime.NumGoroutine()
	said := new(failure).of(func(t testing.TB) {
		r := gonetest.Runner(t, new(inbox).run)
		must(t, r.Send(nil))
		gonetest.Cluster(t, 3)
	})
	if said != "" {
		t.Error(said)
	}
	for end := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
