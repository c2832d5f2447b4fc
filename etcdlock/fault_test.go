package etcdlock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/locktest"
)

// A lock has all the extras.
type lock interface {
	gone.GoneLock
	gone.Fencer
	gone.Waiter
	gone.Passer
	gone.Roster
}

func newLock(t testing.TB, client *clientv3.Client, ttl time.Duration, value string) lock {
	t.Helper()
	l, err := etcdlock.New(client, expiry(ttl))(t.Name(), value)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Unlock()
		_ = l.(*etcdlock.Lock).Close()
	})
	return l.(lock)
}

// waits has a lock wait, with a watch that is live, and says when that returns.
func waits(t testing.TB, l lock) (woken chan error) {
	t.Helper()
	woken = make(chan error, 1)
	wait := func() { woken <- l.WaitFree(t.Context()) }
	go wait()
	eventually(t, "it watches", func() bool {
		select {
		case <-woken: // a poll, as there was no watch yet
			go wait()
		default:
		}
		return etcdlock.Watching(l.(*etcdlock.Lock))
	})
	return woken
}

func gets(t testing.TB, l lock) {
	t.Helper()
	eventually(t, "Lock gets it", func() bool { return l.Lock() == nil })
}

func TestAHoldOutlivesTheLeaderAndIsNeverTwo(t *testing.T) {
	t.Parallel()
	c, client := get(t, three)
	const lasts = 3 * time.Second // longer than an election takes
	for name, fault := range map[string]func(*testing.T, *member) (heal func()){
		"killed": func(t *testing.T, m *member) func() {
			m.kill()
			return func() {
				if err := m.start(); err != nil {
					t.Fatal(err)
				}
			}
		},
		"paused": func(t *testing.T, m *member) func() {
			m.signal(t, syscall.SIGSTOP)
			return func() { m.signal(t, syscall.SIGCONT) }
		},
		"cut off": func(_ *testing.T, m *member) func() {
			c.links.set(map[uint64]bool{m.id.Load(): true})
			return func() { c.links.set(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			leader := c.leader(t, client)
			a, b := newLock(t, client, 12*time.Second, "a"), newLock(t, c.dial(t), 12*time.Second, "b")
			h := hold(t, a, 12*time.Second)
			stop := h.extending(b)
			heal := sync.OnceFunc(fault(t, leader))
			t.Cleanup(heal)
			time.Sleep(lasts)
			h.again("while the leader is " + name)
			heal()
			h.again("after the leader was " + name)
			stop()
			go a.Unlock()
			eventually(t, "the next one gets it", func() bool {
				if b.Lock() == nil {
					return true
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_ = b.WaitFree(ctx)
				return false
			})
			if a.FencingToken() >= b.FencingToken() {
				t.Errorf("token %d after %d", b.FencingToken(), a.FencingToken())
			}
		})
	}
}

// A holder extends its hold, and notes until when it is sure of it.
type holder struct {
	t   testing.TB
	l   lock
	ttl time.Duration

	mu    sync.Mutex
	until time.Time
	count int
}

func hold(t testing.TB, l lock, ttl time.Duration) *holder {
	t.Helper()
	h := &holder{t: t, l: l, ttl: ttl}
	eventually(t, "Lock gets it", func() bool {
		h.until = time.Now().Add(ttl)
		return l.Lock() == nil
	})
	return h
}

// extending extends, and has another compete, until it is stopped.
func (h *holder) extending(other lock) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; !closed(done); time.Sleep(50 * time.Millisecond) {
			sent := time.Now()
			err := h.l.Extend()
			h.mu.Lock()
			if err == nil {
				h.until, h.count = sent.Add(h.ttl), h.count+1
			} else if early := time.Until(h.until); errors.Is(err, gone.ErrLockLost) && early > 0 {
				h.t.Errorf("lost %v before its TTL had run out: %v", early, err)
			}
			h.mu.Unlock()
		}
	})
	wg.Go(func() {
		for ; !closed(done); time.Sleep(20 * time.Millisecond) {
			if other.Lock() == nil {
				h.t.Errorf("another has got it %v before the hold was to end", time.Until(h.end()))
				other.Unlock()
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (h *holder) end() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until
}

// again waits until the hold has been extended, twice as one Extend may be under way.
func (h *holder) again(when string) {
	h.t.Helper()
	n := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.count
	}
	was := n()
	eventually(h.t, "the hold is extended "+when, func() bool { return n() >= was+2 })
}

func TestTheWordOfALeaderThatIsCutOffIsNotTaken(t *testing.T) {
	c, client := get(t, three)
	leader := c.leader(t, client)
	a := newLock(t, c.dial(t, func(config *clientv3.Config) { config.Endpoints = []string{leader.client} }), 8*time.Second, "a")
	gets(t, a)
	eventually(t, "it is extended", func() bool { return a.Extend() == nil })
	lease := func() (clientv3.LeaseID, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := client.Get(ctx, etcdlock.DefaultPrefix+t.Name())
		if err != nil || len(r.Kvs) == 0 {
			return 0, fmt.Errorf("%d keys, %w", len(r.Kvs), err)
		}
		return clientv3.LeaseID(r.Kvs[0].Lease), nil
	}
	id, err := lease()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.links.set(nil) })
	c.links.set(map[uint64]bool{leader.id.Load(): true})
	alone := c.dial(t, func(config *clientv3.Config) { config.Endpoints = []string{leader.client} })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = alone.KeepAliveOnce(ctx, id)
	t.Logf("a keep-alive of a leader that is cut off: %v", err) // nil until it notices
	if err := a.Extend(); err == nil || errors.Is(err, gone.ErrLockLost) {
		t.Errorf("Extend returned %v, with a leader that is cut off", err)
	}
}

// A leader that was paused while another took its place still answers what it finds
// waiting for it.
func TestTheWordOfALeaderThatWasDeposedIsNotTaken(t *testing.T) {
	c, client := get(t, three)
	const ttl = 12 * time.Second
	old := c.leader(t, client)
	// All is asked of the others, but what renews a lease.
	others := c.dial(t, func(config *clientv3.Config) {
		config.Endpoints = nil
		for _, m := range c.members {
			if m != old {
				config.Endpoints = append(config.Endpoints, m.client)
			}
		}
	})
	truth := others.Lease
	others.Lease = c.dial(t, func(config *clientv3.Config) { config.Endpoints = []string{old.client} }).Lease
	a := newLock(t, others, ttl, "a")
	gets(t, a)
	eventually(t, "it is extended", func() bool { return a.Extend() == nil })
	r, err := others.Get(t.Context(), etcdlock.DefaultPrefix+t.Name())
	if err != nil {
		t.Fatal(err)
	}
	resume := sync.OnceFunc(func() { old.signal(t, syscall.SIGCONT) })
	t.Cleanup(resume)
	old.signal(t, syscall.SIGSTOP)
	c.answers(t, others) // under another leader, which has given the lease its full time
	time.Sleep(3 * time.Second)
	time.AfterFunc(time.Second, resume)
	sent := time.Now()
	err = a.Extend()
	at := time.Now()
	left, lookErr := truth.TimeToLive(t.Context(), clientv3.LeaseID(r.Kvs[0].Lease))
	if lookErr != nil {
		t.Fatal(lookErr)
	}
	if err == nil && time.Duration(left.TTL+1)*time.Second < ttl-at.Sub(sent) {
		t.Errorf("Extend returned nil, and %v later the lease lasts for %ds more", at.Sub(sent), left.TTL)
	}
	t.Logf("Extend returned %v, and the lease lasts for %ds more", err, left.TTL)
}

func TestWhoWaitsHearsOfAReleaseInAHistoryThatWasCompacted(t *testing.T) {
	c, direct := get(t, one)
	p := locktest.NewProxy(t, tcp(t, c.members[0].client))
	client := c.dial(t, func(config *clientv3.Config) { config.Endpoints = []string{p.Addr.String()} })
	a, b := newLock(t, direct, time.Hour, "a"), newLock(t, client, time.Hour, "b")
	gets(t, a)
	if err := b.Lock(); !errors.Is(err, gone.ErrLockHeld) {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() { woken <- b.WaitFree(t.Context()) }()
	eventually(t, "it watches", func() bool { return etcdlock.Watching(b.(*etcdlock.Lock)) })
	undo := p.LoseReplies(t)
	a.Unlock()
	r, err := direct.Put(t.Context(), "x", "a revision that comes after")
	if err == nil {
		_, err = direct.Compact(t.Context(), r.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	undo()
	select {
	case err := <-woken:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it has slept through it")
	}
	gets(t, b)
}
