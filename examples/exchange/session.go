package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

const (
	silence   = time.Second // without a line from the exchange, the session is lost
	nextPrice = "price"     // the message that is answered with the next price; every other is an order
)

// A desk runs the cluster's one session with the exchange.
type desk struct {
	node, exchange, account string
}

// run is the handler. It returns when the session is lost; then another node, or
// this one, begins a new one.
func (d *desk) run(r *gone.GoneRunner) {
	s, err := d.login(r)
	if err != nil {
		slog.Warn("no session", "token", r.FencingToken(), "why", err)
		return
	}
	defer s.conn.Close()
	go s.forward(r)
	err = s.answer()
	slog.Info("the session is over", "token", r.FencingToken(), "why", cmp.Or(context.Cause(r.Context()), err))
}

// A session passes orders on and gives each its answer. What it has not
// answered when it ends, gone does: the outcome is unknown.
type session struct {
	conn     net.Conn
	lines    *bufio.Reader
	watchdog *time.Timer // closes conn

	mu   sync.Mutex
	seq  int
	open map[int][]*gone.Message // by the order's number; at 0 are those who wait for the next price
}

// login tells the exchange the fencing token. From then on it listens to no
// earlier session, not even if that was only asleep.
func (d *desk) login(r *gone.GoneRunner) (*session, error) {
	conn, err := new(net.Dialer).DialContext(r.Context(), "tcp", d.exchange)
	if err != nil {
		return nil, err
	}
	s := &session{
		conn: conn, lines: bufio.NewReader(conn), open: map[int][]*gone.Message{},
		watchdog: time.AfterFunc(silence, func() { _ = conn.Close() }),
	}
	// What is left of the lease is the time to log out.
	context.AfterFunc(r.Context(), func() { _ = conn.SetDeadline(r.Deadline()) })

	hello := line{Type: "login", Account: d.account, Node: d.node, Token: r.FencingToken()}
	answer, err := line{}, writeLine(conn, hello)
	if err == nil {
		answer, err = readLine(s.lines)
	}
	if err == nil && answer.Type != "welcome" {
		err = errors.New(answer.Reason)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// forward passes on what arrives until the tenure ends. Meanwhile, Messages keeps
// the lease. Then it logs out: the exchange answers what is open and ends the
// connection.
func (s *session) forward(r *gone.GoneRunner) {
	for m := range r.Messages() {
		s.take(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = writeLine(s.conn, line{Type: "logout"})
}

// take passes an order on, or notes that somebody waits for the next price.
func (s *session) take(m *gone.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What nobody waits for any more had better not be executed. A tenure that is
	// only being closed still has the time to answer.
	if why := context.Cause(m.Context()); why != nil && !errors.Is(why, gone.ErrClosed) {
		return
	}
	if string(m.Data) == nextPrice {
		s.open[0] = append(s.open[0], m)
		return
	}
	var order line
	if err := json.Unmarshal(m.Data, &order); err != nil {
		_ = m.Fail(err)
		return
	}
	s.seq++
	order.Type, order.Seq = "order", s.seq
	if err := writeLine(s.conn, order); err != nil { // the exchange has at most a part of it
		_ = s.conn.Close()
		_ = m.Fail(fmt.Errorf("not sent: %w", err))
		return
	}
	s.open[s.seq] = append(s.open[s.seq], m)
}

// answer gives what the exchange says to those who wait for it, until the
// connection ends.
func (s *session) answer() error {
	defer s.watchdog.Stop()
	for {
		l, err := readLine(s.lines)
		if err != nil {
			return err
		}
		s.watchdog.Reset(silence)
		data, err := json.Marshal(l)
		if err != nil {
			return err
		}
		for _, m := range s.waiting(l.Seq) {
			if l.Reason != "" {
				_ = m.Fail(errors.New(l.Reason))
			} else {
				_ = m.Reply(data)
			}
		}
	}
}

// waiting takes out who waits for an answer.
func (s *session) waiting(seq int) []*gone.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer delete(s.open, seq)
	return s.open[seq]
}
