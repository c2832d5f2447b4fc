package main

import (
	"context"
	"errors"
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
