package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// connectionAge is how long the library uses a connection to Redis at most.
const connectionAge = 10 * time.Second

// An Endpoint is an address that can come to lead to another server, as that of a
// Kubernetes Service or of a managed Redis does: new connections lead there, those
// that there are stay where they are.
type Endpoint struct {
	ln net.Listener

	mu       sync.Mutex
	upstream string
}

func newEndpoint(upstream string) (*Endpoint, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &Endpoint{ln: ln, upstream: upstream}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go e.serve(conn)
		}
	}()
	return e, nil
}

func (e *Endpoint) serve(client net.Conn) {
	defer client.Close()
	e.mu.Lock()
	upstream := e.upstream
	e.mu.Unlock()
	server, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
	_, _ = io.Copy(server, client)
}

func (e *Endpoint) leadTo(upstream string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.upstream = upstream
}

// A movingRedis is an endpoint that leads to one of two servers; the other
// replicates it.
type movingRedis struct {
	*Endpoint
	now, next *Redis
}

func startMoving(dir string) (Service, error) {
	m := &movingRedis{}
	quick := []string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--repl-timeout", "60"}
	var err error
	if m.now, err = startRedis(filepath.Join(dir, "one"), quick...); err == nil {
		m.next, err = startRedis(filepath.Join(dir, "two"), quick...)
	}
	if err == nil {
		m.Endpoint, err = newEndpoint(m.now.addr())
	}
	if err == nil {
		err = m.next.follow(m.now)
	}
	if err != nil {
		m.stop()
		return nil, err
	}
	return m, nil
}

func (m *movingRedis) place() (kind, addr string) { return "", m.ln.Addr().String() }

func (m *movingRedis) stop() {
	for _, r := range []*Redis{m.now, m.next} {
		if r != nil {
			r.stop()
		}
	}
	if m.Endpoint != nil {
		m.ln.Close()
	}
}

// quiesce has the second server know all that the first has granted, as whoever plans
// a failover does. The first grants nothing more for a while.
func (m *movingRedis) quiesce() error {
	if _, err := m.now.try("CLIENT", "PAUSE", 1000, "WRITE"); err != nil {
		return err
	}
	offset := func(r *Redis) string {
		info, _ := redis.String(r.try("INFO", "replication"))
		_, info, _ = strings.Cut(info, "master_repl_offset:")
		info, _, _ = strings.Cut(info, "\r")
		return info
	}
	return m.next.until("it knows all", func() bool { return offset(m.next) == offset(m.now) })
}

// move has the second server take over, and the endpoint lead to it.
func (m *movingRedis) move() error {
	if _, err := m.next.try("REPLICAOF", "NO", "ONE"); err != nil {
		return err
	}
	m.leadTo(m.next.addr())
	m.now, m.next = m.next, m.now
	return nil
}

// A move is what becomes of the old server when an endpoint moves.
type move struct {
	name, fault string
	before      func(old, young *Redis) error // the endpoint moves
	after       func(old *Redis) error        // the round is over
	forgets     bool                          // the new server may miss what the old one granted last
	grantsOn    bool                          // the old server does
}

func moves() []move {
	nothing := func(*Redis) error { return nil }
	demote := func(old *Redis, to string) error {
		host, port, _ := net.SplitHostPort(to)
		_, err := old.try("REPLICAOF", host, port)
		return err
	}
	stale := func(yes string) func(old, _ *Redis) error {
		return func(old, _ *Redis) error {
			if _, err := old.try("CONFIG", "SET", "replica-serve-stale-data", yes); err != nil {
				return err
			}
			return demote(old, "127.0.0.1:1")
		}
	}
	return []move{
		{name: "replicating", fault: "is demoted and replicates", after: nothing, before: func(old, young *Redis) error {
			return demote(old, young.addr())
		}},
		{name: "stale", fault: "is demoted and cut off, and serves stale data", before: stale("yes"), after: nothing},
		{name: "refusing", fault: "is demoted and cut off, and refuses to serve", before: stale("no"), after: nothing},
		{name: "hung", fault: "hangs", forgets: true, after: (*Redis).thaw, before: func(old, _ *Redis) error { return old.freeze() }},
		{name: "undemoted", fault: "is not demoted and goes on", grantsOn: true, after: nothing, before: func(_, _ *Redis) error { return nil }},
	}
}

// endpointScenarios are about a service behind one address.
func endpointScenarios() (all []Scenario) {
	for _, m := range moves() {
		all = append(all, endpoint(m))
	}
	return all
}

// endpoint moves it, round after round.
func endpoint(m move) Scenario {
	s := Scenario{
		Name: "endpoint-" + m.name, Fault: "the endpoint moves to the replica; the old server " + m.fault,
		Holds: "served by the new server ≤ 2 s (p99) after the move", Service: startMoving,
		TTL: 4 * ttl, Bound: 4*ttl + time.Second, Rounds: 30,
		Measure: "move to a message at the holder that the new server knows", P99: 2 * time.Second,
	}
	if m.grantsOn {
		s.Holds = "served by the new server ≤ TTL + 10 s + 2 s (p99); two holders for no longer than TTL + 10 s"
		s.Split, s.P99, s.Rounds, s.Long = true, s.TTL+connectionAge+2*time.Second, 10, 2
	}
	s.Play = func(c *Cluster, rounds int) {
		service := c.service.(*movingRedis)
		c.three()
		sender := c.start("s", c.config())
		c.tell(sender, "send 2 5ms 64 0 %s", the)
		for i := range rounds {
			c.round()
			t := c.holder(the)
			c.pause(anytime(c.ttl / 2))
			if i%2 == 1 { // the new server hears of a young tenure
				c.let(t, "return")
				c.successor(t, 5*time.Second)
				c.pause(anytime(100 * time.Millisecond))
			}
			old := service.now
			change := func() {
				c.must(m.before(old, service.next))
				c.must(service.move())
			}
			at := clock()
			switch {
			case m.forgets:
				c.forget(change)
			case m.grantsOn:
				c.note(Wiping, "")
				change()
				// A connection that was made just before is used once more at its greatest
				// age, for a request that may take long on a busy machine.
				c.take(Event{At: clock() + connectionAge + time.Second, Kind: Wiped})
				c.start("late", c.config(the)) // it meets the new server only
			default:
				c.must(service.quiesce())
				change()
			}
			c.measure(c.served(service.now, at) - at)
			c.must(m.after(old))
			c.must(service.next.follow(service.now))
			if late := c.nodes["late"]; late != nil {
				c.pause(at + connectionAge + time.Second - clock())
				c.term(late)
			}
		}
	}
	return s
}

// served waits until a message that was received after a time was so by the holder
// that a server knows, whose lock was granted or extended there since, and says when.
// Another server may know of another holder, whose tenure began later.
func (c *Cluster) served(r *Redis, since time.Duration) (at time.Duration) {
	c.wait(time.Minute, "service", func() bool {
		held, err := redis.String(r.try("GET", the))
		left, err2 := redis.Int64(r.try("PTTL", the))
		words := strings.Fields(held)
		if err != nil || err2 != nil || len(words) < 3 || clock()+time.Duration(left)*time.Millisecond-c.ttl < since {
			return false
		}
		for _, last := range c.last {
			if e := last[Received]; e.At > since && fmt.Sprint(e.Token) == words[len(words)-2] {
				at = e.At
				return true
			}
		}
		return false
	})
	return at
}

// follow makes a server a replica of another, and waits until it has its data.
func (r *Redis) follow(primary *Redis) error {
	if _, err := r.try("REPLICAOF", primary.host, primary.port); err != nil {
		return err
	}
	return r.until("it follows", func() bool {
		info, err := redis.String(r.try("INFO", "replication"))
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
}

// until waits for a condition of a server.
func (r *Redis) until(what string, ok func() bool) error {
	for end := clock() + 30*time.Second; clock() < end; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return nil
		}
	}
	return fmt.Errorf("redis-server at %s: not within 30 s: %s", r.addr(), what)
}
