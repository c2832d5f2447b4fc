package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The lock as a register: free, or held by one acquisition of one node with
// one token. Outcomes that nobody knows may or may not have had their effect;
// expiry and the loss of Redis's memory are operations like the others, that
// nobody calls. An expiry can only take effect a TTL after the last confirmed
// request was made, so a hold that ends early shows.

type lockInput struct {
	op    Kind // LockCall, ExtendCall, UnlockCall, PassCall, Wiping; "" for an expiry
	owner string
	token uint64
	heir  string // of a PassCall: a node
}

type lockOutput struct {
	outcome string // ok, held, lost, unknown
	token   uint64
}

type lockState struct {
	owner  string // "" when free
	token  uint64 // 0: of an acquisition whose outcome was unknown, or that it was passed on to
	last   uint64 // highest token that was seen
	passed bool   // and its owner has not come yet
}

// ofHeir reports whether the lock was passed on to the node of an owner. By which of its
// tickets is not told apart.
func (s lockState) ofHeir(owner string) bool {
	node, _, _ := strings.Cut(owner, " ")
	return s.passed && s.owner == node
}

// earlier owns a hold that an older copy of Redis's memory still knows. It runs
// out at a time that the suite does not know.
const earlier = "earlier"

var lockModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{lockState{}} },
	Step: func(state, input, output any) []any {
		s, in, out := state.(lockState), input.(lockInput), output.(lockOutput)
		free := lockState{last: s.last}
		switch in.op {
		case LockCall:
			switch {
			case out.outcome == "ok" && (s.owner == "" || s.owner == earlier) && out.token > s.last,
				out.outcome == "ok" && s.ofHeir(in.owner) && out.token > s.last,
				out.outcome == "ok" && s.owner == in.owner && s.token == 0 && out.token > s.last:
				return []any{lockState{owner: in.owner, token: out.token, last: out.token}}
			case out.outcome == "ok" && s.owner == in.owner && s.token == out.token:
				return []any{s} // "yes, yours"
			case out.outcome == "held" && s.owner != "" && s.owner != in.owner:
				return []any{s} // of what was passed to it also where the attempt is older than its ticket
			case out.outcome == "unknown" && (s.owner == "" || s.owner == earlier || s.ofHeir(in.owner)):
				return []any{s, lockState{owner: in.owner, last: s.last}}
			case out.outcome == "unknown":
				return []any{s}
			}
		case ExtendCall:
			mine := s.owner == in.owner && s.token == in.token
			if out.outcome == "unknown" || mine == (out.outcome == "ok") {
				return []any{s}
			}
		case PassCall:
			mine, to := s.owner == in.owner && s.token == in.token, lockState{owner: in.heir, last: s.last, passed: true}
			switch {
			case mine && out.outcome == "ok":
				return []any{to}
			case mine && out.outcome == "unknown":
				return []any{s, to}
			case !mine && out.outcome != "ok":
				return []any{s}
			}
		case UnlockCall, "":
			if s.owner == in.owner && (in.op == UnlockCall || s.token == in.token) || in.op == UnlockCall && s.ofHeir(in.owner) {
				return []any{s, free}
			}
			return []any{s}
		case Wiping:
			return []any{free, s, lockState{owner: earlier, last: s.last}}
		}
		return nil
	},
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%+v → %+v", input, output)
	},
	DescribeState: func(s any) string { return fmt.Sprintf("%+v", s) },
}).ToModel()

// stale is by how much the clock that Redis reckons with may be behind: it is
// read once for each turn of its loop, in which Redis may have to wait for its own.
const stale = 5 * time.Millisecond

// A call of a lock.
type call struct {
	node, from string // a process, as nodes are started again
	n          int
}

func callOf(e Event) call { return call{e.Node, e.From, e.N} }

// strays are the Extends of an id whose answer proves nothing. A lease that is over
// waits for none, so it may be of the next hold, or of the lock that is being given up:
// that says so before the service has heard of it.
func strays(h History, id string) map[call]bool {
	granted := map[string]int{} // by node: the Lock of its hold, until it is called or given up
	meant := map[call]int{}     // by Extend: the same
	stray := map[call]bool{}
	for _, e := range h {
		if e.ID != id {
			continue
		}
		switch e.Kind {
		case LockCall, UnlockCall:
			delete(granted, e.Node)
		case LockRet:
			if e.Text == "ok" {
				granted[e.Node] = e.N
			}
		case ExtendCall:
			meant[callOf(e)] = granted[e.Node]
		case ExtendRet:
			lock := meant[callOf(e)]
			stray[callOf(e)] = lock == 0 || lock != granted[e.Node]
		}
	}
	return stray
}

// A hold as the model knows it.
type hold struct {
	owner string
	token uint64 // 0: of an acquisition whose outcome was unknown, or that it was passed on to
}

// A lockTrace is the calls of one lock as operations of the model.
type lockTrace struct {
	ttl       time.Duration
	ops       []porcupine.Operation
	grants    []porcupine.Operation // in order of their return
	confirmed map[hold]time.Duration
	heirs     map[string]string // nodes, by ticket
	clients   map[string]int    // by owner
}

// kept is for how long a lock is kept for whom it was passed on to.
const kept = 2 * time.Second

// lockOperations turns the calls of one id into operations of the model.
func lockOperations(h History, id string, ttl time.Duration, guarded bool) []porcupine.Operation {
	t := &lockTrace{ttl: ttl, confirmed: map[hold]time.Duration{}, heirs: map[string]string{}, clients: map[string]int{}}
	open, stray := map[call]Event{}, strays(h, id)
	var wiping time.Duration
	for _, e := range h {
		switch {
		case e.Kind == Wiping:
			wiping = e.At
		case e.Kind == Wiped:
			t.ops = append(t.ops, porcupine.Operation{Call: int64(wiping), Return: int64(e.At), Input: lockInput{op: Wiping}, Output: lockOutput{}})
		case e.ID != id:
		case e.Kind == Ticket:
			t.heirs[e.Text] = e.Node
		case e.Kind == LockCall, e.Kind == ExtendCall, e.Kind == UnlockCall, e.Kind == PassCall:
			open[callOf(e)] = e
		case e.Kind == LockRet, e.Kind == ExtendRet, e.Kind == UnlockRet, e.Kind == PassRet:
			k := callOf(e)
			from, ok := open[k]
			if !ok {
				continue
			}
			delete(open, k)
			outcome, _, _ := strings.Cut(e.Text, " ")
			switch {
			case e.Kind == ExtendRet && stray[k]:
				outcome = "unknown"
			case guarded && outcome == "held":
				continue // by somebody, or by the restart guard
			case guarded && outcome == "lost":
				outcome = "unknown" // a server may have said it that is the primary no more, or has forgotten
			}
			ret := e.At
			if outcome == "unknown" || e.Kind == UnlockRet {
				ret = never // it may have its effect later
			}
			t.add(from, ret, lockOutput{outcome, e.Token}, released(e.Text))
		}
	}
	for _, from := range open { // the process was killed in between
		t.add(from, never, lockOutput{outcome: "unknown"}, false)
	}
	for h, since := range t.confirmed {
		t.expire(h, since, ttl)
	}
	settle(t.ops, t.grants)
	return t.ops
}

// add adds a call with an outcome. Confirmed is when the last request was made that was
// granted; where that is unknown, the first that may have been, or a TTL before it where
// the lock itself has released what it may have obtained.
func (t *lockTrace) add(from Event, ret time.Duration, out lockOutput, released bool) {
	h := hold{from.Node + " " + from.From, from.Token}
	if from.Kind == LockCall {
		h.token = 0
	}
	if _, ok := t.clients[h.owner]; !ok {
		t.clients[h.owner] = len(t.clients)
	}
	in := lockInput{op: from.Kind, owner: h.owner, token: h.token}
	if from.Kind == PassCall {
		in.heir = t.heirs[from.Text]
	}
	op := porcupine.Operation{ClientId: t.clients[h.owner], Call: int64(from.At), Return: int64(ret), Input: in, Output: out}
	t.ops = append(t.ops, op)
	switch {
	case from.Kind == PassCall && out.outcome != "lost":
		t.expire(hold{owner: in.heir}, from.At, kept)
	case from.Kind == LockCall && out.outcome == "ok":
		h.token = out.token
		t.confirmed[h] = max(t.confirmed[h], from.At)
		t.grants = append(t.grants, op)
	case from.Kind == LockCall && out.outcome == "unknown":
		since := from.At
		if released {
			since -= t.ttl
		}
		t.confirmed[h] = min(cmp.Or(t.confirmed[h], since), since)
	case from.Kind == ExtendCall && out.outcome == "ok":
		t.confirmed[h] = max(t.confirmed[h], from.At)
	}
}

// expire adds that a hold may run out, a TTL after a request for it.
func (t *lockTrace) expire(h hold, since, ttl time.Duration) {
	t.ops = append(t.ops, porcupine.Operation{
		Call: int64(max(since, since+ttl-stale-excuse())), Return: int64(never),
		Input: lockInput{owner: h.owner, token: h.token}, Output: lockOutput{},
	})
}

// settle bounds what ends a hold: it has had its effect before the next grant, or never
// has one. Without this bound the search would try it everywhere.
func settle(ops, grants []porcupine.Operation) {
	for i, op := range ops {
		in := op.Input.(lockInput)
		if op.Return != int64(never) || in.op == LockCall && in.token == 0 && op.Output.(lockOutput).outcome == "unknown" {
			continue
		}
		for _, g := range grants {
			if g.Input.(lockInput).owner != in.owner && g.Call > op.Call && g.Return < ops[i].Return {
				ops[i].Return = g.Return
			}
		}
	}
}

// checkLock reports whether the lock of an id behaved as one lock.
func checkLock(h History, id string, ttl time.Duration, guarded bool, patience time.Duration) (bad findings, undecided bool) {
	ops := lockOperations(h, id, ttl, guarded)
	switch porcupine.CheckOperationsTimeout(lockModel, ops, patience) {
	case porcupine.Illegal:
		bad.add(0, "%s: the calls of the lock (%d) can't be those of one lock", id, len(ops))
	case porcupine.Unknown:
		return nil, true
	}
	return bad, false
}
