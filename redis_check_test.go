package gone_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// says checks that an error wraps ErrDegraded, or does not, and has a text.
func says(t *testing.T, err error, degraded bool, text string) {
	t.Helper()
	if err == nil || errors.Is(err, gone.ErrDegraded) != degraded || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %q, degraded %v", err, text, degraded)
	}
}

func TestCheckOfALockThatWorksIsNilAndLeavesNoTrace(t *testing.T) {
	t.Parallel()
	s, _ := startReplicated(t)
	l := s.lock("a", time.Minute)
	l.Replicas = 1
	must(t, checked(t, l))
	if n := s.do("DBSIZE"); n != int64(0) {
		t.Errorf("it left %v keys", n)
	}
	must(t, l.Lock())
	kept := func() string { return fmt.Sprintf("%s %s", s.do("GET", "a"), s.do("GET", "{a}:token")) }
	before, ttl := kept(), s.pttl("{a}:token")
	must(t, checked(t, s.lock("a", time.Minute)))
	must(t, checked(t, l))
	if kept() != before {
		t.Errorf("%q became %q", before, kept())
	}
	if now := s.pttl("{a}:token"); now > ttl || now < ttl-time.Minute {
		t.Errorf("the helper key is kept for %v, was %v", now, ttl)
	}
	must(t, l.Extend())
	// Nor on what somebody else keeps there.
	others := strings.Repeat("x", 1000)
	s.do("SET", "{b}:token", others, "EX", 1000)
	_ = s.lock("b", time.Minute).Check(t.Context())
	if now := string(s.do("GET", "{b}:token").([]byte)); now != others {
		t.Errorf("%d bytes became %d", len(others), len(now))
	}
}

// checked is what Check says of a lock, of a server that may be slow.
func checked(t testing.TB, l *gone.RedisLock) error {
	t.Helper()
	return answered(t, func() error { return l.Check(t.Context()) })
}

func TestWhatRedisRefusesIsNamed(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", "nopass", "~*", "&*").AddFlat(smallestRights)...)
	locks := poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("any")))(time.Minute)
	must(t, redisLock(t, locks, "a").Check(t.Context())) // without INFO
	for _, cmd := range strings.Fields("evalsha getrange exists time psetex pexpire pttl del") {
		s.do("ACL", "SETUSER", "node", "-"+cmd)
		err := checked(t, redisLock(t, locks, "a"))
		says(t, err, false, "NOPERM")
		says(t, err, false, map[bool]string{true: cmd, false: strings.ToUpper(cmd)}[cmd == "evalsha"])
		s.do("ACL", "SETUSER", "node", "+"+cmd)
	}
	s.do("ACL", "SETUSER", "node", "-psetex")
	says(t, redisLock(t, locks, "a").Lock(), false, "NOPERM PSETEX")
	s.do("ACL", "SETUSER", "node", "+psetex", "-publish")
	says(t, checked(t, redisLock(t, locks, "a")), true, "PUBLISH is refused")
	s.do("ACL", "SETUSER", "node", "+publish", "-subscribe")
	holder, waiter := redisLock(t, locks, "a"), redisLock(t, locks, "a")
	must(t, holder.Lock())
	competes(t, waiter)
	eventually(t, 20*time.Second, "it is known that nothing is heard", func() bool { return waiter.Check(t.Context()) != nil })
	says(t, checked(t, waiter), true, "SUBSCRIBE is refused")
	waits := redisLock(t, locks, "b")
	waits.Replicas = 1
	says(t, checked(t, waits), false, "'wait'")
}

func TestCheckNamesAServerThatIsNotFitForLocks(t *testing.T) {
	t.Parallel()
	cache := startRedis(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	says(t, checked(t, cache.lock("a", time.Minute)), true, "maxmemory-policy is allkeys-lru")
	cache.do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	must(t, checked(t, cache.lock("a", time.Minute)))
	cache.do("REPLICAOF", "127.0.0.1", 1)
	says(t, checked(t, cache.lock("a", time.Minute)), false, "READONLY")
	cache.do("REPLICAOF", "NO", "ONE")
	lonely := cache.lock("a", time.Minute)
	lonely.Replicas = 1
	says(t, checked(t, lonely), false, "too few replicas have confirmed: 0 of 1")
	foreign := cache.lock("b", time.Minute)
	cache.do("RPUSH", "{b}:token", "somebody's")
	says(t, checked(t, foreign), false, "WRONGTYPE")
	cache.stop()
	says(t, checked(t, foreign), false, "connect")

	shard := startRedis(t, "--cluster-enabled", "yes", "--port", freePort())
	says(t, checked(t, shard.lock("a", time.Minute)), false, "use package goredislock")
	for slot := range 16384 / 64 { // all there are
		args := redis.Args{}.Add("ADDSLOTS")
		for i := range 64 {
			args = args.Add(64*slot + i)
		}
		shard.do("CLUSTER", args...)
	}
	eventually(t, 30*time.Second, "the Cluster is up", func() bool {
		return strings.Contains(string(shard.do("CLUSTER", "INFO").([]byte)), "cluster_state:ok")
	})
	says(t, checked(t, shard.lock("a", time.Minute)), false, "use package goredislock")
}

func TestWhatOnlyDegradesTheLockServiceIsLoggedOnceAndRunOneGoesOn(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl")
	var log logged
	g, err := gone.NewGone("tcp://127.0.0.1:0", s.locks(time.Minute),
		gone.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))))
	must(t, err)
	defer g.Close()
	for _, id := range []string{"a", "b"} {
		runOne(t, g, id, func(r *gone.GoneRunner) { <-r.Exit })
	}
	must(t, g.Check(deadline(t, 20*time.Second)))
	if n := strings.Count(log.String(), "maxmemory-policy is volatile-ttl"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}

func TestAPoolWhoseConnectionsHaveNoTimeoutsIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	type without struct{ redis.Conn }
	pool := &redis.Pool{MaxActive: 2, Wait: true, Dial: func() (redis.Conn, error) {
		c, err := redis.Dial("unix", s.addr.Name)
		return without{c}, err
	}}
	t.Cleanup(func() { _ = pool.Close() })
	g := startNode(t, poolLocks(pool)(time.Minute))
	_, err := g.RunOne("a", func(*gone.GoneRunner) {})
	says(t, err, false, "timeout for each call")
	says(t, err, false, "goredislock")
}
