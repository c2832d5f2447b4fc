package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// view is the demo with a person: the cluster above, the room below it, and a
// line to type in. The terminal stays in its ordinary mode, so that editing,
// Ctrl-C and Ctrl-D work as always; only what is above the input line is
// redrawn.
type view struct {
	*demo
	out *os.File

	mu   sync.Mutex
	note string // the answer to the last command
}

const help = "/kill  /freeze  /thaw  /restart [node]   /rolling  /queue text  /quit   anything else is posted"

func (v *view) run(ctx context.Context, in io.Reader) {
	fmt.Fprint(v.out, "\x1b[?1049h\x1b[2J") // the alternate screen
	defer fmt.Fprint(v.out, "\x1b[?1049l")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	typed := make(chan string)
	go func() {
		defer close(typed)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			select {
			case typed <- strings.TrimSpace(lines.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	redraw := time.NewTicker(200 * time.Millisecond)
	defer redraw.Stop()
	v.draw(true)
	for {
		select {
		case <-ctx.Done():
			return
		case line, open := <-typed:
			if !open || line == "/quit" {
				return
			}
			v.answer(line)
			go v.obey(ctx, line)
			v.draw(true)
		case <-redraw.C:
			_ = v.confirmQueue()
			v.draw(false)
		}
	}
}

// obey runs one command beside the screen, as some take a while.
func (v *view) obey(ctx context.Context, line string) {
	command, arg, _ := strings.Cut(line, " ")
	var err error
	switch command {
	case "":
		return
	case "/kill":
		err = v.with(arg, v.kill)
	case "/freeze":
		err = v.with(arg, v.freeze)
	case "/thaw":
		err = v.each(arg, frozen, v.cluster.thaw)
	case "/restart":
		err = v.each(arg, down, v.cluster.start)
		if errors.Is(err, errNone) {
			err = v.with(arg, func(n node) error { return v.restart(n.name) })
		}
	case "/rolling":
		for _, n := range v.cluster.snapshot() {
			if n.state == running {
				v.answer("restarting " + n.name)
				err = errors.Join(err, v.restart(n.name))
			}
		}
	case "/queue":
		_, err = v.enqueue(arg)
	default:
		if strings.HasPrefix(command, "/") {
			err = errors.New(help)
			break
		}
		_, _, err = v.say(ctx, line)
	}
	if err != nil {
		v.answer(err.Error())
	} else {
		v.answer(line + ": done")
	}
}

var errNone = errors.New("there is none")

// with does something to the named node, or to the one that has the bot.
func (v *view) with(name string, do func(node) error) error {
	for _, n := range v.cluster.snapshot() {
		if n.name == name {
			return do(n)
		}
	}
	if name != "" {
		return fmt.Errorf("no node is called %q", name)
	}
	holder, ok := v.cluster.holder()
	if !ok || holder.nick == "" {
		return errors.New("nobody has the bot at the moment")
	}
	return do(holder)
}

// each does something to the named node, or to all that are in the given state.
func (v *view) each(name string, in state, do func(string) error) error {
	err := errNone
	for _, n := range v.cluster.snapshot() {
		if n.state == in && (name == "" || name == n.name) {
			if errors.Is(err, errNone) {
				err = nil
			}
			err = errors.Join(err, do(n.name))
		}
	}
	return err
}

func (v *view) answer(note string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.note = note
}

// draw paints everything above the input line and leaves the cursor where the
// person types. A fresh screen also clears the input line.
func (v *view) draw(fresh bool) {
	width, height, err := term.GetSize(int(v.out.Fd()))
	if err != nil || width < 20 || height < 12 {
		width, height = 80, 24
	}
	var screen []string
	add := func(style, format string, args ...any) {
		line := fit(fmt.Sprintf(format, args...), width)
		screen = append(screen, style+line+"\x1b[0m\x1b[K")
	}
	const plain, bold, faint, green, red, blue = "", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[36m"

	add(bold, "gone: one bot in %s, whatever happens", v.config.room)
	add(faint, "post:  curl -d 'hello' %s/say    join:  irc %s", v.lb.URL(), v.irc)
	add(faint, "look:  %s    who holds the bot, since when, and what is wrong", v.cluster.page())
	holder, _ := v.cluster.holder()
	lock, ttl := v.lock()
	for _, n := range v.cluster.snapshot() {
		style, what := plain, "waits"
		switch {
		case n.state == frozen && n.token == 0:
			style, what = blue, ""
		case n.state == frozen && n.token == holder.token:
			style, what = blue, "froze with the bot"
		case n.state == frozen:
			style, what = blue, "cannot know that it lost the bot"
		case n.state == down:
			style, what = red, ""
		case n.token != 0 && n.token == holder.token:
			style, what = green, fmt.Sprintf("HAS THE BOT, fencing token %d", n.token)
		}
		process := ""
		if n.state != down {
			process = fmt.Sprintf("pid %-8d %s", n.cmd.Process.Pid, n.addr)
		}
		add(style, "  %-8s %-9s %-40s %s", n.name, n.state, process, what)
	}
	if where := v.demo.elsewhere(); where != "" {
		add(faint, "  lock     in %s", where)
	} else if lock == "" {
		add(faint, "  lock     free")
	} else {
		add(faint, "  lock     %s, for another %.1f s", lock, ttl.Seconds())
	}
	t := v.room.tally()
	unknowns, refusals, claims := v.cluster.counts()
	add(faint, "  posted %d, confirmed %d, said %d    repeated: %d of unknown outcome, %d undelivered    claimed %d",
		t.posted, t.confirmed, t.said, unknowns, refusals, claims)
	add(faint, "%s", strings.Repeat("─", width))

	rows := height - len(screen) - 3
	tail := v.room.tail(rows)
	for _, line := range tail {
		style := plain
		switch {
		case strings.Contains(line, " !!! "):
			style = red
		case strings.Contains(line, " --> "), strings.Contains(line, " <-- "):
			style = blue
		}
		add(style, "%s", line)
	}
	for range rows - len(tail) {
		add(plain, "")
	}
	v.mu.Lock()
	note := v.note
	v.mu.Unlock()
	if note == "" {
		note = help
	}
	add(faint, "%s", note)

	var b strings.Builder
	b.WriteString("\x1b7\x1b[?25l\x1b[H")
	for _, line := range screen {
		b.WriteString(line + "\r\n")
	}
	if fresh {
		fmt.Fprintf(&b, "\x1b[J\x1b[?25h> ")
	} else {
		b.WriteString("\x1b8\x1b[?25h")
	}
	fmt.Fprint(v.out, b.String())
}

// fit keeps a line on one row.
func fit(line string, width int) string {
	line = printable(strings.ReplaceAll(line, "\n", "  "))
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:width-1]) + "…"
}
