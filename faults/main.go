// Faults is gone's fault suite: real node processes, a real redis-server, faults
// from outside the processes, and a checker of what all of them logged.
//
//	go test ./...                                  a few rounds of every fault
//	go run . -rounds 100 -out ../docs/faults.md    the long version, as make faults does
//	go run . -curve -rounds 10                     the same between nodes with keys
//	go run . -attacks -out ../docs/security.md     attacks from outside, as make attacks does
//	go run . -run kill -rounds 20 -dump /tmp       some of them; their histories are kept
//
// A scenario ([Scenario]; ends.go, outages.go, messages.go, many.go …) starts a [Cluster] of its
// own and does something to it, round after round. Its lock service is one redis-server,
// or another [Service]: how that is started and what can be done to it is in a file of
// its own with its scenarios (endpoint.go, sentinel.go, shards.go, etcd.go, postgres.go;
// services.go has what the last two share), and how nodes open their locks there in
// locks.go. Its nodes (node.go, handler.go, senders.go) are this
// binary again, here or on [Hosts] of their own: a Gone, handlers and senders that obey
// lines on stdin and append every [Event] to a log. Afterwards all logs make one
// [History], and the checkers look at nothing else (history.go for tenures, ledger.go
// for messages, lockmodel.go for locks). What holds for every history is in [Row.judge];
// a scenario adds what only it can know.
//
// An [Attack] (attacks.go) comes from a stranger: this process plays one, against
// parts (part.go) that count; security.go starts them, judges and reports.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	if config := os.Getenv(nodeEnv); config != "" {
		nodeMain(config)
	}
	if config := os.Getenv(partEnv); config != "" {
		partMain(config)
	}
	flags := flag.NewFlagSet("faults", flag.ExitOnError)
	rounds := flags.Int("rounds", 100, "rounds of each fault")
	out := flags.String("out", "", "write the report there")
	run := flags.String("run", "", "only scenarios whose name matches")
	parallel := flags.Int("parallel", max(1, runtime.NumCPU()), "scenarios at a time, of those that do not measure milliseconds")
	verbose := flags.Bool("all", false, "print every finding")
	flags.StringVar(&dump, "dump", "", "write the histories into that directory")
	encrypt := flags.Bool("curve", false, "encrypt what goes from node to node, with a key pair for each")
	attack := flags.Bool("attacks", false, "play attacks instead of faults")
	list := flags.Bool("list", false, "list the scenarios and stop")
	_ = flags.Parse(os.Args[1:])
	only, err := regexp.Compile(*run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if *attack {
		if bad, err := attackMain(only, *out); err != nil || bad > 0 {
			fail(err)
		}
		return
	}
	var chosen []Scenario
	for _, s := range scenarios() {
		if only.MatchString(s.Name) {
			chosen = append(chosen, s)
		}
	}
	if *list {
		for _, s := range chosen {
			fmt.Printf("%-40s %s\n", s.Name, s.Fault)
		}
		return
	}
	if *encrypt {
		if pairs, err = newPairs(); err != nil {
			fail(err)
		}
	}
	endWith(os.Interrupt, syscall.SIGTERM)
	began := time.Now()
	rows := playAll(chosen, *rounds, *parallel, func(r *Row, played []*Row) {
		r.print(*verbose)
		if *out != "" { // what was played stands also if the rest is not
			_ = os.MkdirAll(filepath.Dir(*out), 0o755)
			if err := os.WriteFile(*out, []byte(report(played, *rounds, time.Since(began))), 0o644); err != nil {
				fail(err)
			}
		}
	})
	if failed := broken(rows); len(failed) > 0 {
		fail(errors.New("did not hold: " + strings.Join(failed, ", ")))
	}
}

// broken names the rows that did not hold.
func broken(rows []*Row) (names []string) {
	for _, r := range rows {
		if len(r.Findings) > 0 {
			names = append(names, r.Name)
		}
	}
	return names
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}

// endWith has all that runs end with a signal.
func endWith(signals ...os.Signal) {
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, signals...)
	go func() {
		<-interrupt
		clusters.Range(func(c, _ any) bool { c.(*Cluster).close(); return true })
		os.Exit(1)
	}()
}

// print shows what a row has found, all of it or the first.
func (r *Row) print(all bool) {
	fmt.Println(r.summary())
	for i, f := range r.Findings {
		if i == 5 && !all {
			fmt.Printf("    … and %d more\n", len(r.Findings)-i)
			break
		}
		fmt.Println("    " + f.What)
	}
	for _, n := range r.Notes {
		fmt.Println("    note: " + n)
	}
}
