package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// balancer spreads requests over the web nodes in turn. It tries the next node
// only when the request certainly did not reach the first (no connection). A
// request that a node may have received is never sent twice: its client is told
// that the outcome is unknown, and the client, who knows its key, decides. A
// post without a key gets one.
type balancer struct {
	posted    func(tag string) // called before a post goes to a node
	confirmed func(tag string) // called when a node has answered it with 200

	server   *http.Server
	listener net.Listener
	client   *http.Client
	stop     chan struct{}
	probes   sync.WaitGroup

	mu       sync.Mutex
	backends []*backend
	next     int
}

type backend struct {
	name, url string
	healthy   bool
	requests  context.Context // of those in flight; cancelled when the node no longer answers
	abandon   context.CancelCauseFunc
}

const (
	probeEvery  = 100 * time.Millisecond
	probeWithin = 2 * time.Second
)

var errNobody = errors.New("no answer to a health probe")

func startBalancer(addr string, posted, confirmed func(tag string)) (*balancer, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	lb := &balancer{
		posted:    posted,
		confirmed: confirmed,
		listener:  listener,
		// Without kept connections a dial error is certain to mean that nothing
		// was sent.
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * sendWithin},
		stop:   make(chan struct{}),
	}
	lb.server = &http.Server{Handler: lb, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = lb.server.Serve(listener) }()
	return lb, nil
}

func (lb *balancer) URL() string { return "http://" + lb.listener.Addr().String() }

func (lb *balancer) Close() {
	close(lb.stop)
	_ = lb.server.Close()
	lb.mu.Lock()
	for _, b := range lb.backends {
		b.abandon(http.ErrServerClosed)
	}
	lb.mu.Unlock()
	lb.probes.Wait()
}

// set adds a web node, or replaces the one of that name.
func (lb *balancer) set(name, addr string) {
	b := &backend{name: name, url: "http://" + addr, healthy: true}
	b.requests, b.abandon = context.WithCancelCause(context.Background())
	lb.mu.Lock()
	defer lb.mu.Unlock()
	for i, old := range lb.backends {
		if old.name == name {
			lb.backends[i] = b
			lb.probes.Go(func() { lb.probe(b) })
			return
		}
	}
	lb.backends = append(lb.backends, b)
	lb.probes.Go(func() { lb.probe(b) })
}

// probe watches one node until it is replaced.
func (lb *balancer) probe(b *backend) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-lb.stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), probeWithin)
		resp, err := lb.do(ctx, http.MethodGet, b.url+"/health", nil, nil)
		cancel()
		if err == nil {
			_ = resp.Body.Close()
		}
		lb.mu.Lock()
		b.healthy = err == nil && resp.StatusCode == http.StatusOK
		if b.healthy && b.requests.Err() != nil {
			b.requests, b.abandon = context.WithCancelCause(context.Background())
		}
		// A refused connection: the process has ended or is ending, and its
		// open connections speak for themselves. Silence: it is frozen, and
		// they would be silent for as long.
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			b.abandon(errNobody)
		}
		replaced := true
		for _, other := range lb.backends {
			replaced = replaced && other != b
		}
		lb.mu.Unlock()
		if replaced {
			return
		}
	}
}

// pick is the next healthy node in turn, or nil.
func (lb *balancer) pick() (*backend, context.Context) {
	lb.mu.Lock()
	defer lb.mu.Unlock()
	for range lb.backends {
		b := lb.backends[lb.next%len(lb.backends)]
		lb.next++
		if b.healthy {
			return b, b.requests
		}
	}
	return nil, nil
}

func (lb *balancer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 64<<10))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	if r.Header.Get(keyHeader) == "" {
		r.Header.Set(keyHeader, newTag())
	}
	lb.posted(r.Header.Get(keyHeader))
	for {
		b, inFlight := lb.pick()
		if b == nil {
			http.Error(rw, "no web node is healthy", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		unhook := context.AfterFunc(inFlight, func() { cancel(context.Cause(inFlight)) })
		resp, err := lb.do(ctx, r.Method, b.url+r.URL.Path, body, r.Header)
		if err == nil {
			if resp.StatusCode == http.StatusOK {
				lb.confirmed(r.Header.Get(keyHeader))
			}
			copyResponse(rw, resp, b.name)
		}
		unhook()
		cancel(nil)
		var dial *net.OpError
		switch {
		case err == nil:
			return
		case errors.As(err, &dial) && dial.Op == "dial":
			lb.mu.Lock()
			b.healthy = false
			lb.mu.Unlock()
		default:
			http.Error(rw, fmt.Sprintf("outcome unknown: %s took the request: %v", b.name, err), http.StatusGatewayTimeout)
			return
		}
	}
}

func (lb *balancer) do(ctx context.Context, method, url string, body []byte, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, key := range []string{keyHeader, "Content-Type"} {
		if value := header.Get(key); value != "" {
			req.Header.Set(key, value)
		}
	}
	return lb.client.Do(req)
}

func copyResponse(rw http.ResponseWriter, resp *http.Response, via string) {
	defer resp.Body.Close()
	rw.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	rw.Header().Set("Via", "1.1 "+via)
	rw.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(rw, resp.Body)
}
