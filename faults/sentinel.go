package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/freeport"
)

// A Sentinel is a primary, two replicas, and three sentinels that watch them.
type Sentinel struct {
	servers   []*Redis
	sentinels []*Redis
}

const watched = "watched" // what sentinels call the primary and its replicas

func startSentinel(dir string) (Service, error) {
	s := &Sentinel{}
	if err := s.start(dir); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *Sentinel) start(dir string) error {
	for i := range 3 {
		r, err := startRedis(filepath.Join(dir, fmt.Sprint("redis", i)), "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
		s.servers = append(s.servers, r)
		if err == nil && i > 0 {
			err = r.follow(s.servers[0])
		}
		if err != nil {
			return err
		}
	}
	p := s.servers[0]
	for i := range 3 {
		r, err := startSentinelServer(filepath.Join(dir, fmt.Sprint("sentinel", i)),
			fmt.Sprintf("sentinel monitor %s %s %d 2", watched, p.host, p.port),
			"sentinel down-after-milliseconds "+watched+" 500",
			"sentinel failover-timeout "+watched+" 5000")
		s.sentinels = append(s.sentinels, r)
		if err != nil {
			return err
		}
	}
	for _, r := range s.sentinels {
		// Every second, not every ten: a round ends sooner. Redis before 7 can't.
		_, _ = r.try("SENTINEL", "DEBUG", "INFO-PERIOD", 1000)
	}
	return s.healthy()
}

// startSentinelServer starts a redis-server as a sentinel, which keeps what it learns
// in its configuration.
func startSentinelServer(dir string, config ...string) (*Redis, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "sentinel.conf")
	if err := os.WriteFile(path, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	r := &Redis{dir: dir, host: "127.0.0.1", port: freeport.Next(), sentinel: path}
	return r, r.start()
}

func (s *Sentinel) place() (kind, addr string) {
	var at []string
	for _, r := range s.sentinels {
		at = append(at, r.addr())
	}
	return "sentinel", strings.Join(at, ",")
}

func (s *Sentinel) stop() {
	for _, r := range slices.Concat(s.sentinels, s.servers) {
		r.stop()
	}
}

// primary is the one that all sentinels name; nil while they don't agree. An old one must
// not come back, without its memory, before they do: a sentinel that has not heard of the
// failover would undo it.
func (s *Sentinel) primary() *Redis {
	var named *Redis
	for i, r := range s.sentinels {
		at, err := redis.Strings(r.try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", watched))
		if err != nil || len(at) < 2 {
			return nil
		}
		j := slices.IndexFunc(s.servers, func(server *Redis) bool { return at[1] == strconv.Itoa(server.port) })
		if j < 0 || i > 0 && s.servers[j] != named {
			return nil
		}
		named = s.servers[j]
	}
	return named
}

// healthy waits until a failover could succeed: the sentinels agree, have heard of both
// replicas that they are such, and these confirm. A sentinel that has not would undo the
// next failover.
func (s *Sentinel) healthy() error {
	sees := func(sentinel *Redis, primary *Redis) bool {
		m, err := redis.StringMap(sentinel.try("SENTINEL", "MASTER", watched))
		if err != nil || m["flags"] != "master" || m["num-other-sentinels"] != "2" || m["port"] != strconv.Itoa(primary.port) {
			return false
		}
		replicas, err := redis.Values(sentinel.try("SENTINEL", "REPLICAS", watched))
		for _, r := range replicas {
			m, _ := redis.StringMap(r, nil)
			if m["role-reported"] != "slave" || m["flags"] != "slave" {
				return false
			}
		}
		return err == nil && len(replicas) == 2
	}
	return s.sentinels[0].until("all is well", func() bool {
		p := s.primary()
		return p != nil && !slices.ContainsFunc(s.sentinels, func(r *Redis) bool { return !sees(r, p) }) && confirms(p, 2)
	})
}

// confirms reports whether a server writes, and so many replicas confirm it.
func confirms(r *Redis, replicas int) bool {
	if r == nil {
		return false
	}
	conn, err := r.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := redis.DoWithTimeout(conn, 100*time.Millisecond, "SET", "probe", clock().String(), "EX", 60); err != nil {
		return false
	}
	n, err := redis.Int(redis.DoWithTimeout(conn, 300*time.Millisecond, "WAIT", replicas, 100))
	return err == nil && n >= replicas
}

// A takeover is how Sentinel comes to promote a replica.
type takeover struct {
	name, fault string
	ttl         time.Duration
	replicas    int
	handOver    bool // tenures end at any time meanwhile
	split       bool // both primaries may grant
	long        int  // see Scenario
	begin       func(s *Sentinel, old *Redis) (end func() error, err error)
}

// sentinelScenarios are failovers by Sentinel. In a planned one the old primary goes on
// for a second or two, and those replicas that are not promoted confirm what it grants.
// So one of two replicas is enough for a holder that stays, if its TTL is some times as
// long; to hand over meanwhile, it takes all.
func sentinelScenarios() []Scenario {
	planned := func(s *Sentinel, _ *Redis) (func() error, error) {
		return func() error { return nil }, s.sentinels[0].until("a failover begins", func() bool {
			_, err := s.sentinels[0].try("SENTINEL", "FAILOVER", watched)
			return err == nil
		})
	}
	return []Scenario{
		sentinelFailover(takeover{name: "planned", fault: "SENTINEL FAILOVER; Replicas = 1", ttl: 20 * ttl, replicas: 1, long: 2, begin: planned}),
		sentinelFailover(takeover{
			name: "handover", fault: "SENTINEL FAILOVER during hand-overs; Replicas = 2 (all)",
			ttl: 20 * ttl, replicas: 2, handOver: true, long: 2, begin: planned,
		}),
		sentinelFailover(takeover{
			name: "handover-1", fault: "SENTINEL FAILOVER during hand-overs; Replicas = 1",
			ttl: 4 * ttl, replicas: 1, handOver: true, split: true, long: 2, begin: planned,
		}),
		sentinelFailover(takeover{
			name: "killed", fault: "kill −9 of the primary, perhaps in a hand-over; Replicas = 1", ttl: 4 * ttl, replicas: 1, handOver: true,
			begin: func(s *Sentinel, old *Redis) (func() error, error) {
				old.stop()
				return old.start, nil
			},
		}),
		sentinelFailover(takeover{
			name: "hung", fault: "SIGSTOP of the primary for longer than the failover takes, perhaps in a hand-over; Replicas = 1",
			ttl: 4 * ttl, replicas: 1, handOver: true, long: 2,
			begin: func(s *Sentinel, old *Redis) (func() error, error) { return old.thaw, old.freeze() },
		}),
	}
}

// sentinelFailover is one of them. The service is back when a new primary writes and
// enough of its replicas confirm.
func sentinelFailover(over takeover) Scenario {
	s := Scenario{
		Name: "sentinel-" + over.name, Fault: "Sentinel, 2 replicas, 3 sentinels: " + over.fault, Holds: "zero overlap; " + backSoon,
		Service: startSentinel, TTL: over.ttl, Guarded: !over.split, Split: over.split, Rounds: 12, Long: over.long,
		Measure: "service back to a holder", P99: time.Second,
	}
	if over.split {
		s.Holds = "two holders for no longer than a TTL; tokens increase; " + backSoon
	}
	s.Play = func(c *Cluster, rounds int) {
		service := c.service.(*Sentinel)
		c.confirming(over.replicas, the)
		for i := range rounds {
			c.round()
			t := c.holder(the)
			c.pause(anytime(c.ttl / 4))
			handOver := over.handOver && i%2 == 0
			old := service.primary()
			if over.split {
				c.note(Wiping, "")
			}
			end, err := over.begin(service, old)
			c.must(err)
			if handOver {
				c.pause(anytime(1500 * time.Millisecond))
				if t.End() == never {
					c.let(t, "return")
				}
			}
			// On a busy machine there may be a further failover, even back to the old one.
			promoted := func(confirming int) (p *Redis) {
				c.wait(time.Minute, "there is another primary", func() bool {
					p = service.primary()
					return p != nil && (p != old || confirming > 1) && confirms(p, confirming)
				})
				// Who hands over may have to wait for the TTL: a release may be forgotten.
				if back := clock(); confirming == over.replicas && !handOver {
					c.measure(max(c.holder(the).Begin-back, 0))
				}
				return p
			}
			p := promoted(1)
			// A sentinel makes a replica of the old primary after some ten seconds. Until
			// then that takes writes.
			c.pause(anytime(5 * time.Second))
			c.must(end())
			c.must(old.follow(p))
			promoted(2)
			if over.split {
				c.note(Wiped, "")
			}
			c.must(service.healthy())
		}
	}
	return s
}

const backSoon = "a holder ≤ 1 s (p99) after the service is back, hand-overs aside"

// confirming starts three nodes whose locks wait for replicas, and one that sends.
func (c *Cluster) confirming(replicas int, ids ...string) {
	cfg := c.config(ids...)
	cfg.Replicas = replicas
	for _, name := range runners {
		c.start(name, cfg)
	}
	c.tell(c.start("s", c.config()), "send 2 5ms 64 0 %s", strings.Join(ids, " "))
}
