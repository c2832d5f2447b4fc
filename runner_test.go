package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// The locks of these tests expire after leaseTTL, so Exit closes after
// leaseDeadline unless something moves it.
const (
	leaseTTL      = 10 * time.Second
	leaseMargin   = leaseTTL / 10
	leaseDeadline = leaseTTL - leaseMargin
)

var errUnknown = errors.New("i/o timeout")

// A timedLock is the least that most of these tests need. They embed one and
// override one method.
type timedLock interface {
	GoneLock
	Expirer
}

// generousLock is always free and always extended.
type generousLock struct{}

func (generousLock) Lock() error               { return nil }
func (generousLock) Extend() error             { return nil }
func (generousLock) Unlock()                   {}
func (generousLock) GetValue() (string, error) { return "", ErrNoHolder }
func (generousLock) TTL() time.Duration        { return leaseTTL }

type onExtend struct {
	timedLock
	do func() error
}

func (l onExtend) Extend() error { return l.do() }

type onLock struct {
	timedLock
	do func() error
}

func (l onLock) Lock() error { return l.do() }

type onUnlock struct {
	timedLock
	do func()
}

func (l onUnlock) Unlock() { l.do() }

type onWait struct {
	timedLock
	do func(context.Context) error
}

func (l onWait) WaitFree(ctx context.Context) error { return l.do(ctx) }
func (l onWait) WaitHeld(ctx context.Context) error { return l.do(ctx) }

type onWhenFree struct {
	timedLock
	do func(wake func()) error
}

func (l onWhenFree) whenFree(wake func()) error { return l.do(wake) }

type onToken struct {
	timedLock
	do func() uint64
}

func (l *onToken) FencingToken() uint64            { return l.do() }
func (l *onToken) Holder() (string, uint64, error) { return "", 0, ErrNoHolder }

// A bubbleClock is the clock of a synctest bubble, and of a machine that may
// have slept: timers stand still meanwhile, the clock does not.
type bubbleClock struct {
	start time.Time
	slept atomic.Int64
}

func newBubbleClock() *bubbleClock { return &bubbleClock{start: time.Now()} }

func (c *bubbleClock) now() time.Duration {
	return time.Since(c.start) + time.Duration(c.slept.Load())
}

func (c *bubbleClock) sleep(d time.Duration) { c.slept.Add(int64(d)) }

// open checks that Exit has not closed. It and the next two may be used in
// handlers, so they don't end their goroutine.
func open(t *testing.T, exit context.Context) {
	t.Helper()
	synctest.Wait()
	if exit.Err() != nil {
		t.Errorf("Exit has closed: %v", context.Cause(exit))
	}
}

// closed checks that Exit has closed by now, and why.
func closed(t *testing.T, exit context.Context, cause error) {
	t.Helper()
	synctest.Wait()
	if got := context.Cause(exit); !errors.Is(got, cause) {
		t.Errorf("Exit closed for %v, want %v", got, cause)
	}
}

// lapsesAt waits for Exit and checks that it closes at the deadline.
func lapsesAt(t *testing.T, c *bubbleClock, exit context.Context, deadline time.Duration) {
	t.Helper()
	<-exit.Done()
	if now := c.now(); now != deadline {
		t.Errorf("Exit closed at %v, want %v", now, deadline)
	}
	closed(t, exit, ErrLeaseExpired)
}

// A watchedLock tells a journal what is asked of it.
type watchedLock struct {
	timedLock
	j *journal
}

func (l watchedLock) Lock() error {
	err := l.timedLock.Lock()
	switch {
	case err == nil:
		l.j.add("acquired")
	case errors.Is(err, ErrLockHeld):
		l.j.add("held")
	default:
		l.j.add("failed")
	}
	return err
}

func (l watchedLock) Unlock() {
	l.j.add("unlock")
	l.timedLock.Unlock()
}

// A journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, what)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

// A logbook is a log in memory.
type logbook struct {
	slog.Handler // for the methods that gone does not use
	mu           sync.Mutex
	lines        []string
	at           []time.Time
}

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }

func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	var s strings.Builder
	s.WriteString(r.Level.String() + " " + r.Message)
	r.Attrs(func(a slog.Attr) bool { s.WriteString(" " + a.String()); return true })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, s.String())
	b.at = append(b.at, r.Time)
	return nil
}

// with returns when lines with a text were logged.
func (b *logbook) with(text string) (at []time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range b.lines {
		if strings.Contains(s, text) {
			at = append(at, b.at[i])
		}
	}
	return at
}

// deadStage is a node to which nobody sends.
type deadStage struct{ end func() }

func (s deadStage) begin(*GoneRunner, func() time.Duration) (end func()) { return s.end }

func (deadStage) ended(*candidate) {}

// compete starts a candidate, which its test has to end.
func compete(now func() time.Duration, lock GoneLock, handler RunHandler) *candidate {
	one := onStage(deadStage{func() {}}, now, lock)
	one.handler = handler
	go one.run()
	return one
}

// onStage makes a candidate that is to be given a handler, and to be run.
func onStage(s stage, now func() time.Duration, lock GoneLock) *candidate {
	return newCandidate("id", lock, nil, &node{stage: s, now: now, log: slog.New(&logbook{}), count: &counters{}, past: &history{}, observe: &observers{}, away: func() bool { return false }}, nil)
}

func logOf(one *candidate) *logbook { return one.node.log.Handler().(*logbook) }

// retire closes a candidate and waits for its end.
func retire(one *candidate) {
	r := &one.runner
	_ = r.Close()
	<-r.Exit
}

// hold is a handler that is healthy until it must end.
func hold(r *GoneRunner) {
	for r.Context().Err() == nil {
		_ = r.Extend()
		_ = sleepCtx(r.Context(), leaseTTL/3)
	}
}

// Each life is waiting → waiting → holding, its own part, and then, unless that
// closed the runner, waiting → holding → released once more. The last unlock is
// for an attempt with an unknown outcome.
func TestTheTenuresLife(t *testing.T) {
	untilExit := func(r *GoneRunner) { <-r.Exit }
	lost := because(ErrLockLost, errors.New("another's"))
	for name, life := range map[string]struct {
		part    func(*GoneRunner)
		extend  error
		journal string
		cause   error
		panics  uint64
		lost    uint64
	}{
		"released when the handler returns": {
			part:    func(r *GoneRunner) { _ = r.Extend() },
			journal: "return end unlock",
			cause:   ErrHandlerReturned,
		},
		"released when the handler panics": {
			part:    func(*GoneRunner) { panic("trouble") },
			journal: "return end unlock",
			cause:   ErrHandlerReturned, panics: 1,
		},
		"released when the handler panics with nil": {
			part:    func(*GoneRunner) { panic(nil) },
			journal: "return end unlock",
			cause:   ErrHandlerReturned, panics: 1,
		},
		"released when the handler ends its goroutine": {
			part:    func(*GoneRunner) { runtime.Goexit() },
			journal: "return end unlock",
			cause:   ErrHandlerReturned,
		},
		"released when the handler has stopped because nobody extended": {
			part:    untilExit,
			journal: "exit return end unlock",
			cause:   ErrLeaseExpired, lost: 1,
		},
		"released when the handler has stopped because Extend never got through": {
			part:    func(r *GoneRunner) { _ = r.Extend(); untilExit(r) },
			extend:  errUnknown,
			journal: "exit return end unlock",
			cause:   ErrLeaseExpired, lost: 1,
		},
		"lost when Extend says so": {
			part:    func(r *GoneRunner) { _ = r.Extend(); untilExit(r) },
			extend:  lost,
			journal: "exit return end",
			cause:   lost, lost: 1,
		},
		"released when the handler has stopped because it was closed": {
			part:    func(r *GoneRunner) { _ = r.Close(); untilExit(r) },
			journal: "exit return end unlock",
			cause:   ErrClosed,
		},
		"released when it cleaned up after Close": {
			part: func(r *GoneRunner) {
				_ = r.Close()
				untilExit(r)
				for range 10 {
					time.Sleep(leaseTTL / 2)
					if err := r.Extend(); err != nil {
						panic(err)
					}
				}
			},
			journal: "exit return end unlock",
			cause:   ErrClosed,
		},
		"released when it lapsed after Close": {
			part:    func(r *GoneRunner) { _ = r.Close(); untilExit(r); time.Sleep(leaseTTL) },
			journal: "exit return end unlock",
			cause:   ErrClosed, lost: 1,
		},
		"lost after Close": {
			part:    func(r *GoneRunner) { _ = r.Close(); untilExit(r); _ = r.Extend() },
			extend:  lost,
			journal: "exit return end",
			cause:   ErrClosed, lost: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				attempt := 0
				lock := watchedLock{onLock{onExtend{generousLock{}, func() error { return life.extend }}, func() error {
					if attempt++; attempt <= 2 {
						return ErrLockHeld
					}
					return nil
				}}, &j}
				var first *GoneRunner
				c := newBubbleClock()
				one := onStage(deadStage{func() { j.add("end") }}, c.now, lock)
				one.handler = func(r *GoneRunner) {
					j.add("begin")
					defer j.add("return")
					if n := one.node.count.held.Load(); n != 1 {
						t.Errorf("%d held", n)
					}
					if first != nil {
						_ = r.Close()
						return
					}
					first = r
					if r.Context().Err() != nil || r.Context().Done() != r.Exit {
						t.Error("Exit is closed from the beginning, or not the context's end")
					}
					defer context.AfterFunc(r.Context(), func() { j.add("exit") })()
					life.part(r)
					synctest.Wait()
				}
				go one.run()
				<-one.runner.Exit

				want := "held held acquired begin " + life.journal
				tenures := uint64(1)
				if life.cause != ErrClosed {
					want += " acquired begin return end unlock"
					tenures++
				}
				if got := j.String(); got != want+" unlock" {
					t.Errorf("\n got %s\nwant %s", got, want+" unlock")
				}
				if cause := context.Cause(first.Context()); !errors.Is(cause, life.cause) {
					t.Errorf("cause %v, want %v", cause, life.cause)
				}
				if cause := context.Cause(one.runner.Context()); cause != ErrClosed {
					t.Errorf("cause of the end %v", cause)
				}
				n := one.node.count
				if n.tenures.Load() != tenures || n.panics.Load() != life.panics || n.lost.Load() != life.lost || n.held.Load() != 0 {
					t.Errorf("%d tenures, %d panics, %d lost, %d held", n.tenures.Load(), n.panics.Load(), n.lost.Load(), n.held.Load())
				}
			})
		})
	}
}

func TestALockWithoutTTLExpiresAfterTheDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		one := compete(c.now, struct{ GoneLock }{generousLock{}}, func(r *GoneRunner) {
			lapsesAt(t, c, r.Context(), DefaultExpiry*9/10)
			_ = r.Close()
		})
		<-one.runner.Exit
	})
}

func TestDeadlineOfATenureCountsFromBeforeTheLockRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		one := compete(c.now, onLock{generousLock{}, func() error { time.Sleep(4 * time.Second); return nil }},
			func(r *GoneRunner) {
				if now := c.now(); now != 4*time.Second {
					t.Errorf("began at %v", now)
				}
				lapsesAt(t, c, r.Context(), leaseDeadline)
				_ = r.Close()
			})
		<-one.runner.Exit
	})
}

func TestDeadlineOfARepeatedLockCountsFromBeforeTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var sent time.Duration
		attempt := 0
		one := compete(c.now, onLock{generousLock{}, func() error {
			sent = c.now()
			time.Sleep(4 * time.Second)
			if attempt++; attempt < 3 {
				return errUnknown
			}
			return nil
		}}, func(r *GoneRunner) {
			lapsesAt(t, c, r.Context(), sent+leaseDeadline)
			_ = r.Close()
		})
		<-one.runner.Exit
	})
}

func TestNoHandlerBeginsAfterItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var j journal
		took := leaseDeadline
		one := compete(c.now, watchedLock{onLock{generousLock{}, func() error {
			time.Sleep(took)
			took = 0
			return nil
		}}, &j}, func(r *GoneRunner) {
			j.add("begin")
			open(t, r.Context())
			_ = r.Close()
		})
		<-one.runner.Exit
		if got, want := j.String(), "acquired unlock acquired begin unlock unlock"; got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	})
}

func TestNothingIsUnlockedBeforeTheHandlerHasReturned(t *testing.T) {
	for name, end := range map[string]func(*GoneRunner){
		"Close":  func(r *GoneRunner) { _ = r.Close() },
		"a loss": func(r *GoneRunner) { <-r.Exit },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				running := false
				one := compete(c.now, onUnlock{generousLock{}, func() {
					if running {
						t.Errorf("unlocked at %v", c.now())
					}
				}}, func(r *GoneRunner) {
					running = true
					end(r)
					time.Sleep(time.Hour)
					running = false
					_ = r.Close()
				})
				<-one.runner.Exit
			})
		})
	}
}

func TestExitOfRunOnesRunnerClosesWhenTheLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		var unlocks []time.Duration
		one := compete(c.now, onUnlock{generousLock{}, func() {
			time.Sleep(time.Second)
			unlocks = append(unlocks, c.now())
		}}, func(r *GoneRunner) { <-r.Exit; time.Sleep(5 * time.Second) })
		synctest.Wait()
		r := &one.runner
		if err := r.Close(); err != nil || r.Context().Err() != nil {
			t.Errorf("Close: %v, and Exit: %v", err, context.Cause(r.Context()))
		}
		<-r.Exit
		if len(unlocks) == 0 || unlocks[0] != 6*time.Second || c.now() != unlocks[len(unlocks)-1] {
			t.Errorf("Exit closed at %v, unlocked at %v", c.now(), unlocks)
		}
	})
}

func TestExtendOfATenureThatIsOverAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept *GoneRunner
		one := compete(newBubbleClock().now, onExtend{generousLock{}, func() error {
			t.Error("extended for the tenure that followed")
			return nil
		}}, func(r *GoneRunner) {
			if kept != nil {
				<-r.Exit
				return
			}
			kept = r
		})
		time.Sleep(leaseTTL / 2)
		if one.node.count.held.Load() != 1 || one.node.count.tenures.Load() != 2 {
			t.Error("no second tenure")
		}
		if err := kept.Extend(); !errors.Is(err, ErrHandlerReturned) {
			t.Errorf("Extend: %v", err)
		}
		retire(one)
	})
}

func TestAHandlerKnowsItsTTLAndItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		one := compete(newBubbleClock().now, generousLock{}, func(r *GoneRunner) {
			is := func(want time.Duration) {
				t.Helper()
				if got := r.Deadline().Sub(start); got != want {
					t.Errorf("the deadline is %v, want %v", got, want)
				}
			}
			if r.TTL() != leaseTTL {
				t.Errorf("the TTL is %v", r.TTL())
			}
			is(leaseDeadline)
			time.Sleep(time.Second)
			is(leaseDeadline)
			_ = r.Extend()
			is(time.Second + leaseDeadline)
			<-r.Exit
			is(time.Second + leaseDeadline)
			_ = r.Close()
		})
		if r := &one.runner; r.TTL() != leaseTTL || !r.Deadline().IsZero() {
			t.Errorf("RunOne's: %v, %v", r.TTL(), r.Deadline())
		}
		<-one.runner.Exit
	})
}

func TestTheTwoRunners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token := uint64(6)
		one := compete(newBubbleClock().now, &onToken{generousLock{}, func() uint64 { return token }}, func(r *GoneRunner) {
			if r.ID() != "id" || r.FencingToken() != token {
				t.Errorf("handler's: %q with token %d, want %d", r.ID(), r.FencingToken(), token)
			}
			if token++; token == 8 {
				_ = r.Close()
			}
		})
		r := &one.runner
		if r.ID() != "id" || r.FencingToken() != 0 || r.Data != nil || r.Lock != one.lock {
			t.Errorf("RunOne's: %+v", r)
		}
		if err := r.Extend(); !errors.Is(err, ErrLockLost) {
			t.Errorf("RunOne's Extend: %v", err)
		}
		<-r.Exit
		if token != 8 {
			t.Error("the handler was not run twice")
		}
	})
}

func TestATenureThatIsYieldedIsOverBeforeItsNodeRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := compete(newBubbleClock().now, generousLock{}, hold)
		defer retire(one)
		synctest.Wait()
		began := time.Now()
		held := one.current.Load()
		held.yield(heir{identity: "another"})
		<-held.over
		if took := time.Since(began); took > 0 {
			t.Errorf("its heir hears of it after %v", took)
		}
	})
}

func TestARunnersSendGoesToItsID(t *testing.T) {
	var got string
	r := &newCandidate("id", generousLock{}, nil, &node{send: func(ctx context.Context, id string, data []byte) error {
		got += id + " " + string(data) + ";"
		return ctx.Err()
	}}, nil).runner
	if err := r.SendData([]byte("a")); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.SendDataContext(ctx, []byte("b")); err != context.Canceled {
		t.Error(err)
	}
	if want := "id a;id b;"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// All that the log says of a tenure, apart from panics: a line when it begins, a
// line when it ends, and a warning between them when it is lost.
func TestTheLogSaysThatATenureBeginsAndEndsAndWhy(t *testing.T) {
	const (
		begins = "INFO gone: tenure begins id=id token=7"
		ends   = "INFO gone: tenure ends id=id token=7 cause="
		lost   = "WARN gone: tenure lost"
	)
	for name, life := range map[string]struct {
		part func(*GoneRunner)
		want []string
	}{
		"the handler returns": {func(*GoneRunner) {}, []string{begins, ends + "gone: handler returned"}},
		"closed":              {func(r *GoneRunner) { _ = r.Close(); <-r.Exit }, []string{begins, ends + "gone: closed"}},
		"lost": {
			func(r *GoneRunner) { _ = r.Extend() },
			[]string{begins, lost + " id=id token=7 cause=gone: lock lost: another's", ends + "gone: lock lost: another's"},
		},
		"lapsed": {
			func(r *GoneRunner) { <-r.Exit },
			[]string{begins, lost + ", as its handler never called Extend", ends + "gone: lock lost: lease expired"},
		},
		"lapsed after Close": {
			func(r *GoneRunner) { _ = r.Close(); time.Sleep(leaseTTL) },
			[]string{begins, "WARN gone: handler ignores Exit", lost, ends + "gone: closed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				locked := false
				lock := onLock{onExtend{generousLock{}, func() error { return because(ErrLockLost, errors.New("another's")) }}, func() error {
					if locked {
						return ErrLockHeld
					}
					locked = true
					return nil
				}}
				one := compete(newBubbleClock().now, &onToken{lock, func() uint64 { return 7 }}, func(r *GoneRunner) {
					synctest.Wait() // until it has been said that it begins
					life.part(r)
				})
				time.Sleep(3 * leaseTTL)
				retire(one)
				got := logOf(one).lines
				for i, want := range life.want {
					if i >= len(got) || !strings.HasPrefix(got[i], want) || len(got) != len(life.want) {
						t.Fatalf("logged %q, want %q", got, life.want)
					}
				}
			})
		})
	}
}

func TestATenureLostWithoutAnExtendIsLoggedWithTheTTLAndWhatToDo(t *testing.T) {
	for name, run := range map[string]struct {
		handler RunHandler
		extend  error
		never   bool
	}{
		"it waits for Exit": {handler: func(r *GoneRunner) { <-r.Exit }, never: true},
		"it extends every TTL": {
			handler: func(r *GoneRunner) { _ = sleepCtx(r.Context(), leaseTTL); _ = r.Extend() },
			never:   true,
		},
		"it extends, and nobody answers": {
			handler: func(r *GoneRunner) { time.Sleep(leaseTTL / 3); _ = r.Extend() },
			extend:  errUnknown,
		},
		"it extended once": {handler: func(r *GoneRunner) { _ = r.Extend(); <-r.Exit }},
		"another's": {
			handler: func(r *GoneRunner) { time.Sleep(leaseTTL * 2 / 3); _ = r.Extend() },
			extend:  ErrLockLost,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one := compete(newBubbleClock().now, onExtend{generousLock{}, func() error { return run.extend }}, run.handler)
				time.Sleep(leaseTTL + leaseMargin) // one tenure ends, another begins
				log := logOf(one)
				said := log.with("WARN gone: tenure lost, as its handler never called Extend id=id token=0 cause=gone: lock lost: lease expired ttl=10s do=extend every 3.333s")
				if lost := log.with("WARN gone: tenure lost"); len(lost) != 1 || len(said) == 1 != run.never {
					t.Errorf("logged %q", log.lines)
				}
				retire(one)
			})
		})
	}
}

func TestAHandlerThatExtendsLaterThanHalfTheTTLIsLoggedOnce(t *testing.T) {
	const late = "WARN gone: the handler extends late"
	every := func(d time.Duration) RunHandler {
		return func(r *GoneRunner) {
			for sleepCtx(r.Context(), d) == nil && r.Extend() == nil {
			}
		}
	}
	for name, run := range map[string]struct {
		handler RunHandler
		extend  time.Duration
		want    int
	}{
		"every third":                    {every(leaseTTL / 3), 0, 0},
		"every half":                     {every(leaseTTL / 2), 0, 0},
		"later":                          {every(leaseTTL * 6 / 10), 0, 1},
		"a lock service that is slow":    {every(leaseTTL / 3), leaseTTL / 2, 0},
		"too late, which is a lost lock": {every(leaseTTL), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one := compete(newBubbleClock().now, onExtend{generousLock{}, func() error { time.Sleep(run.extend); return nil }}, run.handler)
				time.Sleep(20 * leaseTTL)
				log := logOf(one)
				if n := len(log.with(late)); n != run.want {
					t.Errorf("logged %d times, want %d: %q", n, run.want, log.lines)
				}
				if run.want > 0 && len(log.with(late+", and may lose its tenure id=id after=6s ttl=10s do=extend every 3.333s")) != 1 {
					t.Errorf("logged %q", log.lines)
				}
				retire(one)
				time.Sleep(run.extend) // until nothing is on its way
			})
		})
	}
}

func TestALossIsLoggedWhenItHappensAndNotWhenTheHandlerReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		wake := make(chan struct{})
		one := compete(c.now, generousLock{}, func(*GoneRunner) { <-wake })
		began := time.Now()
		time.Sleep(10 * leaseTTL)
		if at := logOf(one).with("WARN gone: tenure lost"); len(at) != 1 || at[0].Sub(began) != leaseDeadline {
			t.Errorf("logged at %v", at)
		}
		close(wake)
		retire(one)
		if n := len(logOf(one).with("WARN gone: tenure lost")); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

func TestALockThatIsAcquiredTooLateIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		one := compete(newBubbleClock().now, onLock{generousLock{}, func() error {
			attempts++
			time.Sleep(leaseTTL)
			return nil
		}}, hold)
		time.Sleep(time.Hour)
		retire(one)
		if log := logOf(one); attempts < 100 || len(log.lines) != 1 || len(log.with("WARN")) != 1 || len(log.with("id=id err=gone: the lock was acquired too late, after 10s")) != 1 {
			t.Errorf("%d attempts, logged: %q", attempts, log.lines)
		}
	})
}

// Methods that have yet to be written are among them.
func TestNoMethodOfARunnerMadeByHandPanics(t *testing.T) {
	over := make(chan struct{})
	close(over)
	for name, r := range map[string]*GoneRunner{
		"nothing": {},
		"fields":  {Data: make(chan []byte), Exit: over, Lock: generousLock{}},
	} {
		v := reflect.ValueOf(r)
		for i := range v.NumMethod() {
			t.Run(name+"/"+v.Type().Method(i).Name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				var args []reflect.Value
				for n := range v.Method(i).Type().NumIn() {
					switch arg := v.Method(i).Type().In(n); arg {
					case reflect.TypeFor[context.Context]():
						args = append(args, reflect.ValueOf(ctx))
					case reflect.TypeFor[int]():
						args = append(args, reflect.ValueOf(1))
					default:
						args = append(args, reflect.Zero(arg))
					}
				}
				for _, result := range v.Method(i).Call(args) {
					if result.Kind() == reflect.Func && r.Exit != nil { // else it may wait for ever
						for range result.Seq() {
							t.Error("something was received")
						}
					}
				}
			})
		}
	}
}

func TestARunnerMadeByHandHasWhatItsFieldsSay(t *testing.T) {
	extends := 0
	exit := make(chan struct{})
	r := &GoneRunner{
		Data: make(chan []byte), Exit: exit,
		Lock: onExtend{generousLock{}, func() error { extends++; return ErrLockLost }},
	}
	if err := r.Extend(); err != ErrLockLost || extends != 1 {
		t.Errorf("Extend: %v, %d of the lock's", err, extends)
	}
	if err := (&GoneRunner{}).Extend(); err != nil {
		t.Errorf("Extend without a lock: %v", err)
	}
	if r.ID() != "" || r.FencingToken() != 0 || !r.Deadline().IsZero() || r.TTL() != leaseTTL || (&GoneRunner{}).TTL() != DefaultExpiry {
		t.Errorf("%q, token %d, deadline %v, TTL %v", r.ID(), r.FencingToken(), r.Deadline(), r.TTL())
	}
	for _, err := range []error{r.SendData(nil), r.SendDataContext(t.Context(), nil)} {
		if !errors.Is(err, ErrNotDelivered) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("a send: %v", err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	child, cancel := context.WithCancel(r.Context())
	defer cancel()
	if r.Context().Err() != nil || child.Err() != nil || (&GoneRunner{}).Context().Err() != nil {
		t.Error("the context has ended while Exit is open")
	}
	close(exit)
	<-child.Done()
	if err := r.Context().Err(); err != context.Canceled {
		t.Errorf("Exit has closed: %v", err)
	}
}

func TestAPanicIsLoggedWithItsStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := compete(newBubbleClock().now, generousLock{}, explode)
		time.Sleep(time.Millisecond)
		retire(one)
		log := logOf(one)
		for _, part := range []string{"ERROR", "id=id", "panic=boom", ".explode("} {
			if len(log.with(part)) == 0 {
				t.Errorf("no %q in %q", part, log.lines)
			}
		}
	})
}

func explode(*GoneRunner) { panic(errors.New("boom")) }

func TestAHandlerThatIgnoresExitIsReportedAndKeepsItsNodeOutOfTheRace(t *testing.T) {
	for name, end := range map[string]func(*candidate){
		"lapsed": func(*candidate) { time.Sleep(leaseDeadline) },
		"closed": func(one *candidate) { one.stop(ErrClosed) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				var j journal
				wake := make(chan struct{})
				one := compete(c.now, watchedLock{generousLock{}, &j}, func(r *GoneRunner) { <-wake })
				synctest.Wait()
				end(one)
				synctest.Wait()
				ignored := time.Now()
				time.Sleep(1000 * leaseMargin)
				if got := j.String(); got != "acquired" {
					t.Errorf("meanwhile: %s", got)
				}
				if n := one.node.count.overdue.Load(); n != 1 {
					t.Errorf("counted %d times", n)
				}
				said := logOf(one).with("WARN gone: handler ignores Exit")
				if len(said) != 1 || said[0].Sub(ignored) != leaseMargin {
					t.Errorf("ignored since %v, said at %v", ignored, said)
				}
				close(wake)
				retire(one)
			})
		})
	}
}

func TestAHandlerThatIgnoresExitIsCountedOnceWhateverTheExpiry(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 10 * time.Hour, 100 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c := newBubbleClock()
			one := compete(c.now, longLock{generousLock{}, ttl}, func(r *GoneRunner) { <-r.Exit; time.Sleep(ttl) })
			synctest.Wait()
			retire(one)
			if n := one.node.count.overdue.Load(); n != 1 {
				t.Errorf("TTL %v: counted %d times", ttl, n)
			}
		})
	}
}

type longLock struct {
	GoneLock
	ttl time.Duration
}

func (l longLock) TTL() time.Duration { return l.ttl }

func TestAHandlerThatReturnsInTimeIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := compete(newBubbleClock().now, generousLock{}, func(r *GoneRunner) { <-r.Exit; time.Sleep(leaseMargin - 1) })
		time.Sleep(10 * leaseTTL)
		retire(one)
		if one.node.count.tenures.Load() < 5 || one.node.count.overdue.Load() != 0 || len(logOf(one).with("ignores Exit")) != 0 {
			t.Errorf("%d of %d tenures", one.node.count.overdue.Load(), one.node.count.tenures.Load())
		}
	})
}

// pauses are the gaps between the attempts of a candidate that runs for an hour.
func pauses(t *testing.T, lock timedLock, handler RunHandler) (gaps []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		last := time.Duration(-1)
		one := compete(c.now, onLock{lock, func() error {
			if last >= 0 {
				gaps = append(gaps, c.now()-last)
			}
			last = c.now()
			return lock.Lock()
		}}, handler)
		time.Sleep(time.Hour)
		retire(one)
	})
	return gaps
}

// growing checks that gaps begin with at most 10 ms and double up to 10 s.
func growing(t *testing.T, gaps []time.Duration) {
	t.Helper()
	if len(gaps) < 12 {
		t.Fatalf("only %v", gaps)
	}
	most := 10 * time.Millisecond
	for i, gap := range gaps {
		if gap < most/2 || gap >= most {
			t.Errorf("pause %d is %v, want %v to %v", i, gap, most/2, most)
		}
		most = min(2*most, 10*time.Second)
	}
}

func TestTheBackOffOfAFailingHandlerStartsSmallAndGrows(t *testing.T) {
	for name, handler := range map[string]RunHandler{
		"returns": func(*GoneRunner) {},
		"panics":  func(*GoneRunner) { panic("again") },
		"exits":   func(*GoneRunner) { runtime.Goexit() },
	} {
		t.Run(name, func(t *testing.T) { growing(t, pauses(t, generousLock{}, handler)) })
	}
}

func TestTheBackOffStartsAnewAfterAGoodTenure(t *testing.T) {
	const bad = 12
	tenures := 0
	gaps := pauses(t, generousLock{}, func(r *GoneRunner) {
		if tenures++; tenures == bad+1 {
			for range 3 {
				time.Sleep(leaseTTL / 2)
				if err := r.Extend(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	growing(t, gaps[:bad])
	gaps[bad] -= 3 * leaseTTL / 2
	growing(t, gaps[bad:])
}

func TestALockThatIsLostInNoTimeIsNotTakenInAHotLoop(t *testing.T) {
	lost := onExtend{generousLock{}, func() error { return ErrLockLost }}
	growing(t, pauses(t, lost, func(r *GoneRunner) { _ = r.Extend() }))
}

func TestALockThatAlwaysComesTooLateIsNotTakenInAHotLoop(t *testing.T) {
	gaps := pauses(t, onLock{generousLock{}, func() error { time.Sleep(leaseDeadline); return nil }}, hold)
	for i := range gaps {
		gaps[i] -= leaseDeadline
	}
	growing(t, gaps)
}

func TestToLoseALockIsNotTheHandlersFailure(t *testing.T) {
	lost := onExtend{generousLock{}, func() error { return ErrLockLost }}
	for _, gap := range pauses(t, lost, func(r *GoneRunner) { time.Sleep(leaseMargin); _ = r.Extend() }) {
		if pause := gap - leaseMargin; pause < 5*time.Millisecond || pause >= 10*time.Millisecond {
			t.Errorf("pause of %v", pause)
		}
	}
}

func TestALockThatFailsIsNotAskedInAHotLoop(t *testing.T) {
	growing(t, pauses(t, onLock{generousLock{}, func() error { return errUnknown }}, hold))
}

func TestEachKindOfTroubleIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempt := 0
		var heal atomic.Bool
		one := compete(newBubbleClock().now, onLock{generousLock{}, func() error {
			attempt++
			switch {
			case heal.CompareAndSwap(true, false):
				return ErrLockHeld
			case attempt%2 == 0:
				return fmt.Errorf("gone: redis lock: %w", errors.New("LOADING"))
			}
			// Each connection has a port of its own.
			return fmt.Errorf("gone: redis lock: %w", &net.OpError{
				Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: 40000 + attempt}, Err: syscall.ECONNRESET,
			})
		}}, hold)
		log := logOf(one)
		check := func(want int) {
			t.Helper()
			time.Sleep(time.Hour)
			if len(log.with("WARN")) != 2*want || len(log.with("LOADING")) != want || len(log.with("reset by peer")) != want {
				t.Errorf("%d attempts, logged: %q", attempt, log.lines)
			}
		}
		check(1)
		heal.Store(true)
		check(2) // the trouble came anew
		retire(one)
		if attempt < 2*3600/10 {
			t.Errorf("%d attempts", attempt)
		}
	})
}

func TestTroubleThatIsNeverTheSameDoesNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempt := 0
		one := compete(newBubbleClock().now, onLock{generousLock{}, func() error {
			attempt++
			return fmt.Errorf("trouble number %d", attempt)
		}}, hold)
		time.Sleep(24 * time.Hour)
		retire(one)
		if n := len(logOf(one).with("WARN")); n < 1 || n > 20 {
			t.Errorf("logged %d times for %d attempts", n, attempt)
		}
	})
}

// busyFor is held by another for a while, and counts the attempts.
func busyFor(c *bubbleClock, d time.Duration, attempts *int) timedLock {
	return onLock{generousLock{}, func() error {
		if *attempts++; c.now() < d {
			return ErrLockHeld
		}
		return nil
	}}
}

func TestALockWithTheFourMethodsAloneIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		attempts := 0
		const busy = 10 * time.Minute
		one := compete(c.now, struct{ GoneLock }{busyFor(c, busy, &attempts)}, func(r *GoneRunner) {
			if late := c.now() - busy; late > 1500*time.Millisecond {
				t.Errorf("acquired %v late", late)
			}
			if r.FencingToken() != 0 {
				t.Errorf("token %d", r.FencingToken())
			}
			lapsesAt(t, c, r.Context(), c.now()+DefaultExpiry*9/10)
			_ = r.Close()
		})
		<-one.runner.Exit
		if attempts < 400 || attempts > 1200 {
			t.Errorf("%d attempts in %v", attempts, busy)
		}
	})
}

func TestAWaiterIsWoken(t *testing.T) {
	const busy = 10 * time.Minute
	for name, waiting := range map[string]func(timedLock) GoneLock{
		"its wait returns": func(l timedLock) GoneLock {
			return onWait{l, func(ctx context.Context) error { return sleepCtx(ctx, busy) }}
		},
		"it is called": func(l timedLock) GoneLock {
			return onWhenFree{l, func(wake func()) error { time.AfterFunc(busy, wake); return nil }}
		},
		"it is called more than once": func(l timedLock) GoneLock {
			return onWhenFree{l, func(wake func()) error {
				for range 3 {
					time.AfterFunc(busy, wake)
				}
				return nil
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				attempts := 0
				one := compete(c.now, waiting(busyFor(c, busy, &attempts)), func(r *GoneRunner) {
					if c.now() != busy || attempts != 2 {
						t.Errorf("acquired at %v by attempt %d", c.now(), attempts)
					}
					_ = r.Close()
				})
				<-one.runner.Exit
				synctest.Wait()
				if attempts != 2 || one.node.count.tenures.Load() != 1 {
					t.Errorf("%d attempts, %d tenures", attempts, one.node.count.tenures.Load())
				}
			})
		})
	}
}

// hasty are locks that do not wait.
var hasty = map[string]func(timedLock) GoneLock{
	"its wait returns at once": func(l timedLock) GoneLock {
		return onWait{l, func(context.Context) error { return nil }}
	},
	"it is called at once": func(l timedLock) GoneLock {
		return onWhenFree{l, func(wake func()) error { wake(); return nil }}
	},
}

func TestAWakeUpAtOnceIsWelcome(t *testing.T) {
	for name, waiting := range hasty {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				for range 20 { // also when it follows a hold
					attempts := 0
					began := c.now()
					one := compete(c.now, waiting(busyFor(c, c.now()+1, &attempts)), func(r *GoneRunner) { _ = r.Close() })
					<-one.runner.Exit
					if took := c.now() - began; took > 2*time.Millisecond || attempts != 2 {
						t.Errorf("acquired after %v by attempt %d", took, attempts)
					}
				}
			})
		})
	}
}

func TestAWaiterThatDoesNotWaitIsNoHotLoop(t *testing.T) {
	locks := maps.Clone(hasty)
	locks["its wait fails at once"] = func(l timedLock) GoneLock {
		return onWait{l, func(context.Context) error { return errUnknown }}
	}
	locks["it can't be called"] = func(l timedLock) GoneLock {
		return onWhenFree{l, func(func()) error { return errUnknown }}
	}
	for name, waiting := range locks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				attempts := 0
				const busy = 10 * time.Minute
				one := compete(c.now, waiting(busyFor(c, busy, &attempts)), func(r *GoneRunner) {
					if late := c.now() - busy; late > 1500*time.Millisecond {
						t.Errorf("acquired %v late", late)
					}
					_ = r.Close()
				})
				<-one.runner.Exit
				if attempts < 400 || attempts > 1220 {
					t.Errorf("%d attempts in %v", attempts, busy)
				}
			})
		})
	}
}

func TestCloseEndsAnyWaitAtOnce(t *testing.T) {
	held := onLock{generousLock{}, func() error { return ErrLockHeld }}
	for name, one := range map[string]struct {
		lock    GoneLock
		handler RunHandler
	}{
		"for a wake-up":              {lock: onWait{held, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}},
		"for a call":                 {lock: onWhenFree{held, func(func()) error { return nil }}},
		"between polls":              {lock: held},
		"for a lock that fails":      {lock: onLock{generousLock{}, func() error { return errUnknown }}},
		"after a handler's failures": {lock: generousLock{}, handler: func(*GoneRunner) {}},
		"for the handler's next try to extend": {
			lock:    onExtend{generousLock{}, func() error { return errUnknown }},
			handler: func(r *GoneRunner) { _ = r.Extend() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newBubbleClock()
				one := compete(c.now, one.lock, one.handler)
				time.Sleep(time.Hour)
				closing := c.now()
				retire(one)
				if took := c.now() - closing; took != 0 {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestALockAcquiredAfterCloseIsReleasedUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		one := compete(newBubbleClock().now, watchedLock{onLock{generousLock{}, func() error {
			time.Sleep(time.Second)
			return nil
		}}, &j}, func(*GoneRunner) { j.add("begin") })
		synctest.Wait() // it is asking
		retire(one)
		if got := j.String(); got != "acquired unlock" {
			t.Error(got)
		}
	})
}

func TestAnAttemptWithAnUnknownOutcomeIsReleasedOnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		one := compete(newBubbleClock().now, watchedLock{onLock{generousLock{}, func() error { return errUnknown }}, &j}, nil)
		synctest.Wait()
		retire(one)
		if got := j.String(); got != "failed unlock" {
			t.Error(got)
		}
	})
}

func TestASuspendedMachineNoticesWithinASecondOfWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBubbleClock()
		g := &Gone{}
		g.assemble(nil, &wireEnd{}, nil)
		tenures := 0
		one := onStage(g, c.now, generousLock{})
		one.handler = func(r *GoneRunner) {
			if tenures++; tenures == 3 { // the watch goes on, and starts anew
				_ = r.Close()
				return
			}
			time.Sleep(3*time.Second + time.Millisecond)
			open(t, r.Context())
			woke := time.Now()
			c.sleep(leaseDeadline)
			<-r.Exit
			if late := time.Since(woke); late > time.Second {
				t.Errorf("noticed after %v", late)
			}
			closed(t, r.Context(), ErrLeaseExpired)
		}
		go one.run()
		<-one.runner.Exit
		time.Sleep(10 * wakeWatch)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.watching {
			t.Error("watches when there is nothing to watch")
		}
	})
}

func TestRunOneAfterCloseWaitsForTheOldHandler(t *testing.T) {
	g, err := NewGone("tcp://127.0.0.1:0", func(string, string) (GoneLock, error) { return generousLock{}, nil },
		WithLogger(slog.New(&logbook{})))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	began, second := make(chan struct{}), make(chan struct{})
	var returned atomic.Bool
	old, err := g.RunOne("id", func(r *GoneRunner) {
		close(began)
		<-r.Exit
		select { // it ignores Exit for a while
		case <-second:
		case <-time.After(100 * time.Millisecond):
		}
		returned.Store(true)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-began
	_ = old.Close()
	again, err := g.RunOne("id", func(r *GoneRunner) {
		if !returned.Load() {
			t.Error("two handlers at once")
		}
		close(second)
		<-r.Exit
	})
	if err != nil {
		t.Fatal(err)
	}
	if again.Exit == old.Exit {
		t.Fatal("got the runner that was closed")
	}
	<-old.Exit
	<-second
	_ = again.Close()
	<-again.Exit
}

// A registry is a lock service. Its answers take time and get lost.
type registry struct {
	mu      sync.Mutex
	holder  uint64 // its secret
	expires time.Time
	last    uint64 // token
}

// A seat is one node's lock there.
type seat struct {
	*registry
	mu     sync.Mutex
	secret uint64 // of the attempt or hold, 0 for none
	unsure bool   // an attempt with this secret may have succeeded, or may yet
	token  uint64
}

func (*seat) TTL() time.Duration              { return leaseTTL }
func (*seat) GetValue() (string, error)       { return "", ErrNoHolder }
func (*seat) Holder() (string, uint64, error) { return "", 0, ErrNoHolder }

func (s *seat) FencingToken() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// ask has the service do something over a bad network.
func (s *seat) ask(do func()) error {
	safely := func() {
		s.registry.mu.Lock()
		defer s.registry.mu.Unlock()
		if !time.Now().Before(s.expires) {
			s.holder = 0
		}
		do()
	}
	const timeout = leaseTTL / 4
	switch rand.N(20) {
	case 0: // the request is lost
		time.Sleep(timeout)
		return errUnknown
	case 1: // the reply is lost
		safely()
		time.Sleep(timeout)
		return errUnknown
	case 2: // the request is stuck somewhere
		time.AfterFunc(rand.N(2*leaseTTL), safely)
		time.Sleep(timeout)
		return errUnknown
	case 3, 4: // the request is slow
		time.Sleep(rand.N(leaseTTL))
		safely()
		return nil
	case 5, 6: // the reply is slow
		safely()
		time.Sleep(rand.N(leaseTTL))
		return nil
	}
	time.Sleep(rand.N(5 * time.Millisecond))
	safely()
	time.Sleep(rand.N(5 * time.Millisecond))
	return nil
}

func (s *seat) Lock() error {
	s.mu.Lock()
	if s.secret == 0 {
		s.secret = rand.Uint64() | 1
	}
	secret, token := s.secret, uint64(0)
	s.mu.Unlock()
	err := s.ask(func() {
		switch s.holder {
		case 0:
			s.last++
			s.holder = secret
		case secret:
		default:
			return
		}
		token = s.last
		s.expires = time.Now().Add(leaseTTL)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.unsure = true
		return err
	case token == 0:
		if !s.unsure {
			s.secret = 0
		}
		return ErrLockHeld
	}
	s.token = token
	return nil
}

func (s *seat) Extend() error {
	s.mu.Lock()
	secret, yes := s.secret, false
	s.mu.Unlock()
	err := s.ask(func() {
		if yes = s.holder == secret; yes {
			s.expires = time.Now().Add(leaseTTL)
		}
	})
	if err == nil && !yes {
		return ErrLockLost
	}
	return err
}

func (s *seat) Unlock() {
	s.mu.Lock()
	secret := s.secret
	s.secret, s.unsure = 0, false
	s.mu.Unlock()
	_ = s.ask(func() {
		if s.holder == secret {
			s.holder = 0
		}
	})
}

// However bad the network, however bad the handlers: when one begins, no other
// has a lease.
func TestOneAtATimeOverABadNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &registry{}
		var mu sync.Mutex
		running := map[*GoneRunner]int{}
		var token uint64
		begin := func(node int, r *GoneRunner) {
			mu.Lock()
			defer mu.Unlock()
			for other, n := range running {
				if other.lease.Err() == nil {
					t.Errorf("node %d begins with token %d, node %d has a lease with token %d", node, r.token, n, other.token)
				}
			}
			if r.token <= token {
				t.Errorf("token %d after %d", r.token, token)
			}
			if r.lease.Err() != nil {
				t.Errorf("node %d begins without a lease", node)
			}
			token = r.token
			running[r] = node
		}
		handler := func(node int) RunHandler {
			return func(r *GoneRunner) {
				begin(node, r)
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					delete(running, r)
				}()
				for {
					select {
					case <-time.After(rand.N(leaseTTL / 3)):
						_ = r.Extend()
					case <-r.Exit:
						if rand.N(2) == 0 {
							time.Sleep(rand.N(2 * leaseTTL))
							_ = r.Extend()
						}
						return
					}
					switch rand.N(20) {
					case 0:
						return
					case 1:
						panic("a bad day")
					case 2, 3, 4:
						time.Sleep(2 * leaseTTL) // it hangs
					}
				}
			}
		}
		join := func(node int) *candidate {
			start := time.Now()
			base := rand.N(time.Hour) // no two clocks agree, nor run alike
			rate := 0.95 + 0.1*rand.Float64()
			return compete(func() time.Duration {
				return base + time.Duration(float64(time.Since(start))*rate)
			}, &seat{registry: service}, handler(node))
		}
		nodes := make([]*candidate, 4)
		for i := range nodes {
			nodes[i] = join(i)
		}
		for range 200 {
			time.Sleep(rand.N(time.Minute))
			i := rand.N(len(nodes)) // a planned hand-over
			retire(nodes[i])
			nodes[i] = join(i)
		}
		for _, one := range nodes {
			retire(one)
		}
		if token < 100 || len(running) != 0 {
			t.Errorf("%d tenures, %d running", token, len(running))
		}
		time.Sleep(2 * leaseTTL) // until nothing is stuck
	})
}
