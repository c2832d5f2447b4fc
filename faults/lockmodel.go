package main

import (
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
			if s.owner == in.owner && (s.token == in.token || in.token == 0) {
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

// A lockCall is a call of a lock with what came of it.
type lockCall struct {
	from Event // of the call
	ret  time.Duration
	out  lockOutput
}

// callsOf are the calls of one id, in order of their return.
func callsOf(h History, id string, guarded bool) (calls []lockCall) {
	type key struct {
		node string
		n    int
	}
	open := map[key]Event{}
	for _, e := range h {
		if e.ID != id {
			continue
		}
		switch e.Kind {
		case LockCall, ExtendCall, UnlockCall:
			open[key{e.Node, e.N}] = e
		case LockRet, ExtendRet, UnlockRet:
			from, ok := open[key{e.Node, e.N}]
			if !ok {
				continue
			}
			delete(open, key{e.Node, e.N})
			outcome, _, _ := strings.Cut(e.Text, " ")
			if outcome == "held" && guarded {
				continue // by somebody, or by the restart guard
			}
			ret := e.At
			if outcome == "unknown" || e.Kind == UnlockRet {
				ret = never // it may have its effect later
			}
			calls = append(calls, lockCall{from, ret, lockOutput{outcome, e.Token}})
		}
	}
	for _, from := range open { // the process was killed in between
		calls = append(calls, lockCall{from, never, lockOutput{outcome: "unknown"}})
	}
	return calls
}

// wipings are the operations of Redis's loss of its memory.
func wipings(h History) (ops []porcupine.Operation) {
	var since time.Duration
	for _, e := range h {
		switch e.Kind {
		case Wiping:
			since = e.At
		case Wiped:
			ops = append(ops, porcupine.Operation{Call: int64(since), Return: int64(e.At), Input: lockInput{op: Wiping}, Output: lockOutput{}})
		}
	}
	return ops
}

// lockOperations turns the calls of one id into operations of the model, and adds the
// ends of what they have obtained.
func lockOperations(h History, id string, ttl time.Duration, guarded bool) []porcupine.Operation {
	type hold struct {
		owner string
		token uint64
	}
	ops := wipings(h)
	confirmed := map[hold]time.Duration{} // when the last request was made that was granted
	var grants []porcupine.Operation
	client := map[string]int{}
	for _, c := range callsOf(h, id, guarded) {
		now := hold{owner: c.from.Node + " " + c.from.From}
		if _, ok := client[now.owner]; !ok {
			client[now.owner] = len(client)
		}
		lock := c.from.Kind == LockCall
		if !lock {
			now.token = c.from.Token
		}
		op := porcupine.Operation{
			ClientId: client[now.owner], Call: int64(c.from.At), Return: int64(c.ret),
			Input: lockInput{c.from.Kind, now.owner, now.token}, Output: c.out,
		}
		ops = append(ops, op)
		granted := c.out.outcome == "ok" && c.from.Kind != UnlockCall
		if lock && granted {
			now.token = c.out.token
			grants = append(grants, op)
		}
		if granted || lock && c.out.outcome == "unknown" {
			confirmed[now] = max(confirmed[now], c.from.At)
		}
	}
	for h, since := range confirmed {
		ops = append(ops, porcupine.Operation{
			Call: int64(max(since, since+ttl-stale-excuse())), Return: int64(never),
			Input: lockInput{owner: h.owner, token: h.token}, Output: lockOutput{},
		})
	}
	settle(ops, grants)
	return ops
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
