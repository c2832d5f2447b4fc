package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// A report grows chapter by chapter. Its summary comes first.
type report struct {
	rounds int
	dir    string // of pictures; "" for none
	claims []claim
	body   strings.Builder
}

// A claim is a line of the summary: what is wanted, and what was measured, a
// figure for each round.
type claim struct {
	work        string
	goal, least float64
	higher      bool // is better
	unit        string
	got         []float64
}

func (r *report) claim(c claim) { r.claims = append(r.claims, c) }

func (r *report) printf(format string, args ...any) { fmt.Fprintf(&r.body, format, args...) }

// head begins a table of figures.
func (r *report) head(first string, columns ...string) {
	r.printf("| %s | %s |\n|---|%s", first, strings.Join(columns, " | "), strings.Repeat("--:|", len(columns)))
}

func (c claim) verdict() string {
	v := median(c.got)
	meets := func(want float64) bool {
		if c.higher {
			return v >= want
		}
		return v <= want
	}
	switch {
	case len(c.got) == 0:
		return "not measured"
	case meets(c.goal):
		return "goal"
	case meets(c.least):
		return "at least"
	}
	return "**missed**"
}

func (r *report) summary() string {
	if len(r.claims) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("## Summary\n\n| work | goal | at least | measured | reached |\n|---|---|---|---|---|\n")
	for _, c := range r.claims {
		sign := "≤"
		if c.higher {
			sign = "≥"
		}
		fmt.Fprintf(&b, "| %s | %s %v %s | %s %v %s | %s | %s |\n", c.work, sign, c.goal, c.unit, sign, c.least, c.unit, spread(c.got), c.verdict())
	}
	b.WriteString("\nA ratio is taken within each round, in which all take their turns; shown is the median, with the lowest and the\nhighest round in brackets.\n\n")
	return b.String()
}

// picture draws and shows a chart.
func (r *report) picture(name, caption string, c chart) error {
	if r.dir == "" {
		return nil
	}
	if err := c.draw(filepath.Join(r.dir, name+".svg")); err != nil {
		return err
	}
	r.printf("![%s](%s/%s.svg)\n\n", caption, filepath.Base(r.dir), name)
	return nil
}

// ratios divides round by round.
func ratios(a, b []float64) (r []float64) {
	for i := range a {
		r = append(r, a[i]/b[i])
	}
	return r
}

// deviation is how far the values are from the first, at most, in percent.
func deviation(v []float64) (worst float64) {
	for _, x := range v {
		worst = max(worst, 100*max(x/v[0]-1, 1-x/v[0]))
	}
	return worst
}

func medians(v [][]float64) (m []float64) {
	for _, x := range v {
		m = append(m, median(x))
	}
	return m
}

// scaled multiplies a copy.
func scaled(v []float64, by float64) []float64 {
	v = slices.Clone(v)
	for i := range v {
		v[i] *= by
	}
	return v
}
