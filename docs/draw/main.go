// Command draw writes the picture of the README: the path of a message, and a
// hand-over. From docs/: go run ./draw > path.svg
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strings"
)

// Both colour schemes are in the picture itself: a page that shows it as an image
// can't style it.
const style = `
text { font: 14px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink) }
.small { font-size: 12px; fill: var(--faint) }
.head { font-weight: 600; font-size: 16px }
.mid { text-anchor: middle }
.page { fill: var(--page) }
.box { fill: var(--box); stroke: var(--edge) }
.run { fill: var(--run) }
.wait { fill: none; stroke: var(--faint); stroke-dasharray: 4 4 }
.line { stroke: var(--ink); stroke-width: 1.5; fill: none }
.back { stroke: var(--run); stroke-width: 1.5; fill: none }
.tip { fill: var(--ink) }
.backtip { fill: var(--run) }
.onrun { fill: var(--page) }
`

var schemes = []struct{ query, colours string }{
	{"", "--page: #ffffff; --ink: #1f2328; --faint: #59636e; --box: #f6f8fa; --edge: #8c959f; --run: #1a7f37"},
	{"@media (prefers-color-scheme: dark)", "--page: #0d1117; --ink: #f0f6fc; --faint: #9198a1; --box: #151b23; --edge: #656c76; --run: #3fb950"},
}

type picture struct{ *bufio.Writer }

func main() {
	p := picture{bufio.NewWriter(os.Stdout)}
	fmt.Fprintln(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 560" role="img" aria-labelledby="t d">`)
	fmt.Fprintln(p, `<title id="t">The path of a message, and a hand-over</title>`)
	fmt.Fprintln(p, `<desc id="d">A message goes from SendData over a link to the holder's queue and handler; its result goes back. When the holder closes, its handler returns, the lock is released, another node takes over, and the sender sends there what was not received.</desc>`)
	p.css()
	fmt.Fprintln(p, `<rect class="page" width="880" height="560"/>`)
	p.message()
	p.handOver()
	fmt.Fprintln(p, `</svg>`)
	if err := p.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// css has the colours written out for each scheme: not every renderer knows var().
func (p picture) css() {
	fmt.Fprint(p, "<style>")
	for _, s := range schemes {
		rules := style
		for _, c := range strings.Split(s.colours, "; ") {
			name, value, _ := strings.Cut(c, ": ")
			rules = strings.ReplaceAll(rules, "var("+name+")", value)
		}
		if s.query != "" {
			rules = s.query + " {" + rules + "}\n"
		}
		fmt.Fprint(p, rules)
	}
	fmt.Fprintln(p, "</style>")
}

func (p picture) message() {
	p.text(20, 32, "head", "A message")
	p.box(20, 90, 250, 130, "node A, any process")
	p.box(610, 90, 250, 130, "node B, the holder")
	p.box(350, 20, 180, 46, "")
	p.text(440, 40, "mid", "lock service")
	p.text(440, 57, "small mid", "Redis, etcd or PostgreSQL")

	p.line("line", 200, 88, 346, 50)
	p.text(50, 64, "small", "who holds the id?")
	p.text(50, 80, "small", "(then remembered)")
	p.line("line", 680, 88, 534, 50)
	p.text(700, 66, "small", "Lock, Extend")

	p.text(40, 152, "", "SendData(id, data)")
	p.line("line", 180, 147, 640, 147)
	p.text(440, 137, "mid", "link: reliable, ordered")
	p.rect("box", 644, 132, 60, 30)
	p.text(674, 152, "mid", "queue")
	p.line("line", 706, 147, 746, 147)
	p.rect("run", 750, 130, 96, 34)
	p.text(798, 152, "mid onrun", "handler")
	p.path("back", "M798 166 V196 H186")
	p.tip("backtip", 182, 196, 180)
	p.text(40, 201, "", "nil: received, once")
	p.text(440, 187, "small mid", "answer, once the handler has the data")
}

func (p picture) handOver() {
	p.text(20, 270, "head", "A hand-over")
	for i, name := range []string{"sender", "node B", "lock", "node C"} {
		p.text(20, 322+i*64, "", name)
	}
	// node B runs until it closes.
	p.rect("run", 110, 366, 220, 34)
	p.text(220, 388, "mid onrun", "handler, token 7")
	p.rect("box", 330, 366, 110, 34)
	p.text(385, 388, "mid", "cleans up")
	p.text(348, 358, "small", "Exit closes")
	p.text(446, 387, "small", "returns")
	// node C waits, and takes over.
	p.rect("wait", 110, 494, 370, 34)
	p.text(295, 516, "mid", "waits for the lock")
	p.rect("run", 484, 494, 376, 34)
	p.text(672, 516, "mid onrun", "handler, token 8")
	// The lock.
	p.rect("box", 110, 430, 330, 34)
	p.text(275, 452, "mid", "B’s")
	p.rect("box", 484, 430, 376, 34)
	p.text(672, 452, "mid", "C’s")
	p.line("line", 440, 402, 440, 428)
	p.line("line", 462, 464, 482, 490)
	p.text(446, 420, "small", "Unlock")
	// The sender.
	p.line("line", 150, 318, 150, 364)
	p.line("back", 180, 364, 180, 322)
	p.text(165, 312, "small mid", "nil")
	p.text(262, 312, "small mid", "sends")
	p.line("line", 262, 318, 262, 364)
	p.line("line", 338, 364, 338, 322)
	p.text(362, 312, "small mid", "not received")
	p.path("line", "M408 308 H560 V488")
	p.tip("tip", 560, 492, 90)
	p.text(568, 335, "small", "sent again, by itself")
	p.path("back", "M700 492 V322")
	p.tip("backtip", 700, 318, 270)
	p.text(700, 312, "small mid", "nil")
}

func (p picture) rect(class string, x, y, w, h int) {
	fmt.Fprintf(p, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", class, x, y, w, h)
}

func (p picture) box(x, y, w, h int, title string) {
	p.rect("box", x, y, w, h)
	p.text(x+20, y+26, "small", title)
}

func (p picture) text(x, y int, class, s string) {
	if s != "" {
		fmt.Fprintf(p, "<text class=%q x=\"%d\" y=\"%d\">%s</text>\n", class, x, y, s)
	}
}

func (p picture) path(class, d string) { fmt.Fprintf(p, "<path class=%q d=%q/>\n", class, d) }

// line is straight and ends in a tip.
func (p picture) line(class string, x1, y1, x2, y2 int) {
	p.path(class, fmt.Sprintf("M%d %d L%d %d", x1, y1, x2, y2))
	tip := "tip"
	if class == "back" {
		tip = "backtip"
	}
	p.tip(tip, x2, y2, angle(x2-x1, y2-y1))
}

// tip is a tip of an arrow at x, y, turned by degrees from pointing right.
func (p picture) tip(class string, x, y, degrees int) {
	fmt.Fprintf(p, "<path class=%q d=\"M0 0 L-9 -4.5 L-9 4.5 Z\" transform=\"translate(%d %d) rotate(%d)\"/>\n", class, x, y, degrees)
}

func angle(dx, dy int) int {
	return int(math.Round(math.Atan2(float64(dy), float64(dx)) * 180 / math.Pi))
}
