package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/internal/freeport"
)

// An Etcd is a cluster of real members, with the settings that etcd has by itself.
type Etcd struct {
	members []*member
	client  *clientv3.Client
	ways    ways
}

type member struct {
	id     uint64 // as the others know it, once all are well
	client string // where clients reach it
	peer   string // where it listens to others, who reach it by a way
	args   []string
	log    string
	cmd    *exec.Cmd
}

// startEtcd starts so many members.
func startEtcd(members int) func(dir string) (Service, error) {
	return func(dir string) (Service, error) {
		e := &Etcd{}
		e.ways.changed.L = &e.ways.mu
		err := e.start(dir, members)
		if err != nil {
			e.stop()
		}
		return e, err
	}
}

func (e *Etcd) start(dir string, members int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var all []string
	for i := range members {
		m := &member{
			client: freeport.Addr(), peer: freeport.Addr(),
			log: filepath.Join(dir, fmt.Sprintf("m%d.log", i)),
		}
		way, err := e.ways.to(m)
		if err != nil {
			return err
		}
		e.members = append(e.members, m)
		m.args = []string{
			"--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("m%d", i)),
			"--logger", "zap", "--log-level", "error",
			"--listen-client-urls", "http://" + m.client, "--advertise-client-urls", "http://" + m.client,
			"--listen-peer-urls", "http://" + m.peer, "--initial-advertise-peer-urls", "http://" + way,
		}
		all = append(all, fmt.Sprintf("m%d=http://%s", i, way))
	}
	for _, m := range e.members {
		m.args = append(m.args, "--initial-cluster", strings.Join(all, ","))
		if err := m.start(); err != nil {
			return err
		}
	}
	var err error
	_, at := e.place()
	if e.client, err = etcdClient(at); err != nil {
		return err
	}
	_, err = e.leader()
	return err
}

func etcdClient(at string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: strings.Split(at, ","), DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
}

func etcdLocks(cfg NodeConfig) gone.LockFactory {
	client, err := etcdClient(cfg.Service)
	if err != nil {
		return func(string, string) (gone.GoneLock, error) { return nil, err }
	}
	return etcdlock.New(client, func(l *etcdlock.Lock) { l.Expiry = cfg.TTL })
}

func (e *Etcd) place() (kind, addr string) {
	var at []string
	for _, m := range e.members {
		at = append(at, m.client)
	}
	return "etcd", strings.Join(at, ",")
}

func (e *Etcd) stop() {
	for _, m := range e.members {
		m.kill()
	}
	if e.client != nil {
		_ = e.client.Close()
	}
	e.ways.close()
}

// leader waits until all members are well and know the same one.
func (e *Etcd) leader() (leader *member, err error) {
	for end := clock() + 30*time.Second; clock() < end; time.Sleep(5 * time.Millisecond) {
		leaders := map[uint64]int{}
		for _, m := range e.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			s, err := e.client.Status(ctx, m.client)
			cancel()
			if err == nil {
				m.id = s.Header.MemberId
				leaders[s.Leader]++
			}
		}
		for _, m := range e.members {
			if leaders[m.id] == len(e.members) {
				return m, nil
			}
		}
	}
	return nil, errors.New("etcd: not within 30 s: all members know one leader")
}

func (m *member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.cmd = exec.Command("etcd", m.args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	dieTogether(m.cmd)
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("etcd is needed (make test installs it): %w", err)
	}
	return nil
}

func (m *member) kill() {
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	m.cmd = nil
}

// ways are those from member to member, one of which can be cut off from the others.
type ways struct {
	lns []net.Listener

	mu      sync.Mutex
	changed sync.Cond
	off     uint64 // the id of that member; 0: none is
	closed  bool
}

// to is where others reach a member.
func (w *ways) to(m *member) (addr string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	w.lns = append(w.lns, ln)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go w.carry(conn, m)
		}
	}()
	return ln.Addr().String(), nil
}

// dialer is in the first request of a member that connects.
var dialer = regexp.MustCompile(`X-Server-From: ([0-9a-f]+)`)

func (w *ways) carry(down net.Conn, to *member) {
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
	if found := dialer.FindSubmatch(first[:n]); found != nil {
		_, _ = fmt.Sscanf(string(found[1]), "%x", &from)
	}
	pass := func(dst, src net.Conn, buf []byte, n int) {
		for err := error(nil); err == nil && w.open(from, to); n, err = src.Read(buf) {
			if _, err := dst.Write(buf[:n]); err != nil {
				break
			}
		}
		_, _ = dst.Close(), src.Close()
	}
	go pass(down, up, make([]byte, 64<<10), 0)
	pass(up, down, first, n)
}

// open waits while one of the two is cut off: what is on its way arrives later. False:
// it is all over.
func (w *ways) open(from uint64, to *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.off != 0 && (w.off == from || w.off == to.id) && !w.closed {
		w.changed.Wait()
	}
	return !w.closed
}

// cut cuts a member off from the others, but not from clients; nil ends that.
func (w *ways) cut(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off = 0
	if m != nil {
		w.off = m.id
	}
	w.changed.Broadcast()
}

func (w *ways) close() {
	for _, ln := range w.lns {
		_ = ln.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.changed.Broadcast()
}

// etcdScenarios are the ends of tenures, and what happens to members. A TTL is in whole
// seconds there, at least two.
func etcdScenarios() []Scenario {
	const second = 2 * ttl
	one, three := startEtcd(1), startEtcd(3)
	leader := func(name, fault string, long int, begin func(e *Etcd, leader *member) (end func() error, err error)) Scenario {
		return trouble{
			on: onEtcd, name: "etcd-leader-" + name, fault: "etcd, 3 members: the leader is " + fault + ", perhaps in a hand-over", service: three, ttl: 4 * second, long: long,
			measure: "fault to a granted Lock or Extend",
			begin: func(c *Cluster) (func() error, error) {
				e := c.service.(*Etcd)
				m, err := e.leader()
				if err != nil {
					return nil, err
				}
				end, err := begin(e, m)
				return func() error {
					err := end()
					if err == nil {
						_, err = e.leader()
					}
					return err
				}, err
			},
		}.scenario()
	}
	return []Scenario{
		handOverOn(onEtcd, "etcd-return", "etcd, 1 member: the handler returns", one, 2*second, 0),
		handOverOn(onEtcd, "etcd3-return", "etcd, 3 members: the handler returns", three, 2*second, 2),
		killOn(onEtcd, "etcd-kill", "etcd, 1 member: kill −9 of the holder", one, 2*second, 2*second, 0),
		killOn(onEtcd, "etcd3-kill", "etcd, 3 members: kill −9 of the holder", three, 2*second, 2*second, 2),
		trouble{
			on: onEtcd, name: "etcd-restart", fault: "etcd, 1 member: kill −9 of etcd, perhaps in a hand-over; it is started again", service: one, ttl: 4 * second, long: 2,
			measure: "etcd back to a granted Lock or Extend",
			begin: func(c *Cluster) (func() error, error) {
				e := c.service.(*Etcd)
				e.members[0].kill()
				c.pause(anytime(ttl))
				err := e.members[0].start()
				if err == nil {
					_, err = e.leader()
				}
				return func() error { return nil }, err
			},
		}.scenario(),
		leader("killed", "killed (−9) and started again", 1, func(_ *Etcd, m *member) (func() error, error) {
			m.kill()
			return m.start, nil
		}),
		leader("paused", "stopped (SIGSTOP) until there is another", 2, func(_ *Etcd, m *member) (func() error, error) {
			return func() error { return m.cmd.Process.Signal(syscall.SIGCONT) }, m.cmd.Process.Signal(syscall.SIGSTOP)
		}),
		leader("cut-off", "cut off from the other members, not from nodes", 2, func(e *Etcd, m *member) (func() error, error) {
			e.ways.cut(m)
			return func() error { e.ways.cut(nil); return nil }, nil
		}),
	}
}

const onEtcd = "etcd"
