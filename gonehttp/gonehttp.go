// Package gonehttp is a page that shows a cluster of gone: its nodes and their shares, who
// holds which id, since when and for how long, what waits for it, the story of an id, and
// what is wrong, in words. It needs nothing but this handler, and any node can serve it.
//
//	page := gonehttp.New(g)
//	mux.Handle("/gone/", http.StripPrefix("/gone", page))
//	server.RegisterOnShutdown(page.Close)
//
// It has these paths, of which the first is the page for browsers and JSON for whoever
// accepts application/json before HTML, or asks with format=json:
//
//	GET /         a [View]; as events, /events
//	GET /debug    a [gone.Report], for the report of an issue
//
// The query of / and /events says what the View is to have:
//
//	q     only ids that have this text, or whose node's address does
//	node  only ids that the node at this address holds
//	sort  by id (the default), node, newest, waiting or lease
//	page  of a hundred ids, from 1
//	id    the story of this id instead; its bytes may be any, percent-encoded
//
// Nodes are asked every two seconds while somebody looks, however many do; and not at all
// while nobody looks. Where answers take long there are up to five seconds between, or as
// many as the answers take.
//
// While a node does not answer, or the roster can't be read, the page says of no id that
// nobody holds it: only that no node that answers does.
//
// Whoever reaches the page sees ids and addresses, as in the lock service, but no data. It
// asks for no password: put it behind what guards your other pages. It changes nothing
// unless it is made [WithControl].
package gonehttp

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
)

//go:embed page
var files embed.FS

// policy lets the page load its own files and nothing else, and make no HTML of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

const (
	streamsMost = 64               // at a time
	writeMost   = 10 * time.Second // for one event
)

// A Handler is the page of a cluster, as one node sees it.
type Handler struct {
	g       *gone.Gone
	control bool
	serve   http.Handler
	latest  latest
	streams chan struct{}
	closing context.Context
	close   context.CancelFunc
}

// An Option changes a default of [New].
type Option func(*Handler)

// WithControl lets who reaches the page drain and resume nodes, and move ids. Other nodes
// than the one that serves it must allow that with [gone.WithControl]. Requests that come
// from pages of another origin are refused.
func WithControl() Option { return func(h *Handler) { h.control = true } }

// New returns the page of the cluster that a node is of. It stands at the root of its
// paths; [http.StripPrefix] puts it elsewhere.
func New(g *gone.Gone, opts ...Option) *Handler {
	h := &Handler{g: g, streams: make(chan struct{}, streamsMost)}
	h.closing, h.close = context.WithCancel(context.Background())
	for _, opt := range opts {
		opt(h)
	}
	h.latest.report = g.Report
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.page)
	mux.HandleFunc("GET /events", h.events)
	mux.HandleFunc("GET /debug", h.debug)
	for _, name := range []string{"style.css", "script.js", "icon.svg"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) { file(w, r, name) })
	}
	mux.HandleFunc("POST /{what}", h.steer)
	h.serve = http.NewCrossOriginProtection().Handler(mux)
	return h
}

// Close ends the event streams, which would hold up a server's Shutdown:
// [http.Server.RegisterOnShutdown] is for it. The rest goes on.
func (h *Handler) Close() { h.close() }

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Content-Security-Policy", policy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cache-Control", "no-store")
	if !strings.HasPrefix(r.URL.Path, "/") { // as StripPrefix of "/gone/" leaves it
		at := *r.URL
		at.Path, at.RawPath = "/"+at.Path, ""
		r2 := *r
		r2.URL = &at
		r = &r2
	}
	h.serve.ServeHTTP(w, r)
}

func file(w http.ResponseWriter, r *http.Request, name string) {
	data, err := files.ReadFile("page/" + name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
}

// page is the page itself, or its View as JSON.
func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if !wantsJSON(r) {
		file(w, r, "index.html")
		return
	}
	s, err := h.latest.get(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, http.StatusOK, s.view(query(r), h.control))
}

func wantsJSON(r *http.Request) bool {
	if format := r.URL.Query().Get("format"); format != "" {
		return format == "json"
	}
	accept := r.Header.Get("Accept")
	at := strings.Index(accept, "application/json")
	html := strings.Index(accept, "text/html")
	return at >= 0 && (html < 0 || at < html)
}

// debug is the report as it is.
func (h *Handler) debug(w http.ResponseWriter, r *http.Request) {
	s, err := h.latest.get(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Disposition", `attachment; filename="gone-report.json"`)
	answer(w, http.StatusOK, s.Report)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	_ = e.Encode(v)
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, gone.ErrClosed) {
		status = http.StatusServiceUnavailable
	}
	http.Error(w, err.Error(), status)
}

// events streams a View after each look at the cluster.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many look at this page", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.closing, cancel)()
	q := query(r)
	w.Header().Set("Content-Type", "text/event-stream")
	to := http.NewResponseController(w)
	for {
		s, err := h.latest.get(ctx)
		if err != nil {
			return
		}
		data, err := json.Marshal(s.view(q, h.control))
		if err != nil {
			return
		}
		_ = to.SetWriteDeadline(time.Now().Add(writeMost)) // where the server has one, it is for all
		if _, err := w.Write(append(append([]byte("data: "), data...), "\n\n"...)); err != nil || to.Flush() != nil {
			return
		}
		select {
		case <-time.After(time.Until(s.until)):
		case <-ctx.Done():
			return
		}
	}
}
