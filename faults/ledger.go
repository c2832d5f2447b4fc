package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sent takes apart the text of a Sent or Asked event. A process may have stood
// still between the end of the call and the event.
func (e Event) sent() (result string, began, took time.Duration, reason string) {
	f := append(strings.SplitN(e.Text, " ", 4), "", "", "")
	at, _ := strconv.ParseInt(f[1], 10, 64)
	ns, _ := strconv.ParseInt(f[2], 10, 64)
	return f[0], time.Duration(at), time.Duration(ns), f[3]
}

// sends reports whether it is the end of a send or of a request.
func (e Event) sends() bool { return e.Kind == Sent || e.Kind == Asked }

// Messages are the counts of one run.
type Messages struct {
	Sent, Nil, Not, Unknown int
	Withdrawn               int // of those: the caller's context had ended
	Tried                   int // of those: TrySendData found the handler busy
	NotNoted                int // received by a handler that was killed with it in its hands
	Orphans                 int // received; their sender was killed before it noted a result
	Longest                 time.Duration
	Requests                Requests // which the first four are without
}

// Requests are the counts of requests.
type Requests struct {
	Asked, Replied, Failed, NoReply, Unknown, Not int
	Withdrawn                                     int // of the last three: the caller's context had ended
	Longest                                       time.Duration
	Wrong                                         int // findings
}

func (m *Messages) add(o Messages) {
	m.Sent += o.Sent
	m.Nil += o.Nil
	m.Not += o.Not
	m.Unknown += o.Unknown
	m.Withdrawn += o.Withdrawn
	m.Tried += o.Tried
	m.NotNoted += o.NotNoted
	m.Orphans += o.Orphans
	m.Longest = max(m.Longest, o.Longest)
	m.Requests.add(o.Requests)
}

func (r *Requests) add(o Requests) {
	r.Asked += o.Asked
	r.Replied += o.Replied
	r.Failed += o.Failed
	r.NoReply += o.NoReply
	r.Unknown += o.Unknown
	r.Not += o.Not
	r.Withdrawn += o.Withdrawn
	r.Longest = max(r.Longest, o.Longest)
	r.Wrong += o.Wrong
}

// A message is known by its sender, its id and its number.
type message struct {
	from, id string
	n        int
}

func messageOf(e Event) message { return message{e.From, e.ID, e.N} }

// A ledger is what handlers and senders have noted of each message.
type ledger struct {
	planned  bool
	received map[message]Event // the first time
	replied  map[message]Event // the intent of a handler that has received it
	ended    map[message]bool
	kills    map[string][]*kill // by id
	counts   Messages
	bad      findings
}

// A kill of a handler. It may have received one message, and only one, that it had
// no time to note: the last of its tenure. Its sender got the result at about the
// time of the kill, or later.
type kill struct {
	tenure *Tenure
	missed int
}

// checkMessages compares every result with all handlers' logs. In a planned run
// every send must return nil, and every request what the handler answered.
func checkMessages(h History, planned bool) (m Messages, bad findings) {
	l := &ledger{
		planned: planned, received: map[message]Event{}, replied: map[message]Event{},
		ended: map[message]bool{}, kills: map[string][]*kill{},
	}
	for _, t := range h.tenures() {
		if t.Killed != never && t.Returned == never {
			l.kills[t.ID] = append(l.kills[t.ID], &kill{tenure: t})
		}
	}
	l.receive(h)
	for _, e := range h {
		switch e.Kind {
		case Sent:
			l.send(e)
		case Asked:
			found := len(l.bad)
			l.ask(e)
			l.counts.Requests.Wrong += len(l.bad) - found
		}
	}
	for k := range l.received {
		if !l.ended[k] {
			l.counts.Orphans++
		}
	}
	return l.counts, l.bad
}

// receive enters the handlers' side, tenure after tenure. An overlap outside a
// stopped process must not look like a wrong order.
func (l *ledger) receive(h History) {
	received := make([]Event, 0, len(h))
	for _, e := range h {
		switch e.Kind {
		case Received:
			received = append(received, e)
		case Replied:
			if k := messageOf(e); e.Text == "twice" {
				l.bad.add(e.At, "%s %d to %s: two replies were given in tenure %d on %s", e.From, e.N, e.ID, e.Token, e.Node)
				l.counts.Requests.Wrong++
			} else {
				l.replied[k] = e
			}
		}
	}
	slices.SortStableFunc(received, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Token, b.Token), cmp.Compare(a.At, b.At))
	})
	type flow struct{ from, id string }
	last := map[flow]Event{}
	for _, e := range received {
		k := messageOf(e)
		if _, again := l.received[k]; again {
			l.bad.add(e.At, "duplicate: %s %d to %s, again in tenure %d on %s", e.From, e.N, e.ID, e.Token, e.Node)
			continue
		}
		l.received[k] = e
		f := flow{e.From, e.ID}
		if p, ok := last[f]; ok && e.N < p.N {
			l.bad.add(e.At, "order: %s %d to %s was received in tenure %d after %d in %d", e.From, e.N, e.ID, e.Token, p.N, p.Token)
		}
		last[f] = e
	}
}

// inHand reports whether what no handler has noted may have been in the hands of
// one that was killed.
func (l *ledger) inHand(e Event) bool {
	_, at, took, _ := e.sent()
	for _, d := range l.kills[e.ID] {
		if d.missed == 0 && d.tenure.Begin < e.At && at < d.tenure.Killed+soon+excuse() && at+took > d.tenure.Killed-noteWithin-excuse() {
			d.missed++
			l.counts.NotNoted++
			return true
		}
	}
	return false
}

// send enters the end of a send.
func (l *ledger) send(e Event) {
	k, m := messageOf(e), &l.counts
	_, received := l.received[k]
	l.ended[k] = true
	result, _, took, reason := e.sent()
	m.Sent++
	m.Longest = max(m.Longest, took)
	result, manner, _ := strings.Cut(result, "-")
	switch manner {
	case "withdrawn":
		m.Withdrawn++
	case "tried":
		m.Tried++
	}
	switch result {
	case "nil":
		m.Nil++
		if !received && !l.inHand(e) {
			l.bad.add(e.At, "lost: %s %d to %s: nil, and no handler received it", e.From, e.N, e.ID)
		}
	case "not":
		m.Not++
		if received {
			l.bad.add(e.At, "received: %s %d to %s, though not delivered: %s", e.From, e.N, e.ID, reason)
		}
	case "unknown":
		m.Unknown++
	default:
		l.bad.add(e.At, "%s %d to %s: a result that is none: %s", e.From, e.N, e.ID, e.Text)
	}
	if l.planned && result != "nil" && !(result == "not" && manner == "tried") {
		l.bad.add(e.At, "planned, yet %s %d to %s: %s", e.From, e.N, e.ID, e.Text)
	}
}

// ask enters the end of a request.
func (l *ledger) ask(e Event) {
	k, r := messageOf(e), &l.counts.Requests
	_, received := l.received[k]
	l.ended[k] = true
	result, _, took, text := e.sent()
	r.Asked++
	r.Longest = max(r.Longest, took)
	result, _, withdrawn := strings.Cut(result, "-")
	if withdrawn {
		r.Withdrawn++
	}
	switch result {
	case replied:
		r.Replied++
		l.answered(e, result, text)
	case failed:
		r.Failed++
		l.answered(e, result, text)
	case "noreply":
		r.NoReply++
		if !received && !l.inHand(e) {
			l.bad.add(e.At, "no reply: %s %d to %s, and no handler received it: %s", e.From, e.N, e.ID, text)
		}
	case "not":
		r.Not++
		if received {
			l.bad.add(e.At, "received: request %s %d to %s, though not delivered: %s", e.From, e.N, e.ID, text)
		}
	case "unknown":
		r.Unknown++
	default:
		l.bad.add(e.At, "request %s %d to %s: an end that is none: %s", e.From, e.N, e.ID, e.Text)
	}
	if l.planned && result != replied && result != failed {
		l.bad.add(e.At, "planned, yet request %s %d to %s: %s", e.From, e.N, e.ID, e.Text)
	}
}

// answered compares what a request ended with with what its handler answered. One
// that is received from r.Data is answered by that, and only then without a word.
func (l *ledger) answered(e Event, result, text string) {
	k := messageOf(e)
	if result == replied && text == "" {
		if got, received := l.received[k]; received && got.Text == whole || !received && !l.inHand(e) {
			l.bad.add(e.At, "reply: %s %d to %s got an empty one, which no handler gave", e.From, e.N, e.ID)
		}
		return
	}
	switch given, ok := l.replied[k]; {
	case !ok:
		l.bad.add(e.At, "reply: %s %d to %s got %q, and no handler replied", e.From, e.N, e.ID, text)
	case given.Text != result || text != replyTo(given):
		l.bad.add(e.At, "reply: %s %d to %s %s with %q, its handler has %s it with %q", e.From, e.N, e.ID, result, text, given.Text, replyTo(given))
	}
}

// soon is how long after it was noted a signal may take effect.
const soon = 10 * time.Millisecond

// noteWithin is how long a handler that runs may need to note what it has
// received. It is far more than it should, as machines stall.
const noteWithin = 100 * time.Millisecond
