package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// ircServers runs a test against the embedded server and a real one: what holds
// for one must hold for the other, or the demo shows something else than it
// claims.
func ircServers(t *testing.T, test func(t *testing.T, addr string)) {
	t.Run("embedded", func(t *testing.T) {
		server, err := startIRCd("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Close)
		test(t, server.Addr())
	})
	t.Run("ngircd", func(t *testing.T) { test(t, startNgircd(t)) })
}

func join(t *testing.T, addr, nick string) *client {
	t.Helper()
	c, err := dialIRC(t.Context(), addr, "#gone", nick, nick)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	receive(t, c, "is in the room", func(m message) bool { return c.joined })
	return c
}

// receive attends to messages until one is as wanted.
func receive(t *testing.T, c *client, what string, wanted func(message) bool) message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case m, open := <-c.in:
			if !open {
				t.Fatalf("connection ended before %s %s", c.nick, what)
			}
			if err := c.attend(m); err != nil {
				t.Fatal(err)
			}
			if wanted(m) {
				return m
			}
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s %s", c.nick, what)
		}
	}
}

func TestTheRoomSeesWhoJoinsSpeaksAndLeaves(t *testing.T) {
	t.Parallel()
	ircServers(t, func(t *testing.T, addr string) {
		watcher := join(t, addr, "watcher")
		web1 := join(t, addr, "web1")
		if err := web1.send("PRIVMSG #gone :hello there"); err != nil {
			t.Fatal(err)
		}
		web1.quit("bye")
		var seen []string
		receive(t, watcher, "sees web1 leave", func(m message) bool {
			if m.nick() == "web1" && m.user() == "web1" {
				seen = append(seen, m.command)
			}
			if m.command == "PRIVMSG" && m.last() != "hello there" {
				t.Errorf("heard %q", m.last())
			}
			return m.command == "QUIT"
		})
		if want := []string{"JOIN", "PRIVMSG", "QUIT"}; !slices.Equal(seen, want) {
			t.Errorf("saw %v, want %v", seen, want)
		}
	})
}

func TestAClientWhoseNickIsInUseTakesAnother(t *testing.T) {
	t.Parallel()
	ircServers(t, func(t *testing.T, addr string) {
		join(t, addr, "web1")
		if second := join(t, addr, "web1"); second.nick != "web1-2" {
			t.Errorf("the second is called %q, want web1-2", second.nick)
		}
	})
}

// The server may hold a burst back, but loses nothing of it: that is what the
// bot's waiting for PONG relies on.
func TestABurstIsAnsweredInFullAndInOrder(t *testing.T) {
	t.Parallel()
	ircServers(t, func(t *testing.T, addr string) { burst(t, join(t, addr, "web1"), 12) })
}

func TestTheEmbeddedServerHoldsABurstBack(t *testing.T) {
	t.Parallel()
	server, err := startIRCd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	c := join(t, server.Addr(), "web1")
	const commands = 12
	began := time.Now()
	burst(t, c, commands)
	if took, least := time.Since(began), (commands-commandBurst)*commandEvery; took < least {
		t.Errorf("%d commands took %v, want at least %v", commands, took, least)
	}
}

func burst(t *testing.T, c *client, commands int) {
	t.Helper()
	for i := range commands {
		if err := c.send(fmt.Sprintf("PING :%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range commands {
		m := receive(t, c, "has its PONG", func(m message) bool { return m.command == "PONG" })
		if m.last() != fmt.Sprint(i) {
			t.Fatalf("PONG %s, want %d", m.last(), i)
		}
	}
}

func TestTheEmbeddedServerThrowsOutAFlooder(t *testing.T) {
	t.Parallel()
	server, err := startIRCd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	watcher := join(t, server.Addr(), "watcher")
	flooder := join(t, server.Addr(), "flooder")
	_ = flooder.send(strings.Repeat("PRIVMSG #gone :spam spam spam spam\r\n", 200))
	m := receive(t, watcher, "sees the flooder go", func(m message) bool { return m.command == "QUIT" })
	if m.nick() != "flooder" || m.last() != "Excess Flood" {
		t.Errorf("saw %+v", m)
	}
}

func TestTheEmbeddedServerLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	server, err := startIRCd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", server.Addr()) // one that never registers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	join(t, server.Addr(), "web1")
	server.Close() // returns only when every connection's goroutines have
	if len(server.nicks) != 0 || len(server.rooms) != 0 || len(server.conns) != 0 {
		t.Errorf("left: %v %v %v", server.nicks, server.rooms, server.conns)
	}
}

func TestParseMessage(t *testing.T) {
	for line, want := range map[string]message{
		"PING":                              {command: "PING"},
		"ping :a b":                         {command: "PING", params: []string{"a b"}},
		":n!u@h PRIVMSG #gone :hi :) there": {from: "n!u@h", command: "PRIVMSG", params: []string{"#gone", "hi :) there"}},
		"@time=1 :srv 433 * web1  :in use":  {from: "srv", command: "433", params: []string{"*", "web1", "in use"}},
		":n!u@h QUIT :":                     {from: "n!u@h", command: "QUIT", params: []string{""}},
		"  ":                                {},
		"":                                  {},
		":only":                             {from: "only"},
	} {
		got := parseMessage(line)
		if got.from != want.from || got.command != want.command || !slices.Equal(got.params, want.params) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func FuzzALineStaysOneLine(f *testing.F) {
	f.Add("hello\r\nQUIT")
	f.Add(strings.Repeat("é", 300))
	f.Add("\xff\x00\x01")
	f.Fuzz(func(t *testing.T, text string) {
		got := sayable(text)
		if len(got) > 400 || strings.ContainsAny(got, "\r\n\x00") {
			t.Errorf("%q becomes %q", text, got)
		}
	})
}
