package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"time"
)

// A venue is a service other than Redis, with who locks in it.
type venue struct {
	name    string
	program string // tells its version
	start   func() (addr string, stop func(), err error)
	who     []contender
	ttl     time.Duration // of what a dead holder leaves
}

// Etcd grants no shorter TTL than 2 s. In PostgreSQL a request has a quarter of it, which
// a busy machine needs.
var venues = []venue{
	{"etcd", "etcd", startEtcd, etcdContenders, 2 * time.Second},
	{"PostgreSQL", postgresProgram("postgres"), startPostgres, postgresContenders, 2 * time.Second},
}

// numbers are what a program says of its version.
var numbers = regexp.MustCompile(`\d[.\d]*`)

// serviceRounds are the most: waits for watches and for the ends of TTLs take long.
const serviceRounds = 3

// Work on services that is looked at from the waiter's side.
var (
	workIdleSent  = work{"idle waiting", "packets per TTL and id"}
	workIdleConns = work{"idle waiting", "connections of the node"}
	workDeath     = work{"crash takeover", "p50, ms"}
	workDeathLast = work{"crash takeover", "worst, ms"}
)

// speedOnServices is the chapter on the locks of other services.
func speedOnServices(r *report, p plan) error {
	r.printf("## Speed of the lock on other services\n\n")
	for _, v := range venues {
		if err := v.compare(r, p); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	r.explain(servicesNotes, p.steady, p.handovers, etcdSettle, p.vigils, venues[0].ttl)
	return nil
}

func (v venue) compare(r *report, p plan) error {
	addr, stop, err := v.start()
	if err != nil {
		return err
	}
	defer stop()
	t := table{}
	for round := range min(r.rounds, serviceRounds) {
		who := rotate(v.who, round)
		if err := t.uncontended(addr, v.name, who, p.steady); err != nil {
			return err
		}
		for _, c := range who {
			took, err := handover(addr, c, p.handovers, p.pollers)
			if err != nil {
				return fmt.Errorf("%s, hand-over: %w", c.name, err)
			}
			t.add(workPass.on(v.name), c.name, quantile(took, .5))
			t.add(workPassWorst.on(v.name), c.name, quantile(took, .99))
		}
	}
	for _, c := range v.who {
		if err := t.death(addr, v, c, p.vigils); err != nil {
			return fmt.Errorf("%s, idle waiting and crash: %w", c.name, err)
		}
	}
	version, _ := exec.Command(v.program, "--version").Output()
	r.printf("On %s %s:\n\n", v.name, numbers.Find(version))
	var names []string
	for _, c := range v.who {
		names = append(names, c.name)
	}
	var works []work
	for _, w := range []work{workTake, workExtend, workPass, workPassWorst, workDeath, workDeathLast, workIdleSent, workIdleConns} {
		works = append(works, w.on(v.name))
	}
	r.figures(t, names, works...)
	return nil
}

// death has a node wait for locks, counts what that costs, and has their holder die.
func (t table) death(addr string, v venue, c contender, ids int) error {
	look := func(h *holder, waiter *line) error {
		before := waiter.sent.Load()
		err := h.live(extends)
		t.add(workIdleSent.on(v.name), c.name, float64(waiter.sent.Load()-before)/float64(ids))
		t.add(workIdleConns.on(v.name), c.name, float64(waiter.dialed()))
		return err
	}
	late, err := vigil(addr, c, ids, v.ttl, look, func(_ string, died time.Time) (time.Time, error) { return died, nil })
	if err != nil {
		return err
	}
	t.add(workDeath.on(v.name), c.name, quantile(late, .5))
	t.add(workDeathLast.on(v.name), c.name, quantile(late, 1))
	return nil
}

const servicesNotes = `One server of each. Its data is in memory where the machine has a place for that; otherwise it keeps its own settings. All
is as for Redis, except:

- Acquire + release, and extend: the median of %d.
- Clean hand-over: %d of them. In etcd the waiter has waited for at least %v, as a watch of package concurrency hears of
  nothing sooner.
- Idle waiting and crash takeover: once, with a node that waits for %d locks and a TTL of %v. What it sends is counted
  as packets, each a request or a part of one.
- Crash takeover: from the moment at which the holder's connections are cut, a sixth of a TTL after an extension, until
  the waiter has each lock.

Ways of use: gone is etcdlock or pglock, waiting by WaitFree. Mutex and Election are those of etcd's package concurrency,
with a session per node, which extends by itself, so that can't be timed. The advisory lock is pg_advisory_lock, with a
session per lock. It has no TTL and no extension: a holder whose machine vanishes keeps it until the server's TCP gives
up, which is not measured here. The leader row is the pattern that River documents: a row with an end. It is taken once
that has passed. Nodes try every third of the TTL, and when a leader that resigns notifies them (LISTEN, NOTIFY).
`
