package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A server is the redis-server of one run, on a port of the loopback interface,
// as most users reach theirs. The connection is for what is asked about it.
type server struct {
	addr  string
	cmd   *exec.Cmd
	alive io.Closer
	conn  redis.Conn
}

// The shell outlives whatever ends this process, and takes the server along.
const serve = `trap "" INT TERM; redis-server "$@" & read -r end; kill -9 $!; wait`

func startServer() (*server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, fmt.Errorf("make bench installs what is needed: %w", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{addr: free.Addr().String()}
	_ = free.Close()
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.Command("sh", "-c", serve, "sh", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", os.TempDir())
	out := &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if s.alive, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if s.conn, err = redis.Dial("tcp", s.addr); err == nil {
			if _, err = s.conn.Do("PING"); err == nil {
				return s, nil
			}
		}
		if time.Now().After(end) {
			s.stop()
			return nil, fmt.Errorf("redis-server does not answer: %w\n%s", err, out)
		}
	}
}

func (s *server) stop() {
	_ = s.alive.Close()
	_ = s.cmd.Wait()
}

// version is the server's, such as "7.0.15".
func (s *server) version() (string, error) {
	info, err := redis.String(s.conn.Do("INFO", "server"))
	_, rest, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(rest, "\r\n")
	return version, err
}

// commands counts what has been called since the last reset, also from
// scripts, but for INFO itself.
func (s *server) commands() (total int, err error) {
	calls, err := s.calls()
	for name, n := range calls {
		if name != "info" {
			total += n
		}
	}
	return total, err
}

// calls are those by command.
func (s *server) calls() (map[string]int, error) {
	info, err := redis.String(s.conn.Do("INFO", "commandstats"))
	if err != nil {
		return nil, err
	}
	calls := map[string]int{}
	for line := range strings.Lines(info) {
		name, stats, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		n := 0
		if _, err := fmt.Sscanf(stats, "%d", &n); err != nil {
			return nil, fmt.Errorf("commandstats %q: %w", line, err)
		}
		calls[name] = n
	}
	return calls, nil
}

// cpu is what the server has used.
func (s *server) cpu() (used time.Duration, err error) {
	info, err := redis.String(s.conn.Do("INFO", "cpu"))
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(line, ":")
		if seconds := 0.0; name == "used_cpu_sys" || name == "used_cpu_user" {
			_, _ = fmt.Sscan(value, &seconds)
			used += time.Duration(seconds * float64(time.Second))
		}
	}
	return used, err
}

// expiry is when the TTL of a key ends, to the millisecond that Redis counts in.
func (s *server) expiry(key string) (time.Time, error) {
	ms, err := redis.Int64(s.conn.Do("PTTL", key))
	if err == nil && ms < 0 {
		err = fmt.Errorf("the key %q has no TTL: %d", key, ms)
	}
	return time.Now().Add(time.Duration(ms) * time.Millisecond), err
}

// A line is how one node reaches Redis. To cut it is the same as the node's
// death to Redis and to all other nodes.
type line struct {
	addr string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

var errCut = errors.New("the line is cut")

func (l *line) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = conn.Close()
		return nil, errCut
	}
	l.conns = append(l.conns, conn)
	return conn, nil
}

func (l *line) sever() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}

// pool is a redigo pool on the line, with the limits that gone gives its own.
func (l *line) pool() *redis.Pool {
	return &redis.Pool{
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			conn, err := l.dial(ctx)
			if err != nil {
				return nil, err
			}
			return redis.NewConn(conn, 5*time.Second, 5*time.Second), nil
		},
		MaxActive:   16,
		MaxIdle:     16,
		IdleTimeout: time.Minute,
		Wait:        true,
	}
}
