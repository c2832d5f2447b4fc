package main

import (
	"bufio"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestASecondLoginEndsTheFirstSessionAndOnlyRisingTokensAreLetIn(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 2)
	first := dial(t, x)
	first.login(1, "welcome")
	first.send(line{Type: "order", Seq: 1, Order: "one", Quantity: 1})
	first.expect("executed")
	dial(t, x).login(1, "refused")
	second := dial(t, x)
	second.login(3, "welcome")
	dial(t, x).login(2, "refused")
	first.expectEnd()
	second.send(line{Type: "order", Seq: 1, Order: "two", Quantity: 1})
	second.expect("executed")
	if node, token, live := x.session(firm); node != "test" || token != 3 || !live {
		t.Errorf("the session is %s's, with token %d, live %t", node, token, live)
	}
}

func TestASessionThatHasNotLoggedInTradesNothing(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 0)
	c := dial(t, x)
	c.send(line{Type: "order", Seq: 1, Order: "one", Quantity: 1})
	c.expect("refused")
	c.expectEnd()
}

func TestAnOrderOutOfSequenceEndsTheSession(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 0)
	c := dial(t, x)
	c.login(1, "welcome")
	c.send(line{Type: "order", Seq: 2, Order: "one", Quantity: 1})
	c.expect("refused")
	c.expectEnd()
}

func TestAnOrderWithoutItsNewlineIsNotExecuted(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 0)
	c := dial(t, x)
	c.login(1, "welcome")
	if _, err := c.conn.Write([]byte(`{"type":"order","seq":1,"order":"one","quantity":1}`)); err != nil {
		t.Fatal(err)
	}
	_ = c.conn.CloseWrite()
	c.expectEnd()
}

func TestAnExchangeAnswersAllThatIsOpenBeforeALogoutEndsTheSession(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 20)
	c := dial(t, x)
	c.login(1, "welcome")
	for seq := 1; seq <= 20; seq++ {
		c.send(line{Type: "order", Seq: seq, Order: "one", Quantity: seq})
	}
	c.send(line{Type: "logout"})
	for range 20 {
		c.expect("executed")
	}
	c.expectEnd()
}

// newExchange is one whose journal must have so many executions in the end.
func newExchange(t *testing.T, executions int) *exchange {
	t.Helper()
	journal := filepath.Join(t.TempDir(), "journal")
	x, err := startExchange("127.0.0.1:0", journal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
		entries, err := readJournal(journal)
		if err != nil {
			t.Error(err)
		}
		executed := 0
		for _, l := range entries {
			if l.Type == "executed" {
				executed++
			}
		}
		if executed != executions {
			t.Errorf("the journal has %d executions, want %d", executed, executions)
		}
	})
	return x
}

// A client speaks the exchange's protocol.
type client struct {
	t     *testing.T
	conn  *net.TCPConn
	lines *bufio.Reader
}

func dial(t *testing.T, x *exchange) *client {
	t.Helper()
	conn, err := net.Dial("tcp", x.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &client{t, conn.(*net.TCPConn), bufio.NewReader(conn)}
}

func (c *client) send(l line) {
	c.t.Helper()
	if err := writeLine(c.conn, l); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) login(token uint64, want string) {
	c.t.Helper()
	c.send(line{Type: "login", Account: firm, Node: "test", Token: token})
	c.expect(want)
}

// expect reads the next line that is not a price.
func (c *client) expect(want string) {
	c.t.Helper()
	for {
		l, err := readLine(c.lines)
		if err != nil {
			c.t.Fatalf("%v while waiting for %s", err, want)
		}
		if l.Type == "price" {
			continue
		}
		if l.Type != want {
			c.t.Fatalf("got %+v, want %s", l, want)
		}
		return
	}
}

func (c *client) expectEnd() {
	c.t.Helper()
	for {
		l, err := readLine(c.lines)
		if err != nil {
			return
		}
		if l.Type != "price" {
			c.t.Fatalf("got %+v, want the end", l)
		}
	}
}
