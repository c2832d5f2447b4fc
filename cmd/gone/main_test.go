package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/freeport"
)

// asCommand has the test binary be the command, with the race detector where the tests
// have it.
const asCommand = "TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "GONE_") {
			_ = os.Unsetenv(name)
		}
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	code := m.Run()
	for _, end := range slices.Backward(ends) {
		end()
	}
	os.Exit(code)
}

// ends are those of what tests share.
var ends []func()

// A call is the command, to be run as a process.
type call struct {
	args  []string
	env   []string
	stdin string
}

// A result is what has become of it.
type result struct {
	code     int
	out, err string
	took     time.Duration
}

func (c call) cmd(ctx context.Context) *exec.Cmd {
	self, _ := os.Executable()
	cmd := exec.CommandContext(ctx, self, c.args...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1"), c.env...)
	cmd.Stdin = strings.NewReader(c.stdin)
	return cmd
}

func (c call) run(t testing.TB) (r result) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := c.cmd(ctx)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	r = result{cmd.ProcessState.ExitCode(), out.String(), errs.String(), time.Since(began)}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return r
}

// ends checks the code, and that a failure is told in one line that has some words.
func (c call) ends(t testing.TB, code int, words ...string) result {
	t.Helper()
	r := c.run(t)
	if r.code != code {
		t.Errorf("%q: code %d, want %d; %s%s", c.args, r.code, code, r.out, r.err)
	}
	if lines := strings.Count(r.err, "\n"); code == 0 && r.err != "" || code != 0 && (lines != 1 || !strings.HasPrefix(r.err, "gone: ")) {
		t.Errorf("%q: want one line: %q", c.args, r.err)
	}
	for _, word := range words {
		if !strings.Contains(r.err+r.out, word) {
			t.Errorf("%q does not say %q: %s%s", c.args, word, r.out, r.err)
		}
	}
	return r
}

// A world is a cluster in this process, and a lock service that knows it.
type world struct {
	t     *testing.T
	locks gone.LockFactory
	which []string // options of the command
	env   []string
	opts  []gone.Option
}

func (w *world) call(args ...string) call {
	return call{args: append(slices.Clone(w.which), args...), env: w.env}
}

func (w *world) gone(code int, args ...string) result {
	w.t.Helper()
	return w.call(args...).ends(w.t, code)
}

// json runs the command with -o json and returns what it prints.
func (w *world) json(args ...string) (v any) {
	w.t.Helper()
	r := w.gone(0, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		w.t.Fatalf("%q: %v: %s", args, err, r.out)
	}
	return v
}

func (w *world) node(opts ...gone.Option) *gone.Gone {
	w.t.Helper()
	g, err := gone.NewGone("tcp://127.0.0.1:0", w.locks, append(slices.Clone(w.opts), opts...)...)
	must(w.t, err)
	w.t.Cleanup(func() { _ = g.Close() })
	return g
}

// hold has a node run an id, and waits until it and the roster know.
func (w *world) hold(g *gone.Gone, id string, h gone.RunHandler) {
	w.t.Helper()
	_, err := g.RunOne(id, h)
	must(w.t, err)
	eventually(w.t, id+" is held, and its node listed", func() bool {
		held, err := g.Holder(w.t.Context(), id)
		nodes, err2 := g.Nodes(w.t.Context())
		return err == nil && err2 == nil && held.Here && slices.ContainsFunc(nodes, func(n gone.Node) bool { return n.Addr == g.Addr() })
	})
}

// echo answers with what it gets.
func echo(r *gone.GoneRunner) {
	for m := range r.Messages() {
		_ = m.Reply(m.Data)
	}
}

// redisWorld is one with a Redis of its own.
func redisWorld(t *testing.T, args ...string) *world {
	t.Helper()
	at := startRedis(t, args...)
	return &world{t: t, locks: gone.RedisLocks("redis://" + at), which: []string{"-redis", "redis://" + at}, opts: []gone.Option{gone.WithControl()}}
}

// sharedRedis is one for tests whose ids are their own.
func sharedWorld(t *testing.T) *world {
	t.Helper()
	at := oneRedis()
	prefix := t.Name() + ":"
	return &world{
		t: t, locks: gone.RedisLocks("redis://"+at, func(l *gone.RedisLock) { l.Prefix = prefix }),
		which: []string{"-redis", "redis://" + at, "-prefix", prefix}, opts: []gone.Option{gone.WithControl()},
	}
}

var oneRedis = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "gone")
	if err != nil {
		panic(err)
	}
	at, end, err := launchRedis(dir)
	ends = append(ends, func() { end(); _ = os.RemoveAll(dir) })
	if err != nil {
		panic(err)
	}
	return at
})

func startRedis(t *testing.T, args ...string) string {
	t.Helper()
	at, end, err := launchRedis(t.TempDir(), args...)
	t.Cleanup(end)
	must(t, err)
	return at
}

// launchRedis starts a real server, and returns when it listens.
func launchRedis(dir string, args ...string) (at string, end func(), err error) {
	at = freeport.Addr()
	_, port, _ := net.SplitHostPort(at)
	cmd := exec.Command("redis-server", append([]string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir}, args...)...)
	if err := cmd.Start(); err != nil {
		return "", func() {}, fmt.Errorf("redis-server is needed (make test installs it): %w", err)
	}
	end = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	return at, end, listens(at)
}

func listens(at string) error {
	var err error
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("tcp", at); err == nil {
			return c.Close()
		}
	}
	return err
}

// silent is the address of a server that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// A process is the command while it runs.
type process struct {
	cmd *exec.Cmd
	out *lines
}

// lines are what a process has printed, as a writer.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func (c call) start(t *testing.T) *process {
	t.Helper()
	p := &process{c.cmd(context.Background()), &lines{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	must(t, p.cmd.Start())
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	return p
}

// interrupt returns the code.
func (p *process) interrupt(t *testing.T) int {
	t.Helper()
	must(t, p.cmd.Process.Signal(syscall.SIGINT))
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) says(t *testing.T, words string) {
	t.Helper()
	eventually(t, fmt.Sprintf("it says %q", words), func() bool { return strings.Contains(p.out.String(), words) })
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}
