// Bench measures gone against what a user would pick instead, in one run on one
// redis-server that it starts itself (7.0.5 or later). What crosses processes in
// use crosses them here: the other side is this binary again (process.go).
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

const help = `Measures gone against what a user would pick instead.

  make bench                                        the whole, into docs/benchmarks.md; ten minutes
  make bench ARGS='-only messages -rounds 1'        a first look at a chapter, to the terminal alone
  make bench ARGS='-only batches -rounds 3'         at a trial
  make scale                                        clusters with many ids, into docs/scale.md; three minutes
  make scale ARGS=-small                            a tenth of that

`

func main() {
	if os.Getenv(roleEnv) != "" {
		childMain()
	}
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	rounds := flags.Int("rounds", 5, "in each round all contenders do all the work")
	each := flags.Duration("each", time.Second, "what a contender has for a trial of a round")
	only := flags.String("only", "", "measure only what matches this regular expression, explain nothing and write no file;\nwhat there is:"+listed())
	scaled := flags.Bool("scale", false, "measure and simulate clusters with many ids instead")
	small := flags.Bool("small", false, "a tenth of that")
	out := flags.String("out", "", "write the report of a whole run there, and pictures beside it")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), help)
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:])
	match, err := regexp.Compile(*only)
	r := &report{rounds: *rounds, brief: *only != ""}
	if r.brief {
		*out = ""
	}
	switch {
	case err != nil:
	case *scaled:
		err = scale(r, many(*small), *out)
	default:
		err = bench(r, full(*each), match, *out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A size is how much of everything there is.
type size struct {
	lock      plan
	services  plan
	each      time.Duration // of what a courier does in a trial
	receivers int
	many      crowd
}

func full(each time.Duration) size {
	return size{
		lock:      plan{steady: 1500, handovers: 200, pollers: 20, vigils: 20, ttl: time.Second},
		services:  plan{steady: 300, handovers: 40, vigils: 20},
		each:      each,
		receivers: 30,
		many:      crowd{ids: 10_000, idle: 2 * longTTL / 3, ttl: 10 * time.Second},
	}
}

// A chapter is what is written about a contest, or about what it measures by
// itself.
type chapter struct {
	name    string
	contest contest
	write   func(*report, *server, results) error
}

func (z size) chapters() []chapter {
	return []chapter{
		{"messages", messages(z.each), speedOfMessages},
		{"requests", requests(z.each), speedOfRequests},
		{"receivers", receivers(z.receivers, z.each), speedOverReceivers},
		{"ids", manyIDs(z.many.ids, z.each), speedToManyIDs},
		{"lock", contest{}, func(r *report, s *server, _ results) error { return speedOfTheLock(r, s, z.lock) }},
		{"services", contest{}, func(r *report, _ *server, _ results) error { return speedOnServices(r, z.services) }},
		{"idle", contest{}, func(r *report, s *server, _ results) error { return idleIDs(r, s, z.many) }},
		{"takeover", contest{}, func(r *report, s *server, _ results) error { return massTakeover(r, s, z.many) }},
	}
}

// listed are the names that can be chosen.
func listed() (list string) {
	for _, c := range full(0).chapters() {
		list += "\n  " + c.name
		for _, t := range c.contest.trials {
			list += "\n  " + c.name + "/" + t.name
		}
	}
	return list
}

// matching is the chapter with those trials alone that match, and whether it
// is to be written.
func (c chapter) matching(only *regexp.Regexp) (chapter, bool) {
	if len(c.contest.trials) == 0 {
		return c, only.MatchString(c.name)
	}
	var some []trial
	for _, t := range c.contest.trials {
		if only.MatchString(c.name + "/" + t.name) {
			some = append(some, t)
		}
	}
	c.contest.trials = some
	return c, len(some) > 0
}

// write plays the chapters that match.
func (z size) write(r *report, s *server, only *regexp.Regexp) error {
	for _, c := range z.chapters() {
		c, ok := c.matching(only)
		if !ok {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring: "+c.name)
		got, err := c.contest.run(s, r.rounds)
		if err == nil {
			err = c.write(r, s, got)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if _, err := s.conn.Do("FLUSHALL"); err != nil {
			return err
		}
	}
	return nil
}

// page has a report written beside a Redis, with its pictures in a directory of that name,
// and publishes it below the head that write returns.
func (r *report) page(pictures, out string, write func(s *server, machine string) (head string, err error)) error {
	s, err := startServer()
	if err != nil {
		return err
	}
	defer s.stop()
	m, err := thisMachine(s)
	if err != nil {
		return err
	}
	if out != "" {
		r.dir = filepath.Join(filepath.Dir(out), pictures)
	}
	head, err := write(s, m)
	if err != nil {
		return err
	}
	return r.publish(head, out)
}

func bench(r *report, z size, only *regexp.Regexp, out string) error {
	return r.page("bench", out, func(s *server, machine string) (head string, err error) {
		began := time.Now()
		if err := z.write(r, s, only); err != nil {
			return "", err
		}
		r.whereBehind()
		head = "# Benchmarks\n\nWritten by `make bench`. Compare ratios within one run. Figures of different runs or machines can't be compared.\n\n" + machine
		return head + fmt.Sprintf("- %d rounds in %v\n\n%s", r.rounds, time.Since(began).Round(time.Second), r.summary()), nil
	})
}
