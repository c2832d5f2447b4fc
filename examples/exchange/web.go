package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
)

// usualWithin is how long an order may take if its client does not say.
const usualWithin = 5 * time.Second

// web is what every node is besides a candidate for the session.
type web struct {
	gone  *gone.Gone
	id    string
	price atomic.Pointer[[]byte] // the last one
}

// serve answers requests until stop is done, and then those that it has.
func (w *web) serve(stop context.Context, addr string, ready func(addr string)) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", w.order)
	mux.HandleFunc("GET /price", w.lastPrice)
	page := gonehttp.New(w.gone, gonehttp.WithControl())
	mux.Handle("/gone/", http.StripPrefix("/gone", page))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	server.RegisterOnShutdown(page.Close)
	go w.follow(stop)
	context.AfterFunc(stop, func() { _ = listener.Close() })
	ready(listener.Addr().String())
	if err := server.Serve(listener); stop.Err() == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*usualWithin)
	defer cancel()
	return server.Shutdown(ctx)
}

// order answers, within 5 s or what the query says (?within=500ms),
//
//	200  with the exchange's answer: executed
//	422  not executed, and why
//	503  not delivered: not executed, and safe to repeat
//	504  unknown: it may have been executed
func (w *web) order(rw http.ResponseWriter, r *http.Request) {
	var order line
	if err := json.NewDecoder(http.MaxBytesReader(rw, r.Body, 1024)).Decode(&order); err != nil {
		http.Error(rw, `POST {"order": "a name of its own", "quantity": 3}`, http.StatusBadRequest)
		return
	}
	if order.Order == "" {
		order.Order = rand.Text()
	}
	data, err := json.Marshal(line{Order: order.Order, Quantity: order.Quantity})
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	within, err := time.ParseDuration(cmp.Or(r.URL.Query().Get("within"), usualWithin.String()))
	if err != nil || within > usualWithin {
		http.Error(rw, "within: a duration, at most "+usualWithin.String(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), within)
	defer cancel()
	answer, err := w.gone.Request(ctx, w.id, data)
	var refused *gone.HandlerError
	switch {
	case err == nil:
		_, _ = rw.Write(append(answer, '\n'))
	case errors.As(err, &refused):
		http.Error(rw, refused.Error(), http.StatusUnprocessableEntity)
	case errors.Is(err, gone.ErrNotDelivered):
		http.Error(rw, err.Error(), http.StatusServiceUnavailable)
	case errors.Is(err, gone.ErrOutcomeUnknown):
		http.Error(rw, err.Error(), http.StatusGatewayTimeout)
	default:
		http.Error(rw, err.Error(), http.StatusInternalServerError)
	}
}

// follow keeps the last price. It always has a request open, which the session
// answers with the next price.
func (w *web) follow(stop context.Context) {
	for stop.Err() == nil {
		ctx, cancel := context.WithTimeout(stop, time.Second)
		price, err := w.gone.Request(ctx, w.id, []byte(nextPrice))
		cancel()
		if err == nil {
			w.price.Store(&price)
		} else {
			pause(stop, tickEvery)
		}
	}
}

func (w *web) lastPrice(rw http.ResponseWriter, _ *http.Request) {
	price := w.price.Load()
	if price == nil {
		http.Error(rw, "no price yet", http.StatusServiceUnavailable)
		return
	}
	_, _ = rw.Write(append(*price, '\n'))
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
