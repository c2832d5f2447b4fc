package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A work is a row of figures, one for each contender.
type work struct{ what, unit string }

// thousands is the one unit of which more is better.
const thousands = "thousand a second"

func (w work) moreIsBetter() bool { return w.unit == thousands }

// on is the same work on another service than Redis.
func (w work) on(service string) work {
	if service != "" {
		w.what += " on " + service
	}
	return w
}

func (w work) String() string { return w.what + ", " + w.unit }

// A table has the figure of each round by work and contender.
type table map[work]map[string][]float64

func (t table) add(w work, who string, v float64) {
	if t[w] == nil {
		t[w] = map[string][]float64{}
	}
	t[w][who] = append(t[w][who], v)
}

// ratios are the figures of one contender divided by another's of the same
// round.
func (t table) ratios(ours work, who string, theirs work, rival string) (r []float64) {
	for i, v := range t[ours][who] {
		if i < len(t[theirs][rival]) {
			r = append(r, v/t[theirs][rival][i])
		}
	}
	return r
}

// ahead is who does better than gone. Nobody is behind a yardstick, which does
// less than is asked of the others.
func (t table) ahead(w work, who []string) (list []string) {
	ours := t[w][nameGone]
	for _, name := range who {
		theirs := t[w][name]
		if len(ours) == 0 || len(theirs) == 0 || slices.Contains(yardsticks, name) || strings.HasPrefix(name, nameGone) {
			continue
		}
		if a, b := median(ours), median(theirs); w.moreIsBetter() && a < b || !w.moreIsBetter() && a > b {
			list = append(list, t.show(w, name))
		}
	}
	return list
}

func (t table) show(w work, name string) string { return name + " " + digits(median(t[w][name])) }

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
