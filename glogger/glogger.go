// Package glogger writes what gone logs to glog. It is a package of its own, as
// importing glog registers flags and starts a goroutine.
package glogger

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"strings"

	"github.com/golang/glog"
)

// New returns a logger for gone.WithLogger that writes to glog.
func New() *slog.Logger { return slog.New(handler{}) }

// handler writes records to glog with the file and line that logged them,
// so that -v and -vmodule work as if glog had been called there. Levels below
// Info become -v=1, -v=2 and so on, a step of four each.
type handler struct {
	attrs  string // rendered, of WithAttrs
	prefix string // of WithGroup
}

func (handler) Enabled(context.Context, slog.Level) bool {
	return true // -vmodule depends on the caller's file, which only Handle sees
}

func (h handler) Handle(_ context.Context, r slog.Record) error {
	depth := depthOf(r.PC)
	if r.Level < slog.LevelInfo {
		v := glog.Level(1 + (slog.LevelInfo-r.Level-1)/4)
		if !glog.VDepth(depth, v) {
			return nil
		}
	}
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		render(&b, h.prefix, a)
		return true
	})
	switch {
	case r.Level >= slog.LevelError:
		glog.ErrorDepth(depth, b.String())
	case r.Level >= slog.LevelWarn:
		glog.WarningDepth(depth, b.String())
	default:
		glog.InfoDepth(depth, b.String())
	}
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.attrs)
	for _, a := range attrs {
		render(&b, h.prefix, a)
	}
	h.attrs = b.String()
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.prefix += name + "."
	}
	return h
}

// render writes " key=value", a group as its members.
func render(b *strings.Builder, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			render(b, prefix, m)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	b.WriteString(" " + prefix + a.Key + "=")
	s := v.String()
	switch {
	case a.Key == "stack": // to be read; no line of it looks like a log's
		s = strings.ReplaceAll(s, "\n", "\n\t")
	case strings.ContainsAny(s, " \"=") || strings.ContainsFunc(s, notPrintable):
		s = strconv.Quote(s)
	}
	b.WriteString(s)
}

func notPrintable(r rune) bool { return !strconv.IsPrint(r) }

// depthOf finds, for glog's Depth functions called by Handle, how far up the
// stack pc logged. The number of slog's own frames differs between its methods.
func depthOf(pc uintptr) int {
	var pcs [16]uintptr
	// Skip runtime.Callers and depthOf: index 0 is Handle, glog's depth 0.
	n := runtime.Callers(2, pcs[:])
	for i, p := range pcs[:n] {
		if p == pc {
			return i
		}
	}
	return 0
}
