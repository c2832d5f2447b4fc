package main

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func serverFor(t *testing.T) *server {
	t.Helper()
	s, err := startServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// What is measured must be a lock in the first place.
func TestEveryContenderExcludesExtendsAndHandsOver(t *testing.T) {
	t.Parallel()
	s := serverFor(t)
	for _, c := range contenders {
		t.Run(c.name, func(t *testing.T) {
			excludes(t, c, s.addr, func(extend func()) {
				key := c.key("exclusive " + c.name)
				before, err := s.expiry(key)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond) // for the end of the TTL to differ
				extend()
				if after, err := s.expiry(key); err != nil || !after.After(before) {
					t.Errorf("extend moved the end of the TTL from %v to %v (%v)", before, after, err)
				}
			})
		})
	}
}

func TestEveryContenderOnAnotherServiceExcludesExtendsAndHandsOver(t *testing.T) {
	t.Parallel()
	for _, v := range venues {
		t.Run(v.name, func(t *testing.T) {
			addr, stop, err := v.start()
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			for _, c := range v.who {
				t.Run(c.name, func(t *testing.T) { excludes(t, c, addr, func(extend func()) { extend() }) })
			}
		})
	}
}

// excludes checks a contender. Watch is called where it extends when told to.
func excludes(t *testing.T, c contender, addr string, watch func(extend func())) {
	const ttl = 2 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var locks [2]lock
	for i := range locks {
		node, err := c.open(&line{addr: addr}, ttl)
		if err != nil {
			t.Fatal(err)
		}
		defer node.close()
		locks[i] = node.lock("exclusive " + c.name)
	}
	holder, waiter := locks[0], locks[1]
	if err := holder.acquire(); err != nil {
		t.Fatal("a free lock:", err)
	}
	if err := holder.extend(); err == nil {
		watch(func() {
			if err := holder.extend(); err != nil {
				t.Error("extend:", err)
			}
		})
	} else if !errors.Is(err, errors.ErrUnsupported) {
		t.Error("extend:", err)
	}
	if err := waiter.acquire(); err == nil {
		t.Fatal("two nodes hold one lock")
	}
	got := make(chan error, 1)
	go func() { got <- waiter.wait(ctx) }()
	select {
	case err := <-got:
		t.Fatalf("a waiter got a lock that is held (%v)", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := holder.release(); err != nil {
		t.Error("release:", err)
	}
	if err := <-got; err != nil {
		t.Fatal("wait:", err)
	}
	if err := waiter.release(); err != nil {
		t.Error("release:", err)
	}
	if err := holder.acquire(); err != nil {
		t.Error("a lock that was released:", err)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		childMain()
	}
	os.Exit(m.Run())
}

// All the work of the real run, but little of it.
var little = size{
	lock:      plan{steady: 2 * chunk, handovers: 4, pollers: 4, vigils: 2, ttl: 2 * time.Second},
	services:  plan{steady: chunk, handovers: 4, vigils: 2},
	each:      50 * time.Millisecond,
	receivers: 2,
	many:      crowd{ids: 200, idle: 1200 * time.Millisecond, ttl: 6 * time.Second},
}

func TestLongReportHasAFigureForAllWorkAndEveryContender(t *testing.T) {
	r := &report{rounds: 1, dir: filepath.Join(t.TempDir(), "pictures")}
	if err := little.write(r, serverFor(t), regexp.MustCompile("")); err != nil {
		t.Fatal(err)
	}
	r.whereBehind()
	const claims = 9 + 9 + 9 + 4 + 6 + 1 + 6 + 7 + 1
	if len(r.claims) != claims {
		t.Errorf("%d claims, want %d", len(r.claims), claims)
	}
	for _, c := range r.claims {
		if len(c.got) != 1 || math.IsNaN(c.got[0]) || math.IsInf(c.got[0], 0) {
			t.Errorf("%s: %v", c.work, c.got)
		}
	}
	text := r.body.String()
	for _, v := range venues {
		for _, w := range []work{workTake, workExtend, workPass, workDeath, workIdleSent} {
			if w = w.on(v.name); strings.Contains(text, "- **"+w.what+"**") && limits[w.what] == "" {
				t.Errorf("%s is behind, and nothing says why", w.what)
			}
		}
	}
	// By chapter: one library extends by itself, and two rows are of a Gone.
	want := 10*len(contenders) - 1 - 2*(len(contenders)-1)
	// Who carries one, 16 and 256 callers and batches; two rows of times for
	// the callers, of allocations for the last; sizes.
	one, some, many, batches := 7, 6, 7, 6
	want += one + some + many + batches + 2*(one+some) + 2*(many-1) + 2*many + 2*3
	want += 3*5 + 2*3*5 + 2*5 // requests
	want += 2 * 3 * 4         // receivers
	want += 3 * 3             // ids
	want += 8*3 - 2 + 8*3 - 1 // other services: three locks have no extension
	if got := strings.Count(text, ") |"); got != want {
		t.Errorf("%d figures, want %d, in\n%s", got, want, text)
	}
	pictures := regexp.MustCompile(`\]\(pictures/(\w+)\.svg\)`).FindAllStringSubmatch(text, -1)
	if len(pictures) != 3 {
		t.Errorf("%d pictures in\n%s", len(pictures), text)
	}
	for _, p := range pictures {
		if svg, err := os.ReadFile(filepath.Join(r.dir, p[1]+".svg")); err != nil || !strings.Contains(string(svg), "</svg>") {
			t.Errorf("%s: %v", p[1], err)
		}
	}
}

func TestLongTheReportOnManyIDsHasAllChapters(t *testing.T) {
	dir := t.TempDir()
	tiny := multitude{
		ids: 100, members: 3, idle: time.Second, nodes: 40, idsOf: 50, saturate: 100 * time.Millisecond,
		rosters: []int{3, 5}, grow: []int{3, 5},
	}
	if err := scale(&report{}, tiny, filepath.Join(dir, "scale.md")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "scale.md"))
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"\n## ": 4, "](scale/": 4, "NaN": 0, "Inf": 0, "%!": 0} {
		if got := strings.Count(string(text), what); got != want {
			t.Errorf("%d times %q, want %d", got, what, want)
		}
	}
	if pictures, _ := filepath.Glob(filepath.Join(dir, "scale", "*.svg")); len(pictures) != 4 {
		t.Error(pictures)
	}
}

func TestAChoiceOfTrialsMeasuresThoseAlone(t *testing.T) {
	t.Parallel()
	r := &report{rounds: 1, brief: true}
	if err := little.write(r, serverFor(t), regexp.MustCompile("messages/batches|receivers/.*10")); err != nil {
		t.Fatal(err)
	}
	r.whereBehind()
	for _, c := range r.claims {
		if !strings.HasPrefix(c.work, "SendBatch") && !strings.HasPrefix(c.work, loadOver10.name) {
			t.Errorf("%s is claimed", c.work)
		}
	}
	if got := strings.Count(r.body.String(), "\n| "+loadBatches.name); got != 1 {
		t.Errorf("%d rows of batches in\n%s", got, r.body.String())
	}
}
