package gone_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

const nodeAddr = "tcp://127.0.0.1:6381"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// isUnknown fails unless err leaves open whether the lock is held, names the
// lock and says what is wrong.
func isUnknown(t testing.TB, err error, id, says string) {
	t.Helper()
	switch {
	case err == nil || errors.Is(err, gone.ErrLockHeld) || errors.Is(err, gone.ErrLockLost) || errors.Is(err, gone.ErrNoHolder):
		t.Errorf("got error %v, want an unknown outcome", err)
	case !strings.HasPrefix(err.Error(), "gone: ") || !strings.Contains(err.Error(), strconv.Quote(id)) || !strings.Contains(err.Error(), says):
		t.Errorf("got error %q, want gone: … %q … %s", err, id, says)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want one that wraps %q", err, want)
	}
}

// The keys.

func TestRedisCLIGetShowsTheHoldersAddress(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("irc:#room", 0)
	get := func() string {
		out, err := exec.Command("redis-cli", "-s", s.addr.Name, "GET", "irc:#room").CombinedOutput()
		if err != nil {
			t.Fatalf("redis-cli: %v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := get(); got != "" {
		t.Errorf("before Lock it shows %q", got)
	}
	must(t, l.Lock())
	if got := get(); !strings.HasPrefix(got, nodeAddr+" ") {
		t.Errorf("it shows %q", got)
	}
	l.Unlock()
	if got := get(); got != "" {
		t.Errorf("after Unlock it shows %q", got)
	}
}

func TestAllKeysExpireByThemselves(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	check := func(when string, want int) {
		t.Helper()
		keys, err := redis.Strings(s.do("KEYS", "*"), nil)
		must(t, err)
		if len(keys) != want {
			t.Errorf("%s there are the keys %q, want %d", when, keys, want)
		}
		for _, k := range keys {
			most := 24 * time.Hour
			if !strings.Contains(k, "token") && !strings.HasPrefix(k, "\x00") {
				most = time.Minute
			}
			if ttl := s.pttl(k); ttl <= 0 || ttl > most {
				t.Errorf("%s the key %q is kept for %v, want at most %v", when, k, ttl, most)
			}
		}
	}
	var locks []*gone.RedisLock
	for i := range 20 {
		locks = append(locks, s.lock(fmt.Sprintf([]string{"id %d", "{id}%d", "id}{%d"}[i%3], i), time.Minute))
	}
	for round := range 2 {
		for _, l := range locks {
			must(t, l.Lock())
		}
		check(fmt.Sprintf("after Lock %d", round), 40)
		for _, l := range locks {
			must(t, l.Extend())
		}
		check(fmt.Sprintf("after Extend %d", round), 40)
		for _, l := range locks {
			l.Unlock()
		}
		check(fmt.Sprintf("after Unlock %d", round), 20)
	}
}

// A Cluster refuses a script whose keys are in different slots.
func TestBothKeysAreInTheIDsClusterSlot(t *testing.T) {
	t.Parallel()
	c := startRedis(t, "--cluster-enabled", "yes", "--cluster-port", freePort(), "--bind", "127.0.0.1")
	slots := make([]any, 0, 16385)
	slots = append(slots, "ADDSLOTS")
	for i := range 16384 {
		slots = append(slots, i)
	}
	c.do("CLUSTER", slots...)
	eventually(t, 30*time.Second, "the cluster is up", func() bool { return c.info("cluster", "cluster_enabled") == 1 && c.up() })

	ids := []string{
		"plain", "{tag}", "{tag}rest", "head{tag}rest", "{}", "{}tag", "a{}b", "{", "}", "}{", "{{", "}}", "a{b", "a}b",
		"a}b{c}d", "{{a}}", "{a}{b}", "{}{a}", "{a{b}c}", " {a b} ", "ü{ö}ä", "\x01{\xff}", strings.Repeat("{", gone.MaxIDLength),
		strings.Repeat("x", gone.MaxIDLength),
	}
	for i := range 81 { // all of length four
		b := []byte{}
		for ; len(b) < 4; i /= 3 {
			b = append(b, "a{}"[i%3])
		}
		ids = append(ids, string(b))
	}
	seen := map[string]bool{}
	for _, id := range ids {
		l := c.lock(id, 0)
		must(t, l.Lock())
		must(t, l.Extend())
		slot := c.do("CLUSTER", "KEYSLOT", id)
		keys, err := redis.Strings(c.do("CLUSTER", "GETKEYSINSLOT", slot, 1000), nil)
		must(t, err)
		keys = slices.DeleteFunc(keys, func(k string) bool { return seen[k] })
		if len(keys) != 2 || !slices.Contains(keys, id) {
			t.Errorf("in the slot of %q there are the new keys %q", id, keys)
		}
		for _, k := range keys {
			seen[k] = true
		}
	}
}

func (s *redisServer) up() bool {
	return strings.Contains(string(s.do("CLUSTER", "INFO").([]byte)), "cluster_state:ok")
}

// The tokens.

func TestTokensIncreaseWhateverHappensToRedis(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	const counter = "{a}:token"
	fromNow := func(d time.Duration) int64 { return time.Now().Add(d).UnixMicro() }
	var last uint64
	for _, c := range []struct {
		what string
		do   func(holder *gone.RedisLock)
	}{
		{"released", func(l *gone.RedisLock) { l.Unlock() }},
		{"expired", func(*gone.RedisLock) { s.do("DEL", "a") }},
		{"counter lost", func(*gone.RedisLock) { s.do("DEL", "a", counter) }},
		{"FLUSHALL", func(*gone.RedisLock) { s.do("FLUSHALL") }},
		{"restarted without data", func(*gone.RedisLock) { s.stop(); s.start() }},
		{"counter of an old backup", func(*gone.RedisLock) {
			s.do("DEL", "a")
			s.do("SET", counter, fromNow(-time.Hour))
		}},
		{"clock set back by an hour", func(*gone.RedisLock) {
			s.do("DEL", "a")
			last = uint64(fromNow(time.Hour))
			s.do("SET", counter, last)
		}},
	} {
		for i := range 3 {
			l := s.lock("a", 0) // another node
			must(t, l.Lock())
			token := l.FencingToken()
			if token <= last || token >= 1<<53 {
				t.Errorf("before %s: token %d after %d", c.what, token, last)
			}
			last = token
			if i == 0 {
				c.do(l)
			} else {
				l.Unlock()
			}
		}
	}
	if ttl := s.pttl(counter); ttl < 25*time.Hour-time.Minute || ttl > 25*time.Hour+time.Minute {
		t.Errorf("the counter is kept for %v, want a day from when the clock has passed it", ttl)
	}
}

// What was asked twice, or not answered.

func TestALockWhoseReplyWasLostIsHeldWhenAskedAgain(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	l := p.lock(t, "a", time.Minute)

	// One lost reply is not even seen.
	p.loses(1)
	must(t, l.Lock())
	if n := p.loses(0); n != 1 {
		t.Fatalf("%d replies were lost, want 1", n)
	}
	must(t, l.Extend())
	l.Unlock()

	p.loses(math.MaxInt)
	isUnknown(t, l.Lock(), "a", "lock: ")
	if p.loses(0) == 0 {
		t.Fatal("no reply was lost")
	}
	_, token, err := s.lock("a", 0).Holder()
	must(t, err)
	is(t, s.lock("a", 0).Lock(), gone.ErrLockHeld) // so Redis has granted it
	s.do("PEXPIRE", "a", 30_000)                   // half of the TTL goes by
	must(t, l.Lock())
	if l.FencingToken() != token {
		t.Errorf("the token became %d, was %d", l.FencingToken(), token)
	}
	if ttl := s.pttl("a"); ttl <= 30*time.Second {
		t.Errorf("%v are left, want the full TTL", ttl)
	}
	must(t, l.Extend())
}

func TestAnAttemptThatArrivesLateIsRecognised(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	l, other := p.lock(t, "a", 8*time.Second), s.lock("a", time.Minute) // so a call may take 2 s
	must(t, other.Lock())
	is(t, l.Lock(), gone.ErrLockHeld) // and has a connection

	deliver := p.hole()
	isUnknown(t, l.Lock(), "a", "lock: ")
	p.open()
	is(t, l.Lock(), gone.ErrLockHeld) // overtakes it
	other.Unlock()
	deliver() // and now it is granted, for 8 s
	eventually(t, 10*time.Second, "it is granted", func() bool { return s.do("EXISTS", "a") == int64(1) })
	s.do("PEXPIRE", "a", 60_000)
	must(t, l.Lock())
	must(t, l.Extend())
}

func TestAnExtendThatIsAnsweredLateHarmsNoNewHold(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	l := p.lock(t, "a", time.Minute)
	must(t, l.Lock())
	must(t, l.Extend()) // the script is known
	s.do("DEL", "a")
	deliver := p.holdReplies()
	extended := make(chan error, 1)
	before := s.scripts()
	go func() { extended <- l.Extend() }()
	eventually(t, 10*time.Second, "Extend is refused", func() bool { return s.scripts() >= before+1 })
	p.open()
	must(t, l.Lock())
	deliver()
	is(t, within(t, 10*time.Second, "Extend", extended), gone.ErrLockLost)
	must(t, l.Extend())
	l.Unlock()
	must(t, s.lock("a", 0).Lock())
}

func TestAnExtendWhoseReplyWasLostIsUnknownAndNotLost(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	l := p.lock(t, "a", time.Minute)
	must(t, l.Lock())
	p.loses(1)
	must(t, l.Extend())
	p.loses(math.MaxInt)
	isUnknown(t, l.Extend(), "a", "extend: ")
	p.loses(0)
	must(t, l.Extend())
}

func TestAReleaseWhoseReplyWasLostTouchesNoSuccessor(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	p := s.proxy()
	l, other := p.lock(t, "a", time.Second), s.lock("a", time.Minute)
	for range 2 {
		must(t, l.Lock())
		p.loses(math.MaxInt)
		unlocked := make(chan struct{})
		go func() {
			defer close(unlocked)
			l.Unlock() // goes on trying
		}()
		eventually(t, 10*time.Second, "it is released", func() bool { return other.Lock() == nil })
		<-unlocked
		if p.loses(0) == 0 {
			t.Fatal("no reply was lost")
		}
		must(t, other.Extend())
		other.Unlock()
	}
}

func TestExtendNeverMakesAKey(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("a", 0)
	must(t, l.Lock())
	s.do("FLUSHALL")
	for range 2 {
		is(t, l.Extend(), gone.ErrLockLost)
	}
	if keys, _ := redis.Strings(s.do("KEYS", "*"), nil); len(keys) > 0 {
		t.Errorf("there are the keys %q", keys)
	}
}

func TestARestartedProcessCannotReleaseItsPredecessorsLock(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	restarted := s.lock("a", time.Minute) // the same address
	restarted.Unlock()
	is(t, restarted.Lock(), gone.ErrLockHeld)
	restarted.Unlock()
	is(t, restarted.Extend(), gone.ErrLockLost)
	must(t, l.Extend())
}

func TestLockAndUnlockAtOnceLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l, other := s.lock("a", 0), s.lock("a", 0)
	for range 100 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _ = l.Lock() })
			wg.Go(func() { _ = l.Extend() })
			wg.Go(l.Unlock)
		}
		wg.Wait()
		l.Unlock()
		must(t, other.Lock())
		other.Unlock()
	}
}

// What Redis may say.

func TestOnlyAnotherAndGoneMeanLost(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	admin, err := redis.Dial("unix", s.addr.Name)
	must(t, err)
	defer admin.Close()
	do := func(cmd string, args ...any) {
		t.Helper()
		if _, err := admin.Do(cmd, args...); err != nil {
			t.Fatalf("%s %v: %v", cmd, args, err)
		}
	}
	config := func(name string, bad, good any) (begin, end func()) {
		return func() { do("CONFIG", "SET", name, bad) }, func() { do("CONFIG", "SET", name, good) }
	}
	with := func(begin, end func()) [2]func() { return [2]func(){begin, end} }
	do("ACL", "SETUSER", "node", "on", "nopass", "allkeys", "allchannels", "allcommands")
	pool := s.pool(redis.DialUsername("node"), redis.DialPassword("any"))
	// Short, so that a Redis that does not answer is given up soon.
	locks := poolLocks(pool)(3 * time.Second)

	for name, c := range map[string]struct {
		says  string
		fault [2]func()
		// What works nevertheless: to extend, to be told that another holds it,
		// to be told who.
		extend, held, read bool
	}{
		"out of memory": {says: "OOM", fault: with(config("maxmemory", 1, 0)), extend: true, held: true, read: true},
		"replicas missing": {
			says: "NOREPLICAS", fault: with(config("min-replicas-to-write", 1, 0)), held: true, read: true,
		},
		"a replica": {
			says:  "READONLY",
			fault: with(func() { do("REPLICAOF", "127.0.0.1", 1) }, func() { do("REPLICAOF", "NO", "ONE") }),
			held:  true,
			read:  true,
		},
		"a replica without its master": {
			says: "MASTERDOWN",
			fault: with(func() {
				do("CONFIG", "SET", "replica-serve-stale-data", "no")
				do("REPLICAOF", "127.0.0.1", 1)
			}, func() {
				do("REPLICAOF", "NO", "ONE")
				do("CONFIG", "SET", "replica-serve-stale-data", "yes")
			}),
		},
		"scripts denied": {
			says:  "NOPERM",
			fault: with(func() { do("ACL", "SETUSER", "node", "-eval", "-evalsha") }, func() { do("ACL", "SETUSER", "node", "+@all") }),
			read:  true,
		},
		"keys denied": {
			says:  "",
			fault: with(func() { do("ACL", "SETUSER", "node", "resetkeys") }, func() { do("ACL", "SETUSER", "node", "allkeys") }),
		},
		"password wrong": {
			says: "WRONGPASS",
			fault: with(func() {
				do("ACL", "SETUSER", "node", "resetpass", ">new")
				do("CLIENT", "KILL", "USER", "node")
			}, func() { do("ACL", "SETUSER", "node", "nopass") }),
		},
		"too many clients": {
			says: "", // it closes the connection, and what it says may come too late
			fault: with(func() {
				do("CLIENT", "KILL", "USER", "node")
				do("CONFIG", "SET", "maxclients", 1)
			}, func() { do("CONFIG", "SET", "maxclients", 10000) }),
		},
		"busy with another script": {
			says: "BUSY",
			fault: with(func() {
				do("CONFIG", "SET", "lua-time-limit", 1)
				c, err := redis.Dial("unix", s.addr.Name)
				must(t, err)
				must(t, c.Send("EVAL", "while true do end", 0))
				must(t, c.Flush())
				t.Cleanup(func() { _ = c.Close() })
				eventually(t, 10*time.Second, "the script is slow", func() bool {
					_, err := admin.Do("PING")
					return err != nil && strings.HasPrefix(err.Error(), "BUSY")
				})
			}, func() { do("SCRIPT", "KILL") }),
		},
		"stopped": {says: "", fault: with(func() { s.signal(syscall.SIGSTOP) }, func() { s.signal(syscall.SIGCONT) })},
		"not there": {
			says: "connect",
			fault: with(func() {
				must(t, os.Rename(s.addr.Name, s.addr.Name+".away"))
				do("CLIENT", "KILL", "USER", "node")
			}, func() { must(t, os.Rename(s.addr.Name+".away", s.addr.Name)) }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			holder, other, free := redisLock(t, locks, "a"), redisLock(t, locks, "a"), redisLock(t, locks, "b")
			must(t, holder.Lock())
			token := holder.FencingToken()
			is(t, other.Lock(), gone.ErrLockHeld)

			end := sync.OnceFunc(c.fault[1])
			defer end()
			c.fault[0]()
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, f := range []func() error{holder.Extend, holder.Lock} { // a repeated Lock
					if err := f(); !c.extend {
						isUnknown(t, err, "a", c.says)
					} else if err != nil {
						t.Error(err)
					}
				}
			})
			wg.Go(func() {
				if err := other.Lock(); !c.held {
					isUnknown(t, err, "a", c.says)
				} else if !errors.Is(err, gone.ErrLockHeld) {
					t.Errorf("got error %v, want that it is held", err)
				}
			})
			wg.Go(func() { isUnknown(t, free.Lock(), "b", c.says) })
			wg.Go(func() {
				if value, err := holder.GetValue(); !c.read {
					isUnknown(t, err, "a", c.says)
				} else if err != nil || value != nodeAddr {
					t.Errorf("the holder is %q, error %v", value, err)
				}
			})
			wg.Wait()
			end()

			eventually(t, 10*time.Second, "it is extended", func() bool {
				err := holder.Extend()
				return err == nil || errors.Is(err, gone.ErrLockLost)
			})
			must(t, holder.Extend())
			if holder.FencingToken() != token {
				t.Error("the token has changed")
			}
			is(t, other.Lock(), gone.ErrLockHeld)
			must(t, free.Lock())
		})
	}
}

func TestALoadingRedisIsUnknownAndKeepsTheLock(t *testing.T) {
	t.Parallel()
	// Each of the keys takes 5 ms to load; it looks for clients between them.
	s := startRedis(t, "--loading-process-events-interval-bytes", "1024")
	s.args = append(s.args, "--key-load-delay", "5000")
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	for i := range 200 {
		s.do("SET", fmt.Sprint("filler ", i), strings.Repeat(strconv.Itoa(i), 500))
	}
	s.do("SAVE")
	s.stop()
	s.launch()
	loading := 0
	eventually(t, 30*time.Second, "it is loaded", func() bool {
		err := l.Extend()
		if err != nil {
			isUnknown(t, err, "a", "")
			if strings.Contains(err.Error(), "LOADING") {
				loading++
			}
		}
		return err == nil || t.Failed()
	})
	if loading == 0 {
		t.Error("it never said LOADING")
	}
}

func TestScriptsAreSentAgainAfterSCRIPTFLUSH(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l, other := s.lock("a", 0), s.lock("a", 0)
	for range 2 {
		for _, f := range []func() error{l.Lock, l.Extend, l.Lock} {
			s.do("SCRIPT", "FLUSH")
			must(t, f())
		}
		s.do("SCRIPT", "FLUSH")
		l.Unlock()
		must(t, other.Lock())
		other.Unlock()
	}
}

func TestExtendAndUnlockWorkWithoutMemory(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	s.do("CONFIG", "SET", "maxmemory", 1)
	s.do("SCRIPT", "FLUSH") // sending the script's text works, too
	s.do("PEXPIRE", "a", 30_000)
	must(t, l.Extend())
	if ttl := s.pttl("a"); ttl <= 30*time.Second {
		t.Errorf("%v are left, want the full TTL", ttl)
	}
	l.Unlock()
	if s.do("EXISTS", "a") != int64(0) {
		t.Error("it was not released")
	}
	isUnknown(t, l.Lock(), "a", "OOM")
}

func TestLockExtendAndUnlockWorkWherePublishIsDenied(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for name, rights := range map[string][]any{"command": {"allchannels", "-publish"}, "channel": {"resetchannels"}} {
		s.do("ACL", append([]any{"SETUSER", name, "on", "nopass", "allkeys", "+@all"}, rights...)...)
		locks := poolLocks(s.pool(redis.DialUsername(name), redis.DialPassword("any")))(time.Minute)
		l, other := redisLock(t, locks, name), redisLock(t, locks, name)
		for range 2 {
			must(t, l.Lock())
			s.do("PEXPIRE", name, 30_000)
			must(t, l.Extend())
			if ttl := s.pttl(name); ttl <= 30*time.Second {
				t.Errorf("%v are left, want the full TTL", ttl)
			}
			l.Unlock()
			must(t, other.Lock())
			other.Unlock()
		}
	}
}

// smallestRights are the commands of the documentation of RedisLock.
var smallestRights = strings.Fields("+evalsha +eval +getrange +exists +time +psetex +pexpire +pttl +del +publish +subscribe +unsubscribe +ping")

func TestTheSmallestRightsSufficeAndNoneIsTooMany(t *testing.T) {
	t.Parallel()
	s, _ := startReplicated(t)
	smallest := append(strings.Fields("on nopass ~app:* ~{app:*}:token &gone:app:* +info +wait"), smallestRights...)
	grant := func(rights []string) {
		args := redis.Args{}.Add("SETUSER", "node", "reset").AddFlat(rights)
		s.do("ACL", args...)
		s.do("ACL", "LOG", "RESET")
	}
	grant(smallest)
	locks := poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("any")))(time.Second)
	denied := func() string { return fmt.Sprintf("%q", s.do("ACL", "LOG")) }
	use := func(id, without string) {
		l, other := redisLock(t, locks, id), redisLock(t, locks, id)
		for _, l := range []*gone.RedisLock{l, other} {
			l.RestartGuard, l.Replicas = true, 1
		}
		s.do("SCRIPT", "FLUSH")
		_, _ = l.GetValue()
		for errors.Is(l.Lock(), gone.ErrLockHeld) { // by the restart guard
			_ = l.WaitFree(t.Context())
		}
		_ = l.Lock()
		_ = l.Extend()
		_ = other.Lock()
		released := make(chan struct{})
		go func() {
			defer close(released)
			l.Unlock()
		}()
		_ = other.WaitFree(t.Context())
		<-released
		_ = l.Lock()
		s.do("DEL", id)
		_ = l.Extend()
		// Another lock is subscribed, so that there is a connection that one can
		// unsubscribe from, and that is pinged when it has been there for long.
		third := redisLock(t, locks, id+"3")
		third.Expiry = time.Minute
		waited := make(chan error, 1)
		ctx, end := context.WithCancel(t.Context())
		go func() {
			for ctx.Err() == nil { // "look" comes first
				_ = third.WaitHeld(ctx)
			}
			waited <- ctx.Err()
		}()
		if without != "+subscribe" && without != "&gone:app:*" {
			eventually(t, 10*time.Second, "it is subscribed", func() bool { return len(s.do("PUBSUB", "CHANNELS", "gone:"+id+"3").([]any)) == 1 })
		}
		_ = l.WaitFree(t.Context())
		_ = l.Close()
		_ = other.Close()
		switch without {
		case "+unsubscribe":
			eventually(t, 10*time.Second, "unsubscribing is denied", func() bool { return denied() != "[]" })
		case "+ping":
			eventually(t, 20*time.Second, "pinging is denied", func() bool { return denied() != "[]" })
		}
		end()
		<-waited
		_ = third.Close()
	}
	use("app:1", "")
	if log := denied(); log != "[]" {
		t.Errorf("something was denied: %s", log)
	}
	for i, right := range smallest[2:] {
		grant(slices.Delete(slices.Clone(smallest), i+2, i+3))
		use(fmt.Sprint("app:", i+2), right)
		if denied() == "[]" {
			t.Errorf("without %s nothing was denied", right)
		}
	}
}

func TestAForeignValueIsAnErrorThatNamesTheKeyAndIsLeftAlone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("CONFIG", "SET", "proto-max-bulk-len", "512mb")
	const counter = "{a}:token"
	foreign := fmt.Sprintf("%q: the key has a foreign value", "a")
	set := func(key, value string) func() { return func() { s.do("SET", key, value) } }
	for name, c := range map[string]struct {
		put  func()
		says string
		get  error // of GetValue: nil for the same
	}{
		"word":               {set("a", "hello"), foreign, nil},
		"address only":       {set("a", nodeAddr), foreign, nil},
		"no secret":          {set("a", nodeAddr+" 17"), foreign, nil},
		"ends in a space":    {set("a", nodeAddr+" 17 "), foreign, nil},
		"letters for token":  {set("a", nodeAddr+" x17 secret"), foreign, nil},
		"negative token":     {set("a", nodeAddr+" -17 secret"), foreign, nil},
		"control characters": {set("a", "\x00\r\n\x1b[2J"), foreign, nil},
		"huge":               {func() { s.do("SETRANGE", "a", 100<<20, "end") }, foreign, nil},
		"huge and like ours": {func() { s.do("SETRANGE", "a", 100<<20, " 17 secret") }, foreign, nil},
		"list":               {func() { s.do("RPUSH", "a", "x") }, "WRONGTYPE", nil},
		"hash":               {func() { s.do("HSET", "a", "x", "y") }, "WRONGTYPE", nil},
		"stream":             {func() { s.do("XADD", "a", "*", "x", "y") }, "WRONGTYPE", nil},
		"counter is a word":  {set(counter, "hello"), counter, gone.ErrNoHolder},
		"counter is a lock":  {set(counter, nodeAddr+" 17 secret"), counter, gone.ErrNoHolder},
		"counter is huge":    {set(counter, "1"+strings.Repeat("0", 1000)), counter, gone.ErrNoHolder},
		"counter is no int":  {set(counter, "1e300"), counter, gone.ErrNoHolder},
		"counter is NaN":     {set(counter, "nan"), counter, gone.ErrNoHolder},
		"counter is a list":  {func() { s.do("RPUSH", counter, "x") }, "WRONGTYPE", gone.ErrNoHolder},
	} {
		t.Run(name, func(t *testing.T) {
			s.do("FLUSHALL")
			c.put()
			before := s.dump()
			l := s.lock("a", time.Minute)
			isUnknown(t, l.Lock(), "a", c.says)
			isUnknown(t, l.Lock(), "a", c.says)
			_, err := l.GetValue()
			if c.get == nil {
				isUnknown(t, err, "a", c.says)
			} else {
				is(t, err, c.get)
			}
			is(t, l.Extend(), gone.ErrLockLost)
			l.Unlock()
			if after := s.dump(); after != before {
				t.Errorf("the keys were %s and are %s", before, after)
			}

			// And when it comes during a hold.
			s.do("FLUSHALL")
			must(t, l.Lock())
			s.do("DEL", "a", counter)
			c.put()
			before = s.dump()
			is(t, l.Extend(), gone.ErrLockLost)
			l.Unlock()
			if after := s.dump(); after != before {
				t.Errorf("the keys were %s and are %s", before, after)
			}
		})
	}
}

// dump shows all keys with the beginning of their values and their TTLs, if any.
func (s *redisServer) dump() string {
	s.t.Helper()
	keys, err := redis.Strings(s.do("KEYS", "*"), nil)
	must(s.t, err)
	slices.Sort(keys)
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%q %v %v", k, s.do("TYPE", k), s.do("PTTL", k))
		if s.do("TYPE", k) == "string" {
			fmt.Fprintf(&b, " %d %q", s.do("STRLEN", k), s.do("GETRANGE", k, 0, 99))
		}
		b.WriteString("; ")
	}
	return b.String()
}

func TestAnEmptyValueCountsAsNone(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	s.do("SET", "a", "") // an operator's way to free it
	is(t, l.Extend(), gone.ErrLockLost)
	_, err := l.GetValue()
	is(t, err, gone.ErrNoHolder)
	must(t, l.Lock())
	if ttl := s.pttl("a"); ttl <= 0 {
		t.Error("the lock does not expire")
	}
	must(t, l.Extend())
}

func TestAHugeValueIsNotRead(t *testing.T) {
	s := startRedis(t)
	s.do("SETRANGE", "a", 100<<20, "end")
	s.do("SETRANGE", "{b}:token", 100<<20, "end")
	a, b := s.lock("a", 0), s.lock("b", 0)
	isUnknown(t, a.Lock(), "a", "foreign")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s.do("CONFIG", "RESETSTAT")
	for range 10 {
		_, err := a.GetValue()
		isUnknown(t, err, "a", "foreign")
		isUnknown(t, a.Lock(), "a", "foreign")
		isUnknown(t, b.Lock(), "b", "foreign")
	}
	// What a script has copied is freed when it has ended; the time it took shows.
	calls, usec := s.scripts(), s.info("commandstats", `cmdstat_evalsha:calls=\d+,usec`)
	if usec > calls*10_000 {
		t.Errorf("%d scripts took %d µs", calls, usec)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 10<<20 {
		t.Errorf("%d MB were allocated here", n>>20)
	}
	if n := s.info("stats", "total_net_output_bytes"); n > 1<<20 {
		t.Errorf("%d bytes were sent", n)
	}
}

func TestALockWithoutATTLIsHeldAndPolled(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l, other := s.lock("a", 2*time.Second), s.lock("a", 0)
	must(t, other.Lock())
	s.do("PERSIST", "a")
	is(t, l.Lock(), gone.ErrLockHeld)
	must(t, l.WaitFree(t.Context())) // "look": it has subscribed
	is(t, l.Lock(), gone.ErrLockHeld)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	must(t, l.WaitFree(ctx))
	if d := time.Since(began); d < time.Second {
		t.Errorf("it was looked at again after %v", d)
	}
}

// The server's clock was set back, or somebody meant well.
func TestAKeyLivesNoLongerThanItsHoldersTTL(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	for name, prolong := range map[string]func(){
		"expires in an hour": func() { s.do("PEXPIRE", "a", time.Hour.Milliseconds()) },
		"never expires":      func() { s.do("PERSIST", "a") },
	} {
		dead, other := s.lock("a", 4*time.Second), s.lock("a", 100*time.Millisecond)
		must(t, dead.Lock())
		prolong()
		is(t, other.Lock(), gone.ErrLockHeld)
		// The other one's is shorter, but is not the holder's.
		if left := s.pttl("a"); left < time.Second || left > 4*time.Second {
			t.Errorf("%s: it lives for %v", name, left)
		}
		eventually(t, 10*time.Second, name+": another gets it", func() bool { return other.Lock() == nil })
		other.Unlock()
	}
}

// What is asked of the caller, and options.

// A hostAddr is an address with a name to look up.
type hostAddr struct{ network, address string }

func (a hostAddr) Network() string { return a.network }
func (a hostAddr) String() string  { return a.address }

func TestBadArgumentsAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	addr := &net.UnixAddr{Net: "unix", Name: "/nowhere"}
	var noTCP *net.TCPAddr
	var noUnix *net.UnixAddr
	for name, c := range map[string]struct {
		addr      net.Addr
		id, value string
		says      string
	}{
		"no address":         {nil, "a", nodeAddr, "nil address"},
		"nil TCP address":    {noTCP, "a", nodeAddr, "nil address"},
		"nil Unix address":   {noUnix, "a", nodeAddr, "nil address"},
		"UDP":                {&net.UDPAddr{Port: 6379}, "a", nodeAddr, `network "udp"`},
		"Unix without a net": {&net.UnixAddr{Name: "/nowhere"}, "a", nodeAddr, `network ""`},
		"empty id":           {addr, "", nodeAddr, "empty id"},
		"long id":            {addr, strings.Repeat("x", gone.MaxIDLength+1), nodeAddr, "longer than"},
		"NUL in the id":      {addr, "a\x00b", nodeAddr, "NUL"},
		"empty value":        {addr, "a", "", "value of 0 bytes"},
		"long value":         {addr, "a", strings.Repeat("x", 513), "value of 513 bytes"},
	} {
		l, err := gone.NewRedisLock(c.addr, c.id, c.value)
		if l != nil || err == nil || !strings.HasPrefix(err.Error(), "gone: ") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v and error %v, want gone: … %s", name, l, err, c.says)
		}
	}
	for name, pool := range map[string]*redis.Pool{"no pool": nil, "a pool that can't dial": {}} {
		if l, err := gone.NewRedisLockPool(pool, "a", nodeAddr); l != nil || err == nil || !strings.HasPrefix(err.Error(), "gone: ") {
			t.Errorf("%s: got %v and error %v", name, l, err)
		}
	}
	s := startRedis(t)
	for _, expiry := range []time.Duration{-time.Second, 1, time.Millisecond - 1} {
		l := s.lock("a", expiry)
		isUnknown(t, l.Lock(), "a", expiry.String())
		_, err := l.GetValue()
		isUnknown(t, err, "a", expiry.String())
		l.Unlock()
	}
	if l, err := gone.NewRedisLock(hostAddr{"tcp", "localhost:1"}, "a", nodeAddr); err != nil {
		t.Errorf("an address with a host name: %v", err)
	} else {
		isUnknown(t, l.Lock(), "a", "connect")
		must(t, l.Close())
	}
}

// A lease that is over at nine tenths of the TTL must not outlive the key.
func TestTheTTLInRedisIsNeverShorterThanExpiry(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("CONFIG", "SET", "slowlog-log-slower-than", 0) // logs every command
	for expiry, want := range map[time.Duration]string{
		0: "30000", time.Minute: "60000", 20 * time.Millisecond: "20", 1500 * time.Millisecond: "1500",
		time.Second + 1: "1001", 1500*time.Millisecond - 1: "1500", 1<<63 - 1: "9223372036855",
	} {
		s.do("SLOWLOG", "RESET")
		l := redisLock(t, locksAt(s.addr, expiry), "a")
		eventually(t, 10*time.Second, "it is held and extended", func() bool {
			return l.Lock() == nil && l.Extend() == nil
		})
		log := fmt.Sprintf("%s", s.do("SLOWLOG", "GET", 100))
		if n := strings.Count(log, " "+want+" "); n < 2 {
			t.Errorf("expiry %v: want a TTL of %s twice in %s", expiry, want, log)
		}
		l.Unlock()
		if want := max(expiry, 0); want > 0 && l.TTL() != want || want == 0 && l.TTL() != gone.DefaultExpiry {
			t.Errorf("expiry %v: TTL is %v", expiry, l.TTL())
		}
	}
}

func TestWithTheRestartGuardAnEmptyRestartGivesNoOverlap(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	const ttl = 2 * time.Second
	a, b := s.lock("a", ttl), s.lock("a", ttl)
	must(t, a.Lock()) // from now on with the guard
	a.RestartGuard, b.RestartGuard = true, true
	granted := time.Now() // at the latest; extended until the restart
	s.stop()
	s.start()
	up := time.Now() // at the latest

	err := b.Lock()
	is(t, err, gone.ErrLockHeld)
	m := regexp.MustCompile(`"a": Redis has just started .* free in ([\d.]+m?s)$`).FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("got error %q, want how long it takes", err)
	}
	if d, err := time.ParseDuration(m[1]); err != nil || d <= 0 || d > ttl+time.Second {
		t.Errorf("it takes %s", m[1])
	}
	is(t, a.Extend(), gone.ErrLockLost) // and not taken again
	is(t, a.Lock(), gone.ErrLockHeld)
	_, err = b.GetValue()
	is(t, err, gone.ErrNoHolder)

	before := s.scripts()
	must(t, compete(t.Context(), b))
	if d := time.Since(granted); d < ttl {
		t.Errorf("it was granted to another after %v", d)
	}
	if d := time.Since(up); d > ttl+30*time.Second {
		t.Errorf("it took %v from the start", d)
	}
	if n := s.scripts() - before; n > 10 {
		t.Errorf("waiting cost %d commands", n)
	}
	must(t, b.Extend())
	b.Unlock()
	must(t, a.Lock())
	must(t, a.Lock())
}

func TestTheRestartGuardKeepsNobodyFromHisOwnHold(t *testing.T) {
	t.Parallel()
	s := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	l := s.lock("a", time.Minute)
	must(t, l.Lock())
	l.RestartGuard = true
	s.stop()
	s.start()
	must(t, l.Extend())
	must(t, l.Lock())
	must(t, l.Extend())
}

func TestALockThatTooFewReplicasConfirmIsReleased(t *testing.T) {
	t.Parallel()
	master, replica := startReplicated(t)
	newLock := func(id string, ttl time.Duration) *gone.RedisLock {
		l := master.lock(id, ttl)
		l.Replicas = 1
		return l
	}
	l := newLock("a", 5*time.Minute) // so WAIT may take as long as ever
	for range 20 {
		must(t, l.Lock())
		if got, want := fmt.Sprintf("%s", replica.do("GET", "a")), fmt.Sprintf("%s", master.do("GET", "a")); got != want {
			t.Fatalf("the replica has %q, its master %q", got, want)
		}
		replica.do("PING")
		must(t, l.Extend())
		l.Unlock()
	}

	const ttl = 8 * time.Second // so WAIT may take a second
	l = newLock("a", ttl)
	eventually(t, 10*time.Second, "it is locked", func() bool { return l.Lock() == nil })
	replica.signal(syscall.SIGSTOP)
	isUnknown(t, l.Extend(), "a", "too few replicas have confirmed: 0 of 1")
	free := newLock("b", ttl)
	isUnknown(t, free.Lock(), "b", "too few replicas have confirmed: 0 of 1")
	if master.do("EXISTS", "b") != int64(0) {
		t.Error("it was not released")
	}
	is(t, free.Extend(), gone.ErrLockLost)
	waits := func() int { return master.info("commandstats", "cmdstat_wait:calls") }
	before := waits()
	is(t, newLock("a", ttl).Lock(), gone.ErrLockHeld)
	if n := waits() - before; n > 0 {
		t.Errorf("a refusal has waited for a replica %d times", n)
	}
	replica.signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, "it is extended", func() bool {
		err := l.Extend()
		return err == nil || errors.Is(err, gone.ErrLockLost)
	})
	eventually(t, 10*time.Second, "it is locked", func() bool { return free.Lock() == nil })
	must(t, free.Extend())
	free.Unlock()

	// Where WAIT is denied nothing is ever confirmed.
	master.do("ACL", "SETUSER", "node", "on", "nopass", "~*", "&*", "+@all", "-wait")
	denied := redisLock(t, poolLocks(master.pool(redis.DialUsername("node"), redis.DialPassword("any")))(2*time.Second), "b")
	denied.Replicas = 1
	isUnknown(t, denied.Lock(), "b", "NOPERM")
	if master.do("EXISTS", "b") != int64(0) {
		t.Error("it was not released")
	}
}

func BenchmarkLockAndUnlock(b *testing.B) {
	s := startRedis(b)
	l := s.lock("a", 0)
	pool := s.pool()
	release := redis.NewScript(1, `if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end return 0`)
	bare := func() {
		do := func(f func(redis.Conn) (any, error)) {
			c := pool.Get()
			defer c.Close()
			if r, err := f(c); err != nil || r == nil || r == int64(0) {
				b.Fatal(r, err)
			}
		}
		do(func(c redis.Conn) (any, error) { return c.Do("SET", "bare", "secret", "NX", "PX", 30_000) })
		do(func(c redis.Conn) (any, error) { return release.Do(c, "bare", "secret") })
	}
	var ours, theirs []time.Duration
	for b.Loop() { // interleaved, as the machine may be busy
		began := time.Now()
		must(b, l.Lock())
		l.Unlock()
		ours = append(ours, time.Since(began))
		began = time.Now()
		bare()
		theirs = append(theirs, time.Since(began))
	}
	b.ReportMetric(float64(median(ours).Nanoseconds()), "ns/lock")
	b.ReportMetric(float64(median(theirs).Nanoseconds()), "ns/bare")
	b.ReportMetric(float64(median(ours))/float64(median(theirs)), "ratio")
}

// A Lock request was slow and so was repeated, with success, when its first copy
// arrives.
func TestALateCopyOfALockTakesItForNobody(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"the hold is over": false, "Redis has lost its memory": true} {
		t.Run(name, func(t *testing.T) {
			s := startRedis(t)
			p := s.proxy()
			l, err := gone.NewRedisLock(p.addr, "a", nodeAddr)
			must(t, err)
			l.Expiry = 4 * time.Second
			defer l.Close()
			must(t, l.Lock())
			l.Unlock()
			deliver := p.hole()
			if err := l.Lock(); err == nil {
				t.Fatal("no error while nothing arrives")
			}
			p.open()
			must(t, l.Lock())
			other := s.lock("a", 4*time.Second)
			if lost {
				s.do("FLUSHALL")
				must(t, other.Lock()) // another tenure, and its end
				other.Unlock()
			} else {
				l.Unlock()
			}
			scripts := s.scripts()
			deliver()
			eventually(t, 10*time.Second, "the copy arrives", func() bool { return s.scripts() > scripts })
			if lost {
				// It takes the lock, but not for the tenure that there was.
				if err := l.Extend(); !errors.Is(err, gone.ErrLockLost) {
					t.Errorf("Extend after a higher token: %v", err)
				}
			} else if err := other.Lock(); err != nil {
				t.Errorf("nobody holds it, and yet: %v", err)
			}
		})
	}
}
