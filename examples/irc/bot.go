package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/gomodule/redigo/redis"
)

const (
	expiry       = 2 * time.Second        // of the lock: a crash is noticed this fast
	linePause    = 700 * time.Millisecond // between two lines: with its PING, under three commands a second
	quietAfter   = 4                      // renewals without a word from the server, the bot asks for a sign of life
	deadAfter    = 15                     // renewals without a word, the connection counts as dead
	joinWithin   = 20 * time.Second       // real servers look up names before they let one in
	rememberSaid = time.Hour              // for how long a line is not said again

	say = "say" // the one answer of said.lua that lets the bot speak; the others are "said" and "stale"

	botUser = "gonebot" // the IRC user name by which the witness knows the bots from people
)

//go:embed said.lua
var saidLua string

var saidScript = redis.NewScript(2, saidLua)

// bot is the singleton: whatever the cluster posts, this handler says in the
// room. Every node runs it; gone sees to it that one of them is running.
type bot struct {
	node, server, room string
	redis              *redis.Pool
	log                *slog.Logger
}

// payload is what travels on r.Data: the line's tag, by which it is known
// wherever it goes, and the line.
func payload(tag, text string) []byte { return []byte(tag + " " + text) }

// run is the handler of one tenure.
func (b *bot) run(r *gone.GoneRunner) {
	log := b.log.With("token", r.FencingToken())
	log.Info("holds")
	irc, err := b.enter(r)
	if err == nil {
		err = b.speak(r, irc, log)
	}
	if cause := context.Cause(r.Context()); cause != nil { // whatever else seemed wrong, the tenure was over
		err = cause
	}
	if irc != nil {
		irc.quit(err.Error())
	}
	log.Info("left", "why", err.Error())
}

// enter is the first thing that the fence guards: from here on no earlier
// tenure may speak.
func (b *bot) enter(r *gone.GoneRunner) (*client, error) {
	answer, err := b.mayI(r, fmt.Sprint("tenure-", r.FencingToken()), 0)
	if err != nil {
		return nil, err
	}
	if answer != say {
		return nil, fmt.Errorf("may not enter the room: %s", answer)
	}
	ctx, cancel := context.WithTimeout(r.Context(), expiry/2)
	defer cancel()
	return dialIRC(ctx, b.server, b.room, b.node, botUser)
}

// speak says what arrives until the tenure or the connection ends, and returns
// why it did. Its hand is kept empty: it receives from r.Data only when it can
// speak at once, that is, when the server has confirmed the line before (PONG)
// and the pause for the flood limits is over. Until then the senders wait, as
// senders on an unbuffered channel do. So a bot that is killed takes no line
// with it that it had received and not said, except in the instant between the
// two.
func (b *bot) speak(r *gone.GoneRunner, irc *client, log *slog.Logger) error {
	var (
		started  = time.Now()
		silent   int              // renewals since the server was last heard; a frozen bot counts none
		pings    int              // sent
		pongs    int              // received; every line is followed by a PING
		pause    <-chan time.Time // not nil while the flood limits forbid the next line
		renewals = time.NewTicker(expiry / 3)
		lines    int
	)
	defer renewals.Stop()
	ping := func() error {
		pings++
		return irc.send(fmt.Sprintf("PING :%d", pings))
	}

	for {
		data := r.Data
		if !irc.joined || pings > pongs || pause != nil {
			data = nil
		}
		select {
		case <-r.Exit:
			return context.Cause(r.Context())

		case d := <-data:
			tag, text, _ := strings.Cut(string(d), " ")
			lines++
			answer, err := b.mayI(r, tag, lines)
			if err != nil {
				log.Error("unsaid", "tag", tag, "why", err.Error())
				return err
			}
			if answer != say {
				log.Info(answer, "tag", tag)
				continue
			}
			if err := errors.Join(irc.send("PRIVMSG "+b.room+" :"+sayable(text)+" ["+tag+"]"), ping()); err != nil {
				return err
			}
			pause = time.After(linePause)

		case <-pause:
			pause = nil

		case m, open := <-irc.in:
			if !open {
				return errors.New("the IRC connection ended")
			}
			silent = 0
			before := irc.joined
			if err := irc.attend(m); err != nil {
				return err
			}
			if irc.joined && !before {
				log.Info("joined", "nick", irc.nick)
			}
			if m.command == "PONG" {
				pongs++
			}

		// The lock is extended only while the connection is healthy: a node
		// that cannot speak lets another try.
		case <-renewals.C:
			silent++
			if silent > deadAfter {
				return errors.New("the IRC server is silent")
			}
			if !irc.joined && time.Since(started) > joinWithin {
				return errors.New("the IRC server does not let me in")
			}
			if irc.joined && silent > quietAfter && pings == pongs {
				if err := ping(); err != nil {
					return err
				}
			}
			if err := r.Extend(); err != nil {
				return err
			}
		}
	}
}

// mayI asks the register of lines that were said. It keeps a line from being
// said twice when its sender repeats it after an unknown outcome, and it is the
// resource that checks the fencing token: a bot that was frozen with a line in
// its hand finds out here that another has taken its place. A register out of
// reach is asked again until the tenure ends.
func (b *bot) mayI(r *gone.GoneRunner, tag string, line int) (string, error) {
	for {
		answer, err := b.ask(r, tag, line)
		if err == nil {
			return answer, nil
		}
		select {
		case <-r.Exit:
			return "", err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (b *bot) ask(r *gone.GoneRunner, tag string, line int) (string, error) {
	conn, err := b.redis.GetContext(r.Context())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	token := r.FencingToken()
	return redis.String(saidScript.Do(conn, r.ID()+":fence", r.ID()+":said:"+tag,
		token, fmt.Sprintf("%d/%d", token, line), int(rememberSaid.Seconds())))
}
