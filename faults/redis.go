package main

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/freeport"
)

// A Redis is a redis-server of one run. The suite talks to it on a Unix
// socket, so that what is done to its port leaves the suite alone.
type Redis struct {
	dir  string
	host string
	port int
	args []string
	wrap []string
	cmd  *exec.Cmd
	out  *bytes.Buffer

	client   string // a kind of lock service: what nodes come with
	sentinel string // its configuration, if it is one
}

func startRedis(dir string, args ...string) (*Redis, error) {
	r := &Redis{dir: dir, host: "127.0.0.1", port: freeport.Next(), args: args}
	return r, r.start()
}

func (r *Redis) addr() string   { return net.JoinHostPort(r.host, strconv.Itoa(r.port)) }
func (r *Redis) socket() string { return r.dir + "/s" }

// startForGoRedis starts one that nodes come to with a client of go-redis.
func startForGoRedis(dir string) (Service, error) {
	r, err := startRedis(dir)
	r.client = "go-redis"
	return r, err
}

func (r *Redis) place() (kind, addr string) { return r.client, r.addr() }

// start starts it, with the data of its directory.
func (r *Redis) start() error {
	if err := r.launch(); err != nil {
		return err
	}
	return r.await()
}

func (r *Redis) launch() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	args := append(append([]string{}, r.wrap...), "redis-server")
	if r.sentinel != "" {
		args = append(args, r.sentinel, "--sentinel")
	}
	args = append(args,
		"--bind", r.host, "--port", strconv.Itoa(r.port), "--unixsocket", r.socket(), "--dir", r.dir,
		"--save", "", "--enable-debug-command", "yes", "--protected-mode", "no",
		"--user", "suite", "on", ">suite", "~*", "&*", "+@all")
	args = append(args, r.args...)
	r.out = &bytes.Buffer{}
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	dieTogether(r.cmd)
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("redis-server is needed (make test installs it): %w", err)
	}
	return nil
}

func (r *Redis) await() error {
	var err error
	for end := clock() + 10*time.Second; clock() < end; time.Sleep(2 * time.Millisecond) {
		if _, err = r.try("PING"); err == nil {
			return nil
		}
	}
	return fmt.Errorf("redis-server does not answer: %w", err)
}

// stop kills it; nothing is saved.
func (r *Redis) stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *Redis) freeze() error { return r.cmd.Process.Signal(syscall.SIGSTOP) }
func (r *Redis) thaw() error   { return r.cmd.Process.Signal(syscall.SIGCONT) }

// try runs one command on a connection of its own.
func (r *Redis) try(cmd string, args ...any) (any, error) {
	c, err := r.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Do(cmd, args...)
}

// dial connects as a user of the suite's own, so that the nodes' can be denied
// anything.
func (r *Redis) dial() (redis.Conn, error) {
	return redis.Dial("unix", r.socket(), redis.DialUsername("suite"), redis.DialPassword("suite"),
		redis.DialConnectTimeout(5*time.Second), redis.DialReadTimeout(time.Minute))
}

// do is try for what must succeed.
func (c *Cluster) do(cmd string, args ...any) any {
	reply, err := c.redis.try(cmd, args...)
	if err != nil {
		c.failed("redis: %s %v: %v", cmd, args, err)
	}
	return reply
}

// expires is when the lock of an id runs out, as Redis sees it now.
func (c *Cluster) expires(id string) time.Duration {
	ms, err := redis.Int64(c.do("PTTL", id), nil)
	c.must(err)
	return clock() + time.Duration(max(ms, 0))*time.Millisecond
}

// A RedisProxy passes whole requests to a Redis, and can lose what belongs to
// one of them. Its connections carry one request at a time, as redigo's do.
type RedisProxy struct {
	ln    net.Listener
	redis string

	mu   sync.Mutex
	rule func(what string) fate
	deaf bool // what Redis publishes is lost
}

// scripts are acquire, extend or release, by hash. Only the first of all nodes
// sends their source to a Redis.
var scripts sync.Map

// A fate is what becomes of one request.
type fate int

const (
	pass      fate = iota
	loseReply      // it is executed; the connection is cut before the reply
	loseBoth       // the connection is cut before it
)

func newRedisProxy(redis string) (*RedisProxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &RedisProxy{ln: ln, redis: redis}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p, nil
}

func (p *RedisProxy) addr() string { return p.ln.Addr().String() }
func (p *RedisProxy) close()       { p.ln.Close() }

// set gives the rule for requests from now on. What is "acquire", "extend",
// "release", or the command.
func (p *RedisProxy) set(rule func(what string) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

// setDeaf loses published messages, or stops to.
func (p *RedisProxy) setDeaf(deaf bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = deaf
}

func (p *RedisProxy) isDeaf() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deaf
}

func (p *RedisProxy) decide(words []string) fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := words[0]
	switch strings.ToUpper(what) {
	case "EVAL": // its source tells what it is
		hash := sha1.Sum([]byte(words[1]))
		what = "extend"
		if strings.Contains(words[1], "'DEL'") {
			what = "release"
		} else if strings.Contains(words[1], "'TIME'") { // for the token
			what = "acquire"
		}
		scripts.Store(hex.EncodeToString(hash[:]), what)
	case "EVALSHA":
		if w, ok := scripts.Load(words[1]); ok {
			what = w.(string)
		}
	}
	if p.rule == nil {
		return pass
	}
	return p.rule(what)
}

func (p *RedisProxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.redis)
	if err != nil {
		return
	}
	defer server.Close()
	var mu sync.Mutex
	lose, subscribed := false, false
	go func() {
		defer client.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			mu.Lock()
			cut, pushed := lose, subscribed
			mu.Unlock()
			if err != nil || cut {
				server.Close()
				return
			}
			if pushed && p.isDeaf() && bytes.Contains(buf[:n], []byte("$7\r\nmessage\r\n")) {
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	in := bufio.NewReader(client)
	for {
		raw, words, err := readRequest(in)
		if err != nil {
			return
		}
		f := p.decide(words)
		mu.Lock()
		lose = f == loseReply
		subscribed = subscribed || strings.EqualFold(words[0], "SUBSCRIBE")
		mu.Unlock()
		if f == loseBoth {
			return
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// readRequest reads one request in Redis's protocol.
func readRequest(in *bufio.Reader) (raw []byte, words []string, err error) {
	number := func(prefix byte) (int, error) {
		line, err := in.ReadString('\n')
		raw = append(raw, line...)
		if err != nil {
			return 0, err
		}
		if line[0] != prefix {
			return 0, fmt.Errorf("request begins with %q", line)
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number('*')
	for ; err == nil && n > 0; n-- {
		var size int
		if size, err = number('$'); err != nil {
			break
		}
		word := make([]byte, size+2)
		if _, err = io.ReadFull(in, word); err != nil {
			break
		}
		raw = append(raw, word...)
		words = append(words, string(word[:size]))
	}
	if err == nil && len(words) == 0 {
		err = io.ErrUnexpectedEOF
	}
	return raw, words, err
}
