// Package placementtest simulates a cluster as far as placement goes, which decides all
// in it: rounds in which every node sees what all have entered before, and ids that are
// all alike.
package placementtest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/Diggs/go-one/internal/placement"
)

// A Cluster is a simulated one.
type Cluster struct {
	Nodes []placement.Node
	Moves int // so far, planned by the nodes
	runs  placement.Digest
	named int
}

// New makes a cluster whose nodes hold so many ids, evenly.
func New(nodes, ids int) *Cluster {
	c := &Cluster{runs: placement.DigestOf(func(yield func(string) bool) {
		for i := 0; i < 300 && yield(fmt.Sprint(i)); i++ {
		}
	})}
	for range nodes {
		c.Join()
	}
	for i := range c.Nodes {
		c.Nodes[i].Young = false
	}
	for i := range ids {
		c.Nodes[i%nodes].Held++
	}
	return c
}

// Join adds a node that holds nothing.
func (c *Cluster) Join() {
	c.named++
	c.Nodes = append(c.Nodes, placement.Node{Name: fmt.Sprint("node", c.named), Weight: 1, Young: true, Runs: c.runs})
}

// Leave takes the first nodes away. Their ids are taken by those who compete for them.
func (c *Cluster) Leave(nodes int) (ids int) {
	for _, n := range c.Nodes[:nodes] {
		ids += n.Held
	}
	c.Nodes = c.Nodes[nodes:]
	var contenders [placement.Slots][]int
	for range ids {
		slot := rand.N(placement.Slots)
		if contenders[slot] == nil {
			contenders[slot] = placement.Contenders(c.Nodes, slot)
		}
		c.Nodes[contenders[slot][rand.N(len(contenders[slot]))]].Held++
	}
	return ids
}

// views are those of all nodes now.
func (c *Cluster) views() []*placement.View {
	seen := append([]placement.Node(nil), c.Nodes...)
	views := make([]*placement.View, len(seen))
	for i, n := range seen {
		views[i] = placement.See(n, seen, nil)
	}
	return views
}

// Round returns how many ids were moved.
func (c *Cluster) Round() (moves int) {
	index, room := map[string]int{}, make([]int, len(c.Nodes))
	views := c.views()
	for i, v := range views {
		index[c.Nodes[i].Name], room[i] = i, v.Room()
	}
	for from, v := range views {
		for _, g := range v.Gifts() {
			to := index[g.To]
			n := min(g.IDs, room[to], c.Nodes[from].Held)
			room[to] -= n
			c.Nodes[from].Held -= n
			c.Nodes[to].Held += n
			moves += n
		}
	}
	for i := range c.Nodes {
		c.Nodes[i].Young = false
	}
	c.Moves += moves
	return moves
}

// Settle makes rounds until nothing has moved in three, and returns how many there were
// before these; ok is false when that were more than most.
func (c *Cluster) Settle(most int) (rounds int, ok bool) {
	for still := 0; still < 3; rounds++ {
		if still++; c.Round() > 0 {
			still = 0
		}
		if rounds > most {
			return rounds, false
		}
	}
	return rounds - 3, true
}

// Off is how far nodes are from their shares at most, in ids and in parts of the share.
func (c *Cluster) Off() (ids, parts float64) {
	for i, v := range c.views() {
		d := math.Abs(float64(c.Nodes[i].Held) - v.Share())
		ids, parts = max(ids, d), max(parts, d/max(v.Share(), 1))
	}
	return ids, parts
}
