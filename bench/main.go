// Bench measures gone against what a user would pick instead, in one run on one
// redis-server that it starts itself (7.0.5 or later):
//
//	go run . -out ../docs/benchmarks.md    as make bench does
//	go run . -rounds 1                     a first look
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "rounds, in each of which all contenders do all the work")
	out := flag.String("out", "", "write the report there")
	flag.Parse()
	if err := bench(*rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func bench(rounds int, out string) error {
	s, err := startServer()
	if err != nil {
		return err
	}
	defer s.stop()
	m, err := thisMachine(s)
	if err != nil {
		return err
	}
	began := time.Now()
	locks, err := speedOfTheLock(s, plan{rounds: rounds, steady: 1500, handovers: 200, pollers: 20, vigils: 20, ttl: time.Second})
	if err != nil {
		return err
	}
	var report bytes.Buffer
	fmt.Fprintf(&report, "# Benchmarks\n\nWritten by `make bench`. Figures of different runs or machines can't be compared, ratios within one can.\n\n%s", m)
	fmt.Fprintf(&report, "- %d rounds in %v\n\n%s", rounds, time.Since(began).Round(time.Second), locks)
	if _, err := os.Stdout.Write(report.Bytes()); err != nil || out == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, report.Bytes(), 0o644)
}
