package etcdlock_test

import (
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/locktest"
)

func expiry(d time.Duration) func(*etcdlock.Lock) { return func(l *etcdlock.Lock) { l.Expiry = d } }

func tcp(t testing.TB, addr string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEtcdLockKeepsThePromisesOfALock(t *testing.T) {
	t.Parallel()
	c, direct := get(t, one)
	p := locktest.NewProxy(t, tcp(t, c.members[0].client))
	client := c.dial(t, func(config *clientv3.Config) { config.Endpoints = []string{p.Addr.String()} })
	locktest.Run(t, locktest.Service{
		Locks:       func(ttl time.Duration) gone.LockFactory { return etcdlock.New(client, expiry(ttl)) },
		Stop:        p.Stop,
		Slow:        p.Slow,
		LoseReplies: p.LoseReplies,
		Restart: func(t testing.TB) {
			c.members[0].kill()
			if err := c.members[0].start(); err != nil {
				t.Fatal(err)
			}
		},
		Delete: func(t testing.TB, id string) {
			if _, err := direct.Delete(t.Context(), etcdlock.DefaultPrefix+id); err != nil {
				t.Fatal(err)
			}
		},
		Spoil: func(t testing.TB, id string) {
			if _, err := direct.Put(t.Context(), etcdlock.DefaultPrefix+id, "what somebody else keeps here"); err != nil {
				t.Fatal(err)
			}
		},
	})
}
