package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/freeport"
)

// A server is the redis-server of one run, on a port of the loopback interface,
// as most users reach theirs. The connection is for what is asked about it.
type server struct {
	*daemon
	addr string
	conn redis.Conn
}

func startServer() (*server, error) {
	port := strconv.Itoa(freeport.Next())
	addr := net.JoinHostPort("127.0.0.1", port)
	d, err := start(exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", os.TempDir()), "KILL")
	if err != nil {
		return nil, err
	}
	s := &server{daemon: d, addr: addr}
	return s, d.answers(func() error {
		if s.conn, err = redis.Dial("tcp", s.addr); err == nil {
			_, err = s.conn.Do("PING")
		}
		return err
	})
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

// A line is how one node reaches a service. To cut it is the same as the node's
// death to the service and to all other nodes.
type line struct {
	addr string
	sent atomic.Int64 // packets: a request is one, or a part of one

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
	return counted{conn, l}, nil
}

// A counted is a connection of a line.
type counted struct {
	net.Conn
	line *line
}

func (c counted) Write(b []byte) (int, error) {
	c.line.sent.Add(1)
	return c.Conn.Write(b)
}

// dialed is how many connections there have been.
func (l *line) dialed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
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
