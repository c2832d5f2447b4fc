// Bench measures gone against what a user would pick instead, in one run on one
// redis-server that it starts itself (7.0.5 or later). What crosses processes in
// use crosses them here: the other side is this binary again (process.go).
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

func main() {
	if os.Getenv(roleEnv) != "" {
		childMain()
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError) // glog has put its own into flag's
	rounds := flags.Int("rounds", 5, "rounds, in each of which all contenders do all the work")
	only := flags.String("only", "", "measure only chapters whose name matches this regular expression, and write no file:\nlock, messages, rivals, ids, takeover, growth")
	out := flags.String("out", "", "write the report of a whole run there, and pictures beside it")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usageText)
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:])
	chapters, err := regexp.Compile(*only)
	if *only != "" {
		*out = ""
	}
	if err == nil {
		err = bench(*rounds, chapters, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const usageText = `Measures gone against what a user would pick instead.

  make bench                                        the whole, into docs/benchmarks.md; ten minutes
  make bench ARGS='-only messages -rounds 1'        a first look at one chapter, to the terminal alone

`

// A size is how much of everything there is.
type size struct {
	lock   plan
	speed  pace
	many   crowd
	rounds int
}

func full(rounds int) size {
	return size{
		lock:  plan{rounds: rounds, steady: 1500, handovers: 200, pollers: 20, vigils: 20, ttl: time.Second},
		speed: pace{each: time.Second, sizes: []int{16, 128, 1 << 10, 64 << 10}, callers: []int{1, 16, 256}, crowd: 256},
		many: crowd{
			ids: 10_000, idle: 20 * time.Second, ttl: 10 * time.Second, each: time.Second,
			grow: []int{1, 10, 100, 1000, 10_000}, peers: []int{1, 3, 10, 30, 100},
		},
		rounds: rounds,
	}
}

// write plays the chapters whose name matches.
func (z size) write(r *report, s *server, only *regexp.Regexp) error {
	for _, chapter := range []struct {
		name  string
		write func() error
	}{
		{"lock", func() error {
			text, err := speedOfTheLock(s, z.lock)
			r.printf("%s\n", text)
			return err
		}},
		{"messages", func() error { return speedOfMessages(r, s, z.speed) }},
		{"rivals", func() error { return againstRivals(r, s, z.speed) }},
		{"ids", func() error { return manyIDs(r, s, z.many) }},
		{"takeover", func() error { return massTakeover(r, s, z.many) }},
		{"growth", func() error { return growth(r, s, z.many, z.speed.crowd) }},
	} {
		if !only.MatchString(chapter.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring: "+chapter.name)
		if err := chapter.write(); err != nil {
			return fmt.Errorf("%s: %w", chapter.name, err)
		}
		if _, err := s.conn.Do("FLUSHALL"); err != nil {
			return err
		}
	}
	return nil
}

func bench(rounds int, only *regexp.Regexp, out string) error {
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
	r := &report{rounds: rounds}
	if out != "" {
		r.dir = filepath.Join(filepath.Dir(out), "bench")
	}
	if err := full(rounds).write(r, s, only); err != nil {
		return err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Benchmarks\n\nWritten by `make bench`. Figures of different runs or machines can't be compared, ratios within one can.\n\n%s", m)
	fmt.Fprintf(&text, "- %d rounds in %v\n\n%s%s", rounds, time.Since(began).Round(time.Second), r.summary(), r.body.String())
	text.Truncate(len(bytes.TrimRight(text.Bytes(), "\n")))
	text.WriteByte('\n')
	if _, err := os.Stdout.Write(text.Bytes()); err != nil || out == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(out, text.Bytes(), 0o644)
}
