package gone

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Report is what the nodes of a cluster say of themselves at about one time. As JSON it
// is what a report of an issue needs. It has ids, addresses and the texts of errors, which
// may name the lock service, but neither data nor keys.
type Report struct {
	Time     time.Time
	By       string       // address of the node that has asked
	Whole    bool         // these are all nodes, as the roster could be read
	Nodes    []NodeReport // by address
	Troubles []Trouble    // of the cluster, and then of its nodes
}

// A NodeReport is what one node has said.
type NodeReport struct {
	Addr   string
	Time   time.Time // when it had answered, or had not, by the clock of the node that asked
	Status *Status   `json:",omitempty"` // nil where it has not answered
	Err    string    `json:",omitempty"` // why not
	Cause  error     `json:"-"`          // the same, for errors.Is; as of [Gone.Status]
}

const (
	reportMost   = 3 * time.Second  // until a node answers, with some thousand ids at a time
	reportLong   = 10 * time.Second // until it has told of all of them
	reportAtOnce = 32               // nodes that are asked
	settled      = 5 * time.Second  // that two have held an id before a report, when it is trouble
)

// Report asks all nodes that the roster lists at once. It gives up one that has not
// answered for 3 s, and in the middle of its answer after 10 s. Where the lock service has
// no roster these are this node and those that it has links to. The error wraps ErrClosed
// or is the context's.
func (g *Gone) Report(ctx context.Context) (Report, error) {
	r := Report{Time: time.Now(), By: g.Addr()}
	listing, cancel := context.WithTimeout(ctx, reportMost)
	es, err := g.listed(listing)
	cancel()
	switch {
	case errors.Is(err, ErrClosed):
		return r, err
	case ctx.Err() != nil:
		return r, ctx.Err()
	case errors.Is(err, ErrNoRoster):
		r.Troubles = append(r.Troubles, Trouble{
			What:  "The lock service has no list of nodes, so only the node that was asked and those that it speaks with are shown.",
			Do:    "Ask each node. RedisLocks, goredislock, etcdlock and pglock have such a list.",
			Minor: true,
		})
	case err != nil:
		r.Troubles = append(r.Troubles, Trouble{
			What: "The list of nodes can't be read, so only the node that was asked and those that it speaks with are shown: " + plainly(err) + ".",
			Do:   "See whether the lock service runs, and whether the roster may be read; SECURITY.md lists the rights.",
		})
	}
	identities := map[string]bool{g.end.identity: true}
	for identity := range es {
		identities[identity] = true
	}
	if r.Whole = err == nil; !r.Whole {
		for _, l := range g.mesh.All() {
			if l.Established() { // to ask over another would open a new one
				identities[l.Identity] = true
			}
		}
	}
	asking, cancel := context.WithTimeout(ctx, reportLong)
	defer cancel()
	r.Nodes = g.askAll(asking, identities)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	r.judge(time.Since(r.Time))
	return r, nil
}

// askAll asks nodes for their status.
func (g *Gone) askAll(ctx context.Context, identities map[string]bool) (ns []NodeReport) {
	var asked sync.WaitGroup
	var mu sync.Mutex
	slots := make(chan struct{}, reportAtOnce)
	for identity := range identities {
		asked.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			n := NodeReport{Addr: addrOf(identity)}
			var s Status
			var err error
			if identity == g.end.identity {
				s = g.status()
			} else {
				s, err = g.statusOf(ctx, identity, reportMost)
			}
			n.Time = time.Now()
			if err != nil {
				n.Err, n.Cause = plainly(err), err
			} else {
				n.Status = &s
			}
			mu.Lock()
			defer mu.Unlock()
			ns = append(ns, n)
		})
	}
	asked.Wait()
	slices.SortFunc(ns, func(a, b NodeReport) int { return strings.Compare(a.Addr, b.Addr) })
	return ns
}

// judge adds what is wrong among the nodes, and then at each, by a report that took so long.
func (r *Report) judge(took time.Duration) {
	var mute []string
	fit, held, most := 0, 0, NodeReport{}
	versions := map[string]bool{}
	for _, n := range r.Nodes {
		if n.Status == nil {
			mute = append(mute, n.Addr)
			continue
		}
		s := n.Status
		if s.Node.Weight > 0 && !s.Node.Draining {
			fit++
		}
		held += len(s.Tenures)
		if most.Status == nil || len(s.Tenures) > len(most.Status.Tenures) {
			most = n
		}
		if s.Node.Weight > 0 || len(s.Tenures) > 0 { // not one that only looks
			versions[cmp.Or(s.Node.Version, "unknown")] = true
		}
	}
	if mute != nil {
		r.Troubles = append(r.Troubles, Trouble{
			What:  "No answer from " + some(slices.Clone(mute)) + ".",
			Do:    "See whether it runs and whether its port can be reached from the node that was asked. A node that has died is listed for 10 s more.",
			Nodes: mute,
		})
	}
	r.judgeDoubles(settled + took)
	switch {
	case !r.Whole:
	case fit == 0 && mute == nil:
		r.Troubles = append(r.Troubles, Trouble{
			What: "Every node drains or has weight 0, so nobody may hold an id.",
			Do:   "Resume a node, or start one with a weight.",
		})
	case mute == nil && fit > 1 && held >= 2*fit && most.Status.Node.Held > 0 && len(most.Status.Tenures) == held:
		r.Troubles = append(r.Troubles, Trouble{
			What:  fmt.Sprintf("One node holds all %d ids, and %d may hold some.", held, fit),
			Do:    "Start the nodes WithBalance, which spreads the ids, or move some.",
			Minor: true, Nodes: []string{most.Addr},
		})
	}
	if len(versions) > 1 {
		r.Troubles = append(r.Troubles, Trouble{
			What: fmt.Sprintf("The nodes run %d versions of gone.", len(versions)), Do: "Finish the roll-out.", Minor: true,
		})
	}
	r.gather()
}

// judgeDoubles looks for ids that two nodes have held for longer than least. A report of a
// cluster where ids move may show two for less: the nodes answer one after the other.
func (r *Report) judgeDoubles(least time.Duration) {
	type claim struct {
		addr    string
		settled bool
	}
	found := 0
	claims := map[string]claim{}
	for _, n := range r.Nodes {
		if n.Status == nil {
			continue
		}
		for _, t := range n.Status.Tenures {
			if t.Stopping {
				continue
			}
			c := claim{n.Addr, n.Status.Time.Sub(t.Since) > least}
			if other, ok := claims[t.ID]; ok && other.settled && c.settled && found < troublesShown {
				found++
				r.Troubles = append(r.Troubles, Trouble{
					What:  fmt.Sprintf("Two nodes hold %q.", t.ID),
					Do:    "The one with the lower token should have lost it: its lock service may have forgotten a lock. Have what it writes to check the token.",
					Nodes: []string{other.addr, n.Addr},
				})
			}
			claims[t.ID] = c
		}
	}
}

// gather adds the troubles of the nodes, each once.
func (r *Report) gather() {
	at := map[string]int{}
	for _, n := range r.Nodes {
		if n.Status == nil {
			continue
		}
		for _, t := range n.Status.Troubles {
			i, ok := at[t.What]
			if !ok {
				i = len(r.Troubles)
				at[t.What], t.Nodes = i, nil
				r.Troubles = append(r.Troubles, t)
			}
			r.Troubles[i].Nodes = append(r.Troubles[i].Nodes, n.Addr)
		}
	}
	slices.SortStableFunc(r.Troubles, func(a, b Trouble) int { return cmp.Compare(weight(a.Minor), weight(b.Minor)) })
}

func weight(minor bool) int {
	if minor {
		return 1
	}
	return 0
}
