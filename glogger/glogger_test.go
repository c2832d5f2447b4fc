package glogger

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/glog"
)

// A glogLine is one line of glog's.
type glogLine struct {
	severity string // I, W or E
	place    string // file:line
	text     string
}

var glogFormat = regexp.MustCompile(`^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ ([^ ]+:\d+)\] (.*)$`)

const logInChild = "GONE_TEST_LOG"

// glogOf runs a test again in a process of its own, as glog's flags are those
// of the process, has it log, and returns what glog wrote. The test must call it
// once. In the child it returns false.
func glogOf(t *testing.T, flags []string, log func(*slog.Logger)) (lines []glogLine, parent bool) {
	t.Helper()
	if os.Getenv(logInChild) != "" {
		log(New())
		glog.Flush()
		return nil, false
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], append(flags, "-logtostderr", "-test.run=^"+t.Name()+"$")...)
	// A race-enabled binary waits for a second when it exits.
	cmd.Env = append(os.Environ(), logInChild+"=1", "GORACE=atexit_sleep_ms=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	for line := range strings.Lines(stderr.String()) {
		if m := glogFormat.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			lines = append(lines, glogLine{m[1], m[2], m[3]})
		} else if n := len(lines); n > 0 { // of more than one line
			lines[n-1].text += "\n" + strings.TrimSuffix(line, "\n")
		} else {
			t.Errorf("glog wrote %q", line)
		}
	}
	return lines, true
}

func texts(lines []glogLine) (s []string) {
	for _, l := range lines {
		s = append(s, l.text)
	}
	return s
}

// here is where it is called.
func here() slog.Attr {
	_, file, line, _ := runtime.Caller(1)
	return slog.String("here", fmt.Sprintf("%s:%d", filepath.Base(file), line))
}

func TestGlogNamesTheFileAndLineThatLogged(t *testing.T) {
	ways := map[string]func(*slog.Logger, string){
		"Debug":        func(l *slog.Logger, s string) { l.Debug(s, here()) },
		"Info":         func(l *slog.Logger, s string) { l.Info(s, here()) },
		"Warn":         func(l *slog.Logger, s string) { l.Warn(s, here()) },
		"Error":        func(l *slog.Logger, s string) { l.Error(s, here()) },
		"DebugContext": func(l *slog.Logger, s string) { l.DebugContext(context.Background(), s, here()) },
		"InfoContext":  func(l *slog.Logger, s string) { l.InfoContext(context.Background(), s, here()) },
		"Log":          func(l *slog.Logger, s string) { l.Log(context.Background(), slog.LevelInfo, s, here()) },
		"LogAttrs":     func(l *slog.Logger, s string) { l.LogAttrs(context.Background(), slog.LevelWarn, s, here()) },
		"With":         func(l *slog.Logger, s string) { l.With("a", 1).Info(s, here()) },
		"WithGroup":    func(l *slog.Logger, s string) { l.WithGroup("g").Info(s, here()) },
		"default":      func(l *slog.Logger, s string) { slog.SetDefault(l); slog.Info(s, here()) },
		"a function that is inlined": func(l *slog.Logger, s string) {
			func() { l.Info(s, here()) }()
		},
		"a goroutine": func(l *slog.Logger, s string) {
			done := make(chan struct{})
			go func() { defer close(done); l.Info(s, here()) }()
			<-done
		},
		"a deferred call": func(l *slog.Logger, s string) { defer l.Info(s, here()) },
	}
	lines, parent := glogOf(t, []string{"-v=1"}, func(l *slog.Logger) {
		for name, log := range ways {
			log(l, name)
		}
	})
	if !parent {
		return
	}
	seen := map[string]bool{}
	for _, l := range lines {
		name, place, ok := strings.Cut(l.text, "here=")
		if !ok || place != l.place {
			t.Errorf("glog says %s: %s", l.place, l.text)
		}
		name, _, _ = strings.Cut(strings.TrimSuffix(name, "g."), " a=")
		seen[strings.TrimSpace(name)] = true
	}
	for name := range ways {
		if !seen[name] {
			t.Errorf("%s logged nothing", name)
		}
	}
}

func TestLevelsBecomeGlogsSeverities(t *testing.T) {
	levels := []slog.Level{slog.LevelInfo, slog.LevelInfo + 3, slog.LevelWarn, slog.LevelWarn + 3, slog.LevelError, slog.LevelError + 9}
	lines, parent := glogOf(t, nil, func(l *slog.Logger) {
		for _, level := range levels {
			l.Log(context.Background(), level, "m")
		}
	})
	if !parent {
		return
	}
	got := ""
	for _, l := range lines {
		got += l.severity
	}
	if got != "IIWWEE" {
		t.Errorf("%v became %s", levels, got)
	}
}

// Below Info a level is a verbosity: Debug is 1, four less is 2, and so on.
func TestVerbosity(t *testing.T) {
	cases := []struct{ name, v, vmodule, want string }{
		{"without flags", "0", "", "info"},
		{"v=1", "1", "", "info -1 -4"},
		{"v=2", "2", "", "info -1 -4 -5 -8"},
		{"v=3", "3", "", "info -1 -4 -5 -8 -12"},
		{"vmodule of this file", "0", "glogger_test=2", "info -1 -4 -5 -8"},
		{"vmodule of some files", "0", "glogger_*=1", "info -1 -4"},
		{"vmodule of another", "0", "runner=9", "info"},
		{"vmodule of the handler", "0", "glogger=9", "info"},
		{"vmodule of slog", "0", "logger=9", "info"},
		{"vmodule below v", "9", "glogger_test=1", "info -1 -4"},
		{"vmodule of another below v", "1", "runner=0", "info -1 -4"},
	}
	lines, parent := glogOf(t, nil, func(l *slog.Logger) {
		for _, c := range cases {
			if err := errors.Join(flag.Set("v", c.v), flag.Set("vmodule", c.vmodule)); err != nil {
				panic(err)
			}
			l.Info("info", "case", c.name)
			for _, level := range []slog.Level{-1, -4, -5, -8, -12} {
				l.Log(context.Background(), level, fmt.Sprint(int(level)), "case", c.name)
			}
		}
	})
	if !parent {
		return
	}
	got := map[string]string{}
	for _, l := range lines {
		text, name, _ := strings.Cut(l.text, " case=")
		if s, err := strconv.Unquote(name); err == nil {
			name = s
		}
		got[name] = strings.TrimSpace(got[name] + " " + text)
	}
	for _, c := range cases {
		if got[c.name] != c.want {
			t.Errorf("%s: logged %s, want %s", c.name, got[c.name], c.want)
		}
	}
}

type valuer struct{ v slog.Value }

func (v valuer) LogValue() slog.Value { return v.v }

func TestAttrsAndGroups(t *testing.T) {
	want := []string{}
	lines, parent := glogOf(t, nil, func(l *slog.Logger) {
		for _, c := range attrCases {
			c.log(l)
		}
	})
	if !parent {
		return
	}
	for _, c := range attrCases {
		want = append(want, c.want)
	}
	if got := texts(lines); !slices.Equal(got, want) {
		t.Errorf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var attrCases = []struct {
	want string
	log  func(*slog.Logger)
}{
	{`m`, func(l *slog.Logger) { l.Info("m") }},
	{`m a=1 b=two`, func(l *slog.Logger) { l.Info("m", "a", 1, "b", "two") }},
	{`m d=1.5s e="it broke"`, func(l *slog.Logger) { l.Info("m", "d", 1500*time.Millisecond, "e", errors.New("it broke")) }},
	{`m a="x=y" b="say \"x\"" c=`, func(l *slog.Logger) { l.Info("m", "a", "x=y", "b", `say "x"`, "c", "") }},
	{`m s="one\ntwo lines"`, func(l *slog.Logger) { l.Info("m", "s", "one\ntwo lines") }},
	{"m stack=one\n\ttwo lines", func(l *slog.Logger) { l.Info("m", "stack", "one\ntwo lines") }},
	{`m g.a=1 g.h.b=2`, func(l *slog.Logger) { l.Info("m", slog.Group("g", "a", 1, slog.Group("h", "b", 2))) }},
	{`m a=1`, func(l *slog.Logger) { l.Info("m", slog.Group("", "a", 1), slog.Group("empty"), slog.Attr{}) }},
	{`m v=7 g.a=1`, func(l *slog.Logger) {
		l.Info("m", "v", valuer{slog.IntValue(7)}, "g", valuer{slog.GroupValue(slog.Int("a", 1))})
	}},
	{`m a=1 b=2`, func(l *slog.Logger) { l.With("a", 1).Info("m", "b", 2) }},
	{`m a=1 g.b=2 g.h.c=3`, func(l *slog.Logger) { l.With("a", 1).WithGroup("g").With("b", 2).WithGroup("h").Info("m", "c", 3) }},
	{`m a=1`, func(l *slog.Logger) { l.WithGroup("").Info("m", "a", 1) }},
	{`m x=0 a=1`, func(l *slog.Logger) { // two of one
		one := l.With("x", 0)
		one.With("b", 2)
		one.WithGroup("g")
		one.With("a", 1).Info("m")
	}},
}

func TestAGroupWithoutNameIsNone(t *testing.T) {
	if h := (handler{}).WithGroup(""); h != (handler{}) {
		t.Errorf("%+v", h)
	}
}
