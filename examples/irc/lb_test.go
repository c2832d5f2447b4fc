package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Diggs/go-one/internal/freeport"
)

var testClient = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// webNode is a backend that counts the posts it receives.
func webNode(t *testing.T, say http.HandlerFunc) (addr string, posts *atomic.Int32) {
	posts = new(atomic.Int32)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /say", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		posts.Add(1)
		say(rw, r)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), posts
}

func ok(http.ResponseWriter, *http.Request) {}

func newBalancer(t *testing.T, addrs ...string) *balancer {
	lb, err := startBalancer("127.0.0.1:0", func(string) {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lb.Close)
	for i, addr := range addrs {
		lb.set(string(rune('a'+i)), addr)
	}
	return lb
}

func post(t *testing.T, lb *balancer) int {
	t.Helper()
	resp, err := testClient.Post(lb.URL()+"/say", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestTheLoadBalancerTakesTheNodesInTurn(t *testing.T) {
	t.Parallel()
	a, postsA := webNode(t, ok)
	b, postsB := webNode(t, ok)
	lb := newBalancer(t, a, b)
	for range 10 {
		if status := post(t, lb); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	if postsA.Load() != 5 || postsB.Load() != 5 {
		t.Errorf("%d and %d posts, want 5 and 5", postsA.Load(), postsB.Load())
	}
}

func TestAPostThatReachedNoNodeGoesToAnother(t *testing.T) {
	t.Parallel()
	a, posts := webNode(t, ok)
	lb := newBalancer(t, freeport.Addr(), a, freeport.Addr())
	for range 5 {
		if status := post(t, lb); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	if posts.Load() != 5 {
		t.Errorf("%d posts arrived, want 5", posts.Load())
	}
}

func TestAPostThatMayHaveBeenReceivedIsNotRepeated(t *testing.T) {
	t.Parallel()
	drop := func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	a, postsA := webNode(t, drop)
	b, postsB := webNode(t, drop)
	lb := newBalancer(t, a, b)
	if status := post(t, lb); status != http.StatusGatewayTimeout {
		t.Errorf("status %d, want %d", status, http.StatusGatewayTimeout)
	}
	if got := postsA.Load() + postsB.Load(); got != 1 {
		t.Errorf("the post was sent %d times, want 1", got)
	}
}

func TestANodeThatIsGoingGetsNoNewPosts(t *testing.T) {
	t.Parallel()
	a, posts := webNode(t, ok)
	var going atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(rw http.ResponseWriter, _ *http.Request) {
		if going.Load() {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /say", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusTeapot) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	lb := newBalancer(t, a, server.Listener.Addr().String())
	going.Store(true)
	err := until(t.Context(), patience, "the load balancer has noticed", func() bool {
		lb.mu.Lock()
		defer lb.mu.Unlock()
		return !lb.backends[1].healthy
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if status := post(t, lb); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	if posts.Load() != 4 {
		t.Errorf("%d posts arrived, want 4", posts.Load())
	}
}

func TestAPostToANodeThatFreezesIsAnsweredAsUnknown(t *testing.T) {
	t.Parallel()
	freeze := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { <-freeze })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(freeze) })
	lb := newBalancer(t, server.Listener.Addr().String())
	began := time.Now()
	if status := post(t, lb); status != http.StatusGatewayTimeout {
		t.Errorf("status %d, want %d", status, http.StatusGatewayTimeout)
	}
	if took := time.Since(began); took >= 2*sendWithin { // which ends a post in any case
		t.Errorf("it took %v: the health probe did not cut it short", took)
	}
}
