package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/internal/freeport"
)

// etcdSettle is for how long a watch hears of nothing that begins in the past, as
// those of package concurrency do, and a bit.
const etcdSettle = 120 * time.Millisecond

var etcdContenders = []contender{
	{name: nameGone, settle: etcdSettle, open: openEtcdlock},
	{name: "Mutex", settle: etcdSettle, open: openConcurrency(func(s *concurrency.Session, id string) lock {
		m := concurrency.NewMutex(s, id)
		return sessionLock{try: m.TryLock, take: m.Lock, give: m.Unlock}
	})},
	{name: "Election", settle: etcdSettle, open: openConcurrency(func(s *concurrency.Session, id string) lock {
		e := concurrency.NewElection(s, id)
		campaign := func(ctx context.Context) error { return e.Campaign(ctx, "x") }
		return sessionLock{try: campaign, take: campaign, give: e.Resign}
	})},
}

// startEtcd starts an etcd of one member.
func startEtcd() (addr string, stop func(), err error) {
	dir, err := inMemory()
	if err != nil {
		return "", nil, err
	}
	addr = freeport.Addr()
	client, peer := "http://"+addr, "http://"+freeport.Addr()
	d, err := start(exec.Command("etcd", "--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer), "KILL")
	if err == nil {
		err = d.answers(func() error {
			c, err := etcdClient(&line{addr: addr})
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(context.Background(), stall)
			defer cancel()
			_, err = c.Get(ctx, "x")
			return err
		})
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return addr, func() { d.stop(); _ = os.RemoveAll(dir) }, nil
}

func etcdClient(l *line) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{l.addr}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.dial(ctx) })},
	})
}

func openEtcdlock(l *line, ttl time.Duration) (node, error) {
	client, err := etcdClient(l)
	if err != nil {
		return nil, err
	}
	locks := etcdlock.New(client, func(l *etcdlock.Lock) { l.Expiry = ttl })
	return &goneNode{locks: locks, end: func() { _ = client.Close() }}, nil
}

// Package concurrency, with a session a node, which extends by itself.

type sessionNode struct {
	client  *clientv3.Client
	session *concurrency.Session
	of      func(s *concurrency.Session, id string) lock
}

func openConcurrency(of func(*concurrency.Session, string) lock) func(*line, time.Duration) (node, error) {
	return func(l *line, ttl time.Duration) (node, error) {
		client, err := etcdClient(l)
		if err != nil {
			return nil, err
		}
		session, err := concurrency.NewSession(client, concurrency.WithTTL(int(ttl/time.Second)))
		if err != nil {
			_ = client.Close()
			return nil, err
		}
		return &sessionNode{client, session, of}, nil
	}
}

func (n *sessionNode) lock(id string) lock { return n.of(n.session, id) }

// close leaves the session to expire: its Close would wait for an answer.
func (n *sessionNode) close() {
	n.session.Orphan()
	_ = n.client.Close()
}

type sessionLock struct {
	extendsItself
	try, take, give func(context.Context) error
}

// acquire does not wait for long where there is nothing but waiting.
func (l sessionLock) acquire() error {
	ctx, cancel := context.WithTimeout(context.Background(), stall)
	defer cancel()
	return l.try(ctx)
}

func (l sessionLock) wait(ctx context.Context) error { return l.take(ctx) }
func (l sessionLock) release() error                 { return l.give(context.Background()) }
