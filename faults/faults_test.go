package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(nodeEnv); config != "" {
		nodeMain(config)
	}
	if config := os.Getenv(partEnv); config != "" {
		partMain(config)
	}
	// Limits in milliseconds are for the long version, on a machine that does
	// nothing else.
	leeway = 500 * time.Millisecond
	os.Exit(m.Run())
}

// TestFaults is the short version: every fault, a few rounds of it.
func TestFaults(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			if !s.Alone {
				t.Parallel()
			}
			row := play(s, max(3-s.Long, 1))
			t.Log(row.summary())
			for _, n := range row.Notes {
				t.Log(n)
			}
			for _, f := range row.Findings {
				t.Error(f.What)
			}
		})
	}
}

// TestFaultsWithKeys is a part of it between nodes with keys.
func TestFaultsWithKeys(t *testing.T) {
	var err error
	if pairs, err = newPairs(); err != nil {
		t.Fatal(err)
	}
	defer func() { pairs = nil }()
	t.Run("", func(t *testing.T) { // ends with its parallel parts
		for _, s := range scenarios() {
			if !strings.HasPrefix(s.Name, "messages-") {
				continue
			}
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				for _, f := range play(s, 1).Findings {
					t.Error(f.What)
				}
			})
		}
	})
}

// TestAttacks is the short version: a part of every attack.
func TestAttacks(t *testing.T) {
	for _, a := range attacks() {
		for _, curve := range []bool{false, true} {
			r, err := besieged(a, curve, hasty)
			if err != nil {
				t.Fatalf("%s: %v", a.Name, err)
			}
			t.Log(r.summary())
			if len(r.Findings) > 0 {
				t.Errorf("%s", r.summary())
			}
		}
	}
}
