package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// room is the witness and the judge. The witness is a plain IRC connection that
// sits in the room and knows nothing of gone; the server hands it everything in
// one order, and that order is the truth. The judge holds it against what was
// posted and what was confirmed. Its law:
//
//   - A bot that joins finds no other bot, unless that one was killed or frozen.
//     The judge is told of both: a frozen process cannot leave, and a server may
//     be slow to see that a dead one has.
//   - Only the bot that joined last speaks. Who has a successor is silent for
//     ever, whatever happened to it.
//   - Nothing is said that was not posted, nothing is said twice, and everything
//     confirmed is said.
type room struct {
	onLine func(string) // called for every line of the transcript

	mu         sync.Mutex
	transcript []string
	bots       []string        // in the room, in the order they joined
	excused    map[string]bool // bots that may still be there when their successor joins
	posted     map[string]bool
	confirmed  map[string]bool
	said       map[string]int
	joins      int
	faults     []string
}

func newRoom(onLine func(string)) *room {
	return &room{
		onLine:    onLine,
		excused:   map[string]bool{},
		posted:    map[string]bool{},
		confirmed: map[string]bool{},
		said:      map[string]int{},
	}
}

// witness joins the room, calls seated once it is in, and writes down what it
// sees until ctx is done. Losing the connection is a fault: what was not
// witnessed cannot be judged.
func (r *room) witness(ctx context.Context, server, name string, seated func()) error {
	irc, err := dialIRC(ctx, server, name, "witness", "witness")
	if err != nil {
		return err
	}
	joined := false
	for {
		select {
		case <-ctx.Done():
			irc.quit("the end")
			return nil
		case m, open := <-irc.in:
			err := errors.New("the IRC connection ended")
			if open {
				err = irc.attend(m)
			}
			if err != nil {
				irc.close()
				r.fault("the witness is gone: %v", err)
				return err
			}
			if irc.joined && !joined {
				joined = true
				seated()
			}
			if m.nick() != irc.nick {
				r.hear(m)
			}
		}
	}
}

var tagAtEnd = regexp.MustCompile(` \[([A-Za-z0-9._-]+)\]$`)

func (r *room) hear(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	bot, nick := m.user() == botUser, m.nick()
	switch m.command {
	case "JOIN":
		r.write("--> %s joined", nick)
		if !bot {
			return
		}
		for _, other := range r.bots {
			if !r.excused[other] {
				r.blame("%s joined while %s was in the room", nick, other)
			}
		}
		r.bots = append(r.bots, nick)
		r.joins++
	case "QUIT", "PART":
		r.write("<-- %s left (%s)", nick, strings.Trim(m.last(), `"`)) // ngircd quotes the reason
		r.gone(nick)
	case "KICK":
		r.write("<-- %s was kicked (%s)", m.param(1), m.last())
		r.gone(m.param(1))
	case "PRIVMSG":
		r.write("<%s> %s", nick, m.last())
		if !bot {
			return
		}
		if len(r.bots) == 0 || r.bots[len(r.bots)-1] != nick {
			r.blame("%s spoke, but the bot is %v", nick, r.bots)
		}
		tag := tagAtEnd.FindStringSubmatch(m.last())
		if tag == nil || !r.posted[tag[1]] {
			r.blame("%s said what nobody posted: %s", nick, m.last())
			return
		}
		r.said[tag[1]]++
		if n := r.said[tag[1]]; n > 1 {
			r.blame("[%s] was said %d times", tag[1], n)
		}
	}
}

func (r *room) gone(nick string) {
	r.bots = slices.DeleteFunc(r.bots, func(bot string) bool { return bot == nick })
	delete(r.excused, nick)
}

// write adds a line to the transcript, blame adds a fault; the caller of both
// holds r.mu.
func (r *room) write(format string, args ...any) {
	line := time.Now().Format("15:04:05.000 ") + printable(fmt.Sprintf(format, args...))
	r.transcript = append(r.transcript, line)
	if r.onLine != nil {
		r.onLine(line)
	}
}

func (r *room) blame(format string, args ...any) {
	line := printable(fmt.Sprintf(format, args...))
	r.faults = append(r.faults, line)
	r.write("!!! %s", line)
}

func (r *room) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blame(format, args...)
}

// excuse is told before a bot is killed or frozen.
func (r *room) excuse(nick string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.bots, nick) {
		r.excused[nick] = true
	}
}

// post and confirm are told before something is posted, and when it was
// confirmed.
func (r *room) post(tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.posted[tag] = true
}

func (r *room) confirm(tag string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.confirmed[tag] = true
}

// bot is the nick of the one that may speak; "" when there is none.
func (r *room) bot() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bots) == 0 {
		return ""
	}
	return r.bots[len(r.bots)-1]
}

func (r *room) present(nick string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.bots, nick)
}

type tally struct{ posted, confirmed, said, joins int }

func (r *room) tally() tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tally{len(r.posted), len(r.confirmed), len(r.said), r.joins}
}

// unsaid are the posts that were confirmed and have not been heard. For a
// moment that is normal, at the end it is a fault.
func (r *room) unsaid() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var tags []string
	for tag := range r.confirmed {
		if r.said[tag] == 0 {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

func (r *room) everythingSaid() bool { return len(r.unsaid()) == 0 }

func (r *room) verdict() error {
	unsaid := r.unsaid()
	r.mu.Lock()
	defer r.mu.Unlock()
	faults := slices.Clone(r.faults)
	for _, tag := range unsaid {
		faults = append(faults, fmt.Sprintf("[%s] was confirmed and never said", tag))
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "\n"))
}

// tail is the end of the transcript.
func (r *room) tail(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.transcript[max(0, len(r.transcript)-n):])
}
