package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// An Event is one line of a log. Every process of a run appends to a log of
// its own, one write(2) an event, so that what was logged outlives a kill.
type Event struct {
	At    time.Duration // CLOCK_MONOTONIC: the same for all processes of a machine
	Kind  Kind
	ID    string // of the singleton
	Token uint64 // of the tenure
	From  string // sending goroutine; for a lock, the acquisition
	N     int    // number of the message from From to ID; for a lock, of the call
	Text  string // outcome, reason

	Node string // whose log it is; not written
}

type Kind string

const (
	Ready  Kind = "ready"  // the node runs; Text is its address
	Failed Kind = "failed" // it could not start or run an id
	Quiet  Kind = "quiet"  // its senders have ended
	Closed Kind = "closed" // Close has returned
	Stats  Kind = "stats"  // Text is the answer to a command
	Log    Kind = "log"    // what gone logged; Text begins with the level

	Begin    Kind = "begin"    // first line of a handler
	Exit     Kind = "exit"     // seen by a goroutine that waits for r.Exit; Text is the cause
	Returned Kind = "returned" // last line of a handler
	Extended Kind = "extended" // Text is "ok" or the error
	Wrote    Kind = "wrote"    // to the fenced store; Text is "ok", "refused" or the error
	Received Kind = "received" // Text is "whole", from r.Data alone ""
	Replied  Kind = "replied"  // about to be; Text is "replied", "failed", or "twice"
	Sent     Kind = "sent"     // Text is the result, when it began, the time it took, the error
	Asked    Kind = "asked"    // so it is of a request, with the reply for an error

	LockCall   Kind = "lock>"
	LockRet    Kind = "lock<" // Text is "ok", "held" or the error
	ExtendCall Kind = "extend>"
	ExtendRet  Kind = "extend<" // Text is "ok", "lost" or the error
	UnlockCall Kind = "unlock>"
	UnlockRet  Kind = "unlock<"
	PassCall   Kind = "pass>" // Text is the ticket
	PassRet    Kind = "pass<" // Text is "ok", "lost" or the error
	Ticket     Kind = "ticket"

	// The suite's own.
	Killed  Kind = "killed" // a node; Node says which
	Stopped Kind = "stopped"
	Halted  Kind = "halted" // a node that is being stopped does nothing any more
	Resumed Kind = "resumed"
	Wiping  Kind = "wiping"  // Redis may forget from here …
	Wiped   Kind = "wiped"   // … to here
	Blocked Kind = "blocked" // nobody can be expected to hold an id from here …
	Free    Kind = "free"    // … to here
)

// What several events have for a Text.
const (
	whole   = "whole"   // a message from r.Inbox or of r.Messages
	replied = "replied" // Reply
	failed  = "failed"  // Fail
)

// clock is the clock of all logs.
func clock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// An EventLog appends events to a file. The stamp is taken before the mutex: one
// event must not look late because the write of another was slow. So a log is in
// order for each goroutine only.
type EventLog struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

func (l *EventLog) Add(e Event) time.Duration {
	e.At = clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = e.append(l.buf[:0])
	if _, err := l.w.Write(l.buf); err != nil {
		// A log with holes proves nothing.
		panic(err)
	}
	return e.At
}

func (e Event) append(b []byte) []byte {
	b = strconv.AppendInt(b, int64(e.At), 10)
	for _, s := range []string{string(e.Kind), e.ID, strconv.FormatUint(e.Token, 10), e.From, strconv.Itoa(e.N)} {
		b = append(append(b, '\t'), s...)
	}
	b = append(b, '\t')
	b = append(b, strings.NewReplacer("\n", " ", "\t", " ").Replace(e.Text)...)
	return append(b, '\n')
}

func parseEvent(line string) (e Event, ok bool) {
	f := strings.SplitN(line, "\t", 7)
	if len(f) != 7 {
		return e, false
	}
	at, err1 := strconv.ParseInt(f[0], 10, 64)
	token, err2 := strconv.ParseUint(f[3], 10, 64)
	n, err3 := strconv.Atoi(f[5])
	return Event{
		At: time.Duration(at), Kind: Kind(f[1]), ID: f[2], Token: token, From: f[4], N: n, Text: f[6],
	}, err1 == nil && err2 == nil && err3 == nil
}

// A logReader reads a log that is still being written.
type logReader struct {
	node string
	file *os.File
	rest []byte // an incomplete last line
}

// next returns the events that are new since the last call. Only the line of
// a write that a kill cut short can be malformed.
func (r *logReader) next() (events []Event, err error) {
	chunk := make([]byte, 64<<10)
	for {
		n, err := r.file.Read(chunk)
		r.rest = append(r.rest, chunk[:n]...)
		for {
			i := bytes.IndexByte(r.rest, '\n')
			if i < 0 {
				break
			}
			if e, ok := parseEvent(string(r.rest[:i])); ok {
				e.Node = r.node
				events = append(events, e)
			}
			r.rest = r.rest[i+1:]
		}
		if err == io.EOF {
			return events, nil
		}
		if err != nil {
			return events, err
		}
	}
}
