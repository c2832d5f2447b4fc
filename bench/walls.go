package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	"gonum.org/v1/plot/plotter"

	gone "github.com/Diggs/go-one"
)

// lookEvery is how often a node reads the roster, on average: see cluster.go.
func lookEvery(nodes int) time.Duration {
	return 2400 * time.Millisecond * time.Duration(1+min(nodes/100, 4))
}

// costsOfRedis finds out what Redis has to do, and can.
func costsOfRedis(_ *report, s *server, z multitude, seen *costs) (err error) {
	if seen.extend, seen.extends, err = extendsOf(s, z.saturate); err != nil {
		return err
	}
	// As long as an entry with a digest.
	note := strings.Repeat("x", 460)
	var entered int
	for _, nodes := range z.rosters {
		var last *gone.RedisLock
		for ; entered < nodes; entered++ {
			l, err := factory(s.addr, longTTL)("roster", fmt.Sprintf("tcp://10.20.%d.%d:6381", entered/256, entered%256))
			if err != nil {
				return err
			}
			defer closeLock(l)
			last = l.(*gone.RedisLock)
			if err := last.Enter(note, time.Hour); err != nil {
				return err
			}
		}
		looks := max(20, 2000/nodes)
		took, err := s.used(func() error {
			for range looks {
				if _, err := last.Entered(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		seen.look = append(seen.look, took/time.Duration(looks))
	}
	return nil
}

func closeLock(l gone.GoneLock) { _ = l.(*gone.RedisLock).Close() }

// used is the CPU that Redis needs for what is done.
func (s *server) used(do func() error) (time.Duration, error) {
	before, err := s.cpu()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := s.cpu()
	return after - before, err
}

// extendsOf has 16 callers extend locks, each of which has two standbys that hear of it,
// for a time.
func extendsOf(s *server, d time.Duration) (each time.Duration, aSecond float64, err error) {
	const callers = 16
	ids := names("extended", callers)
	for range 2 {
		conn, err := redis.Dial("tcp", s.addr)
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
		ear := redis.PubSubConn{Conn: conn}
		for _, id := range ids {
			if err := ear.Subscribe("gone:" + id); err != nil {
				return 0, 0, err
			}
		}
		go func() {
			for {
				if _, failed := ear.Receive().(error); failed {
					return
				}
			}
		}()
	}
	counts, errs := make([]int, callers), make([]error, callers)
	began := time.Now()
	used, err := s.used(func() error {
		var all sync.WaitGroup
		for i, id := range ids {
			all.Go(func() {
				l, err := factory(s.addr, longTTL)(id, "nobody")
				if err == nil {
					defer closeLock(l)
					err = l.Lock()
				}
				for err == nil && time.Since(began) < d {
					counts[i]++
					err = l.Extend()
				}
				errs[i] = err
			})
		}
		all.Wait()
		return nil
	})
	n := 0
	for i := range counts {
		n += counts[i]
		if err == nil {
			err = errs[i]
		}
	}
	return used / time.Duration(max(n, 1)), float64(n) / time.Since(began).Seconds(), err
}

// walls is the chapter on what comes to an end first.
func walls(r *report, _ *server, z multitude, seen *costs) error {
	core := float64(time.Second / max(seen.extend, 1))
	extends := func(ids float64) float64 { return ids * 3 / longTTL.Seconds() }
	const million = 1e6
	r.printf("## Where the first wall stands\n\nAn Extend costs Redis %v of CPU, with its wake-ups for two standbys: a core is good for %.0f a second. Redis did\n%.0f on this machine, whose two cores it shared with the callers.\n\n",
		seen.extend.Round(100*time.Nanosecond), core, seen.extends)
	r.printf("| ids | Extends a second, TTL %v | share of one Redis | with a TTL of %v |\n|--:|--:|--:|--:|\n", longTTL, 10*longTTL)
	for _, ids := range []float64{1e4, 1e5, million} {
		r.printf("| %.0f | %.0f | %.1f %% | %.1f %% |\n", ids, extends(ids), 100*extends(ids)/core, 10*extends(ids)/core)
	}
	r.printf("\n| nodes | Redis's CPU for a look at the roster | looks a second | share of one Redis | traffic a second |\n|--:|--:|--:|--:|--:|\n")
	var looks, holding plotter.XYs
	for i, n := range z.rosters {
		aSecond := float64(n) / lookEvery(n).Seconds()
		share := 100 * aSecond * seen.look[i].Seconds()
		r.printf("| %d | %v | %.0f | %.2f %% | %.1f MB |\n", n, seen.look[i].Round(time.Microsecond), aSecond, share, aSecond*float64(n)*500/1e6)
		looks = append(looks, plotter.XY{X: float64(n), Y: max(share, 0.001)})
		holding = append(holding, plotter.XY{X: float64(n), Y: 100 * extends(float64(n*z.idsOf)) / core})
	}
	r.printf("\n")
	if err := r.picture("walls", "how much of one Redis a cluster needs, by its nodes", chart{
		title: "How much of one Redis a cluster needs", x: "nodes", y: "% of a core", logX: true, logY: true,
		lines: []curve{{name: fmt.Sprintf("Extends, %d ids a node", z.idsOf), points: holding, dots: true}, {name: "looks at the roster", points: looks, dots: true}},
	}); err != nil {
		return err
	}
	r.printf(wallNotes, core*longTTL.Seconds()/3, longTTL, (time.Duration(million) * seen.runOne).Round(time.Second), seen.runOne.Round(time.Microsecond), seen.parked*million/1e9)
	return nil
}

const wallNotes = `**The first wall is the Extends of one Redis**: some %.0f ids at a TTL of %v, fewer with a margin for takeovers. Nothing
else runs out before it. What moves it:

- *A longer TTL.* Extends become fewer, and a crash is noticed later.
- *A Redis Cluster.* Each id's keys are in one slot of their own, so Extends spread over the shards. Wake-ups do not: each
  shard passes every PUBLISH on to all. The roster is one key, and stays on one shard.
- *Several clusters.* Nodes with different ids can form clusters of their own, by name and on services of their own. They
  share nothing.

**The second is the roster.** Each node reads all of it, every 2.4 s on average, and every 12 s from 400 nodes on. So the work
grows with the square of the nodes. Some hundreds of nodes do not notice; thousands would need a roster that tells what has
changed.

**The third is RunOne.** A node calls it for each id that it might ever hold. For a million ids, a start takes %v of calls
(%v each, one after the other, on this machine), and %.1f GB for those that it neither holds nor waits for. Groups of nodes
with ids of their own need less of both. They may be in one cluster, as balance knows who runs what.

### One lease per node

With one lease for all that a node holds, a thousand nodes would make 100 Extends a second, however many ids there are. It
would change what is promised:

- Today the handler proves its health, id by id: one that hangs loses its lock. A node's lease says only that a process
  lives. That process, which is the one in trouble, would have to end the tenure of a handler that hangs.
- An id's lock and its holder's lease would be two keys. In one Redis a script can look at both. In a Cluster they are in
  different slots, and nobody can. etcd has such leases, Redis does not.
- All ids of a dead node would become free at one moment, not in the order of their Extends.

So gone does not offer it: the first wall is far enough away, and each promise is about one id.

`
