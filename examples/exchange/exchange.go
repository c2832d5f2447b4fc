package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

const (
	tickEvery   = 100 * time.Millisecond
	usualAnswer = 40 * time.Millisecond // from an order to its answer, on average
)

// An exchange is the stateful service: an account has one session at a time, a
// session numbers its orders, and answers come late and in any order. It does
// not ask whether it has seen an order before. It executes what a session says,
// as often as it says so, and writes down in a journal what it did: that no
// order is executed twice is up to others, and can be checked.
type exchange struct {
	listener net.Listener
	journal  *os.File
	done     chan struct{}
	serving  sync.WaitGroup

	mu         sync.Mutex
	accounts   map[string]*account
	seats      map[*seat]bool // connections, logged in or not
	latency    time.Duration
	executions int
	tick       int
	price      int
}

// An account outlives its sessions: it remembers the highest token.
type account struct {
	token   uint64
	node    string
	session *seat // nil when nobody is logged in
}

// A seat is the exchange's end of a session.
type seat struct {
	conn    net.Conn
	account *account // nil until login; guarded by exchange.mu
	seq     int
	open    sync.WaitGroup // orders that are not answered

	mu sync.Mutex // of writes
}

func startExchange(addr, journal string) (*exchange, error) {
	file, err := os.OpenFile(journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	x := &exchange{
		listener: listener, journal: file, done: make(chan struct{}),
		accounts: map[string]*account{}, seats: map[*seat]bool{}, latency: usualAnswer, price: 10_000,
	}
	x.serving.Go(x.accept)
	x.serving.Go(x.quote)
	return x, nil
}

func (x *exchange) Addr() string { return x.listener.Addr().String() }

// Close ends all sessions. Nothing is executed afterwards.
func (x *exchange) Close() error {
	close(x.done)
	err := x.listener.Close()
	x.mu.Lock()
	for s := range x.seats {
		_ = s.conn.Close()
	}
	x.mu.Unlock()
	x.serving.Wait()
	return errors.Join(err, x.journal.Close())
}

func (x *exchange) accept() {
	for {
		conn, err := x.listener.Accept()
		if err != nil {
			return
		}
		s := &seat{conn: conn}
		x.mu.Lock()
		x.seats[s] = true
		x.mu.Unlock()
		x.serving.Go(func() { x.serve(s) })
	}
}

func (x *exchange) serve(s *seat) {
	defer x.leave(s)
	lines := bufio.NewReader(s.conn)
	for {
		l, err := readLine(lines)
		if err != nil {
			return
		}
		switch l.Type {
		case "login":
			err = x.login(s, l)
		case "order":
			err = x.order(s, l)
		default: // logout, and what is not understood
			x.logout(s)
			return
		}
		if err != nil {
			s.send(line{Type: "refused", Reason: err.Error()})
			return
		}
	}
}

// login is where a session that was overtaken is fenced off: a token that is
// not above all before it is refused, and one that is ends the session before.
func (x *exchange) login(s *seat, l line) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := x.accounts[l.Account]
	if a == nil {
		a = &account{}
		x.accounts[l.Account] = a
	}
	if s.account != nil || l.Token <= a.token {
		return fmt.Errorf("token %d is not above %d", l.Token, a.token)
	}
	if a.session != nil {
		_ = a.session.conn.Close()
	}
	a.token, a.node, a.session, s.account = l.Token, l.Node, s, a
	x.write(l, l.Token)
	s.send(line{Type: "welcome"})
	return nil
}

// order executes, if s is still the account's session, and answers later.
func (x *exchange) order(s *seat, l line) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s.account == nil || s.account.session != s {
		return errors.New("not logged in")
	}
	if s.seq++; l.Seq != s.seq {
		return fmt.Errorf("order %d came as number %d", l.Seq, s.seq)
	}
	answer := line{Type: "rejected", Seq: l.Seq, Order: l.Order, Reason: "an order of nothing"}
	if l.Quantity != 0 {
		x.executions++
		answer = line{
			Type: "executed", Seq: l.Seq, Order: l.Order,
			Quantity: l.Quantity, Execution: x.executions, Price: x.price,
		}
		x.write(answer, s.account.token)
	}
	s.open.Add(1)
	time.AfterFunc(x.latency/2+rand.N(x.latency), func() {
		defer s.open.Done()
		s.send(answer)
	})
	return nil
}

// write adds to the journal; the caller holds x.mu. Without a journal nothing
// could be checked.
func (x *exchange) write(l line, token uint64) {
	l.Token, l.At = token, time.Now()
	if err := writeLine(x.journal, l); err != nil {
		panic(err)
	}
}

// logout answers what is open. A session that ends without it is a lost one.
func (x *exchange) logout(s *seat) {
	s.open.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if s.account != nil && s.account.session == s {
		x.write(line{Type: "logout"}, s.account.token)
	}
}

func (x *exchange) leave(s *seat) {
	_ = s.conn.Close()
	x.mu.Lock()
	delete(x.seats, s)
	if s.account != nil && s.account.session == s {
		s.account.session = nil
	}
	x.mu.Unlock()
}

// quote sends prices to all sessions.
func (x *exchange) quote() {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for {
		select {
		case <-x.done:
			return
		case <-ticker.C:
		}
		x.mu.Lock()
		x.tick++
		x.price += rand.N(21) - 10
		l := line{Type: "price", Tick: x.tick, Price: x.price}
		var all []*seat
		for s := range x.seats {
			if s.account != nil {
				all = append(all, s)
			}
		}
		x.mu.Unlock()
		for _, s := range all {
			s.send(l)
		}
	}
}

// send ends the session when its other end does not read.
func (s *seat) send(l line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if writeLine(s.conn, l) != nil {
		_ = s.conn.Close()
	}
}

// session is the account's last one, and whether it is still there.
func (x *exchange) session(name string) (node string, token uint64, live bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if a := x.accounts[name]; a != nil {
		return a.node, a.token, a.session != nil
	}
	return "", 0, false
}

func (x *exchange) figures() (executions, tick int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.executions, x.tick
}

// slow sets the time from an order to its answer.
func (x *exchange) slow(latency time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.latency = latency
}

// cut ends the account's connection in the middle of whatever it does.
func (x *exchange) cut(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if a := x.accounts[name]; a != nil && a.session != nil {
		_ = a.session.conn.Close()
	}
}

func readJournal(path string) (entries []line, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for lines := bufio.NewReader(file); ; {
		l, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, l)
	}
}
