package goredislock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goredislock"
	"github.com/redis/go-redis/v9"
)

const ttl = 6 * time.Second

// A tenure is a trusted window: from the handler's begin until its Exit closed, or
// should have.
type tenure struct {
	token      uint64
	begin, end time.Time
	over       bool
}

// A history is what the handlers of all nodes have seen, by id.
type history struct {
	mu sync.Mutex
	of map[string][]*tenure
}

func (h *history) handler(r *gone.GoneRunner) {
	t := &tenure{token: r.FencingToken(), begin: time.Now()}
	h.mu.Lock()
	h.of[r.ID()] = append(h.of[r.ID()], t)
	h.mu.Unlock()
	end := r.Deadline()
	for r.Context().Err() == nil {
		select {
		case <-time.After(ttl / 20):
			_ = r.Extend()
		case <-r.Exit:
		}
		if d := r.Deadline(); d.After(end) {
			end = d
		}
	}
	if now := time.Now(); now.Before(end) {
		end = now
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.end, t.over = end, true
}

// held reports whether every id has a holder.
func (h *history) held() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, of := range h.of {
		if of == nil || !slices.ContainsFunc(of, func(t *tenure) bool { return !t.over }) {
			return false
		}
	}
	return true
}

// tenures is how many there were.
func (h *history) tenures() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, of := range h.of {
		n += len(of)
	}
	return n
}

// check is called when all handlers have returned.
func (h *history) check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, of := range h.of {
		for i, one := range of[1:] {
			if before := of[i]; one.token <= before.token {
				t.Errorf("%s: token %d came after %d", id, one.token, before.token)
			} else if one.begin.Before(before.end) {
				t.Errorf("%s: two held for %v", id, before.end.Sub(one.begin))
			}
		}
	}
}

// compete starts nodes, each with a client of its own, that compete for ids, and
// returns when all are held.
func compete[C redis.UniversalClient](t *testing.T, ids int, client func(testing.TB) C) (*history, []*gone.Gone) {
	t.Helper()
	h := &history{of: map[string][]*tenure{}}
	for i := range ids {
		h.of[fmt.Sprint("id ", i)] = nil
	}
	var nodes []*gone.Gone
	for range 2 {
		g, err := gone.NewGone("tcp://127.0.0.1:0", goredislock.New(client(t), func(l *goredislock.Lock) { l.Expiry = ttl }),
			gone.WithLogger(slog.New(slog.DiscardHandler)))
		must(t, err)
		nodes = append(nodes, g)
		t.Cleanup(func() { _ = g.Close() })
		for i := range ids {
			_, err := g.RunOne(fmt.Sprint("id ", i), h.handler)
			must(t, err)
		}
	}
	eventually(t, 20*time.Second, "all ids are held", h.held)
	return h, nodes
}

// finish hands everything over once more, by wake-ups, and checks the history.
func finish(t *testing.T, h *history, nodes []*gone.Gone) {
	t.Helper()
	h.mu.Lock()
	ids := len(h.of)
	h.mu.Unlock()
	must(t, nodes[0].Close())
	eventually(t, 20*time.Second, "the other node holds all", func() bool { return nodes[1].Stats().Held == ids })
	must(t, nodes[1].Close())
	h.check(t)
}

// master is the server that Sentinel says is it.
func (w *watched) master(t testing.TB) *server {
	t.Helper()
	at := w.sentinels[0].do(t, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main").([]any)
	for _, s := range w.servers {
		if host, port := s.host(); host == at[0] && port == at[1] {
			return s
		}
	}
	t.Fatalf("Sentinel says that %v is the master", at)
	return nil
}

func TestAFailoverBySentinelForgetsNoHolder(t *testing.T) {
	t.Parallel()
	w := startWatched(t)
	// What no replica knows of would be forgotten.
	l := lock(t, goredislock.New(w.client(t), func(l *goredislock.Lock) { l.Expiry = time.Second }), "unconfirmed")
	for _, s := range w.servers[1:] {
		must(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	}
	err := l.Lock()
	for _, s := range w.servers[1:] {
		must(t, s.cmd.Process.Signal(syscall.SIGCONT))
	}
	if err == nil || errors.Is(err, gone.ErrLockHeld) {
		t.Errorf("a lock that no replica knows of: %v", err)
	}
	h, nodes := compete(t, 3, func(t testing.TB) *redis.Client { return w.client(t) })
	all := func(s *server) func() bool {
		return func() bool { return s.do(t, "EXISTS", "id 0", "id 1", "id 2") == int64(3) && h.held() }
	}

	old := w.master(t)
	// Not while another is under way, or no replica has answered of late.
	eventually(t, 30*time.Second, "Sentinel begins a failover", func() bool {
		return w.sentinels[0].Do(t.Context(), "SENTINEL", "FAILOVER", "main").Err() == nil
	})
	eventually(t, 30*time.Second, "Sentinel has another master", func() bool { return w.master(t) != old })
	began := time.Now()
	eventually(t, 30*time.Second, "all are held in the new master", all(w.master(t)))
	t.Logf("planned: %d tenures, all held %v after the new master was known", h.tenures(), time.Since(began))
	for _, s := range w.servers {
		if s != w.master(t) {
			s.shows(t, "master_link_status:up", "INFO", "replication")
		}
	}
	w.sentinels[0].shows(t, "slaves=2,sentinels=3", "INFO", "sentinel")

	old = w.master(t)
	old.kill()
	eventually(t, 30*time.Second, "Sentinel has another master", func() bool { return w.master(t) != old })
	began = time.Now()
	eventually(t, 30*time.Second, "all are held in the new master", all(w.master(t)))
	t.Logf("killed: %d tenures, all held %v after the new master was known", h.tenures(), time.Since(began))
	finish(t, h, nodes)
}

// slot is that of an id.
func (c *sharded) slot(t testing.TB, id string) int64 {
	t.Helper()
	return c.replicas[0].do(t, "CLUSTER", "KEYSLOT", id).(int64)
}

// migrate moves a slot between masters as redis-cli --cluster reshard does, which
// may take long.
func (c *sharded) migrate(t testing.TB, slot int64, from, to *server, long time.Duration) {
	t.Helper()
	to.do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.id(t))
	from.do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", to.id(t))
	host, port := to.host()
	for {
		keys := from.do(t, "CLUSTER", "GETKEYSINSLOT", slot, 100).([]any)
		if len(keys) == 0 {
			break
		}
		for _, key := range keys { // one by one, so that a lock's two are apart for a while
			from.do(t, "MIGRATE", host, port, key, 0, 5000)
			time.Sleep(10 * time.Millisecond)
		}
	}
	time.Sleep(long) // requests are passed on from one to the other
	to.do(t, "CLUSTER", "SETSLOT", slot, "NODE", to.id(t))
	from.do(t, "CLUSTER", "SETSLOT", slot, "NODE", to.id(t))
}

func TestAClusterThatChangesForgetsNoHolder(t *testing.T) {
	t.Parallel()
	const ids = 12
	c := startSharded(t)
	h, nodes := compete(t, ids, func(t testing.TB) *redis.ClusterClient { return c.client(t) })

	before := h.tenures()
	moved := 0
	for i := range ids {
		id := fmt.Sprint("id ", i)
		if c.masters[0].Exists(context.Background(), id).Val() == 1 && moved < 2 {
			c.migrate(t, c.slot(t, id), c.masters[0], c.masters[1], []time.Duration{ttl + ttl/2, 0}[moved])
			moved++
		}
	}
	time.Sleep(ttl) // a holder that can't extend ends
	if n := h.tenures() - before; n > 0 || moved == 0 {
		t.Errorf("%d slots moved, %d tenures ended", moved, n)
	}

	c.masters[1].kill()
	heirs := []*server{c.replicas[1], c.replicas[3]}
	master := func(s *server) bool {
		info, _ := s.Info(context.Background(), "replication").Result()
		return strings.Contains(info, "role:master")
	}
	eventually(t, 30*time.Second, "a replica takes its place", func() bool { return slices.ContainsFunc(heirs, master) })
	began := time.Now()
	now := append(slices.DeleteFunc(heirs, func(s *server) bool { return !master(s) }), c.masters[0], c.masters[2])
	eventually(t, 30*time.Second, "all are held", func() bool {
		n := int64(0)
		for _, s := range now {
			for i := range ids {
				n += s.Exists(context.Background(), fmt.Sprint("id ", i)).Val()
			}
		}
		return n == ids && h.held()
	})
	t.Logf("%d tenures, all held %v after the replica took over", h.tenures(), time.Since(began))
	finish(t, h, nodes)
}

func TestARequestIsBoundedWhateverTheClientRetries(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := redis.NewClient(&redis.Options{Addr: s.addr, ReadTimeout: 5 * time.Minute, MaxRetries: 10, MaxRetryBackoff: time.Minute})
	t.Cleanup(func() { _ = client.Close() })
	l := lock(t, goredislock.New(client, func(l *goredislock.Lock) { l.Expiry = 4 * time.Second }), "a")
	must(t, l.Lock())
	must(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	for name, f := range map[string]func() error{
		"Lock":     l.Lock,
		"Extend":   l.Extend,
		"GetValue": func() error { _, err := l.GetValue(); return err },
	} {
		began := time.Now()
		if f() == nil {
			t.Errorf("%s of a server that stands still is nil", name)
		}
		if d := time.Since(began); d > 30*time.Second { // a second; without a bound minutes
			t.Errorf("%s took %v", name, d)
		}
	}
	must(t, s.cmd.Process.Signal(syscall.SIGCONT))
	eventually(t, 20*time.Second, "it works again", func() bool { return l.Lock() == nil })
}
