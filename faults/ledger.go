package main

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sent takes apart the text of a Sent event. A process may have stood still
// between the end of the send and the event.
func (e Event) sent() (result string, began, took time.Duration, reason string) {
	f := append(strings.SplitN(e.Text, " ", 4), "", "", "")
	at, _ := strconv.ParseInt(f[1], 10, 64)
	ns, _ := strconv.ParseInt(f[2], 10, 64)
	return f[0], time.Duration(at), time.Duration(ns), f[3]
}

// Messages are the counts of one run.
type Messages struct {
	Sent, Nil, Not, Unknown int
	Withdrawn               int // of those: the caller's context had ended
	Tried                   int // of those: TrySendData found the handler busy
	NotNoted                int // received by a handler that was killed with it in its hands
	Orphans                 int // received; their sender was killed before it noted a result
	Longest                 time.Duration
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
}

// checkMessages compares every result with all handlers' logs. In a planned
// run every result must be nil.
//
// A handler that is killed may have received one message, and only one, that
// it had no time to note: the last of its tenure. Its sender got nil at about
// the time of the kill.
func checkMessages(h History, planned bool) (m Messages, bad findings) {
	type msg struct {
		from, id string
		n        int
	}
	got := map[msg]int{}
	type flow struct{ from, id string }
	type place struct {
		n     int
		token uint64
	}
	last := map[flow]place{}

	// Handlers' logs, tenure after tenure. An overlap outside a stopped process
	// must not look like a wrong order.
	received := make([]Event, 0, len(h))
	for _, e := range h {
		if e.Kind == Received {
			received = append(received, e)
		}
	}
	slices.SortStableFunc(received, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Token, b.Token), cmp.Compare(a.At, b.At))
	})
	for _, e := range received {
		k := msg{e.From, e.ID, e.N}
		if got[k]++; got[k] > 1 {
			bad.add(e.At, "duplicate: %s %d to %s, again in tenure %d on %s", e.From, e.N, e.ID, e.Token, e.Node)
			continue
		}
		f := flow{e.From, e.ID}
		if p, ok := last[f]; ok && e.N < p.n {
			bad.add(e.At, "order: %s %d to %s was received in tenure %d after %d in %d", e.From, e.N, e.ID, e.Token, p.n, p.token)
		}
		last[f] = place{e.N, e.Token}
	}

	type kill struct {
		tenure *Tenure
		missed int
	}
	kills := map[string][]*kill{}
	for _, t := range h.tenures() {
		if t.Killed != never && t.Returned == never {
			kills[t.ID] = append(kills[t.ID], &kill{tenure: t})
		}
	}
	results := map[msg]bool{}
	for _, e := range h {
		if e.Kind != Sent {
			continue
		}
		k := msg{e.From, e.ID, e.N}
		results[k] = true
		result, at, took, reason := e.sent()
		m.Sent++
		m.Longest = max(m.Longest, took)
		if strings.HasSuffix(result, "-withdrawn") {
			m.Withdrawn++
		}
		tried := strings.HasSuffix(result, "-tried")
		if tried {
			m.Tried++
		}
		switch result {
		case "nil":
			m.Nil++
			if got[k] > 0 {
				break
			}
			if !slices.ContainsFunc(kills[e.ID], func(d *kill) bool {
				ok := d.missed == 0 && d.tenure.Begin < e.At && at < d.tenure.Killed+soon+excuse() && at+took > d.tenure.Killed-noteWithin-excuse()
				if ok {
					d.missed++
				}
				return ok
			}) {
				bad.add(e.At, "lost: %s %d to %s: nil, and no handler received it", e.From, e.N, e.ID)
				break
			}
			m.NotNoted++
		case "not", "not-withdrawn", "not-tried":
			m.Not++
			if got[k] > 0 {
				bad.add(e.At, "received: %s %d to %s, though not delivered: %s", e.From, e.N, e.ID, reason)
			}
		case "unknown", "unknown-withdrawn", "unknown-tried":
			m.Unknown++
		default:
			bad.add(e.At, "%s %d to %s: a result that is none: %s", e.From, e.N, e.ID, e.Text)
		}
		if planned && result != "nil" && result != "not-tried" {
			bad.add(e.At, "planned, yet %s %d to %s: %s", e.From, e.N, e.ID, e.Text)
		}
	}
	for k := range got {
		if !results[k] {
			m.Orphans++
		}
	}
	return m, bad
}

// soon is how long after it was noted a signal may take effect.
const soon = 10 * time.Millisecond

// noteWithin is how long a handler that runs may need to note what it has
// received. It is far more than it should, as machines stall.
const noteWithin = 100 * time.Millisecond
