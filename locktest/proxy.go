package locktest

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A Proxy is a socket on the way to a service. Its methods Stop, Slow and LoseReplies are
// hooks for the [Service] behind it.
type Proxy struct {
	Addr net.Addr // where it listens, of the same network as the service

	target net.Addr
	done   chan struct{}

	mu sync.Mutex
	weather
	changed chan struct{} // closed when the weather has changed
}

// weather is what becomes of bytes on their way.
type weather struct {
	stopped bool // they wait
	losing  bool // replies are thrown away, and so is their connection afterwards
	delay   time.Duration
}

// NewProxy starts a proxy to a TCP or Unix socket, which ends with the test. It
// listens on loopback, or on a Unix socket of its own.
func NewProxy(t testing.TB, target net.Addr) *Proxy {
	t.Helper()
	listen := "127.0.0.1:0"
	if target.Network() == "unix" {
		dir, err := os.MkdirTemp("", "gone") // t.TempDir may be too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		listen = filepath.Join(dir, "proxy.sock")
	}
	ln, err := net.Listen(target.Network(), listen)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: ln.Addr(), target: target, done: make(chan struct{}), changed: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			down, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(down) })
		}
	})
	t.Cleanup(func() {
		close(p.done)
		_ = ln.Close()
		wg.Wait()
	})
	return p
}

// Stop lets nothing pass in either direction. Connections stay open, and what is on its
// way arrives afterwards.
func (p *Proxy) Stop(testing.TB) (start func()) {
	return p.change(func(w *weather) { w.stopped = true }, func(w *weather) { w.stopped = false })
}

// Slow delays each reply.
func (p *Proxy) Slow(_ testing.TB, by time.Duration) (undo func()) {
	return p.change(func(w *weather) { w.delay = by }, func(w *weather) { w.delay = 0 })
}

// LoseReplies loses replies. Undoing it closes the connections that have lost some.
func (p *Proxy) LoseReplies(testing.TB) (undo func()) {
	return p.change(func(w *weather) { w.losing = true }, func(w *weather) { w.losing = false })
}

func (p *Proxy) change(do, undo func(*weather)) func() {
	f := func(to func(*weather)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		to(&p.weather)
		close(p.changed)
		p.changed = make(chan struct{})
	}
	f(do)
	return func() { f(undo) }
}

// serve serves one connection to its end.
func (p *Proxy) serve(down net.Conn) {
	defer down.Close()
	up, err := net.Dial(p.target.Network(), p.target.String())
	if err != nil {
		return
	}
	defer up.Close()
	ended := make(chan struct{}, 2)
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(up, down, false); ended <- struct{}{} })
	wg.Go(func() { p.copy(down, up, true); ended <- struct{}{} })
	select {
	case <-ended:
	case <-p.done:
	}
	_, _ = down.Close(), up.Close()
	wg.Wait()
}

// A chunk is due when it may go on.
type chunk struct {
	bytes []byte
	due   time.Time
}

// copy returns when the connection is to end.
func (p *Proxy) copy(to, from net.Conn, replies bool) {
	chunks := make(chan chunk, 64)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer from.Close()
	wg.Go(func() {
		defer close(chunks)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			c := chunk{buf[:n], time.Now()}
			p.mu.Lock()
			if replies {
				c.due = c.due.Add(p.delay)
			}
			p.mu.Unlock()
			select {
			case chunks <- c:
			case <-p.done:
				return
			}
		}
	})
	for c := range chunks {
		time.Sleep(time.Until(c.due))
		if !p.passes(replies) {
			return
		}
		if _, err := to.Write(c.bytes); err != nil {
			return
		}
	}
}

// passes waits while nothing may, and reports whether what has waited may go on.
func (p *Proxy) passes(replies bool) bool {
	for lost := false; ; {
		p.mu.Lock()
		w, changed := p.weather, p.changed
		p.mu.Unlock()
		losing := w.losing && replies
		lost = lost || losing
		if !w.stopped && !losing {
			return !lost
		}
		select {
		case <-changed:
		case <-p.done:
			return false
		}
	}
}
