package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
)

// web is the first use case: load_balancer -> N x web_server -> irc_chat_room.
type web struct {
	gone *gone.Gone
	id   string
	log  *slog.Logger

	draining atomic.Bool
	refused  atomic.Int32 // health probes that were told of it
}

// keyHeader names the post: a post repeated with the same key is said once. It
// is the line's tag.
const keyHeader = "Idempotency-Key"

var validTag = regexp.MustCompile(`^[A-Za-z0-9._-]{1,40}$`)

func newTag() string { return strings.ToLower(rand.Text()[:8]) }

// serve answers requests until stop is done. Then it lets the load balancer see
// that it is going, takes no new requests and finishes those it has.
func (w *web) serve(stop context.Context, addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /say", w.say)
	mux.HandleFunc("GET /health", w.health)
	page := gonehttp.New(w.gone, gonehttp.WithControl())
	mux.Handle("/gone/", http.StripPrefix("/gone", page))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	server.RegisterOnShutdown(page.Close)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	w.log.Info("ready", "addr", w.gone.Addr(), "http", listener.Addr().String())

	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	}
	// Two refused probes: when the second arrives, the load balancer has
	// understood the first. Without a load balancer nobody probes.
	w.draining.Store(true)
	for wait := time.Now().Add(time.Second); w.refused.Load() < 2 && time.Now().Before(wait); {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendWithin+time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

func (w *web) health(rw http.ResponseWriter, _ *http.Request) {
	if w.draining.Load() {
		http.Error(rw, "going", http.StatusServiceUnavailable)
		w.refused.Add(1)
	}
}

// say answers 200 when the bot has received the line, 503 when it certainly has
// not and never will, 504 when nobody can tell: then the client may repeat the
// post under the same key and it is still said once.
func (w *web) say(rw http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 4096))
	if err != nil || strings.TrimSpace(string(text)) == "" {
		http.Error(rw, "POST the text to say, at most 4096 bytes", http.StatusBadRequest)
		return
	}
	tag := r.Header.Get(keyHeader)
	if tag == "" {
		tag = newTag()
	} else if !validTag.MatchString(tag) {
		http.Error(rw, keyHeader+": 1 to 40 of A-Z a-z 0-9 . _ -", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), sendWithin)
	defer cancel()
	switch err := w.gone.SendDataContext(ctx, w.id, payload(tag, string(text))); {
	case err == nil:
		fmt.Fprintln(rw, "received", tag)
	case errors.Is(err, gone.ErrOutcomeUnknown):
		w.log.Warn("unknown", "tag", tag, "why", err.Error())
		http.Error(rw, tag+": "+err.Error(), http.StatusGatewayTimeout)
	default:
		w.log.Warn("not delivered", "tag", tag, "why", err.Error())
		http.Error(rw, tag+": "+err.Error(), http.StatusServiceUnavailable)
	}
}
