package goredislock_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/Diggs/go-one/internal/freeport"
)

// A server is a real redis-server on a port of loopback.
type server struct {
	addr string
	cmd  *exec.Cmd
	*redis.Client
}

// started are all servers, which end with the tests.
var started struct {
	sync.Mutex
	all []*server
	dir string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gone")
	if err != nil {
		panic(err)
	}
	started.dir = dir
	redis.SetLogger(quiet{})
	code := m.Run()
	for _, s := range started.all {
		s.kill()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// quiet keeps what go-redis logs of servers that fail out of the tests' output.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls for a condition. A machine that is busy with others is no reason
// to fail, so it takes six times as long if need be.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	within *= 6
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// start starts a server, which stays until all tests have ended.
func start(t testing.TB, args ...string) *server {
	t.Helper()
	port := freeport.Next()
	dir := filepath.Join(started.dir, strconv.Itoa(port))
	must(t, os.Mkdir(dir, 0o700))
	s := &server{addr: fmt.Sprint("127.0.0.1:", port)}
	s.cmd = exec.Command("redis-server", append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--save", "", "--dir", dir, "--repl-diskless-sync-delay", "0",
	}, args...)...)
	if len(args) > 0 && args[len(args)-1] == "--sentinel" { // which needs a file to write to
		conf := filepath.Join(dir, "sentinel.conf")
		must(t, os.WriteFile(conf, fmt.Appendf(nil, "port %d\nbind 127.0.0.1\ndir %s\n%s\n", port, dir, strings.Join(args[:len(args)-1], "\n")), 0o600))
		s.cmd = exec.Command("redis-server", conf, "--sentinel")
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("redis-server is needed (make test installs it): %v", err)
	}
	started.Lock()
	started.all = append(started.all, s)
	started.Unlock()
	s.Client = redis.NewClient(&redis.Options{Addr: s.addr, PoolSize: 2, MaxRetries: -1})
	eventually(t, 20*time.Second, "redis-server answers", func() bool { return s.Ping(context.Background()).Err() == nil })
	return s
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = s.Close()
}

// do runs one command.
func (s *server) do(t testing.TB, args ...any) any {
	t.Helper()
	r, err := s.Do(context.Background(), args...).Result()
	if err != nil && err != redis.Nil {
		t.Fatalf("%v: %v", args, err)
	}
	return r
}

// shows waits until an INFO or the like has a text.
func (s *server) shows(t testing.TB, text string, args ...any) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprint(s.addr, " shows ", text), func() bool {
		r, _ := s.Do(context.Background(), args...).Text()
		return strings.Contains(r, text)
	})
}

func (s *server) host() (host, port string) {
	host, port, _ = net.SplitHostPort(s.addr)
	return host, port
}

// follow makes a server a replica of another.
func (s *server) follow(t testing.TB, master *server) {
	t.Helper()
	host, port := master.host()
	s.do(t, "REPLICAOF", host, port)
	s.shows(t, "master_link_status:up", "INFO", "replication")
}

// A watched is a primary with two replicas, which three Sentinels watch.
type watched struct {
	servers   []*server
	sentinels []*server
}

func startWatched(t testing.TB) *watched {
	t.Helper()
	w := &watched{}
	for range 3 {
		w.servers = append(w.servers, start(t))
	}
	for _, s := range w.servers[1:] {
		s.follow(t, w.servers[0])
	}
	host, port := w.servers[0].host()
	for range 3 {
		w.sentinels = append(w.sentinels, start(t, fmt.Sprint("sentinel monitor main ", host, " ", port, " 2"),
			"sentinel down-after-milliseconds main 1000", "sentinel failover-timeout main 6000", "--sentinel"))
	}
	for _, s := range w.sentinels {
		s.shows(t, "slaves=2,sentinels=3", "INFO", "sentinel")
	}
	return w
}

// client is one for a handful of locks of one test.
func (w *watched) client(t testing.TB) *redis.Client {
	o := &redis.FailoverOptions{MasterName: "main", ConnMaxLifetime: 10 * time.Second}
	for _, s := range w.sentinels {
		o.SentinelAddrs = append(o.SentinelAddrs, s.addr)
	}
	c := redis.NewFailoverClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A sharded is a Cluster of three masters, with a replica each, and the second with
// another: one takes its place, one confirms.
type sharded struct{ masters, replicas []*server }

func startSharded(t testing.TB) *sharded {
	t.Helper()
	c := &sharded{}
	for i := range 7 {
		s := start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--cluster-replica-validity-factor", "0")
		if i < 3 {
			c.masters = append(c.masters, s)
		} else {
			c.replicas = append(c.replicas, s)
		}
	}
	const slots = 16384
	host, port := c.masters[0].host()
	for i, m := range c.masters {
		args := []any{"CLUSTER", "ADDSLOTS"}
		for slot := i * slots / 3; slot < (i+1)*slots/3; slot++ {
			args = append(args, slot)
		}
		m.do(t, args...)
		m.do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		if i > 0 {
			m.do(t, "CLUSTER", "MEET", host, port)
		}
	}
	for i, r := range c.replicas {
		r.do(t, "CLUSTER", "MEET", host, port)
		id := c.masters[[]int{0, 1, 2, 1}[i]].id(t)
		eventually(t, 30*time.Second, "the replica knows its master", func() bool {
			return r.Do(context.Background(), "CLUSTER", "REPLICATE", id).Err() == nil
		})
	}
	for _, s := range append(c.replicas, c.masters...) {
		s.shows(t, "cluster_state:ok", "CLUSTER", "INFO")
	}
	for _, r := range c.replicas {
		r.shows(t, "master_link_status:up", "INFO", "replication")
	}
	return c
}

// id is a server's in its Cluster.
func (s *server) id(t testing.TB) string {
	t.Helper()
	return s.do(t, "CLUSTER", "MYID").(string)
}

func (c *sharded) client(t testing.TB) *redis.ClusterClient {
	o := &redis.ClusterOptions{ConnMaxLifetime: 10 * time.Second}
	for _, s := range c.masters {
		o.Addrs = append(o.Addrs, s.addr)
	}
	client := redis.NewClusterClient(o)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// single, replicated, sentinel and shards are there once for all tests that leave
// them as they are.
var (
	once   sync.Map // by name: *sync.Once
	shared sync.Map
)

func sharedBy[S any](t testing.TB, name string, start func(testing.TB) S) S {
	o, _ := once.LoadOrStore(name, new(sync.Once))
	o.(*sync.Once).Do(func() { shared.Store(name, start(t)) })
	s, ok := shared.Load(name)
	if !ok {
		t.Fatalf("%s did not start", name)
	}
	return s.(S)
}
