package main

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/Diggs/go-one/internal/freeport"
)

// Shards are a Redis Cluster: three masters with a replica each.
type Shards struct{ servers []*Redis }

func startShards(dir string) (Service, error) {
	s := &Shards{}
	args := []string{"--cluster", "create"}
	for i := range 6 {
		r, err := startRedis(filepath.Join(dir, fmt.Sprint("redis", i)), "--cluster-enabled", "yes",
			"--cluster-port", strconv.Itoa(freeport.Next()), "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
			"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
		s.servers = append(s.servers, r)
		if err != nil {
			s.stop()
			return nil, err
		}
		args = append(args, r.addr())
	}
	args = append(args, "--cluster-replicas", "1", "--cluster-yes")
	if out, err := exec.Command("redis-cli", args...).CombinedOutput(); err != nil {
		s.stop()
		return nil, fmt.Errorf("redis-cli %s: %w %s", strings.Join(args, " "), err, out)
	}
	if err := s.healthy(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *Shards) place() (kind, addr string) {
	var at []string
	for _, r := range s.servers {
		at = append(at, r.addr())
	}
	return "cluster", strings.Join(at, ",")
}

func (s *Shards) stop() {
	for _, r := range s.servers {
		r.stop()
	}
}

// A shard is what a server of a Cluster says of itself.
type shard struct {
	*Redis
	id, master string // of the node, and of whom it replicates
	links      bool   // the others are linked to it, for all it knows
}

// shards are the servers that run and answer, as they see themselves.
func (s *Shards) shards() (all []shard) {
	for _, r := range s.servers {
		lines, err := redis.String(r.try("CLUSTER", "NODES"))
		if err != nil {
			continue
		}
		one := shard{Redis: r, links: true}
		for line := range strings.Lines(lines) {
			f := strings.Fields(line) // id, address, flags, master, ping, pong, epoch, link, slots
			if strings.Contains(f[2], "myself") {
				one.id, one.master = f[0], strings.TrimPrefix(f[3], "-")
			} else if f[7] != "connected" || strings.Contains(f[2], "fail") || strings.Contains(f[2], "handshake") {
				one.links = false
			}
		}
		all = append(all, one)
	}
	return all
}

// healthy waits until three masters have a replica each that confirms, and all see all.
func (s *Shards) healthy() error {
	return s.servers[0].until("all shards are well", func() bool {
		all, masters := s.shards(), 0
		for _, one := range all {
			if !one.links {
				return false
			}
			if one.master == "" {
				masters++
				if n, err := redis.Int(one.try("WAIT", 1, 100)); err != nil || n != 1 {
					return false
				}
			}
		}
		info, err := redis.String(s.servers[0].try("CLUSTER", "INFO"))
		return len(all) == len(s.servers) && masters == 3 && err == nil && strings.Contains(info, "cluster_state:ok")
	})
}

// master is the one that owns the slot of a key.
func (s *Shards) master(key string) (m shard, slot int, err error) {
	for _, one := range s.shards() {
		if one.master != "" {
			continue
		}
		if slot, err = redis.Int(one.try("CLUSTER", "KEYSLOT", key)); err != nil {
			return m, 0, err
		}
		// Only the owner knows how to read it.
		if _, err = one.try("GET", key); err == nil {
			return one, slot, nil
		}
	}
	return m, slot, fmt.Errorf("nobody owns the slot of %s: %w", key, err)
}

// migrate moves the slot of a key to another master, key by key, as a resharding does.
func (s *Shards) migrate(key string) error {
	from, slot, err := s.master(key)
	if err != nil {
		return err
	}
	var others []shard
	for _, one := range s.shards() {
		if one.master == "" && one.id != from.id {
			others = append(others, one)
		}
	}
	to := pick(others)
	do := func(r shard, args ...any) {
		if err == nil {
			_, err = r.try("CLUSTER", append([]any{"SETSLOT", slot}, args...)...)
		}
	}
	do(to, "IMPORTING", from.id)
	do(from, "MIGRATING", to.id)
	for err == nil {
		var keys []any
		if keys, err = redis.Values(from.try("CLUSTER", "GETKEYSINSLOT", slot, 1)); err != nil || len(keys) == 0 {
			break
		}
		time.Sleep(anytime(20 * time.Millisecond)) // who meets half of it is told to try again
		_, err = from.try("MIGRATE", append([]any{to.host, to.port, "", 0, 5000, "KEYS"}, keys...)...)
	}
	do(to, "NODE", to.id)
	do(from, "NODE", to.id)
	for _, one := range others {
		do(one, "NODE", to.id)
	}
	return err
}

// dozen are so many ids, whose slots are all over the Cluster.
func dozen() (ids []string) {
	for i := range 12 {
		ids = append(ids, fmt.Sprintf("id-%d", i))
	}
	return ids
}

// shardScenarios are what happens to a Redis Cluster.
func shardScenarios() []Scenario {
	return []Scenario{
		{
			Name: "cluster-migration", Fault: "Redis Cluster, 12 ids: their slots migrate to other masters; Replicas = 1",
			Holds: "zero overlap; no hand-over; no id without a holder", Service: startShards,
			TTL: 4 * ttl, Bound: time.Second, Guarded: true,
			Play: func(c *Cluster, rounds int) {
				service, ids := c.service.(*Shards), dozen()
				c.confirming(1, ids...)
				for range rounds {
					c.round()
					id := pick(ids)
					t := c.holder(id)
					c.pause(anytime(c.ttl / 4))
					c.must(service.migrate(id))
					c.unharmed(t)
				}
			},
		},
		{
			Name: "cluster-killed", Fault: "Redis Cluster, 12 ids: kill −9 of a master, whose replica is promoted; Replicas = 1",
			Holds: "zero overlap; all ids have a holder ≤ 1 s (p99) after the shard is back", Service: startShards,
			TTL: 4 * ttl, Guarded: true, Rounds: 20, Long: 2,
			Measure: "shard back to a holder of each of its ids", P99: time.Second,
			Play: func(c *Cluster, rounds int) {
				service, ids := c.service.(*Shards), dozen()
				c.confirming(1, ids...)
				for range rounds {
					c.round()
					for _, id := range ids {
						c.holder(id)
					}
					c.pause(anytime(c.ttl / 2))
					old, _, err := service.master(pick(ids))
					c.must(err)
					var its []string
					for _, id := range ids {
						if m, _, err := service.master(id); err == nil && m.id == old.id {
							its = append(its, id)
						}
					}
					old.Redis.stop()
					c.wait(30*time.Second, "its replica is promoted", func() bool {
						m, _, err := service.master(its[0])
						return err == nil && m.id != old.id
					})
					c.pause(rand.N(time.Second))
					// Nothing is confirmed before the shard has a replica again.
					c.must(old.Redis.start())
					c.must(service.healthy())
					back := clock()
					for _, id := range its {
						c.measure(max(c.holder(id).Begin-back, 0))
					}
				}
			},
		},
	}
}
