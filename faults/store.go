package main

import (
	"bufio"
	"fmt"
	"net"
	"sync"
)

// A Store is the resource that handlers protect: it refuses a write with a
// lower token than it has seen. It runs in the suite, and notes every write it
// accepts in the order in which it accepts them.
type Store struct {
	ln net.Listener

	mu     sync.Mutex
	newest map[string]uint64
	writes []Event // accepted
}

func newStore(path string) (*Store, error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := &Store{ln: ln, newest: map[string]uint64{}}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return s, nil
}

func (s *Store) serve(conn net.Conn) {
	defer conn.Close()
	for in := bufio.NewScanner(conn); in.Scan(); {
		var id string
		var token uint64
		if _, err := fmt.Sscan(in.Text(), &id, &token); err != nil {
			return
		}
		answer := "refused\n"
		if s.accept(id, token) {
			answer = "ok\n"
		}
		if _, err := conn.Write([]byte(answer)); err != nil {
			return
		}
	}
}

func (s *Store) accept(id string, token uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token < s.newest[id] {
		return false
	}
	s.newest[id] = token
	s.writes = append(s.writes, Event{At: clock(), Kind: Wrote, ID: id, Token: token, Node: "store"})
	return true
}

func (s *Store) accepted() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.writes...)
}

func (s *Store) close() { s.ln.Close() }

// A storeClient is a handler's connection to the store.
type storeClient struct {
	conn net.Conn
	in   *bufio.Reader
	err  error
}

func (n *node) dialStore() *storeClient {
	c := &storeClient{}
	if n.cfg.Store == "" {
		c.err = fmt.Errorf("no store")
		return c
	}
	if c.conn, c.err = net.Dial("unix", n.cfg.Store); c.err == nil {
		c.in = bufio.NewReader(c.conn)
	}
	return c
}

func (c *storeClient) write(id string, token uint64) string {
	if c.err != nil {
		return c.err.Error()
	}
	if _, c.err = fmt.Fprintf(c.conn, "%s %d\n", id, token); c.err != nil {
		return c.err.Error()
	}
	var line string
	if line, c.err = c.in.ReadString('\n'); c.err != nil {
		return c.err.Error()
	}
	return line[:len(line)-1]
}

func (c *storeClient) close() {
	if c.conn != nil {
		c.conn.Close()
	}
}
