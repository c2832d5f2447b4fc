package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A report grows chapter by chapter. Its summary comes first.
type report struct {
	rounds int
	brief  bool   // figures without explanations, and of what was measured alone
	dir    string // of pictures; "" for none
	claims []claim
	behind []fact
	body   strings.Builder
}

// A claim is a line of the summary: what is wanted, and what was measured, a
// figure for each round.
type claim struct {
	work        string
	about       string  // what limits explain, where that is not the same
	goal, least float64 // least may be none
	higher      bool    // is better
	unit        string
	got         []float64
}

// none is the least where nothing but the goal is wanted.
var none = math.NaN()

// A fact is in what gone is behind.
type fact struct{ about, text string }

func (r *report) claim(c claim) {
	if len(c.got) > 0 || !r.brief {
		r.claims = append(r.claims, c)
	}
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(&r.body, format, args...) }

// explain is for readers of the whole report.
func (r *report) explain(format string, args ...any) {
	if !r.brief {
		r.printf(format+"\n", args...)
	}
}

// figures shows what there is of works by contender, and notes where gone is
// behind.
func (r *report) figures(t table, who []string, works ...work) {
	works = slices.DeleteFunc(works, func(w work) bool { return t[w] == nil })
	if len(works) == 0 {
		return
	}
	who = slices.DeleteFunc(slices.Clone(who), func(name string) bool {
		return !slices.ContainsFunc(works, func(w work) bool { return t[w][name] != nil })
	})
	r.printf("| | %s |\n|---|%s\n", strings.Join(who, " | "), strings.Repeat("--:|", len(who)))
	for _, w := range works {
		r.printf("| %s |", w)
		for _, name := range who {
			r.printf(" %s |", spread(t[w][name]))
		}
		r.printf("\n")
		if ahead := t.ahead(w, who); len(ahead) > 0 {
			r.behind = append(r.behind, fact{w.what, w.unit + ": " + strings.Join(append(ahead, t.show(w, nameGone)), ", ")})
		}
	}
	r.printf("\n")
}

func (c claim) meets(want float64) bool {
	if c.higher {
		return median(c.got) >= want
	}
	return median(c.got) <= want
}

func (c claim) verdict() string {
	switch {
	case len(c.got) == 0:
		return "not measured"
	case c.meets(c.goal):
		return "goal"
	case c.meets(c.least):
		return "at least"
	case math.IsNaN(c.least):
		return "no"
	}
	return "**missed**"
}

func (c claim) want(v float64) string {
	sign := "≤"
	if c.higher {
		sign = "≥"
	}
	if math.IsNaN(v) {
		return "–"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %v %s", sign, v, c.unit))
}

func (r *report) summary() string {
	if len(r.claims) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("## Summary\n\n| work | goal | at least | measured | reached |\n|---|---|---|---|---|\n")
	for _, c := range r.claims {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", c.work, c.want(c.goal), c.want(c.least), spread(c.got), c.verdict())
	}
	b.WriteString("\nAll take their turns in each round, and a ratio is taken within one round. Shown is the median of the rounds, with the\nlowest and the highest in brackets. A row without *at least* compares with a peer;\n*no* means that the peer was better.\n\n")
	return b.String()
}

// whereBehind is the chapter on what gone does worse than was wanted, or than
// somebody else does.
func (r *report) whereBehind() {
	facts := slices.Clone(r.behind)
	for _, c := range r.claims {
		// Where there is no least, a peer is the goal, and in the tables.
		if len(c.got) > 0 && !math.IsNaN(c.least) && !c.meets(c.goal) {
			text := digits(median(c.got)) + ", wanted " + c.want(c.goal)
			if c.about != "" {
				text = c.work + ": " + text
			}
			facts = append(facts, fact{cmp.Or(c.about, c.work), text})
		}
	}
	var order []string
	said := map[string][]string{}
	for _, f := range facts {
		if said[f.about] == nil {
			order = append(order, f.about)
		}
		said[f.about] = append(said[f.about], f.text)
	}
	r.printf("## Where gone is behind, and what limits it\n\nEvery figure in which a peer is better, and every goal that was missed.\n\n")
	for _, about := range order {
		r.printf("- **%s**: %s. %s\n", about, strings.Join(said[about], "; "), cmp.Or(limits[about], unexplained))
	}
	if len(order) == 0 {
		r.printf("Nowhere in this run.\n")
	}
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

// publish writes the report, after a head, to the terminal and to a file if there is one.
func (r *report) publish(head, file string) error {
	text := strings.TrimRight(head+r.body.String(), "\n") + "\n"
	if _, err := os.Stdout.WriteString(text); err != nil || file == "" {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
