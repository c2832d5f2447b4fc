package gone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// startNode starts a node that ends with the test.
func startNode(t testing.TB, newLock gone.LockFactory, opts ...gone.Option) *gone.Gone {
	t.Helper()
	g, err := gone.NewGone("tcp://127.0.0.1:0", newLock, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

func runOne(t testing.TB, g *gone.Gone, id string, h gone.RunHandler) (r *gone.GoneRunner) {
	t.Helper()
	must(t, answered(t, func() (err error) {
		r, err = g.RunOne(id, h)
		return err
	}))
	return r
}

// answered has a lock service checked again while it does not answer in the second
// that a check may take: on a busy machine that is no fault of its.
func answered(t testing.TB, check func() error) (err error) {
	t.Helper()
	eventually(t, 10*time.Second, "the lock service answers in time", func() bool {
		err = check()
		var slow net.Error
		return !errors.As(err, &slow) || !slow.Timeout()
	})
	return err
}

// hold is runOne that waits for the tenure.
func hold(t testing.TB, g *gone.Gone, id string, h gone.RunHandler) *gone.GoneRunner {
	t.Helper()
	began := make(chan struct{}, 1)
	r := runOne(t, g, id, func(r *gone.GoneRunner) {
		select {
		case began <- struct{}{}:
		default:
		}
		h(r)
	})
	within(t, 10*time.Second, "tenure of "+id, began)
	return r
}

// within waits for a channel.
func within[T any](t testing.TB, d time.Duration, what string, c <-chan T) (v T) {
	t.Helper()
	d *= patience
	select {
	case v = <-c:
	case <-time.After(d):
		t.Fatalf("not within %v: %s", d, what)
	}
	return v
}

// An inbox is a handler that keeps what it receives, in order.
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
			b.add(data)
		}
	}
}

func (b *inbox) add(data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, string(data))
}

// is waits until the handler has taken note of what it has received: its answer
// may be here before.
func (b *inbox) is(t testing.TB, want []string) {
	t.Helper()
	for end := time.Now().Add(patience * 10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := b.all()
		if slices.Equal(got, want) {
			return
		}
		if len(got) > len(want) || time.Now().After(end) {
			t.Errorf("received %q, want %q", got, want)
			return
		}
	}
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.got...)
}

// stuck is a handler that receives nothing.
func stuck(r *gone.GoneRunner) { <-r.Exit }

// isOnly fails unless err wraps all of want, and of the two results only the
// one that is in want.
func isOnly(t testing.TB, err error, want ...error) {
	t.Helper()
	results := 0
	for _, e := range []error{gone.ErrNotDelivered, gone.ErrOutcomeUnknown} {
		if errors.Is(err, e) {
			results++
		}
	}
	if results > 1 {
		t.Errorf("%v is two results at once", err)
	}
	for _, e := range want {
		if !errors.Is(err, e) {
			t.Errorf("got error %v, want one that wraps %v", err, e)
		}
	}
}

// residue is what gone has running and open in this process.
type residue struct {
	goroutines []string
	files      map[string]int
}

func takeStock(t testing.TB) residue {
	t.Helper()
	s := residue{files: map[string]int{}}
	buf := make([]byte, 8<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "Diggs/go-one.") || strings.Contains(g, "Diggs/go-one/internal/") {
			s.goroutines = append(s.goroutines, g)
		}
	}
	if runtime.GOOS != "linux" {
		return s
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		// Sockets have a name of their own each, event files share one. One that
		// has been closed meanwhile has none.
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && !strings.HasPrefix(name, "/proc/") {
			s.files[name]++
		}
	}
	return s
}

// more says what s has and before had not, "" for nothing.
func (s residue) more(before residue) string {
	var b strings.Builder
	for name, n := range s.files {
		if more := n - before.files[name]; more > 0 {
			fmt.Fprintf(&b, "%d × %s\n", more, name)
		}
	}
	for _, g := range s.goroutines {
		fmt.Fprintf(&b, "%s\n\n", g)
	}
	return b.String()
}

// nothingLeft waits until gone has nothing running, and nothing open that was
// not open before.
func nothingLeft(t testing.TB, before residue) {
	t.Helper()
	var more string
	for end := time.Now().Add(patience * 10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if more = takeStock(t).more(before); more == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind:\n%s", more)
		}
	}
}

// quiet waits until tests before this one have ended for good.
func quiet(t testing.TB) residue {
	t.Helper()
	eventually(t, 10*time.Second, "nothing of gone runs", func() bool { return len(takeStock(t).goroutines) == 0 })
	return takeStock(t)
}

func TestNewGoneRefusesBadInputAtOnce(t *testing.T) {
	unused := func(string, string) (gone.GoneLock, error) { return nil, errors.New("asked for a lock") }
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	const ok = "tcp://127.0.0.1:0"

	// Whatever libzmq sets up once for a process.
	_, _ = gone.NewGone("tcp://127.0.0.1:"+port, unused)
	before := quiet(t)
	for name, c := range map[string]struct {
		addr string
		lock gone.LockFactory
		opts []gone.Option
		says string
	}{
		"no address":                {"", unused, nil, "tcp://host:port"},
		"no scheme":                 {"127.0.0.1:0", unused, nil, "tcp://host:port"},
		"another scheme":            {"ipc:///tmp/x", unused, nil, "tcp://host:port"},
		"no port":                   {"tcp://127.0.0.1", unused, nil, "tcp://host:port"},
		"no host":                   {"tcp://:1", unused, nil, "host"},
		"port that is no number":    {"tcp://127.0.0.1:http", unused, nil, "port"},
		"port that is too high":     {"tcp://127.0.0.1:65536", unused, nil, "port"},
		"port that is negative":     {"tcp://127.0.0.1:-1", unused, nil, "port"},
		"space in the host":         {"tcp://127.0.0.1 :1", unused, nil, "host"},
		"ZeroMQ's source address":   {"tcp://127.0.0.1;127.0.0.1:1", unused, nil, "host"},
		"NUL in the host":           {"tcp://a\x00b:1", unused, nil, "host"},
		"mistyped IPv4, advertised": {"tcp://300.1.2.3:99", unused, []gone.Option{gone.WithBind(ok)}, "host"},
		"no host name, advertised":  {"tcp://a#b:99", unused, []gone.Option{gone.WithBind(ok)}, "host"},
		"too long":                  {"tcp://" + strings.Repeat("a", 300) + ":1", unused, nil, "too long"},
		"wildcard *":                {"tcp://*:0", unused, nil, "wildcard"},
		"wildcard 0.0.0.0":          {"tcp://0.0.0.0:0", unused, nil, "wildcard"},
		"wildcard ::":               {"tcp://[::]:0", unused, nil, "wildcard"},
		"multicast":                 {"tcp://224.0.0.1:0", unused, nil, "group"},
		"broadcast":                 {"tcp://255.255.255.255:0", unused, nil, "group"},
		"nil option":                {ok, unused, []gone.Option{nil}, "nil option"},
		"address of another host":   {"tcp://192.0.2.1:0", unused, nil, "192.0.2.1"},
		"port in use":               {"tcp://127.0.0.1:" + port, unused, nil, port},
		"malformed bind address":    {ok, unused, []gone.Option{gone.WithBind("here")}, `"here"`},
		"bind address in use":       {ok, unused, []gone.Option{gone.WithBind("tcp://127.0.0.1:" + port)}, port},
		"nil lock factory":          {ok, nil, nil, "nil lock factory"},
		"send timeout of 0":         {ok, unused, []gone.Option{gone.WithSendTimeout(0)}, "send timeout"},
		"negative close timeout":    {ok, unused, []gone.Option{gone.WithCloseTimeout(-1)}, "close timeout"},
		"max message size of 0":     {ok, unused, []gone.Option{gone.WithMaxMessageSize(0)}, "max message size"},
		"max message size over all": {ok, unused, []gone.Option{gone.WithMaxMessageSize(2 << 30)}, "max message size"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			g, err := gone.NewGone(c.addr, c.lock, c.opts...)
			if err == nil {
				_ = g.Close()
				t.Fatal("no error")
			}
			if g != nil {
				t.Error("a Gone besides the error")
			}
			if d := time.Since(began); d > atOnce {
				t.Errorf("it took %v", d)
			}
			if s := err.Error(); !strings.HasPrefix(s, "gone: ") || !strings.Contains(s, c.says) {
				t.Errorf("error %q: want gone: … %s …", s, c.says)
			}
			nothingLeft(t, before)
		})
	}
}

var badIDs = map[string]string{
	"empty":      "",
	"too long":   strings.Repeat("x", gone.MaxIDLength+1),
	"with a NUL": "a\x00b",
}

func TestRunOneRefusesBadInputAtOnce(t *testing.T) {
	asked := 0
	g := startNode(t, func(string, string) (gone.GoneLock, error) {
		asked++
		return nil, errors.New("no locks today")
	})
	asked = 0 // that of the roster
	refused := func(t *testing.T, id string, h gone.RunHandler, says string) {
		t.Helper()
		r, err := g.RunOne(id, h)
		if err == nil || r != nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, %v; want an error with %q", r, err, says)
		}
	}
	for name, id := range badIDs {
		t.Run(name+" id", func(t *testing.T) { refused(t, id, stuck, "gone: ") })
	}
	t.Run("nil handler", func(t *testing.T) { refused(t, "a", nil, "nil handler") })
	if asked > 0 {
		t.Errorf("%d locks were made", asked)
	}
	t.Run("the factory's own error", func(t *testing.T) { refused(t, "a", stuck, "no locks today") })
	t.Run("a factory without a lock and an error", func(t *testing.T) {
		g := startNode(t, func(string, string) (gone.GoneLock, error) { return nil, nil })
		if _, err := g.RunOne("a", stuck); err == nil {
			t.Error("no error")
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		isOnly(t, g.SendDataContext(ctx, "a", nil), gone.ErrNotDelivered)
	})
}

func TestRunOneSaysAtOnceWhatIsWrongWithRedis(t *testing.T) {
	open := startRedis(t)
	guarded := startRedis(t)
	guarded.do("CONFIG", "SET", "requirepass", "sesame")
	open.do("LPUSH", "a list", "x")
	open.do("SET", "somebody's", "value")

	login := func(password string) gone.LockFactory {
		pool := &redis.Pool{Dial: func() (redis.Conn, error) {
			return redis.Dial("unix", guarded.addr.Name, redis.DialPassword(password))
		}}
		t.Cleanup(func() { _ = pool.Close() })
		return func(id, value string) (gone.GoneLock, error) { return gone.NewRedisLockPool(pool, id, value) }
	}
	nowhere := &net.UnixAddr{Net: "unix", Name: open.addr.Name + ".not"}
	for name, c := range map[string]struct {
		lock     gone.LockFactory
		id, says string
	}{
		"not there": {func(id, value string) (gone.GoneLock, error) {
			return gone.NewRedisLock(nowhere, id, value)
		}, "a", nowhere.Name},
		"no password":        {guarded.locks(0), "a", "NOAUTH"},
		"wrong password":     {login("mustard"), "a", "WRONGPASS"},
		"key of other type":  {open.locks(0), "a list", "WRONGTYPE"},
		"key of other owner": {open.locks(0), "somebody's", `"somebody's": the key has a foreign value`},
	} {
		t.Run(name, func(t *testing.T) {
			before := quiet(t)
			g, err := gone.NewGone("tcp://127.0.0.1:0", c.lock)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			began := time.Now()
			ran := make(chan struct{})
			_, err = g.RunOne(c.id, func(*gone.GoneRunner) { close(ran) })
			if err == nil || !strings.HasPrefix(err.Error(), "gone: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got error %v, want gone: … %s …", err, c.says)
			}
			if d := time.Since(began); d > atOnce {
				t.Errorf("it took %v", d)
			}
			select {
			case <-ran:
				t.Error("the handler ran")
			default:
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
			nothingLeft(t, before)
		})
	}
	t.Run("the right password works", func(t *testing.T) {
		g := startNode(t, login("sesame"))
		hold(t, g, "a", stuck)
	})
}

func TestSendDataRefusesBadInputAtOnce(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0), gone.WithMaxMessageSize(1000))
	var in inbox
	hold(t, g, "a", in.run)
	for name, id := range badIDs {
		t.Run(name+" id", func(t *testing.T) { isOnly(t, g.SendData(id, nil), gone.ErrNotDelivered) })
	}
	t.Run("too much data", func(t *testing.T) {
		isOnly(t, g.SendData("a", make([]byte, 1001)), gone.ErrNotDelivered, gone.ErrTooLarge)
	})
	if err := g.SendData("a", make([]byte, 1000)); err != nil {
		t.Errorf("data of the largest size: %v", err)
	}
	eventually(t, time.Second, "only the good data arrives", func() bool { return len(in.all()) == 1 })
}

func TestAfterCloseEverythingSaysClosed(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0))
	r := hold(t, g, "a", stuck)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	isOnly(t, g.SendData("a", nil), gone.ErrNotDelivered, gone.ErrClosed)
	isOnly(t, g.SendDataContext(context.Background(), "b", nil), gone.ErrNotDelivered, gone.ErrClosed)
	isOnly(t, r.SendData(nil), gone.ErrNotDelivered, gone.ErrClosed)
	for _, id := range []string{"a", "b"} {
		if _, err := g.RunOne(id, stuck); !errors.Is(err, gone.ErrClosed) {
			t.Errorf("RunOne(%q): %v", id, err)
		}
	}
	if d := time.Since(began); d > atOnce {
		t.Errorf("it took %v", d)
	}
	if g.Addr() == "" {
		t.Error("no address any more")
	}
	if s := g.Stats(); s.Held != 0 || s.Tenures != 1 {
		t.Errorf("stats %+v", s)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestRunOneTwiceReturnsTheRunnerThatIsThere(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0))
	var runs atomic.Int32
	count := func(r *gone.GoneRunner) { runs.Add(1); <-r.Exit }
	first := hold(t, g, "a", count)

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			again, err := g.RunOne("a", func(*gone.GoneRunner) { t.Error("a second handler ran") })
			if err != nil || again != first || again.ID() != "a" {
				t.Errorf("got %v, %v; want the first one's runner", again, err)
			}
		})
	}
	all.Wait()
	again := runOne(t, g, "a", stuck)
	_ = again.Close()
	within(t, 5*time.Second, "Close of the second ends the first", first.Exit)
	if n := runs.Load(); n != 1 {
		t.Errorf("%d tenures", n)
	}
}

func TestConcurrentRunOnesOfOneIDStartOneHandler(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0))
	began := make(chan int, 16)
	runners := make([]*gone.GoneRunner, 16)
	var all sync.WaitGroup
	for i := range runners {
		all.Go(func() { runners[i] = runOne(t, g, "a", func(r *gone.GoneRunner) { began <- i; <-r.Exit }) })
	}
	all.Wait()
	within(t, 5*time.Second, "a tenure", began)
	for _, r := range runners {
		if r.Exit != runners[0].Exit {
			t.Fatal("different runners")
		}
	}
	_ = runners[0].Close()
	within(t, 5*time.Second, "the end", runners[0].Exit)
	if len(began) > 0 {
		t.Error("a second handler ran")
	}
}

func TestRunOneStartsAgainAfterCloseOfTheRunner(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0))
	var running atomic.Int32
	leave := make(chan struct{})
	handler := func(r *gone.GoneRunner) {
		if n := running.Add(1); n > 1 {
			t.Errorf("%d handlers at once", n)
		}
		defer running.Add(-1)
		<-r.Exit
		<-leave
	}
	first := hold(t, g, "a", handler)
	_ = first.Close()
	began := make(chan struct{})
	second := runOne(t, g, "a", func(r *gone.GoneRunner) {
		close(began)
		handler(r)
	})
	if second.Exit == first.Exit {
		t.Fatal("RunOne returned the closed runner")
	}
	// The first handler has not returned, so neither has its lock.
	select {
	case <-began:
		t.Error("the second handler runs beside the first")
	case <-first.Exit:
		t.Error("Exit has closed before the handler returned")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	within(t, 5*time.Second, "end of the first", first.Exit)
	within(t, 5*time.Second, "start of the second", began)
}

func TestAddrHasTheRealPort(t *testing.T) {
	locks := startRedis(t).locks(0)
	sender := startNode(t, locks)
	for name, c := range map[string]struct {
		addr string
		opts []gone.Option
		host string
	}{
		"port 0":              {"tcp://127.0.0.1:0", nil, "127.0.0.1"},
		"port *":              {"tcp://127.0.0.1:*", nil, "127.0.0.1"},
		"host name":           {"tcp://localhost:0", nil, "localhost"},
		"bind to all":         {"tcp://127.0.0.1:0", []gone.Option{gone.WithBind("tcp://*:*")}, "127.0.0.1"},
		"bind to all by zero": {"tcp://localhost:0", []gone.Option{gone.WithBind("tcp://0.0.0.0:0")}, "localhost"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := gone.NewGone(c.addr, locks, c.opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			host, port, err := net.SplitHostPort(strings.TrimPrefix(g.Addr(), "tcp://"))
			if err != nil || host != c.host || port == "0" || port == "*" {
				t.Fatalf("address %q", g.Addr())
			}
			var in inbox
			hold(t, g, name, in.run)
			if err := sender.SendData(name, []byte("hello")); err != nil {
				t.Errorf("send to %s: %v", g.Addr(), err)
			}
		})
	}
	t.Run("advertised is not bound", func(t *testing.T) {
		// Another's port would be advertised by mistake if the bound one were.
		g, err := gone.NewGone("tcp://127.9.9.9:4711", locks, gone.WithBind("tcp://127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if g.Addr() != "tcp://127.9.9.9:4711" {
			t.Errorf("address %q", g.Addr())
		}
	})
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	locks := startRedis(t).locks(0)
	round := func() {
		var nodes []*gone.Gone
		var in inbox
		for range 3 {
			g, err := gone.NewGone("tcp://127.0.0.1:0", locks)
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, g)
			runOne(t, g, "shared", in.run)
		}
		var all sync.WaitGroup
		for i, g := range nodes {
			hold(t, g, fmt.Sprint("own", i), in.run)
			for j := range nodes {
				all.Go(func() {
					if err := g.SendData("shared", []byte("x")); err != nil {
						t.Error(err)
					}
					if err := g.SendData(fmt.Sprint("own", j), []byte("x")); err != nil {
						t.Error(err)
					}
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
					defer cancel()
					isOnly(t, g.SendDataContext(ctx, "nobody", nil), gone.ErrNotDelivered)
				})
			}
		}
		all.Wait()
		for _, g := range nodes {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	round() // what is made once for a process
	before := quiet(t)
	for range 3 {
		round()
		nothingLeft(t, before)
	}
}

// Each has sent to the others, so they are told what became of it; one that is
// gone does not confirm.
func TestNodesThatCloseInTurnDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	var nodes []*gone.Gone
	var in inbox
	for i := range 4 {
		g := startNode(t, locks)
		nodes = append(nodes, g)
		hold(t, g, fmt.Sprint(i), in.run)
	}
	for _, g := range nodes {
		for i := range nodes {
			if err := g.SendData(fmt.Sprint(i), []byte("x")); err != nil {
				t.Error(err)
			}
		}
	}
	for _, g := range nodes {
		began := time.Now()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > atOnce {
			t.Errorf("Close took %v", d)
		}
	}
}

func TestCloseTwiceReturnsTheSame(t *testing.T) {
	locks := startRedis(t).locks(0)
	t.Run("nil", func(t *testing.T) {
		g := startNode(t, locks)
		hold(t, g, "a", stuck)
		errs := make(chan error)
		for range 4 {
			go func() { errs <- g.Close() }()
		}
		for range 4 {
			if err := within(t, 10*time.Second, "Close", errs); err != nil {
				t.Error(err)
			}
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the late handler", func(t *testing.T) {
		g := startNode(t, locks, gone.WithCloseTimeout(10*time.Millisecond))
		leave := make(chan struct{})
		r := hold(t, g, "b", func(*gone.GoneRunner) { <-leave })
		first := g.Close()
		if first == nil || !strings.Contains(first.Error(), `"b"`) {
			t.Errorf("got %v, want an error that names the handler", first)
		}
		close(leave)
		within(t, 5*time.Second, "end of the handler", r.Exit)
		if second := g.Close(); second == nil || second.Error() != first.Error() {
			t.Errorf("got %v, want %v", second, first)
		}
	})
}

func TestCloseEndsSendsThatAreUnderWay(t *testing.T) {
	locks := startRedis(t).locks(0)
	other := startNode(t, locks)
	g := startNode(t, locks, gone.WithSendTimeout(time.Minute))
	var in inbox
	hold(t, g, "here", stuck)
	hold(t, other, "there, stuck", stuck)
	hold(t, other, "there", in.run)

	type result struct {
		id   string
		data string
		err  error
	}
	results := make(chan result)
	var sent atomic.Int32
	var all sync.WaitGroup
	for i := range 20 {
		for _, id := range []string{"here", "there, stuck", "there", "nowhere"} {
			all.Go(func() {
				for n := 0; ; n++ {
					data := fmt.Sprint(i, " ", n)
					err := g.SendData(id, []byte(data))
					sent.Add(1)
					results <- result{id, data, err}
					if err != nil {
						return
					}
				}
			})
		}
	}
	go func() {
		all.Wait()
		close(results)
	}()
	closed := make(chan error, 1)
	go func() {
		for sent.Load() < 500 {
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		err := g.Close()
		if d := time.Since(began); d > atOnce {
			t.Errorf("Close took %v", d)
		}
		closed <- err
	}()
	acked := map[string]bool{}
	failed := map[string]bool{}
	for r := range results {
		switch {
		case r.err == nil && r.id == "there":
			acked[r.data] = true
		case r.err == nil:
			t.Errorf("%s: nil, but nobody can have received it", r.id)
		default:
			isOnly(t, r.err, gone.ErrNotDelivered, gone.ErrClosed)
			if r.id == "there" {
				failed[r.data] = true
			}
		}
	}
	if err := within(t, 10*time.Second, "Close", closed); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, "the handler has all that was acknowledged", func() bool { return len(in.all()) >= len(acked) })
	for _, data := range in.all() {
		if !acked[data] {
			t.Errorf("%q was received, but its result was not nil (not delivered: %v)", data, failed[data])
		}
		delete(acked, data)
	}
	if len(acked) > 0 {
		t.Errorf("acknowledged, but not received: %v", acked)
	}
}

// logged is a logger that keeps its lines.
type logged struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *logged) has(parts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.SplitSeq(l.out.String(), "\n") {
		ok := true
		for _, p := range parts {
			ok = ok && strings.Contains(line, p)
		}
		if ok {
			return true
		}
	}
	return false
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.String()
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestAHandlerThatIgnoresCloseKeepsItsLockAndIsNamed(t *testing.T) {
	t.Parallel()
	const expiry = 8 * time.Second // of which a process may wait a part for its turn
	locks := startRedis(t).locks(expiry)
	var log logged
	g := startNode(t, locks, gone.WithCloseTimeout(20*time.Millisecond), gone.WithLogger(log.logger()))
	leave := make(chan struct{})
	r := hold(t, g, "a", func(r *gone.GoneRunner) {
		for {
			select {
			case <-leave:
				return
			case <-time.After(expiry / 40):
				_ = r.Extend() // it cleans up for long, and means to keep its lock
			}
		}
	})
	began := time.Now()
	err := g.Close()
	if err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("Close: %v, want an error that names the handler", err)
	}
	if d := time.Since(began); d > atOnce {
		t.Errorf("Close took %v", d)
	}
	eventually(t, 5*time.Second, "it is logged", func() bool { return log.has("handler ignores Exit", "id=a") })
	if n := g.Stats().Overdue; n != 1 {
		t.Errorf("Overdue is %d", n)
	}

	next := startNode(t, locks)
	taken := make(chan struct{})
	runOne(t, next, "a", func(r *gone.GoneRunner) { close(taken); <-r.Exit })
	select {
	case <-taken:
		t.Error("another node runs the id while the handler has not returned")
	case <-r.Exit:
		t.Error("Exit of the runner closed while the handler has not returned")
	case <-time.After(expiry + expiry/10):
	}
	close(leave)
	within(t, 5*time.Second, "end", r.Exit)
	within(t, time.Second, "the lock is released at once", taken)
}

func TestNothingIsDeliveredToAHandlerThatIgnoresExit(t *testing.T) {
	t.Parallel()
	locks := startRedis(t).locks(0)
	g, other := startNode(t, locks), startNode(t, locks)
	leave := make(chan struct{})
	var late inbox
	r := hold(t, g, "a", func(r *gone.GoneRunner) {
		<-r.Exit
		for {
			select {
			case data := <-r.Data:
				late.add(data)
			case <-leave:
				return
			}
		}
	})
	_ = r.Close()
	for _, from := range []*gone.Gone{g, other} {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		isOnly(t, from.SendDataContext(ctx, "a", []byte("late")), gone.ErrNotDelivered, gone.ErrNoHolder)
		cancel()
	}
	close(leave)
	within(t, 5*time.Second, "end", r.Exit)
	if got := late.all(); len(got) > 0 {
		t.Errorf("received after Exit: %q", got)
	}
}

func TestAHandlerMayCloseItself(t *testing.T) {
	locks := startRedis(t).locks(0)
	g, other := startNode(t, locks), startNode(t, locks)
	causes := make(chan error, 1)
	r := runOne(t, g, "a", func(r *gone.GoneRunner) {
		_ = r.Close()
		<-r.Exit
		causes <- context.Cause(r.Context())
		_ = r.Close()
	})
	within(t, 5*time.Second, "end of the runner", r.Exit)
	if err := <-causes; !errors.Is(err, gone.ErrClosed) {
		t.Errorf("cause %v", err)
	}
	if err := context.Cause(r.Context()); !errors.Is(err, gone.ErrClosed) {
		t.Errorf("cause of the runner's end: %v", err)
	}
	hold(t, other, "a", stuck)
	if n := g.Stats().Tenures; n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
}

func TestWithLoggerGetsWhatIsLogged(t *testing.T) {
	var log logged
	g := startNode(t, startRedis(t).locks(0), gone.WithLogger(log.logger()))
	r := runOne(t, g, "a", func(r *gone.GoneRunner) {
		_ = r.Close()
		panic("a lemon")
	})
	within(t, 5*time.Second, "end", r.Exit)
	if !log.has("handler panicked", "id=a", "a lemon") {
		t.Errorf("logged:\n%s", log.out.String())
	}
	if n := g.Stats().Panics; n != 1 {
		t.Errorf("Panics is %d", n)
	}
}

func TestGoneLogsToTheDefaultLoggerUnlessToldOtherwise(t *testing.T) {
	var l logged
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(l.logger())
	startNode(t, noLock)
	if !l.has("the wire is plain") {
		t.Errorf("logged %q", l.String())
	}
}

func noLock(string, string) (gone.GoneLock, error) { return nil, errors.New("no lock service") }

func TestCloseNamesTheHandlerThatKeepsTheNextOneWaiting(t *testing.T) {
	g := startNode(t, startRedis(t).locks(0), gone.WithCloseTimeout(50*time.Millisecond))
	leave := make(chan struct{})
	first := hold(t, g, "a", func(*gone.GoneRunner) { <-leave })
	_ = first.Close()
	second := runOne(t, g, "a", stuck)
	err := g.Close()
	if err == nil || !strings.Contains(err.Error(), `the handler of "a" has not returned`) {
		t.Error(err)
	}
	close(leave)
	within(t, 10*time.Second, "the end", second.Exit)
}
