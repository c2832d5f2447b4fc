package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A History is all that was logged in one run, in order of time.
type History []Event

func (h History) sort() {
	slices.SortStableFunc(h, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
}

// byID is what concerns each id, and what was done to all.
func (h History) byID() map[string]History {
	ids := map[string]History{}
	for _, e := range h {
		if e.ID != "" {
			ids[e.ID] = nil
		}
	}
	for _, e := range h {
		switch e.Kind {
		case Killed, Stopped, Halted, Resumed, Wiping, Wiped, Blocked, Free:
			for id := range ids {
				ids[id] = append(ids[id], e)
			}
		default:
			if e.ID != "" {
				ids[e.ID] = append(ids[e.ID], e)
			}
		}
	}
	return ids
}

// never is later than any event.
const never = time.Duration(1<<63 - 1)

// A Tenure is one call of a handler.
type Tenure struct {
	ID, Node string
	Token    uint64
	Asked    time.Duration // the Lock that was granted was called
	Renewed  time.Duration // the last Lock or Extend that was granted was called
	Begin    time.Duration // first line of the handler
	Exit     time.Duration // a goroutine has seen r.Exit closed
	Returned time.Duration
	Unlock   time.Duration // Unlock was called
	Killed   time.Duration
	Cause    string // why Exit closed
}

// End is when the tenure is over for everybody who asks its node: the end of
// the window in which it is trusted.
func (t Tenure) End() time.Duration { return min(t.Exit, t.Returned, t.Killed) }

// tenures finds the tenures of all ids, in the order in which they began.
func (h History) tenures() []*Tenure {
	type key struct {
		node, id string
		token    uint64
	}
	var all []*Tenure
	open := map[key]*Tenure{}
	asked := map[key]time.Duration{} // by node, id and 0
	calls := map[key]time.Duration{} // of Extend, by node, id and number
	for _, e := range h {
		k := key{e.Node, e.ID, e.Token}
		switch e.Kind {
		case LockCall:
			asked[key{e.Node, e.ID, 0}] = e.At
		case ExtendCall:
			calls[key{e.Node, e.ID, uint64(e.N)}] = e.At
		case ExtendRet:
			if t := open[k]; t != nil && e.Text == "ok" {
				t.Renewed = max(t.Renewed, calls[key{e.Node, e.ID, uint64(e.N)}])
			}
		case Begin:
			t := &Tenure{
				ID: e.ID, Node: e.Node, Token: e.Token, Begin: e.At,
				Asked: asked[key{e.Node, e.ID, 0}],
				Exit:  never, Returned: never, Unlock: never, Killed: never,
			}
			t.Renewed = cmp.Or(t.Asked, t.Begin)
			all = append(all, t)
			open[k] = t
		case Killed:
			for k, t := range open {
				if k.node == e.Node {
					t.Killed = e.At
					delete(open, k)
				}
			}
		case Exit, Returned, UnlockCall:
			t := open[k]
			if t == nil {
				continue
			}
			switch e.Kind {
			case Exit:
				t.Exit, t.Cause = min(t.Exit, e.At), e.Text
			case Returned:
				t.Returned = e.At
			case UnlockCall:
				t.Unlock = min(t.Unlock, e.At)
			}
		}
	}
	return all
}

// pauses are the intervals in which each node was stopped.
func (h History) pauses() map[string][][2]time.Duration {
	p := map[string][][2]time.Duration{}
	for _, e := range h {
		switch e.Kind {
		case Stopped:
			p[e.Node] = append(p[e.Node], [2]time.Duration{e.At, never})
		case Resumed:
			if n := len(p[e.Node]); n > 0 {
				p[e.Node][n-1][1] = e.At
			}
		}
	}
	return p
}

func within(intervals [][2]time.Duration, t time.Duration) bool {
	for _, i := range intervals {
		if i[0] <= t && t <= i[1] {
			return true
		}
	}
	return false
}

// A Finding is what the checker holds against a history.
type Finding struct {
	At   time.Duration
	What string
}

// findings collects Findings.
type findings []Finding

func (f *findings) add(at time.Duration, format string, args ...any) {
	*f = append(*f, Finding{at, fmt.Sprintf(format, args...)})
}

// checkTenures is "exactly one": tokens increase, trusted windows do not
// overlap. Two kinds of overlap are returned apart: those that a stopped
// process could not help (see overslept), as those that are no longer than the
// machine lets one wait, and those after Redis has lost its memory, which may last
// until the old holder's next Extend, or a TTL if that hangs.
func checkTenures(h History, ttl, wait time.Duration) (bad findings, outside, forgotten []time.Duration) {
	pauses := h.pauses()
	var wipes [][2]time.Duration
	for _, e := range h {
		switch e.Kind {
		case Wiping:
			wipes = append(wipes, [2]time.Duration{e.At, never})
		case Wiped:
			wipes[len(wipes)-1][1] = e.At
		}
	}
	byID := map[string][]*Tenure{}
	for _, t := range h.tenures() {
		byID[t.ID] = append(byID[t.ID], t)
	}
	for id, ts := range byID {
		for i, b := range ts {
			if b.Token == 0 {
				bad.add(b.Begin, "%s: a tenure on %s without a token", id, b.Node)
			}
			for _, a := range ts[:i] {
				// Only what was asked for after a had begun is surely later than a:
				// a process may stand still between its grant and its first line.
				if b.Asked > a.Begin && b.Token <= a.Token || b.Token == a.Token {
					bad.add(b.Begin, "%s: token %d on %s after token %d on %s", id, b.Token, b.Node, a.Token, a.Node)
				}
				if b.Begin >= a.End() {
					continue
				}
				overlap := min(a.End(), b.End()) - b.Begin
				if within(pauses[a.Node], b.Begin) || overlap <= wait || overslept(a, pauses[a.Node], ttl, wait) {
					outside = append(outside, overlap)
					continue
				}
				if slices.ContainsFunc(wipes, func(w [2]time.Duration) bool {
					return a.Begin < w[1] && w[0] < b.Begin && min(a.End(), b.End()) < w[1]+ttl
				}) {
					forgotten = append(forgotten, overlap)
					continue
				}
				bad.add(b.Begin, "%s: tenure %d began on %s while %d was trusted on %s for %v more%s",
					id, b.Token, b.Node, a.Token, a.Node, overlap, resumed(pauses[a.Node], b.Begin))
			}
		}
	}
	return bad, outside, forgotten
}

// overslept reports whether the process of a tenure was stopped when its deadline
// passed, and has closed the window as soon as it could be asked to: a lease leaves
// its holder a tenth of the TTL for that after the deadline, so it has as long after
// it was resumed. Its successor may begin meanwhile.
func overslept(t *Tenure, pauses [][2]time.Duration, ttl, wait time.Duration) bool {
	deadline := t.Renewed + ttl - ttl/10
	return slices.ContainsFunc(pauses, func(p [2]time.Duration) bool {
		return p[0] <= deadline && deadline <= p[1] && t.End() <= p[1]+ttl/10+wait
	})
}

// resumed says when a process was for the last time before at, if it was stopped.
func resumed(pauses [][2]time.Duration, at time.Duration) string {
	for _, p := range slices.Backward(pauses) {
		if p[1] <= at {
			return fmt.Sprintf("; it was resumed %v before", at-p[1])
		}
	}
	return ""
}

// checkPaused is what a process owes that was stopped past its deadline: once
// resumed its Extend fails and it receives nothing more in the tenure that is
// over. But one message may have been on offer on r.Data when the process was
// stopped, and be taken in the instant in which it wakes, before anything of
// gone can run. Those are counted.
func checkPaused(h History) (bad findings, waking int) {
	pauses, halts := h.pauses(), map[string][]time.Duration{}
	began := map[string]time.Duration{} // when a message was sent
	did := map[string][]Event{}         // by the handler's goroutine, in each tenure
	for _, e := range h {
		switch e.Kind {
		case Halted:
			halts[e.Node] = append(halts[e.Node], e.At)
		case Sent, Asked:
			_, at, _, _ := e.sent()
			began[fmt.Sprint(e.From, e.ID, e.N)] = at
		case Extended, Received, Wrote:
			k := fmt.Sprint(e.Node, e.ID, e.Token)
			did[k] = append(did[k], e)
		}
	}
	for _, t := range h.tenures() {
		for i, p := range pauses[t.Node] {
			halted := p[0]
			if i < len(halts[t.Node]) {
				halted = halts[t.Node][i]
			}
			if p[0] < t.Begin || p[0] > t.End() || !succeeded(h, t, p[1]) {
				continue
			}
			first, offered := true, false
			for _, e := range did[fmt.Sprint(t.Node, t.ID, t.Token)] {
				if e.At < p[1] {
					continue
				}
				switch sent, known := began[fmt.Sprint(e.From, e.ID, e.N)]; {
				case e.Kind == Extended && e.Text == "ok":
					bad.add(e.At, "%s: Extend of %d on %s succeeded after its successor had begun", t.ID, t.Token, t.Node)
				case e.Kind == Received && first && known && sent < halted:
					// Received before the stop, and noted after it.
				case e.Kind == Received && !offered && known && sent < halted:
					offered = true
					waking++
				case e.Kind == Received:
					bad.add(e.At, "%s: tenure %d on %s received %s %d, sent %v before it was stopped, %v after it was resumed past its deadline",
						t.ID, t.Token, t.Node, e.From, e.N, p[0]-sent, e.At-p[1])
				}
				first = false
			}
		}
	}
	return bad, waking
}

// succeeded reports whether another tenure of the id of t began before a time.
func succeeded(h History, t *Tenure, before time.Duration) bool {
	for _, e := range h {
		if e.Kind == Begin && e.ID == t.ID && e.Token > t.Token && e.At < before {
			return true
		}
	}
	return false
}

// checkStore is the fenced store's view: what it accepted is in token order.
func checkStore(writes []Event) (bad findings) {
	newest := map[string]uint64{}
	for _, w := range writes {
		if w.Token < newest[w.ID] {
			bad.add(w.At, "%s: the store accepted token %d after %d", w.ID, w.Token, newest[w.ID])
		}
		newest[w.ID] = max(newest[w.ID], w.Token)
	}
	return bad
}

// checkGaps finds times without a holder that were longer than the bound,
// outside the intervals in which the suite made it impossible to have one.
func checkGaps(h History, bound time.Duration) (bad findings) {
	var blocked [][2]time.Duration
	for _, e := range h {
		switch e.Kind {
		case Blocked:
			blocked = append(blocked, [2]time.Duration{e.At, never})
		case Free:
			blocked[len(blocked)-1][1] = e.At
		}
	}
	last := map[string]*Tenure{}
	for _, t := range h.tenures() {
		if a := last[t.ID]; a != nil {
			from := a.End()
			if from == never {
				from = t.Begin
			}
			for _, b := range blocked {
				if b[0] <= t.Begin && b[1] >= from {
					from = max(from, b[1])
				}
			}
			if gap := t.Begin - from; gap > bound && from != never {
				bad.add(t.Begin, "%s: no holder for %v, the bound is %v", t.ID, gap, bound)
			}
		}
		if a := last[t.ID]; a == nil || t.End() > a.End() {
			last[t.ID] = t
		}
	}
	return bad
}
