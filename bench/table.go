package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// A table has the figure of each round by work and contender.
type table map[string]map[string][]float64

func (t table) add(work, who string, v float64) {
	if t[work] == nil {
		t[work] = map[string][]float64{}
	}
	t[work][who] = append(t[work][who], v)
}

// best is who has the lowest median.
func (t table) best(work string, who []string) string {
	return slices.MinFunc(who, func(a, b string) int {
		return cmp.Compare(median(t[work][a]), median(t[work][b]))
	})
}

// A goal is a row: what gone is compared with, and what is wanted of it.
type goal struct {
	work      string
	rival     string  // whom gone's figure is divided by, "" for none
	rivalWork string  // the rival's, where it is not the same
	ratio     float64 // the highest that is wanted, 0 for none
	most      float64 // likewise, of the figure itself
}

func (t table) write(w io.Writer, who []string, goals []goal) {
	fmt.Fprintf(w, "| | %s | gone ÷ best or bare | wanted |\n|---|%s---|---|\n", strings.Join(who, " | "), strings.Repeat("---|", len(who)))
	for _, g := range goals {
		fmt.Fprintf(w, "| %s |", g.work)
		for _, name := range who {
			fmt.Fprintf(w, " %s |", spread(t[g.work][name]))
		}
		ratios := t.ratios(g)
		if ratios == nil {
			fmt.Fprint(w, " – |")
		} else {
			fmt.Fprintf(w, " %s × %s |", spread(ratios), g.rival)
		}
		switch {
		case g.ratio > 0:
			fmt.Fprintf(w, " ≤ %v ×: %s |\n", g.ratio, verdict(median(ratios) <= g.ratio))
		case g.most > 0:
			fmt.Fprintf(w, " ≤ %v: %s |\n", g.most, verdict(median(t[g.work][nameGone]) <= g.most))
		default:
			fmt.Fprint(w, " – |\n")
		}
	}
}

// theirs is the work of others that gone's is compared with.
func (g goal) theirs() string { return cmp.Or(g.rivalWork, g.work) }

// ratios are gone's figures divided by the rival's of the same round.
func (t table) ratios(g goal) (r []float64) {
	if g.rival == "" {
		return nil
	}
	for i, v := range t[g.theirs()][g.rival] {
		r = append(r, t[g.work][nameGone][i]/v)
	}
	return r
}

// behind lists what others do better than gone.
func (t table) behind(w io.Writer, who []string, goals []goal) {
	lines := 0
	for _, g := range goals {
		ours := median(t[g.work][nameGone])
		for _, name := range who {
			if v := t[g.theirs()][name]; len(v) > 0 && median(v) < ours {
				fmt.Fprintf(w, "- %s: %s %s, gone %s\n", g.work, name, digits(median(v)), digits(ours))
				lines++
			}
		}
	}
	if lines == 0 {
		fmt.Fprintln(w, "- nowhere")
	}
}

func verdict(reached bool) string {
	if reached {
		return "reached"
	}
	return "**missed**"
}

// spread is "median (lowest–highest)".
func spread(v []float64) string {
	if len(v) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", digits(median(v)), digits(slices.Min(v)), digits(slices.Max(v)))
}

// digits writes three of them.
func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// quantile is in milliseconds.
func quantile(took []time.Duration, q float64) float64 {
	took = slices.Sorted(slices.Values(took))
	return took[min(int(q*float64(len(took))), len(took)-1)].Seconds() * 1e3
}

// otherModules are those that no contender names but that matter.
var otherModules = []string{
	clientModule, "github.com/pebbe/zmq4", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "google.golang.org/grpc",
}

// thisMachine is what the figures depend on, as a list.
func thisMachine(s *server) (string, error) {
	redis, err := s.version()
	if err != nil {
		return "", err
	}
	lines := []string{
		fmt.Sprintf("- %s, %d CPUs, %s", cpu(), runtime.NumCPU(), kernel()),
		fmt.Sprintf("- %s, redis-server %s", runtime.Version(), redis),
	}
	var peers []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.ContainsFunc(contenders, func(c contender) bool { return c.module == m.Path }) || slices.Contains(otherModules, m.Path) {
				peers = append(peers, strings.TrimPrefix(m.Path, "github.com/")+" "+m.Version)
			}
		}
	}
	major, minor, patch := zmq4.Version()
	lines = append(lines, "- "+strings.Join(peers, ", "), fmt.Sprintf("- libzmq %d.%d.%d", major, minor, patch))
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		lines = append(lines, "- load average at the start: "+strings.Fields(string(load))[0])
	}
	return strings.Join(lines, "\n") + "\n", nil
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	out, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		return runtime.GOOS
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "-") // what follows is its builder's
	return version
}
