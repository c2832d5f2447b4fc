package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// message is one line of the IRC protocol, RFC 1459 section 2.3.
type message struct {
	from    string // "nick!user@host" or a server's name; empty when a client sends
	command string
	params  []string
}

func parseMessage(line string) message {
	var m message
	if strings.HasPrefix(line, "@") { // IRCv3 tags: nobody here asks for them
		_, line, _ = strings.Cut(line, " ")
	}
	if from, ok := strings.CutPrefix(line, ":"); ok {
		m.from, line, _ = strings.Cut(from, " ")
	}
	m.command, line, _ = strings.Cut(strings.TrimLeft(line, " "), " ")
	m.command = strings.ToUpper(m.command)
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		if last, ok := strings.CutPrefix(line, ":"); ok {
			m.params = append(m.params, last)
			break
		}
		var word string
		word, line, _ = strings.Cut(line, " ")
		m.params = append(m.params, word)
	}
	return m
}

func (m message) param(i int) string {
	if i < len(m.params) {
		return m.params[i]
	}
	return ""
}

func (m message) last() string { return m.param(len(m.params) - 1) }

func (m message) nick() string {
	nick, _, _ := strings.Cut(m.from, "!")
	return nick
}

// user is the name given with USER. A server puts "~" before it when it has not
// verified it.
func (m message) user() string {
	_, rest, _ := strings.Cut(m.from, "!")
	user, _, _ := strings.Cut(rest, "@")
	return strings.TrimPrefix(user, "~")
}

// sayable makes one IRC line of any text: no line breaks or control characters,
// and short enough for the 512 bytes of a line together with the prefix that
// the server puts before it.
func sayable(text string) string {
	const limit = 400
	text = printable(text)
	if len(text) > limit {
		cut := limit
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	return text
}

// printable is text without what a terminal would obey: anybody in a room can
// say an escape sequence.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// client is one connection to an IRC server that wants to sit in one room. One
// goroutine owns it: it receives from in, which is closed when the connection
// has ended, and passes every message to attend first.
type client struct {
	in     <-chan message
	nick   string // as the server knows it
	joined bool

	room  string
	name  string // the nick that we would like
	tried int    // nicks that were taken
	conn  net.Conn
	done  chan struct{}
	once  sync.Once
}

func dialIRC(ctx context.Context, server, room, nick, user string) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	in := make(chan message)
	c := &client{in: in, nick: nick, name: nick, room: room, conn: conn, done: make(chan struct{})}
	go func() {
		defer close(in)
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			select {
			case in <- parseMessage(lines.Text()):
			case <-c.done:
				return
			}
		}
	}()
	if err := errors.Join(c.send("NICK "+nick), c.send("USER "+user+" 0 * :github.com/Diggs/go-one")); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// attend does what a polite client does by itself: it answers PING, takes
// another nick when ours is in use (a server may still hold the one of our
// predecessor), and joins the room once the server has let us in.
func (c *client) attend(m message) error {
	switch m.command {
	case "PING":
		return c.send("PONG :" + m.last())
	case "433": // nickname is already in use
		if c.joined {
			return nil
		}
		c.tried++
		c.nick = fmt.Sprintf("%s-%d", c.name, c.tried+1)
		return c.send("NICK " + c.nick)
	case "001": // welcome
		c.nick = m.param(0)
		return c.send("JOIN " + c.room)
	case "JOIN":
		if m.nick() == c.nick && strings.EqualFold(m.param(0), c.room) {
			c.joined = true
		}
	case "KICK":
		if m.param(1) == c.nick {
			return fmt.Errorf("kicked by %s: %s", m.nick(), m.last())
		}
	case "403", "405", "432", "437", "465", "471", "473", "474", "475", "477", "ERROR": // not here, not now, not you
		return fmt.Errorf("the IRC server says: %s", m.last())
	}
	return nil
}

func (c *client) send(line string) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := c.conn.Write([]byte(line + "\r\n"))
	return err
}

// quit leaves the room and waits until the server has seen it: whoever comes
// after us finds us gone.
func (c *client) quit(why string) {
	defer c.close()
	if c.send("QUIT :"+why) != nil {
		return
	}
	patience := time.After(time.Second)
	for {
		select {
		case _, open := <-c.in:
			if !open {
				return
			}
		case <-patience:
			return
		}
	}
}

func (c *client) close() {
	c.once.Do(func() {
		close(c.done)
		_ = c.conn.Close()
	})
}
