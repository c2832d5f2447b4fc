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
	op    Kind // LockCall, ExtendCall, UnlockCall, Wiping; "" for an expiry
	owner string
	token uint64
}

type lockOutput struct {
	outcome string // ok, held, lost, unknown
	token   uint64
}

type lockState struct {
	owner string // "" when free
	token uint64 // 0: of an acquisition whose outcome was unknown
	last  uint64 // highest token that was seen
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
				out.outcome == "ok" && s.owner == in.owner && s.token == 0 && out.token > s.last:
				return []any{lockState{in.owner, out.token, out.token}}
			case out.outcome == "ok" && s.owner == in.owner && s.token == out.token:
				return []any{s} // "yes, yours"
			case out.outcome == "held" && s.owner != "" && s.owner != in.owner:
				return []any{s}
			case out.outcome == "unknown" && (s.owner == "" || s.owner == earlier):
				return []any{s, lockState{in.owner, 0, s.last}}
			case out.outcome == "unknown":
				return []any{s}
			}
		case ExtendCall:
			mine := s.owner == in.owner && s.token == in.token
			if out.outcome == "unknown" || mine == (out.outcome == "ok") {
				return []any{s}
			}
		case UnlockCall, "":
			if s.owner == in.owner && (in.op == UnlockCall || s.token == in.token) {
				return []any{s, free}
			}
			return []any{s}
		case Wiping:
			return []any{free, s, lockState{earlier, 0, s.last}}
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
	granted := map[string]int{} // by node: the Lock of its hold, until Lock or Unlock is called
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

// A lockHold is a hold as the model knows it.
type lockHold struct {
	owner string
	token uint64 // 0: of an acquisition whose outcome was unknown
}

// lockOps are the operations of the model that the calls of one lock are.
type lockOps struct {
	ttl       time.Duration
	all       []porcupine.Operation
	grants    []porcupine.Operation // in order of their return
	confirmed map[lockHold]time.Duration
	client    map[string]int // by owner
}

// add adds a call with an outcome. Confirmed is when the last request was made that was
// granted; where that is unknown, the first that may have been.
func (l *lockOps) add(from Event, ret time.Duration, out lockOutput) {
	h := lockHold{from.Node + " " + from.From, from.Token}
	if from.Kind == LockCall {
		h.token = 0
	}
	if _, ok := l.client[h.owner]; !ok {
		l.client[h.owner] = len(l.client)
	}
	op := porcupine.Operation{
		ClientId: l.client[h.owner], Call: int64(from.At), Return: int64(ret),
		Input: lockInput{from.Kind, h.owner, h.token}, Output: out,
	}
	l.all = append(l.all, op)
	switch {
	case from.Kind == LockCall && out.outcome == "ok":
		h.token = out.token
		l.confirmed[h] = max(l.confirmed[h], from.At)
		l.grants = append(l.grants, op)
	case from.Kind == LockCall && out.outcome == "unknown":
		since := from.At
		if released(from.Text) {
			since -= l.ttl
		}
		l.confirmed[h] = min(cmp.Or(l.confirmed[h], since), since)
	case from.Kind == ExtendCall && out.outcome == "ok":
		l.confirmed[h] = max(l.confirmed[h], from.At)
	}
}

// lockOperations turns the calls of one id into operations of the model.
func lockOperations(h History, id string, ttl time.Duration, guarded bool) []porcupine.Operation {
	ops := &lockOps{ttl: ttl, confirmed: map[lockHold]time.Duration{}, client: map[string]int{}}
	open, stray := map[call]Event{}, strays(h, id)
	var wiping time.Duration
	for _, e := range h {
		switch {
		case e.Kind == Wiping:
			wiping = e.At
		case e.Kind == Wiped:
			ops.all = append(ops.all, porcupine.Operation{Call: int64(wiping), Return: int64(e.At), Input: lockInput{op: Wiping}, Output: lockOutput{}})
		case e.ID != id:
		case e.Kind == LockCall, e.Kind == ExtendCall, e.Kind == UnlockCall:
			open[callOf(e)] = e
		case e.Kind == LockRet, e.Kind == ExtendRet, e.Kind == UnlockRet:
			k := callOf(e)
			from, ok := open[k]
			if !ok {
				continue
			}
			delete(open, k)
			outcome, _, _ := strings.Cut(e.Text, " ")
			if e.Kind == ExtendRet && stray[k] {
				outcome = "unknown"
			}
			if outcome == "held" && guarded {
				continue // by somebody, or by the restart guard
			}
			ret := e.At
			from.Text = e.Text
			if outcome == "unknown" || e.Kind == UnlockRet {
				ret = never // it may have its effect later
			}
			ops.add(from, ret, lockOutput{outcome, e.Token})
		}
	}
	for _, from := range open { // the process was killed in between
		ops.add(from, never, lockOutput{outcome: "unknown"})
	}
	for h, since := range ops.confirmed {
		ops.all = append(ops.all, porcupine.Operation{
			Call: int64(max(since, since+ttl-stale-excuse())), Return: int64(never),
			Input: lockInput{owner: h.owner, token: h.token}, Output: lockOutput{},
		})
	}
	settle(ops.all, ops.grants)
	return ops.all
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
