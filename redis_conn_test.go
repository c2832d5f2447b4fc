package gone_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// byWakeUp is well below any poll of a lock with a TTL of a minute, and well
// above what a wake-up takes.
const byWakeUp = 2 * time.Second

// compete locks as soon as the lock is free, as a node does.
func compete(ctx context.Context, l *gone.RedisLock) error {
	for l.Lock() != nil {
		if err := l.WaitFree(ctx); err != nil {
			return err
		}
	}
	return nil
}

// competes lets a lock compete until the test ends; its result arrives on the
// channel that is returned.
func competes(t testing.TB, l *gone.RedisLock) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	locked := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		locked <- compete(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return locked
}

// subscribers waits until so many subscribe to the wake-ups of an id.
func (s *redisServer) subscribers(id string, n int64) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, fmt.Sprintf("%d wait for %q", n, id), func() bool {
		r, err := redis.Values(s.do("PUBSUB", "NUMSUB", "gone:"+id), nil)
		must(s.t, err)
		return r[1] == n
	})
}

// scripts is how many scripts Redis was asked for since it started.
func (s *redisServer) scripts() int {
	return s.info("commandstats", "cmdstat_evalsha:calls") + s.info("commandstats", "cmdstat_eval:calls")
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// Wake-ups.

func TestAReleaseWakesAWaiterInMilliseconds(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	a, b := s.lock("a", time.Minute), s.lock("a", time.Minute)
	must(t, a.Lock())
	var took []time.Duration
	for range 30 {
		locked := competes(t, b)
		s.subscribers("a", 1)
		began := time.Now()
		a.Unlock()
		must(t, within(t, byWakeUp, "hand-over", locked))
		took = append(took, time.Since(began))
		a, b = b, a
	}
	t.Logf("hand-over p50 %v, max %v", median(took), slices.Max(took))
	// All of them on a machine that does nothing else.
	if m := slices.Min(took); m > 100*time.Millisecond {
		t.Errorf("the shortest hand-over took %v", m)
	}
	if m := median(took); m > byWakeUp {
		t.Errorf("the median hand-over took %v", m)
	}
}

func TestANewHolderWakesWhoeverWaitsForOne(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	a, b := s.lock("a", time.Minute), s.lock("a", time.Minute)
	found := make(chan error, 1)
	go func() {
		for {
			_, err := b.GetValue()
			if !errors.Is(err, gone.ErrNoHolder) {
				found <- err
				return
			}
			if err := b.WaitHeld(t.Context()); err != nil {
				found <- err
				return
			}
		}
	}()
	s.subscribers("a", 1)
	must(t, a.Lock())
	must(t, within(t, byWakeUp, "wake-up", found))
	s.subscribers("a", 0) // it has what it waited for
}

func TestALostWakeUpConnectionIsReplacedAndWaitersLookAgain(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for name, meanwhile := range map[string]func(){
		"another is there":     func() { s.subscribers("a", 1) },
		"nobody listens yet":   func() {},
		"nobody listens again": func() { s.do("ACL", "SETUSER", "node", "-subscribe") },
	} {
		s.do("ACL", "SETUSER", "node", "on", "nopass", "allkeys", "allchannels", "+@all")
		pool := s.pool(redis.DialUsername("node"), redis.DialPassword("any"))
		holder, l := s.lock("a", time.Minute), redisLock(t, poolLocks(pool)(10*time.Second), "a")
		must(t, holder.Lock())
		locked := competes(t, l)
		s.subscribers("a", 1)
		if s.do("CLIENT", "KILL", "TYPE", "pubsub") != int64(1) {
			t.Fatal("there was no connection to kill")
		}
		meanwhile()
		holder.Unlock()
		must(t, within(t, byWakeUp, "hand-over when "+name, locked))
		s.subscribers("a", 0) // the next one's is to be its own
		l.Unlock()
	}
}

func TestWithoutSubscribingAWaiterPolls(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for user, rights := range map[string][]any{"deaf": {"-subscribe", "allchannels"}, "half": {"&gone:heard"}} {
		s.do("ACL", append([]any{"SETUSER", user, "on", "nopass", "allkeys", "+@all"}, rights...)...)
		pool := s.pool(redis.DialUsername(user), redis.DialPassword("any"))
		holder, l := s.lock("unheard", time.Minute), redisLock(t, poolLocks(pool)(time.Second), "unheard")
		must(t, holder.Lock())
		before := s.scripts()
		locked := competes(t, l)
		eventually(t, 10*time.Second, "it polls", func() bool { return s.scripts() >= before+3 })

		if user == "half" { // on the same connection
			holder, l := s.lock("heard", time.Minute), redisLock(t, poolLocks(pool)(time.Minute), "heard")
			must(t, holder.Lock())
			locked := competes(t, l)
			s.subscribers("heard", 1)
			connection := s.pubsub()
			holder.Unlock()
			must(t, within(t, byWakeUp, "hand-over of what is heard", locked))
			must(t, holder.Close())
			l.Unlock()
			must(t, s.lock("heard", time.Minute).Lock())
			competes(t, l)
			s.subscribers("heard", 1)
			if again := s.pubsub(); again != connection {
				t.Errorf("it was connection %s, now it is %s", connection, again)
			}
		}

		holder.Unlock()
		must(t, within(t, byWakeUp, "hand-over to "+user, locked))
		l.Unlock()
	}
}

// pubsub is the number of the only connection that subscribes.
func (s *redisServer) pubsub() string {
	s.t.Helper()
	list := string(s.do("CLIENT", "LIST", "TYPE", "pubsub").([]byte))
	if strings.Count(list, "id=") != 1 {
		s.t.Fatalf("want one that subscribes, got %s", list)
	}
	return strings.Fields(list)[0]
}

func TestACrashedHoldersLockIsTakenWhenItExpires(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	const ttl = time.Second
	var late []time.Duration
	for i := range 3 {
		id := fmt.Sprint(i)
		a, b := s.lock(id, ttl), s.lock(id, ttl)
		began := time.Now()
		must(t, a.Lock())
		must(t, compete(t.Context(), b))
		late = append(late, time.Since(began)-ttl)
	}
	t.Logf("taken over %v after the TTL", late)
	if slices.Min(late) < 0 {
		t.Error("one was taken over before the TTL had run out")
	}
	if m := slices.Min(late); m > ttl/2 {
		t.Errorf("the first was taken over %v after the TTL", m)
	}
	if m := slices.Max(late); m > 10*time.Second {
		t.Errorf("the last was taken over %v after the TTL", m)
	}
}

func TestWaitingCostsNoCommandWhileTheHolderExtends(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	const ttl, waiters = 5 * time.Second, 5
	holder := s.lock("a", ttl)
	must(t, holder.Lock())
	must(t, holder.Extend()) // the script is known
	before := s.scripts()
	var locked []<-chan error
	for range waiters {
		locked = append(locked, competes(t, s.lock("a", ttl)))
	}
	// Each looks at first, and again when it has subscribed.
	eventually(t, 10*time.Second, "all wait", func() bool {
		must(t, holder.Extend())
		before++
		return s.scripts() >= before+2*waiters
	})
	before = s.scripts()
	for began := time.Now(); time.Since(began) < 9*ttl/4; time.Sleep(ttl / 50) {
		must(t, holder.Extend())
		before++
	}
	if n := s.scripts() - before; n >= waiters { // not one each, in more than two TTLs
		t.Errorf("waiting cost %d commands", n)
	}
	for _, c := range locked {
		select {
		case err := <-c:
			t.Errorf("one has stopped to wait: %v", err)
		default:
		}
	}
}

// Redis has one space of channels for all databases.
func TestTheSameIDInAnotherDatabaseIsAnotherLock(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	in := func(db int, ttl time.Duration) *gone.RedisLock {
		return redisLock(t, poolLocks(s.pool(redis.DialDatabase(db)))(ttl), "a")
	}
	const ttl = 2 * time.Second
	busy, crashed, waiter := in(1, time.Minute), in(2, ttl), in(2, ttl)
	must(t, busy.Lock())
	must(t, crashed.Lock())
	locked := competes(t, waiter)
	s.subscribers("a", 1)
	for began := time.Now(); ; time.Sleep(ttl / 20) {
		must(t, busy.Extend())
		select {
		case err := <-locked:
			must(t, err)
			return
		default:
		}
		if time.Since(began) > patience*10*time.Second {
			t.Fatal("the waiter takes another database's lock for its own")
		}
	}
}

func TestAskingForTheHolderDoesNotDeafenAWaiter(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	a, b := s.lock("a", time.Minute), s.lock("a", time.Minute)
	must(t, a.Lock())
	locked := competes(t, b)
	s.subscribers("a", 1)
	for range 10 {
		_, err := b.GetValue()
		must(t, err)
	}
	a.Unlock()
	must(t, within(t, byWakeUp, "hand-over", locked))
}

func TestForgedWakeUpsNeitherHoldUpNorSpin(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	a, b := s.lock("a", time.Minute), s.lock("a", time.Minute)
	must(t, a.Lock())
	locked := competes(t, b)
	s.subscribers("a", 1)
	forged := []string{
		"", " ", "x", "0", "-1", "17", "17 ", " 17", "17 -1", "17 0", "17 99999999999999999999", "0 0", "17 30000", "17 30000 x",
		"99999999999999999999 1", fmt.Sprint(a.FencingToken(), " 999999999999"), fmt.Sprint(a.FencingToken(), " x"), strings.Repeat("1", 1<<20), "\x00\xff",
	}
	before := s.scripts()
	for _, m := range forged {
		s.do("PUBLISH", "gone:a", m)
	}
	a.Unlock()
	must(t, within(t, byWakeUp, "hand-over", locked))
	if n := s.scripts() - before; n > 2*len(forged) {
		t.Errorf("%d messages cost %d commands", len(forged), n)
	}

	// A hold that is said to last for long is not believed for longer than a TTL.
	a, b = s.lock("b", byWakeUp/10), s.lock("b", byWakeUp/10)
	must(t, a.Lock())
	locked = competes(t, b)
	s.subscribers("b", 1)
	s.do("PUBLISH", "gone:b", fmt.Sprint(a.FencingToken(), " 999999999999"))
	must(t, within(t, byWakeUp, "take-over", locked))
}

// Connections.

func TestAWaitingIDHasNoGoroutine(t *testing.T) {
	s := startRedis(t)
	const n = 1000
	holder, err := gone.NewGone("tcp://127.0.0.1:0", s.locks(time.Minute))
	must(t, err)
	node, err := gone.NewGone("tcp://127.0.0.1:0", s.locks(time.Minute))
	must(t, err)
	for i := range n {
		_, err := holder.RunOne(fmt.Sprint("id ", i), func(r *gone.GoneRunner) { <-r.Exit })
		must(t, err)
	}
	eventually(t, 30*time.Second, "one holds all", func() bool { return holder.Stats().Held == n })
	before := runtime.NumGoroutine()
	for i := range n {
		_, err := node.RunOne(fmt.Sprint("id ", i), func(r *gone.GoneRunner) { <-r.Exit })
		must(t, err)
	}
	eventually(t, 30*time.Second, "all wait, without a goroutine each", func() bool {
		channels, err := redis.Values(s.do("PUBSUB", "CHANNELS", "gone:*"), nil)
		must(t, err)
		return len(channels) == n && runtime.NumGoroutine() < before+n/10
	})
	must(t, holder.Close())
	eventually(t, 30*time.Second, "the other holds all", func() bool { return node.Stats().Held == n })
	must(t, node.Close())
	eventually(t, 10*time.Second, "nothing is left in Redis but the counters", func() bool { return s.do("DBSIZE") == int64(n) })
}

func TestAThousandWaitingLocksUseAConstantNumberOfConnections(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	const n = 1000
	holders, waiters := make([]*gone.RedisLock, n), make([]<-chan error, n)
	for i := range n {
		id := fmt.Sprint("id ", i)
		holders[i] = s.lock(id, time.Minute)
		must(t, holders[i].Lock())
		waiters[i] = competes(t, s.lock(id, time.Minute))
	}
	eventually(t, 30*time.Second, "all wait", func() bool {
		channels, err := redis.Values(s.do("PUBSUB", "CHANNELS", "gone:*"), nil)
		must(t, err)
		return len(channels) == n
	})
	if c := s.clients(); c > 17 {
		t.Errorf("they use %d connections, want at most 17", c)
	}
	s.do("CONFIG", "SET", "maxclients", 17+1) // and this test's own
	var wg sync.WaitGroup
	for _, l := range holders {
		wg.Go(l.Unlock)
	}
	for _, locked := range waiters {
		must(t, within(t, 30*time.Second, "hand-over", locked))
	}
	wg.Wait()
	if n := s.info("stats", "rejected_connections"); n > 0 {
		t.Errorf("they tried %d connections more than 17", n)
	}
}

func TestWithoutWaitersThereIsNoConnectionForWakeUps(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	pool := s.pool()
	pool.MaxActive = 1
	locks := poolLocks(pool)(time.Minute)
	a, b := redisLock(t, locks, "a"), redisLock(t, locks, "a")
	must(t, a.Lock())
	locked := competes(t, b)
	s.subscribers("a", 1)
	if c := s.clients(); c != 2 {
		t.Errorf("%d connections, want one for requests and one for wake-ups", c)
	}
	a.Unlock()
	must(t, within(t, byWakeUp, "hand-over", locked))
	eventually(t, 10*time.Second, "the connection is given up", func() bool { return s.clients() == 1 })
	locked = competes(t, a)
	s.subscribers("a", 1)
	b.Unlock()
	must(t, within(t, byWakeUp, "hand-over", locked))
}

func TestAPoolOfOneConnectionServesAll(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for name, wait := range map[string]bool{"that waits": true, "that does not wait": false} {
		pool := s.pool(redis.DialDatabase(1))
		pool.MaxActive, pool.Wait = 1, wait
		var wg sync.WaitGroup
		for i := range 8 {
			l := redisLock(t, poolLocks(pool)(time.Minute), fmt.Sprint(name, i))
			wg.Go(func() {
				for range 20 {
					for _, f := range []func() error{l.Lock, l.Extend} {
						if err := f(); err != nil {
							t.Errorf("%s: %v", name, err)
						}
					}
					l.Unlock()
				}
			})
		}
		wg.Wait()
		if n := pool.ActiveCount(); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
	if keys, _ := redis.Strings(s.do("KEYS", "*"), nil); len(keys) > 0 {
		t.Errorf("the other database has the keys %q", keys)
	}
}

func TestCloseGivesEverythingBack(t *testing.T) {
	s := startRedis(t)
	before := quiet(t)
	for range 3 {
		var locks []*gone.RedisLock
		var wg sync.WaitGroup
		for i := range 40 {
			l := s.lock(fmt.Sprint("id ", i%20), time.Minute)
			locks = append(locks, l)
			if i >= 20 {
				is(t, l.Lock(), gone.ErrLockHeld)
				wg.Go(func() {
					for l.WaitFree(t.Context()) == nil { // until it is closed
					}
				})
				continue
			}
			must(t, l.Lock())
		}
		for i := range 20 {
			s.subscribers(fmt.Sprint("id ", i), 1)
		}
		for _, l := range locks {
			for range 2 {
				must(t, l.Close())
			}
		}
		wg.Wait()
		eventually(t, byWakeUp, "Redis has no clients", func() bool { return s.clients() == 0 })
		nothingLeft(t, before)
		s.do("FLUSHALL")
	}
}

func TestAfterCloseEverythingSaysThatItIsClosed(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l, other := s.lock("a", time.Minute), s.lock("a", time.Minute)
	must(t, l.Lock())
	must(t, l.Close())
	is(t, l.Lock(), gone.ErrClosed)
	is(t, l.Extend(), gone.ErrClosed)
	_, err := l.GetValue()
	is(t, err, gone.ErrClosed)
	is(t, l.WaitFree(t.Context()), gone.ErrClosed)
	is(t, l.WaitHeld(t.Context()), gone.ErrClosed)
	l.Unlock()
	is(t, other.Lock(), gone.ErrLockHeld)
}

func TestCloseWhileRequestsHangIsHarmless(t *testing.T) {
	s := startRedis(t)
	p := s.proxy()
	before := quiet(t)
	for range 3 {
		var wg sync.WaitGroup
		var locks []*gone.RedisLock
		for i := range 40 { // more than there are connections
			l := p.lock(t, fmt.Sprint(i), 400*time.Millisecond)
			locks = append(locks, l)
			_, _ = l.GetValue()
		}
		deliver := p.hole()
		for i, l := range locks {
			wg.Go(func() { isUnknown(t, l.Lock(), fmt.Sprint(i), "") })
		}
		for _, l := range locks {
			_ = l.Close()
		}
		wg.Wait()
		p.open()
		deliver()
		eventually(t, 10*time.Second, "Redis has no clients", func() bool { return s.clients() == 0 })
	}
	nothingLeft(t, before)
}

func TestThePoolStaysTheCallers(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	pool := s.pool()
	for range 2 {
		l := redisLock(t, poolLocks(pool)(0), "a")
		must(t, l.Lock())
		l.Unlock()
		must(t, l.Close())
		c := pool.Get()
		if _, err := c.Do("PING"); err != nil {
			t.Errorf("after Close of the lock: %v", err)
		}
		must(t, c.Close())
	}
}

func TestAfterARestartOfRedisTheFirstRequestWorks(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	pool := s.pool()
	var locks []*gone.RedisLock
	for i := range pool.MaxActive {
		locks = append(locks, redisLock(t, poolLocks(pool)(time.Minute), fmt.Sprint(i)))
		must(t, locks[i].Lock())
	}
	for _, f := range []func(l *gone.RedisLock){
		func(l *gone.RedisLock) { must(t, l.Extend()) },
		func(l *gone.RedisLock) { must(t, l.Lock()) },
		func(l *gone.RedisLock) {
			_, err := l.GetValue()
			must(t, err)
		},
		func(l *gone.RedisLock) {
			l.Unlock()
			if s.do("EXISTS", "0") != int64(0) {
				t.Error("it was not released")
			}
		},
	} {
		s.signal(syscall.SIGSTOP)
		var wg sync.WaitGroup
		for _, l := range locks { // each with a connection of its own
			wg.Go(func() { _, _ = l.GetValue() })
		}
		eventually(t, 10*time.Second, "all are connected", func() bool { return pool.ActiveCount() == pool.MaxActive })
		s.signal(syscall.SIGCONT)
		wg.Wait()
		s.do("CLIENT", "KILL", "TYPE", "normal") // as a restart would
		f(locks[0])
	}
}

func TestADemotedMasterIsLeft(t *testing.T) {
	t.Parallel()
	s, successor := startRedis(t), startRedis(t)
	p := s.proxy()
	l, other := p.lock(t, "a", time.Minute), p.lock(t, "a", time.Minute)
	must(t, l.Lock())
	is(t, other.Lock(), gone.ErrLockHeld)
	s.do("REPLICAOF", "127.0.0.1", 1)
	isUnknown(t, l.Extend(), "a", "READONLY")
	p.leadsTo(successor) // new connections do
	is(t, l.Extend(), gone.ErrLockLost)
	must(t, other.Lock())
	if successor.do("EXISTS", "a") != int64(1) {
		t.Error("it was not locked in the successor")
	}
}

func TestAClusterBehindAPlainConnectionIsNamed(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--cluster-enabled", "yes", "--port", freePort()) // of which no node has the slot
	l := s.lock("a", time.Minute)
	isUnknown(t, l.Lock(), "a", "this is a Redis Cluster")
	if _, err := l.GetValue(); err == nil || !strings.Contains(err.Error(), "this is a Redis Cluster") {
		t.Error(err)
	}
}

func TestEveryCallIsBoundedWhereRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	const ttl = 4 * time.Second // so a call may take a second
	l, other := p.lock(t, "a", ttl), p.lock(t, "b", ttl)
	must(t, l.Lock())
	p.hole()
	for name, f := range map[string]func(){
		"Lock":     func() { isUnknown(t, other.Lock(), "b", "lock: ") },
		"Extend":   func() { isUnknown(t, l.Extend(), "a", "extend: ") },
		"GetValue": func() { _, err := l.GetValue(); isUnknown(t, err, "a", "read: ") },
		"Unlock":   func() { other.Unlock() },
	} {
		began := time.Now()
		f()
		if d := time.Since(began); d > ttl+atOnce {
			t.Errorf("%s took %v", name, d)
		}
	}
}

func TestUnlockOutlastsAShortOutage(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	admin, err := redis.Dial("unix", s.addr.Name)
	must(t, err)
	defer admin.Close()
	must(t, os.Rename(s.addr.Name, s.addr.Name+".away"))
	_, err = admin.Do("CLIENT", "KILL", "TYPE", "normal")
	must(t, err)
	isUnknown(t, l.Extend(), "a", "connect")
	unlocked := make(chan struct{})
	go func() {
		defer close(unlocked)
		l.Unlock()
	}()
	time.Sleep(50 * time.Millisecond) // the outage
	must(t, os.Rename(s.addr.Name+".away", s.addr.Name))
	within(t, 10*time.Second, "Unlock", unlocked)
	if s.do("EXISTS", "a") != int64(0) {
		t.Error("it was not released")
	}
}

func TestOneHoldsUnderConcurrencyAndBrokenConnections(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	pools := []gone.LockFactory{poolLocks(s.pool())(time.Minute), s.locks(time.Minute)}
	var holding, holds atomic.Int32
	var last atomic.Uint64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 8 {
		l := redisLock(t, pools[i%2], "a")
		wg.Go(func() {
			for ctx.Err() == nil {
				if compete(ctx, l) != nil {
					continue
				}
				if n := holding.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				if token := l.FencingToken(); token <= last.Swap(token) {
					t.Errorf("token %d is not above those before", token)
				}
				if err := l.Extend(); errors.Is(err, gone.ErrLockLost) {
					t.Errorf("Extend: %v", err)
				}
				_, _ = l.GetValue()
				holds.Add(1)
				holding.Add(-1)
				l.Unlock()
			}
		})
	}
	for i := range 50 {
		n := holds.Load()
		eventually(t, 20*time.Second, "it goes on", func() bool { return holds.Load() > n })
		s.do("CLIENT", "KILL", "TYPE", []string{"normal", "pubsub"}[i%2])
	}
	cancel()
	wg.Wait()
	t.Logf("%d holds", holds.Load())
}
