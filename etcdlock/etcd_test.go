package etcdlock_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/Diggs/go-one/internal/freeport"
)

// A cluster is a real etcd of some members, on loopback.
type cluster struct {
	members []*member
	links   links
	tls     *tls.Config
	ends    []func()
}

type member struct {
	id     atomic.Uint64
	client string // where clients reach it
	peer   string // where it listens to others
	proxy  string // where they reach it
	args   []string
	log    string
	cmd    *exec.Cmd
}

// startCluster starts n members, and returns when they answer.
func startCluster(n int, args ...string) (*cluster, error) {
	// In memory, where there is such a place: a disk has each write wait for others'.
	dir, err := os.MkdirTemp("/dev/shm", "etcdlock")
	if err != nil {
		dir, err = os.MkdirTemp("", "etcdlock")
	}
	if err != nil {
		return &cluster{}, err
	}
	c := &cluster{links: links{cut: map[uint64]bool{}, changed: make(chan struct{})}}
	c.ends = append(c.ends, func() { _ = os.RemoveAll(dir) })
	var initial []string
	for i := range n {
		m := &member{client: freeport.Addr(), peer: freeport.Addr()}
		if m.proxy, err = c.proxy(m); err != nil {
			return c, err
		}
		c.members = append(c.members, m)
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, m.proxy))
	}
	scheme := "http://"
	if strings.Contains(strings.Join(args, " "), "--cert-file") {
		scheme = "https://"
	}
	for i, m := range c.members {
		data := filepath.Join(dir, fmt.Sprint("m", i))
		m.log = data + ".log"
		m.args = append([]string{
			"--name", fmt.Sprint("m", i), "--data-dir", data, "--logger", "zap", "--log-level", "warn",
			"--listen-client-urls", scheme + m.client, "--advertise-client-urls", scheme + m.client,
			"--listen-peer-urls", "http://" + m.peer, "--initial-advertise-peer-urls", "http://" + m.proxy,
			"--initial-cluster", strings.Join(initial, ","),
		}, args...)
		if err := m.start(); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (m *member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.cmd = exec.Command("etcd", m.args...)
	m.cmd.Stderr = log
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("etcd is needed (make test installs it): %w", err)
	}
	return nil
}

func (m *member) kill() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

func (m *member) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) stop() {
	for _, m := range c.members {
		m.kill()
	}
	for _, end := range c.ends {
		end()
	}
}

func (c *cluster) endpoints() (all []string) {
	for _, m := range c.members {
		all = append(all, m.client)
	}
	return all
}

// dial makes a client as a node should have it, of all members unless told otherwise.
func (c *cluster) dial(t testing.TB, change ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{
		Endpoints: c.endpoints(), DialTimeout: 5 * time.Second, TLS: c.tls, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	}
	for _, f := range change {
		f(&config)
	}
	client, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// answers waits until a quorum does.
func (c *cluster) answers(t testing.TB, client *clientv3.Client) {
	t.Helper()
	defer func() {
		for _, m := range c.members {
			if log, err := os.ReadFile(m.log); t.Failed() && err == nil {
				t.Logf("the end of %s: %s", m.log, log[max(0, len(log)-2000):])
			}
		}
	}()
	eventually(t, "a quorum answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err == nil
	})
}

// leader returns the one that the most members know.
func (c *cluster) leader(t testing.TB, client *clientv3.Client) (leader *member) {
	t.Helper()
	eventually(t, "the members have one leader", func() bool {
		leaders := map[uint64]int{}
		for _, m := range c.members {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := client.Status(ctx, m.client)
			cancel()
			if err == nil {
				m.id.Store(s.Header.MemberId)
				leaders[s.Leader]++
			}
		}
		for _, m := range c.members {
			if leaders[m.id.Load()] == len(c.members) {
				leader = m
			}
		}
		return leader != nil
	})
	return leader
}

// links are the ways from member to member.
type links struct {
	mu      sync.Mutex
	cut     map[uint64]bool // by member
	changed chan struct{}
}

func (l *links) set(cut map[uint64]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	close(l.changed)
	l.changed = make(chan struct{})
}

// proxy is the way of all others to a member. Who comes says in its first request who
// it is.
func (c *cluster) proxy(to *member) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	c.ends = append(c.ends, func() {
		close(done)
		_ = ln.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { c.links.carry(down, to, done) })
		}
	})
	return ln.Addr().String(), nil
}

var dialer = regexp.MustCompile(`X-Server-From: ([0-9a-f]+)`)

func (l *links) carry(down net.Conn, to *member, done <-chan struct{}) {
	defer down.Close()
	up, err := net.Dial("tcp", to.peer)
	if err != nil {
		return
	}
	defer up.Close()
	first := make([]byte, 64<<10)
	n, err := down.Read(first)
	if err != nil {
		return
	}
	var from uint64
	if m := dialer.FindSubmatch(first[:n]); m != nil {
		_, _ = fmt.Sscanf(string(m[1]), "%x", &from)
	}
	ended := make(chan struct{}, 2)
	copy := func(dst io.Writer, src io.Reader, buf []byte, n int) {
		defer func() { ended <- struct{}{} }()
		for err := error(nil); err == nil && l.open(from, to.id.Load(), done); n, err = src.Read(buf) {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go copy(up, down, first, n)
	go copy(down, up, make([]byte, 64<<10), 0)
	select {
	case <-ended:
	case <-done:
	}
}

// open returns when the way is, false at the end.
func (l *links) open(a, b uint64, done <-chan struct{}) bool {
	for {
		l.mu.Lock()
		cut, changed := l.cut[a] || l.cut[b], l.changed
		l.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-done:
			return false
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const within = 2 * time.Minute // on a machine that is busy with others
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// The clusters of all tests: each is started once, when a test asks for it.
var (
	one   = sync.OnceValues(func() (*cluster, error) { return started(startCluster(1, quick...)) })
	three = sync.OnceValues(func() (*cluster, error) { return started(startCluster(3)) })

	quick = []string{"--heartbeat-interval", "20", "--election-timeout", "400"} // leases of a second

	mu      sync.Mutex
	running []*cluster
)

func started(c *cluster, err error) (*cluster, error) {
	mu.Lock()
	defer mu.Unlock()
	running = append(running, c)
	return c, err
}

func get(t testing.TB, start func() (*cluster, error)) (*cluster, *clientv3.Client) {
	t.Helper()
	c, err := start()
	if err != nil {
		t.Fatal(err)
	}
	client := c.dial(t)
	c.answers(t, client)
	return c, client
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, c := range running {
		c.stop()
	}
	os.Exit(code)
}
