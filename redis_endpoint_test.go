package gone_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// tenures notes when handlers run.
type tenures struct {
	mu   sync.Mutex
	open int
	both time.Time     // since when two do
	most time.Duration // that two did
}

func (n *tenures) run(r *gone.GoneRunner) {
	n.change(1)
	defer n.change(-1)
	for range r.Messages() {
	}
}

func (n *tenures) change(by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == 2 {
		n.most = max(n.most, time.Since(n.both))
	}
	if n.open += by; n.open == 2 {
		n.both = time.Now()
	}
}

func (n *tenures) now() (open int, most time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open, n.most
}

// An address can come to lead elsewhere, as that of a Kubernetes Service or of a
// managed Redis does: new connections do, and those that there are stay.
func TestAnEndpointThatMovesIsFollowedWithinSeconds(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	const lifetime = 10 * time.Second // of a connection
	const late = 10 * time.Second     // that a process may wait for its turn, all in all
	nothing := func(*testing.T, *redisServer) {}
	for name, c := range map[string]struct {
		before, after func(*testing.T, *redisServer) // what becomes of the old server
		within        time.Duration
	}{
		"demoted, and cut off": {func(_ *testing.T, s *redisServer) {
			s.do("REPLICAOF", "127.0.0.1", 1)
		}, nothing, ttl + late},
		"demoted, and without data": {func(_ *testing.T, s *redisServer) {
			s.do("CONFIG", "SET", "replica-serve-stale-data", "no")
			s.do("REPLICAOF", "127.0.0.1", 1)
		}, nothing, ttl + late},
		"no replica follows it": {func(_ *testing.T, s *redisServer) {
			s.do("CONFIG", "SET", "min-replicas-to-write", 1)
		}, nothing, ttl + late},
		"it hangs": {func(_ *testing.T, s *redisServer) {
			s.signal(syscall.SIGSTOP)
		}, func(_ *testing.T, s *redisServer) {
			s.signal(syscall.SIGCONT)
		}, 2*ttl + late},
		"it goes on": {nothing, nothing, lifetime + ttl + late},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, young := startRedis(t), startRedis(t)
			p := old.proxy()
			locks := locksAt(p.addr, ttl)
			var n tenures
			holder, standby, sender := startNode(t, locks), startNode(t, locks), startNode(t, locks)
			runOne(t, holder, "a", n.run)
			eventually(t, 10*time.Second, "one holds", func() bool { open, _ := n.now(); return open == 1 })
			runOne(t, standby, "a", n.run)
			must(t, sender.SendData("a", []byte("before")))

			p.leadsTo(young)
			c.before(t, old)
			served := func() bool {
				open, _ := n.now()
				return open == 1 && young.do("EXISTS", "a") == int64(1)
			}
			eventually(t, c.within, "one holds, in the new server", served)
			if err := sender.SendDataContext(deadline(t, 2*ttl+late), "a", []byte("after")); err != nil {
				t.Error(err)
			}
			c.after(t, old)
			must(t, holder.Close())
			eventually(t, ttl+late, "another holds", served)
			h, err := sender.Holder(context.Background(), "a")
			must(t, err)
			if h.Addr != standby.Addr() {
				t.Errorf("%+v holds, want %s", h, standby.Addr())
			}
			// The new server knows nothing of the old one's holder, whose lease goes on.
			bound := ttl + 5*time.Second // a handler may return late
			if name == "it goes on" {
				bound += lifetime
			}
			if _, most := n.now(); most > bound {
				t.Errorf("two held for %v", most)
			}
		})
	}
}

// A server that goes on as before is a good one to whoever only listens.
func TestWhoWaitsFollowsAnEndpointThatMovesWithinSeconds(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Minute
	old, young := startRedis(t), startRedis(t)
	// Two addresses, as of two processes, each with a connection for wake-ups.
	holds, waits := old.proxy(), old.proxy()
	holder, waiter := holds.lock(t, "a", ttl), waits.lock(t, "a", ttl)
	must(t, holder.Lock())
	locked := competes(t, waiter)
	old.subscribers("a", 1)

	holds.leadsTo(young)
	waits.leadsTo(young)
	moved := time.Now()
	eventually(t, 60*time.Second, "the holder follows", func() bool { return holder.Lock() == nil && young.do("EXISTS", "a") == int64(1) })
	eventually(t, 60*time.Second, "the waiter follows", func() bool {
		r, err := redis.Values(young.do("PUBSUB", "NUMSUB", "gone:a"), nil)
		must(t, err)
		return r[1] == int64(1)
	})
	t.Logf("it heard from the new server after %v", time.Since(moved))
	holder.Unlock()
	must(t, within(t, byWakeUp, "hand-over", locked))
}

func TestAProbeOfAWakeUpConnectionCostsNoLookAndEndsNone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	holder := s.lock("a", time.Minute)
	must(t, holder.Lock())
	competes(t, s.lock("a", time.Minute))
	s.subscribers("a", 1)
	connection, published := s.pubsub(), s.info("commandstats", "cmdstat_publish:calls")
	before := s.scripts()
	eventually(t, 60*time.Second, "there were two probes", func() bool {
		return s.info("commandstats", "cmdstat_publish:calls") >= published+2
	})
	if n := s.scripts() - before; n > 1 { // it looks when it has subscribed
		t.Errorf("two probes cost %d scripts", n)
	}
	if again := s.pubsub(); again != connection {
		t.Errorf("it was connection %s, now it is %s", connection, again)
	}
}
