package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// ircd is a small IRC server for one machine: enough of RFC 1459 for the bots,
// for the witness and for a person's own IRC client, and as strict as a real
// one about nicks in use, floods and silence.
type ircd struct {
	listener net.Listener
	handlers sync.WaitGroup

	mu    sync.Mutex
	conns map[*peer]bool
	nicks map[string]*peer          // by lower-case nick
	rooms map[string]map[*peer]bool // by lower-case name
}

// The server handles a burst of commands at once and then one for each
// commandEvery; what comes faster waits. Whoever piles up more than floodBytes
// behind that is thrown out.
const (
	ircdName     = "irc.demo.local"
	commandBurst = 6
	commandEvery = time.Second / 3
	floodBytes   = 2048
	pingAfter    = 60 * time.Second
	maxNick      = 16
)

var (
	validNick = regexp.MustCompile(`^[A-Za-z\[\]\\^_{|}` + "`" + `][A-Za-z0-9\[\]\\^_{|}` + "`" + `-]*$`)
	validRoom = regexp.MustCompile(`^[#&][^ ,\x07]{1,49}$`)
)

// peer is one connection. The server's mutex guards nick, user, welcome; out
// has one reader, the peer's writer.
type peer struct {
	conn       net.Conn
	out        chan string
	nick, user string
	welcome    bool
}

func startIRCd(addr string) (*ircd, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &ircd{
		listener: listener,
		conns:    map[*peer]bool{},
		nicks:    map[string]*peer{},
		rooms:    map[string]map[*peer]bool{},
	}
	s.handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			} else if err != nil {
				time.Sleep(50 * time.Millisecond) // out of file descriptors, most likely
				continue
			}
			p := &peer{conn: conn, out: make(chan string, 256)}
			s.mu.Lock()
			s.conns[p] = true
			s.mu.Unlock()
			s.handlers.Go(func() { s.serve(p) })
		}
	})
	return s, nil
}

func (s *ircd) Addr() string { return s.listener.Addr().String() }

func (s *ircd) Close() {
	_ = s.listener.Close()
	s.mu.Lock()
	for p := range s.conns {
		_ = p.conn.Close()
	}
	s.mu.Unlock()
	s.handlers.Wait()
}

func (s *ircd) serve(p *peer) {
	var writer sync.WaitGroup
	writer.Go(func() {
		for line := range p.out {
			_ = p.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := p.conn.Write([]byte(line + "\r\n")); err != nil {
				_ = p.conn.Close()
			}
		}
	})
	why := s.read(p)
	s.mu.Lock()
	s.leave(p, why)
	p.send("ERROR :Closing link: " + why)
	close(p.out)
	delete(s.conns, p)
	s.mu.Unlock()
	writer.Wait()
	_ = p.conn.Close()
}

// read handles the peer's commands until it leaves, and says why it left.
func (s *ircd) read(p *peer) string {
	in := bufio.NewReaderSize(p.conn, 2*floodBytes)
	var (
		line   string
		pinged bool
		paid   = time.Now() // the peer has used its allowance of commands up to this instant
	)
	for {
		_ = p.conn.SetReadDeadline(time.Now().Add(pingAfter))
		part, err := in.ReadString('\n')
		line += part
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !pinged:
			pinged = true
			s.mu.Lock()
			p.send("PING :" + ircdName)
			s.mu.Unlock()
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "Ping timeout"
		case err != nil:
			return "Connection closed"
		case len(line) > floodBytes:
			return "Excess Flood"
		}
		pinged = false

		if now := time.Now(); paid.Before(now) {
			paid = now
		}
		paid = paid.Add(commandEvery)
		if ahead := time.Until(paid) - commandBurst*commandEvery; ahead > 0 {
			time.Sleep(ahead)
			if in.Buffered() > floodBytes {
				return "Excess Flood"
			}
		}

		m := parseMessage(strings.TrimRight(line, "\r\n"))
		line = ""
		if m.command == "QUIT" {
			if m.last() != "" {
				return m.last()
			}
			return "Quit"
		}
		s.mu.Lock()
		s.handle(p, m)
		s.mu.Unlock()
	}
}

// send queues a line. A peer that does not read for so long that its queue is
// full is cut off. Caller holds s.mu.
func (p *peer) send(line string) {
	select {
	case p.out <- line:
	default:
		_ = p.conn.Close()
	}
}

func (p *peer) reply(code, text string) {
	nick := p.nick
	if nick == "" {
		nick = "*"
	}
	p.send(":" + ircdName + " " + code + " " + nick + " " + text)
}

func (p *peer) prefix() string {
	host, _, _ := net.SplitHostPort(p.conn.RemoteAddr().String())
	return ":" + p.nick + "!~" + p.user + "@" + host
}

// handle runs one command. Caller holds s.mu.
func (s *ircd) handle(p *peer, m message) {
	switch m.command {
	case "", "PONG", "CAP", "PASS":
		return
	case "PING":
		p.send(":" + ircdName + " PONG " + ircdName + " :" + m.last())
		return
	case "NICK":
		s.setNick(p, m.param(0))
		return
	case "USER":
		if p.user == "" && m.param(0) != "" {
			p.user = m.param(0)
			s.greet(p)
		}
		return
	}
	if !p.welcome {
		p.reply("451", ":You have not registered")
		return
	}
	switch m.command {
	case "JOIN":
		for name := range strings.SplitSeq(m.param(0), ",") {
			s.join(p, name)
		}
	case "PART":
		s.part(p, m.param(0))
	case "NAMES":
		s.names(p, m.param(0))
	case "PRIVMSG", "NOTICE":
		s.privmsg(p, m)
	case "MODE", "WHO", "TOPIC", "USERHOST", "AWAY": // what people's clients ask for without being asked
	default:
		p.reply("421", m.command+" :Unknown command")
	}
}

func (s *ircd) setNick(p *peer, nick string) {
	if len(nick) > maxNick || !validNick.MatchString(nick) {
		p.reply("432", nick+" :Erroneous nickname")
		return
	}
	if other := s.nicks[strings.ToLower(nick)]; other != nil && other != p {
		p.reply("433", nick+" :Nickname is already in use")
		return
	}
	if p.welcome {
		line := p.prefix() + " NICK :" + nick
		for other := range s.neighbours(p) {
			other.send(line)
		}
	}
	delete(s.nicks, strings.ToLower(p.nick))
	p.nick = nick
	s.nicks[strings.ToLower(nick)] = p
	s.greet(p)
}

func (s *ircd) greet(p *peer) {
	if p.welcome || p.nick == "" || p.user == "" {
		return
	}
	p.welcome = true
	p.reply("001", ":Welcome, "+p.nick)
	p.reply("005", fmt.Sprintf("NICKLEN=%d CASEMAPPING=ascii CHANTYPES=#& :are supported by this server", maxNick))
	p.reply("422", ":No message of the day")
}

func (s *ircd) join(p *peer, name string) {
	if !validRoom.MatchString(name) {
		p.reply("403", name+" :No such channel")
		return
	}
	key := strings.ToLower(name)
	if s.rooms[key][p] {
		return
	}
	if s.rooms[key] == nil {
		s.rooms[key] = map[*peer]bool{}
	}
	s.rooms[key][p] = true
	for member := range s.rooms[key] {
		member.send(p.prefix() + " JOIN :" + name)
	}
	s.names(p, name)
}

func (s *ircd) names(p *peer, name string) {
	var nicks []string
	for member := range s.rooms[strings.ToLower(name)] {
		nicks = append(nicks, member.nick)
	}
	slices.Sort(nicks)
	p.reply("353", "= "+name+" :"+strings.Join(nicks, " "))
	p.reply("366", name+" :End of NAMES list")
}

func (s *ircd) part(p *peer, name string) {
	members := s.rooms[strings.ToLower(name)]
	if !members[p] {
		p.reply("442", name+" :You are not on that channel")
		return
	}
	for member := range members {
		member.send(p.prefix() + " PART " + name)
	}
	delete(members, p)
}

func (s *ircd) privmsg(p *peer, m message) {
	to, text := m.param(0), m.param(1)
	if to == "" || text == "" {
		p.reply("412", ":No text to send")
		return
	}
	line := p.prefix() + " " + m.command + " " + to + " :" + text
	if other := s.nicks[strings.ToLower(to)]; other != nil {
		other.send(line)
		return
	}
	members := s.rooms[strings.ToLower(to)]
	if !members[p] {
		p.reply("404", to+" :Cannot send to channel")
		return
	}
	for member := range members {
		if member != p {
			member.send(line)
		}
	}
}

// leave takes the peer out of every room and tells those who were there. Caller
// holds s.mu.
func (s *ircd) leave(p *peer, why string) {
	if p.welcome {
		line := p.prefix() + " QUIT :" + why
		for other := range s.neighbours(p) {
			if other != p {
				other.send(line)
			}
		}
	}
	for _, members := range s.rooms {
		delete(members, p)
	}
	maps.DeleteFunc(s.rooms, func(_ string, members map[*peer]bool) bool { return len(members) == 0 })
	if s.nicks[strings.ToLower(p.nick)] == p {
		delete(s.nicks, strings.ToLower(p.nick))
	}
}

// neighbours are the peer itself and all who share a room with it. Caller holds
// s.mu.
func (s *ircd) neighbours(p *peer) map[*peer]bool {
	all := map[*peer]bool{p: true}
	for _, members := range s.rooms {
		if members[p] {
			maps.Copy(all, members)
		}
	}
	return all
}
