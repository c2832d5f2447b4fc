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
	// Limits on times are for the long version, on a machine that does nothing else.
	leeway = 5 * time.Second
	pace = 5 * time.Millisecond
	os.Exit(m.Run())
}

// TestFaults and TestLongFaults are the short version: every fault, a few rounds
// of it. `make test-long` runs what is called long.
func TestFaults(t *testing.T) {
	playSome(t, func(s Scenario) bool { return s.Long == 0 })
}

func TestLongFaults(t *testing.T) {
	playSome(t, func(s Scenario) bool { return s.Long > 0 && s.Name != "thousand" && !ofMany(s) })
}

// A thousand leases of a node are all lost where others keep it from its turn.
func TestLongFaultsOfAThousandIDs(t *testing.T) {
	playSome(t, func(s Scenario) bool { return s.Name == "thousand" })
}

func TestLongFaultsOfManyIDs(t *testing.T) { playSome(t, ofMany) }

func ofMany(s Scenario) bool { return strings.HasPrefix(s.Name, "many-") }

// TestFaultsWithKeys and its long half are a part of it between nodes with keys.
func TestFaultsWithKeys(t *testing.T) {
	withKeys(t)
	playSome(t, func(s Scenario) bool { return s.Name == "messages-handover" })
}

func TestLongFaultsWithKeys(t *testing.T) {
	withKeys(t)
	playSome(t, func(s Scenario) bool { return strings.HasPrefix(s.Name, "messages-") && s.Name != "messages-handover" })
}

func playSome(t *testing.T, wanted func(Scenario) bool) {
	for _, s := range scenarios() {
		if !wanted(s) {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			if !s.Alone || s.P50+s.P99 == 0 { // only limits need a machine to themselves
				t.Parallel()
			}
			rounds := max(3-s.Long, 1)
			if s.Service != nil { // which takes long to start
				rounds = 1
			}
			row := play(s, rounds)
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

// withKeys gives key pairs to the nodes of a test's clusters.
func withKeys(t *testing.T) {
	var err error
	if pairs, err = newPairs(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pairs = nil })
}

// TestAttacks and TestLongAttacks are the short version: a part of every attack.
func TestAttacks(t *testing.T) { besiegeSome(t, false) }

func TestLongAttacks(t *testing.T) { besiegeSome(t, true) }

func besiegeSome(t *testing.T, curve bool) {
	for _, a := range attacks() {
		t.Run(a.Name, func(t *testing.T) {
			r, err := besieged(a, curve, hasty)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r.summary())
			for _, f := range r.Findings {
				t.Error(f)
			}
		})
	}
}
