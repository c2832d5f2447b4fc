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
			const ttl = 2 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var locks [2]lock
			for i := range locks {
				node, err := c.open(&line{addr: s.addr}, ttl)
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
			if err := waiter.acquire(); err == nil {
				t.Fatal("two nodes hold one lock")
			}
			before, err := s.expiry(c.key("exclusive " + c.name))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond) // for the end of the TTL to differ
			if err := holder.extend(); err == nil {
				if after, err := s.expiry(c.key("exclusive " + c.name)); err != nil || !after.After(before) {
					t.Errorf("extend moved the end of the TTL from %v to %v (%v)", before, after, err)
				}
			} else if !errors.Is(err, errors.ErrUnsupported) {
				t.Error("extend:", err)
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
		})
	}
}

// All the work of the real run, but little of it.
func TestReportHasAFigureForAllWorkAndEveryContender(t *testing.T) {
	t.Parallel()
	report, err := speedOfTheLock(serverFor(t), plan{
		rounds: 1, steady: 2 * chunk, handovers: 4, pollers: 4, vigils: 2, ttl: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	figures := 0
	for line := range strings.Lines(report) {
		if cells := strings.Split(line, "|"); strings.Contains(line, "–") && len(cells) > len(contenders)+2 {
			for _, cell := range cells[2 : 2+len(contenders)] {
				if strings.Contains(cell, "(") {
					figures++
				}
			}
		}
	}
	// Ten rows; one library extends by itself, and two rows are of a Gone.
	if want := 10*len(contenders) - 1 - 2*(len(contenders)-1); figures != want {
		t.Errorf("%d figures, want %d, in\n%s", figures, want, report)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		childMain()
	}
	os.Exit(m.Run())
}

// The other chapters, likewise.
func TestEveryClaimIsMeasuredAndEveryPictureDrawn(t *testing.T) {
	t.Parallel()
	s := serverFor(t)
	r := &report{rounds: 1, dir: filepath.Join(t.TempDir(), "pictures")}
	little := size{
		speed: pace{each: 50 * time.Millisecond, sizes: []int{16, 128}, callers: []int{1, 4}, crowd: 8},
		many: crowd{
			ids: 50, idle: 200 * time.Millisecond, ttl: 2 * time.Second, each: 50 * time.Millisecond,
			grow: []int{1, 20}, peers: []int{1, 3},
		},
	}
	if err := little.write(r, s, regexp.MustCompile("messages|rivals|ids|takeover|growth")); err != nil {
		t.Fatal(err)
	}
	const claims = 8 + 2*4 + 7 + 1 + 4
	if len(r.claims) != claims {
		t.Errorf("%d claims, want %d", len(r.claims), claims)
	}
	for _, c := range r.claims {
		if len(c.got) != 1 || math.IsNaN(c.got[0]) || math.IsInf(c.got[0], 0) {
			t.Errorf("%s: %v", c.work, c.got)
		}
	}
	pictures := regexp.MustCompile(`\]\(pictures/(\w+)\.svg\)`).FindAllStringSubmatch(r.body.String(), -1)
	if len(pictures) != 5 {
		t.Errorf("%d pictures in\n%s", len(pictures), r.body.String())
	}
	for _, p := range pictures {
		if svg, err := os.ReadFile(filepath.Join(r.dir, p[1]+".svg")); err != nil || !strings.Contains(string(svg), "</svg>") {
			t.Errorf("%s: %v", p[1], err)
		}
	}
}
