package gone_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
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

func (s *redisServer) start() {
	s.t.Helper()
	var out bytes.Buffer
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("redis-server is needed (make test installs it): %v", err)
	}
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

// locks makes locks with an expiry.
func (s *redisServer) locks(expiry time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) {
		l, err := gone.NewRedisLock(s.addr, id, value)
		if err != nil {
			return nil, err
		}
		l.Expiry = expiry
		return l, nil
	}
}

// eventually polls for a condition.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
