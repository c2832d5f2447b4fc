package gone_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/internal/wire"
)

// A node's address, as it and others see it.

// nobodyHolds is a lock service without holders.
func nobodyHolds(string, string) (gone.GoneLock, error) { return heldByNobody{}, nil }

// heldByNobody is a lock that nobody gets.
type heldByNobody struct{ heldBy }

func (heldByNobody) GetValue() (string, error) { return "", gone.ErrNoHolder }

// at starts a node that listens on one address and says that it is at another.
func at(t testing.TB, advertised, bind string, newLock gone.LockFactory, opts ...gone.Option) *gone.Gone {
	t.Helper()
	g, err := gone.NewGone(advertised, newLock, append(opts, gone.WithBind(bind))...)
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// elsewhere is the address of a node under another loopback host.
func elsewhere(g *gone.Gone, host string) string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(g.Addr(), "tcp://"))
	return "tcp://" + net.JoinHostPort(host, port)
}

// unusedPort takes connections only to keep their port, and closes them.
func unusedPort(t testing.TB) (l net.Listener, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l, "tcp://" + l.Addr().String()
}

// refusingAddr is an address that refuses connections until the test ends: its port
// is bound, so that nobody else is given it, and nobody listens.
func refusingAddr(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(fd)
	must(t, err)
	return fmt.Sprint("tcp://127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
}

func TestCheckIsNilOnlyWhereTheAddressLeadsToThisVeryProcess(t *testing.T) {
	t.Parallel()
	pair, other := newKeypair(t), newKeypair(t)
	_, silent := unusedPort(t)
	refusing := refusingAddr(t)
	for name, c := range map[string]struct {
		node func(t *testing.T) *gone.Gone
		want []error
		not  error
	}{
		"it does":           {func(t *testing.T) *gone.Gone { return startNode(t, nobodyHolds) }, nil, nil},
		"it does, by CURVE": {func(t *testing.T) *gone.Gone { return startNode(t, nobodyHolds, pair.option()) }, nil, nil},
		"nobody is there":   {func(t *testing.T) *gone.Gone { return at(t, refusing, "tcp://127.0.0.1:0", nobodyHolds) }, []error{gone.ErrUnreachable}, gone.ErrDuplicateAddress},
		"another protocol":  {func(t *testing.T) *gone.Gone { return at(t, silent, "tcp://127.0.0.1:0", nobodyHolds) }, []error{gone.ErrUnreachable}, gone.ErrDuplicateAddress},
		"another node": {func(t *testing.T) *gone.Gone {
			return at(t, startNode(t, nobodyHolds).Addr(), "tcp://127.0.0.1:0", nobodyHolds)
		}, []error{gone.ErrDuplicateAddress}, gone.ErrUnreachable},
		"another node of the same key": {func(t *testing.T) *gone.Gone {
			return at(t, startNode(t, nobodyHolds, pair.option()).Addr(), "tcp://127.0.0.1:0", nobodyHolds, pair.option())
		}, []error{gone.ErrDuplicateAddress}, gone.ErrUnreachable},
		"another node of another key": {func(t *testing.T) *gone.Gone {
			return at(t, startNode(t, nobodyHolds, pair.option()).Addr(), "tcp://127.0.0.1:0", nobodyHolds, other.option())
		}, []error{gone.ErrUnreachable, gone.ErrRefused}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := c.node(t)
			err := g.Check(deadline(t, 30*time.Second))
			for _, want := range c.want {
				if !errors.Is(err, want) || !strings.Contains(err.Error(), g.Addr()) {
					t.Errorf("%v, want %v", err, want)
				}
			}
			if c.want == nil && err != nil || c.not != nil && errors.Is(err, c.not) || errors.Is(err, gone.ErrLockService) {
				t.Error(err)
			}
			if err := g.Check(deadline(t, 300*time.Millisecond)); errors.Is(err, gone.ErrLockService) {
				t.Errorf("the lock service has answered: %v", err)
			}
			must(t, g.Close())
			if err := g.Check(context.Background()); !errors.Is(err, gone.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}

// checkedLock is a lock with a Checker.
type checkedLock struct {
	heldByNobody
	check func(context.Context) error
}

func (l checkedLock) Check(ctx context.Context) error { return l.check(ctx) }

func TestCheckSaysWhyTheLockServiceCantBeUsed(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	g := startNode(t, s.locks(0))
	must(t, g.Check(deadline(t, 30*time.Second)))
	var in inbox
	hold(t, g, "a", in.run)
	must(t, g.Check(deadline(t, 30*time.Second)))
	s.stop()
	if err := g.Check(deadline(t, 30*time.Second)); !errors.Is(err, gone.ErrLockService) || errors.Is(err, gone.ErrUnreachable) {
		t.Errorf("without Redis: %v", err)
	}

	broken := errors.New("out of order")
	hangs := make(chan struct{})
	defer close(hangs)
	for name, c := range map[string]struct {
		lock gone.GoneLock
		want error
	}{
		"it says so":                   {checkedLock{check: func(context.Context) error { return broken }}, broken},
		"all is well":                  {checkedLock{check: func(context.Context) error { return nil }}, nil},
		"it hangs":                     {checkedLock{check: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}, context.DeadlineExceeded},
		"it hangs and does not listen": {checkedLock{check: func(context.Context) error { <-hangs; return nil }}, context.DeadlineExceeded},
	} {
		g := startNode(t, func(string, string) (gone.GoneLock, error) { return c.lock, nil })
		err := g.Check(deadline(t, 3*time.Second))
		if !errors.Is(err, c.want) || errors.Is(err, gone.ErrLockService) != (c.want != nil) || errors.Is(err, gone.ErrUnreachable) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// Not of an id that its user may not touch.
func TestCheckAsksAboutAnIDThatTheNodeRuns(t *testing.T) {
	t.Parallel()
	var asked sync.Map
	g := startNode(t, func(id, _ string) (gone.GoneLock, error) {
		return checkedLock{check: func(context.Context) error { asked.Store(id, true); return nil }}, nil
	})
	must(t, g.Check(deadline(t, 30*time.Second)))
	_, err := g.RunOne("app:b", func(*gone.GoneRunner) {})
	must(t, err)
	must(t, g.Check(deadline(t, 30*time.Second)))
	for id, want := range map[string]bool{"gone:check": true, "app:b": true} {
		if _, ok := asked.Load(id); ok != want {
			t.Errorf("%s: asked %v", id, ok)
		}
	}
}

func TestTwoProcessesWithOneAddressAreBothToldWithinSeconds(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	var logA, logB logged
	a := startNode(t, locks, gone.WithLogger(logA.logger()))
	var in inbox
	hold(t, a, "a", in.run)
	b, err := gone.NewGone(a.Addr(), locks, gone.WithBind("tcp://127.0.0.1:0"), gone.WithLogger(logB.logger()))
	must(t, err)
	defer b.Close()
	for who, g := range map[string]*gone.Gone{"the one that others reach": a, "the other": b} {
		log := map[*gone.Gone]*logged{a: &logA, b: &logB}[g]
		eventually(t, 20*time.Second, who+" is told", func() bool {
			return log.has("WARN", "another process", a.Addr()) && g.Stats().Twins > 0
		})
		if err := g.Check(deadline(t, 30*time.Second)); !errors.Is(err, gone.ErrDuplicateAddress) || !strings.Contains(err.Error(), a.Addr()) {
			t.Errorf("%s: %v", who, err)
		}
	}
	// And so is who sends there: the address of the holder is his own.
	err = b.SendDataContext(deadline(t, 3*time.Second), "a", []byte("x"))
	if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrDuplicateAddress) {
		t.Error(err)
	}
	must(t, a.SendData("a", []byte("x")))
	must(t, b.Close())
	eventually(t, 40*time.Second, "the twin is forgotten", func() bool { return a.Check(context.Background()) == nil })
	if n := strings.Count(logA.String(), "another process"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A Service of Kubernetes, say, or any other balancer: each connection leads to another.
func TestProcessesBehindOneBalancedAddressAreAllTold(t *testing.T) {
	t.Parallel()
	l, addr := unusedPort(t)
	var logs [2]logged
	var to [2]string
	var nodes [2]*gone.Gone
	for i := range logs {
		to[i] = "127.0.0.1:" + freePort()
		nodes[i] = at(t, addr, "tcp://"+to[i], nobodyHolds, gone.WithLogger(logs[i].logger()))
	}
	for _, to := range to {
		p := &proxy{l: l, to: to, open: map[net.Conn]bool{}}
		defer p.close()
		p.all.Go(p.accept)
	}
	for i, g := range nodes {
		eventually(t, 30*time.Second, fmt.Sprint("node ", i, " is told"), func() bool {
			return errors.Is(g.Check(deadline(t, 10*time.Second)), gone.ErrDuplicateAddress) && logs[i].has("another process", addr)
		})
	}
}

// At 127.0.0.1 of two machines, say, there is nothing to be seen but in the lock service.
func TestAProcessIsToldWithinATTLOfAnotherThatItCantReachAtItsOwnAddress(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	locks := startRedis(t).locks(ttl)
	var here, there lookup
	here.set("node.example", "127.0.0.2")
	there.set("node.example", "127.0.0.3")
	var log logged
	a := at(t, "tcp://node.example:0", "tcp://127.0.0.2:0", locks, here.option())
	b := at(t, a.Addr(), elsewhere(a, "127.0.0.3"), locks, there.option(), gone.WithLogger(log.logger()))
	hold(t, a, "a", func(r *gone.GoneRunner) {
		for range r.Messages() {
		}
	})
	must(t, a.Check(deadline(t, 30*time.Second)))
	must(t, b.Check(deadline(t, 30*time.Second)))
	var in inbox
	r := runOne(t, b, "a", in.run)
	eventually(t, 20*time.Second, "it is told", func() bool { return log.has("WARN", "another process", b.Addr()) })
	if err := b.Check(deadline(t, 30*time.Second)); !errors.Is(err, gone.ErrDuplicateAddress) {
		t.Error(err)
	}
	if err := b.SendDataContext(deadline(t, 4*time.Second), "a", []byte("x")); !errors.Is(err, gone.ErrDuplicateAddress) {
		t.Error(err)
	}
	must(t, r.Close())
	must(t, a.Close())
	hold(t, b, "a", in.run)
	must(t, b.SendData("a", []byte("x")))
}

// A process that has crashed is no other process, as long as its lock lasts.
func TestTheLockOfAProcessThatHasCrashedIsNoOtherProcess(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	locks := s.locks(2 * time.Second)
	_, addr := unusedPort(t)
	left, err := locks("a", strings.Replace(addr, "127.0.0.1", "127.0.0.2", 1))
	must(t, err)
	must(t, left.Lock())
	var log logged
	g, err := gone.NewGone(strings.Replace(addr, "127.0.0.1", "127.0.0.2", 1), locks, gone.WithLogger(log.logger()))
	must(t, err)
	defer g.Close()
	r := make(chan *gone.GoneRunner, 1)
	runOne(t, g, "a", func(mine *gone.GoneRunner) {
		r <- mine
		for range mine.Messages() {
		}
	})
	must(t, g.SendData("a", []byte("x")))
	within(t, 20*time.Second, "its tenure", r)
	if !log.has("INFO", "has this node's address", "id=a", g.Addr()) || log.has("another process has") || g.Stats().Twins != 0 {
		t.Error(log.String())
	}
	must(t, g.Check(deadline(t, 30*time.Second)))
}

// leftLock is one whose Unlock gets lost.
type leftLock struct{ heldBy }

func (leftLock) Lock() error        { return nil }
func (leftLock) Extend() error      { return nil }
func (leftLock) TTL() time.Duration { return 2 * time.Second }

// Nor is a tenure of one's own that is over, and was seen before it began.
func TestALockThatOnesOwnTenureHasLeftIsNoOtherProcess(t *testing.T) {
	t.Parallel()
	g := startNode(t, func(_, value string) (gone.GoneLock, error) { return leftLock{heldBy(value)}, nil })
	if err := g.SendDataContext(deadline(t, 2*time.Second), "a", []byte("x")); !errors.Is(err, gone.ErrNoHolder) {
		t.Error(err)
	}
	ended := make(chan struct{})
	r := runOne(t, g, "a", func(r *gone.GoneRunner) {
		defer close(ended)
		for range r.Messages() {
		}
	})
	time.Sleep(3 * time.Second) // longer than its TTL and a tenth
	must(t, r.Close())
	<-r.Exit
	<-ended
	if err := g.SendDataContext(deadline(t, 2*time.Second), "a", []byte("x")); !errors.Is(err, gone.ErrNoHolder) {
		t.Error(err)
	}
	if n := g.Stats().Twins; n != 0 {
		t.Errorf("%d signs of another process", n)
	}
}

// Here is who holds it, and not who has the same address.
func TestHereIsATenureOfThisVeryProcess(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for name, locks := range map[string]gone.LockFactory{
		"with tokens": s.locks(0),
		"without": func(id, value string) (gone.GoneLock, error) {
			l, err := s.locks(0)("without "+id, value)
			return struct{ gone.GoneLock }{l}, err
		},
	} {
		a := startNode(t, locks)
		b := at(t, a.Addr(), "tcp://127.0.0.1:0", locks)
		var in inbox
		r := hold(t, a, "a", in.run)
		here := func(g *gone.Gone) bool {
			h, err := g.Holder(deadline(t, 10*time.Second), "a")
			if must(t, err); h.Addr != a.Addr() {
				t.Errorf("%s: %+v", name, h)
			}
			return h.Here
		}
		if !here(a) || here(b) {
			t.Errorf("%s: here at the holder %v, at the other process %v", name, here(a), here(b))
		}
		if name == "with tokens" { // while the handler has not returned yet
			s.do("DEL", "a")
			next, err := gone.NewRedisLock(s.addr, "a", a.Addr())
			must(t, err)
			must(t, next.Lock())
			if here(a) {
				t.Error("the lock that another process has taken meanwhile is here")
			}
			next.Unlock()
		}
		must(t, r.Close())
		<-r.Exit
		// Nor is it one of the process that had the address before, and has crashed.
		left, err := locks("a", a.Addr())
		must(t, err)
		must(t, left.Lock())
		if here(a) || here(b) {
			t.Errorf("%s: the lock of a process that has crashed is here", name)
		}
		left.Unlock()
	}
}

func TestANodeThatANATKeepsFromItselfWarnsAndWorks(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	refusing := refusingAddr(t)
	var log logged
	g := at(t, refusing, "tcp://127.0.0.1:0", locks, gone.WithLogger(log.logger()))
	to := startNode(t, locks)
	var in, own inbox
	hold(t, to, "a", in.run)
	hold(t, g, "own", own.run)
	must(t, g.SendData("own", []byte("x")))
	eventually(t, 30*time.Second, "it is said", func() bool { return log.has("WARN", "does not reach itself", refusing) })
	if log.has("another process") || g.Stats().Twins != 0 {
		t.Error("nobody else is there")
	}
}

func TestCloseDoesNotWaitForTheCheckOfTheAddress(t *testing.T) {
	t.Parallel()
	_, silent := unusedPort(t)
	var log logged
	for range 5 {
		g, err := gone.NewGone(silent, nobodyHolds, gone.WithBind("tcp://127.0.0.1:0"), gone.WithLogger(log.logger()))
		must(t, err)
		closed := make(chan error, 1)
		began := time.Now()
		go func() { closed <- g.Close() }()
		must(t, within(t, 10*time.Second, "Close", closed))
		if d := time.Since(began); d > 4*time.Second { // the check would take more
			t.Errorf("it took %v", d)
		}
	}
	if log.has("does not reach itself") {
		t.Error("a check that Close ended says something")
	}
}

// On a plain wire whoever speaks the protocol can say anything, but nothing comes of it.
func TestAHelloInANodesOwnNameOpensNoLink(t *testing.T) {
	t.Parallel()
	g := startNode(t, nobodyHolds)
	must(t, g.Check(deadline(t, 30*time.Second)))
	s := attacker(t, g, zmq4.PUSH)
	for range 10 {
		push(t, s, wire.AppendHello(nil, false, 1, 0, g.Addr()), wire.AppendHello(nil, true, 1, 1, g.Addr()))
	}
	eventually(t, 10*time.Second, "they are counted", func() bool { return g.Stats().Twins == 20 })
	if n := g.Stats().Malformed; n != 0 {
		t.Errorf("%d malformed", n)
	}
}

func TestANodeThatDialsItselfByAnotherNameIsNoTwin(t *testing.T) {
	t.Parallel()
	g := startNode(t, nobodyHolds)
	alias := strings.Replace(g.Addr(), "127.0.0.1", "localhost", 1)
	if _, err := g.Status(deadline(t, 3*time.Second), alias); !errors.Is(err, gone.ErrUnreachable) {
		t.Errorf("Status: %v", err)
	}
	must(t, g.Check(deadline(t, 30*time.Second)))
	if n := g.Stats().Twins; n != 0 {
		t.Errorf("%d signs of a twin", n)
	}
}

// lookup is a name service of one test's.
type lookup struct {
	mu    sync.Mutex
	leads map[string][]string
}

func (l *lookup) set(name string, hosts ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leads == nil {
		l.leads = map[string][]string{}
	}
	l.leads[name] = hosts
}

func (l *lookup) option() gone.Option {
	return gone.WithLookup(func(_ context.Context, host string) (ips []netip.Addr, err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, h := range l.leads[host] {
			ips = append(ips, netip.MustParseAddr(h))
		}
		if ips == nil {
			err = fmt.Errorf("no such host %q", host)
		}
		return ips, err
	})
}

func TestANodeIsReachedUnderAnyAddressOfItsName(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	pair := newKeypair(t)
	for _, opts := range [][]gone.Option{nil, {pair.option()}} {
		for _, hosts := range [][]string{{"127.0.0.2", "::1", "127.0.0.3"}, {"::1", "127.0.0.2", "127.0.0.3"}} {
			for _, host := range []string{"127.0.0.3", "::1"} {
				id := fmt.Sprint(hosts, host, len(opts))
				t.Run(id, func(t *testing.T) {
					t.Parallel()
					var names lookup
					names.set("node.example", hosts...)
					opts := append(opts[:len(opts):len(opts)], names.option())
					g := at(t, "tcp://node.example:0", "tcp://"+net.JoinHostPort(host, "0"), locks, opts...)
					var in inbox
					hold(t, g, id, in.run)
					sender := startNode(t, locks, opts...)
					for range 10 {
						must(t, sender.SendData(id, []byte("x")))
					}
					must(t, g.Check(deadline(t, 30*time.Second)))
				})
			}
		}
	}
}

// As of a host that has left one of its addresses to another. Both ways: what is sent to
// the node, and what it is answered.
func TestAnAddressOfANameThatLeadsToAnotherNodeCostsSecondsAndNoMessage(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	var names lookup
	names.set("node.example", "127.0.0.2", "127.0.0.3")
	patient := gone.WithSendTimeout(30 * time.Second)
	g := at(t, "tcp://node.example:0", "tcp://127.0.0.3:0", locks, names.option(), patient)
	another, err := gone.NewGone(elsewhere(g, "127.0.0.2"), locks)
	must(t, err)
	defer another.Close()
	var in, in2 inbox
	hold(t, g, "there", in.run)
	other := startNode(t, locks, names.option(), patient)
	began := time.Now()
	must(t, other.SendData("there", []byte("x")))
	t.Log("to it after ", time.Since(began))
	last := startNode(t, locks, names.option())
	hold(t, last, "here", in2.run)
	began = time.Now()
	must(t, g.SendData("here", []byte("x")))
	t.Log("answered after ", time.Since(began))
	in.is(t, []string{"x"})
	in2.is(t, []string{"x"})
}

// withName runs a test on a plain wire and with keys, where node.example is a name for
// 127.0.0.2 at first.
func withName(t *testing.T, test func(t *testing.T, locks gone.LockFactory, names *lookup, opts []gone.Option)) {
	pair := newKeypair(t)
	for name, opts := range map[string][]gone.Option{"plain": nil, "curve": {pair.option()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var names lookup
			names.set("node.example", "127.0.0.2")
			test(t, startRedis(t).locks(0), &names, append(opts, names.option()))
		})
	}
}

// A pod, say: its name stays, its address does not.
func TestANodeThatComesBackUnderItsNameWithAnotherAddressIsFollowed(t *testing.T) {
	t.Parallel()
	withName(t, func(t *testing.T, locks gone.LockFactory, names *lookup, opts []gone.Option) {
		sender := startNode(t, locks, append(opts, gone.WithSendTimeout(30*time.Second))...)
		before := at(t, "tcp://node.example:0", "tcp://127.0.0.2:0", locks, opts...)
		var in inbox
		hold(t, before, "a", in.run)
		must(t, sender.SendData("a", []byte("before")))
		must(t, before.Close())
		names.set("node.example", "127.0.0.3")
		after := at(t, elsewhere(before, "node.example"), elsewhere(before, "127.0.0.3"), locks, opts...)
		hold(t, after, "a", in.run)
		must(t, sender.SendData("a", []byte("after")))
		in.is(t, []string{"before", "after"})
		must(t, after.Check(deadline(t, 30*time.Second)))
	})
}

// Nor does it have to be begun anew for that.
func TestAHostWhoseAddressChangesIsFollowed(t *testing.T) {
	t.Parallel()
	withName(t, func(t *testing.T, locks gone.LockFactory, names *lookup, opts []gone.Option) {
		front := proxyAt(t, "127.0.0.2:0")
		_, port, _ := net.SplitHostPort(front.l.Addr().String())
		bind := "tcp://127.0.0.1:" + freePort()
		g := at(t, "tcp://node.example:"+port, bind, locks, opts...)
		front.to = strings.TrimPrefix(bind, "tcp://")
		front.all.Go(front.accept)
		sender := startNode(t, locks, append(opts, gone.WithSendTimeout(30*time.Second))...)
		var l inbox
		hold(t, g, "a", l.run)
		must(t, sender.SendData("a", []byte("0")))
		front.close()
		names.set("node.example", "127.0.0.3")
		next := proxyAt(t, "127.0.0.3:"+port)
		next.to = front.to
		next.all.Go(next.accept)
		began := time.Now()
		for i := range 5 {
			must(t, sender.SendData("a", []byte(fmt.Sprint(i+1))))
		}
		t.Log("it took ", time.Since(began))
		l.is(t, []string{"0", "1", "2", "3", "4", "5"})
	})
}

// proxyAt listens; its user says where it leads, and has it accept.
func proxyAt(t testing.TB, addr string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	must(t, err)
	p := &proxy{l: l, open: map[net.Conn]bool{}}
	t.Cleanup(p.close)
	return p
}

func TestANodeWhoseNameHasNoAddressYetStartsAndIsReachedWhenItHas(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	var names lookup
	var log logged
	g := at(t, "tcp://node.example:0", "tcp://*:0", locks, names.option(), gone.WithLogger(log.logger()))
	var in inbox
	hold(t, g, "a", in.run)
	must(t, g.SendData("a", []byte("own")))
	if err := g.Check(deadline(t, 2*time.Second)); !errors.Is(err, gone.ErrUnreachable) || !strings.Contains(err.Error(), "no such host") {
		t.Error(err)
	}
	sender := startNode(t, locks, names.option(), gone.WithSendTimeout(30*time.Second))
	sent := make(chan error, 1)
	go func() { sent <- sender.SendData("a", []byte("x")) }()
	eventually(t, 30*time.Second, "it is said", func() bool { return log.has("WARN", "does not reach itself", "no such host") })
	names.set("node.example", "127.0.0.1")
	must(t, within(t, 40*time.Second, "the send", sent))
	must(t, g.Check(deadline(t, 30*time.Second)))
	in.is(t, []string{"own", "x"})
}

func TestCheckIsNilInAClusterOfATest(t *testing.T) {
	t.Parallel()
	must(t, gonetest.Cluster(t, 1).Node(0).Check(deadline(t, 30*time.Second)))
}
