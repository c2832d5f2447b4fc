package gone_test

import (
	"cmp"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/freeport"
)

// A redisServer is a real redis-server of one test's own, on a Unix socket.
type redisServer struct {
	t    testing.TB
	addr *net.UnixAddr
	cmd  *exec.Cmd
	args []string
}

func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &redisServer{t: t, addr: &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "redis.sock")}}
	s.args = append([]string{"--port", "0", "--unixsocket", s.addr.Name, "--save", "", "--dir", dir}, args...)
	t.Cleanup(func() {
		s.stop()
		_ = os.RemoveAll(dir)
	})
	s.start()
	return s
}

// launch starts it without waiting until it answers.
func (s *redisServer) launch() {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("redis-server is needed (make test installs it): %v", err)
	}
}

func (s *redisServer) start() {
	s.t.Helper()
	s.launch()
	eventually(s.t, 10*time.Second, "redis-server answers", func() bool {
		c, err := redis.Dial("unix", s.addr.Name)
		if err != nil {
			return false
		}
		defer c.Close()
		_, err = c.Do("PING")
		return err == nil
	})
}

func (s *redisServer) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// do runs one command on a connection of its own.
func (s *redisServer) do(cmd string, args ...any) any {
	s.t.Helper()
	c, err := redis.Dial("unix", s.addr.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Do(cmd, args...)
	if err != nil {
		s.t.Fatalf("%s %v: %v", cmd, args, err)
	}
	return r
}

// locks makes locks with a TTL. 0 is one that no test outlasts, however busy the
// machine is: most handlers of tests never extend.
func (s *redisServer) locks(expiry time.Duration) gone.LockFactory {
	return locksAt(s.addr, cmp.Or(expiry, 5*time.Minute))
}

func locksAt(addr net.Addr, expiry time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLock(addr, id, value)
		if err != nil {
			return nil, err
		}
		l.Expiry = expiry
		return l, nil
	}
}

// lock makes a lock that is released and closed with the test.
func (s *redisServer) lock(id string, expiry time.Duration) *gone.RedisLock {
	s.t.Helper()
	return redisLock(s.t, s.locks(expiry), id)
}

func redisLock(t testing.TB, locks gone.LockFactory, id string) *gone.RedisLock {
	t.Helper()
	l, err := locks(id, nodeAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.(*gone.RedisLock).Unlock()
		_ = l.(*gone.RedisLock).Close()
	})
	return l.(*gone.RedisLock)
}

func (s *redisServer) pttl(key string) time.Duration {
	s.t.Helper()
	return time.Duration(s.do("PTTL", key).(int64)) * time.Millisecond
}

// info returns the number that INFO shows for a field.
func (s *redisServer) info(section, field string) int {
	s.t.Helper()
	m := regexp.MustCompile(`(?m)^` + field + `[:=](\d+)`).FindSubmatch(s.do("INFO", section).([]byte))
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// clients is how many connections there are besides the one that asks.
func (s *redisServer) clients() int { return s.info("clients", "connected_clients") - 1 }

func (s *redisServer) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// pool makes connections with a pool of the test's own.
func (s *redisServer) pool(opts ...redis.DialOption) *redis.Pool {
	pool := &redis.Pool{
		Dial:      func() (redis.Conn, error) { return redis.Dial("unix", s.addr.Name, opts...) },
		MaxActive: 16, MaxIdle: 16, Wait: true,
	}
	s.t.Cleanup(func() { _ = pool.Close() })
	return pool
}

func poolLocks(pool *redis.Pool) func(time.Duration) gone.LockFactory {
	return func(expiry time.Duration) gone.LockFactory {
		return func(id, value string) (gone.GoneLock, error) {
			l, err := gone.NewRedisLockPool(pool, id, value)
			if err != nil {
				return nil, err
			}
			l.Expiry = expiry
			return l, nil
		}
	}
}

// startReplicated starts a Redis with a replica, which follows it when this
// returns.
func startReplicated(t testing.TB) (master, replica *redisServer) {
	t.Helper()
	port := freePort()
	master = startRedis(t, "--port", port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0")
	replica = startRedis(t, "--replicaof", "127.0.0.1 "+port)
	c, err := redis.Dial("unix", master.addr.Name)
	must(t, err)
	defer c.Close()
	_, err = c.Do("SET", "followed", 1) // WAIT is for what its connection has written
	must(t, err)
	eventually(t, 30*time.Second, "the replica follows", func() bool {
		n, err := redis.Int(c.Do("WAIT", 1, 100))
		must(t, err)
		return n == 1
	})
	master.do("DEL", "followed")
	return master, replica
}

// freePort returns a TCP port for a server of this test's.
func freePort() string { return strconv.Itoa(freeport.Next()) }

// A redisProxy stands between locks and a Redis, and loses what is asked.
type redisProxy struct {
	addr *net.UnixAddr
	ln   net.Listener

	mu      sync.Mutex
	target  *net.UnixAddr
	held    [2]chan struct{} // of requests and replies; not nil: they wait until it is closed
	lose    int              // replies to lose, each with its connection
	dropped int              // so many were lost
}

func (s *redisServer) proxy() *redisProxy {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "gone")
	must(s.t, err)
	p := &redisProxy{addr: &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "proxy.sock")}, target: s.addr}
	p.ln, err = net.Listen("unix", p.addr.Name)
	must(s.t, err)
	var wg sync.WaitGroup
	done := make(chan struct{})
	s.t.Cleanup(func() {
		close(done)
		_ = p.ln.Close()
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	wg.Go(func() {
		for {
			down, err := p.ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			target := p.target.Name
			p.mu.Unlock()
			up, err := net.Dial("unix", target)
			if err != nil {
				_ = down.Close()
				continue
			}
			end := sync.OnceFunc(func() {
				_ = down.Close()
				_ = up.Close()
			})
			wg.Go(func() {
				defer end()
				p.copy(up, down, 0, done)
			})
			wg.Go(func() {
				defer end()
				p.copy(down, up, 1, done)
			})
			wg.Go(func() {
				<-done
				end()
			})
		}
	})
	return p
}

func (p *redisProxy) copy(to io.Writer, from io.Reader, direction int, done <-chan struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		held := p.held[direction]
		p.mu.Unlock()
		if held != nil {
			select {
			case <-held:
			case <-done:
			}
		}
		p.mu.Lock()
		lost := direction == 1 && p.lose > 0
		if lost {
			p.lose--
			p.dropped++
		}
		p.mu.Unlock()
		if lost {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// hole lets connections stand and nothing pass. What is sent meanwhile arrives
// when deliver is called, what is sent after open passes.
func (p *redisProxy) hole() (deliver func()) {
	held := make(chan struct{})
	p.hold(held, held)
	return func() { close(held) }
}

// holdReplies is hole for replies alone.
func (p *redisProxy) holdReplies() (deliver func()) {
	held := make(chan struct{})
	p.hold(nil, held)
	return func() { close(held) }
}

func (p *redisProxy) open() { p.hold(nil, nil) }

func (p *redisProxy) hold(requests, replies chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = [2]chan struct{}{requests, replies}
}

// loses makes the next n replies get lost after Redis has done what was asked,
// and returns how many were lost since the last time.
func (p *redisProxy) loses(n int) (lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lost, p.dropped, p.lose = p.dropped, 0, n
	return lost
}

func (p *redisProxy) leadsTo(s *redisServer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = s.addr
}

func (p *redisProxy) lock(t testing.TB, id string, expiry time.Duration) *gone.RedisLock {
	t.Helper()
	return redisLock(t, locksAt(p.addr, expiry), id)
}

// patience is how much longer than it should take something may take before a test
// fails: a machine that is busy with others is no reason to.
const patience = 6

// atOnce is what a call may take that waits for nothing: less than any timeout that
// gone has by default, and more than a process waits for its turn.
const atOnce = 9 * time.Second

// eventually polls for a condition.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	within *= patience
	for end := time.Now().Add(within); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
