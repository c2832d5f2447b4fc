package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestADigestTellsOtherSetsOfIDsApart(t *testing.T) {
	var a, b Digest
	for i := range 1000 {
		a.Toggle(fmt.Sprint(i))
		b.Toggle(fmt.Sprint(999 - i))
	}
	if a != b {
		t.Error("the same ids, two digests")
	}
	b.Toggle("one more")
	if a == b {
		t.Error("other ids, one digest")
	}
	b.Toggle("one more")
	if c, err := ParseDigest(b.String()); err != nil || c != a {
		t.Error(c, err)
	}
	for _, s := range []string{"", "x", a.String() + "AA", "=" + a.String()[1:]} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

// With one roster for all, each id is competed for by three nodes of those that run
// it, and when one of them goes, by one that did not before.
func TestEachIDHasItsStandbys(t *testing.T) {
	c := newCluster(20, 0)
	c.nodes[3].Weight, c.nodes[4].Leaving = 0, true
	var other Digest
	other.Toggle("of one group")
	for i := range 2 {
		c.nodes[i].Runs = other
	}
	stands := func() map[string][]string {
		who := map[string][]string{}
		for i := range c.nodes {
			v := See(c.nodes[i], c.nodes, nil)
			for id := range 300 {
				if id := fmt.Sprint(id); v.Competes(id) {
					who[id] = append(who[id], c.nodes[i].Name)
				}
			}
		}
		return who
	}
	before := stands()
	for id, who := range before {
		want := Standbys
		if hash(id)%buckets == hash("of one group")%buckets {
			want += 2 // all of a group of two
		}
		if len(who) != want || slices.Contains(who, c.nodes[3].Name) || slices.Contains(who, c.nodes[4].Name) {
			t.Fatalf("%s: %v", id, who)
		}
	}
	gone := c.nodes[7].Name
	c.nodes = slices.Delete(c.nodes, 7, 8)
	for id, who := range stands() {
		had := before[id]
		for _, name := range had {
			if name != gone && !slices.Contains(who, name) {
				t.Fatalf("%s: %v, before %v", id, who, had)
			}
		}
	}
}

// A cluster is simulated as far as placement goes: rounds in which every node sees
// what all have entered before, and ids that are all alike.
type cluster struct {
	nodes []Node
	moves int
	named int
}

func newCluster(nodes, ids int) *cluster {
	c := &cluster{}
	for range nodes {
		c.join().Young = false
	}
	for i := range ids {
		c.nodes[i%nodes].Held++
	}
	return c
}

func (c *cluster) join() *Node {
	c.named++
	c.nodes = append(c.nodes, Node{Name: fmt.Sprint("node", c.named), Weight: 1, Young: true})
	return &c.nodes[len(c.nodes)-1]
}

// leave has a node's ids taken by their standbys.
func (c *cluster) leave(gone ...int) {
	var rest []Node
	ids := 0
	for i, n := range c.nodes {
		if slices.Contains(gone, i) {
			ids += n.Held
		} else {
			rest = append(rest, n)
		}
	}
	c.nodes = rest
	seeds := make([]uint64, len(rest))
	for i, n := range rest {
		seeds[i] = hash(n.Name)
	}
	first := map[uint64][]int{}
	for range ids {
		slot := rand.Uint64N(slots)
		if first[slot] == nil {
			var ranks []float64
			for i := range rest {
				ranks = append(ranks, rank(seeds[i], slot, rest[i].Weight))
			}
			sorted := slices.Sorted(slices.Values(ranks))
			for i, r := range ranks {
				if r >= sorted[max(0, len(sorted)-Standbys)] {
					first[slot] = append(first[slot], i)
				}
			}
		}
		rest[first[slot][rand.IntN(len(first[slot]))]].Held++
	}
}

// round returns how many ids were moved.
func (c *cluster) round() (moves int) {
	var gifts [][]Gift
	for i := range c.nodes {
		v := View{me: c.nodes[i]}
		v.others = append(append(v.others, c.nodes[:i]...), c.nodes[i+1:]...)
		gifts = append(gifts, v.Gifts())
	}
	index := map[string]int{}
	room := make([]int, len(c.nodes))
	for i, n := range c.nodes {
		index[n.Name] = i
		v := View{me: n}
		v.others = append(append(v.others, c.nodes[:i]...), c.nodes[i+1:]...)
		room[i] = v.Room()
	}
	for from, gs := range gifts {
		for _, g := range gs {
			to := index[g.To]
			n := min(g.IDs, room[to], c.nodes[from].Held)
			room[to] -= n
			c.nodes[from].Held -= n
			c.nodes[to].Held += n
			moves += n
		}
	}
	for i := range c.nodes {
		c.nodes[i].Young = false
	}
	c.moves += moves
	return moves
}

// settle makes rounds until nothing moves.
func (c *cluster) settle(t *testing.T, most int) (rounds int) {
	t.Helper()
	for still := 0; still < 3; rounds++ {
		if c.round() == 0 {
			still++
		} else {
			still = 0
		}
		if rounds > most {
			t.Fatalf("%d rounds, and ids still move: %v", rounds, c.spread())
		}
	}
	return rounds - 3
}

// spread is how far nodes are from their shares at most, in ids and in parts.
func (c *cluster) spread() string {
	ids, parts := c.off()
	return fmt.Sprintf("%.1f ids, %.1f %%", ids, 100*parts)
}

func (c *cluster) off() (ids, parts float64) {
	for i := range c.nodes {
		v := View{me: c.nodes[i]}
		v.others = append(append(v.others, c.nodes[:i]...), c.nodes[i+1:]...)
		d := math.Abs(float64(c.nodes[i].Held) - v.Share())
		ids, parts = max(ids, d), max(parts, d/max(v.Share(), 1))
	}
	return ids, parts
}

func (c *cluster) isSpread(t *testing.T, what string) {
	t.Helper()
	rounds := c.settle(t, 12)
	ids, parts := c.off()
	t.Logf("%s: %d nodes, %d moves, %d rounds, at most %s from the share", what, len(c.nodes), c.moves, rounds, c.spread())
	if ids > 2 && parts > 0.05 {
		t.Errorf("%s: %s from the share", what, c.spread())
	}
	c.moves = 0
}

func TestIDsAreSpreadAndThenStay(t *testing.T) {
	for _, size := range []struct{ nodes, ids int }{{2, 7}, {4, 1000}, {5, 100_000}, {50, 10_000}, {70, 700}} {
		t.Run(fmt.Sprint(size.nodes, " nodes, ", size.ids, " ids"), func(t *testing.T) {
			c := newCluster(1, size.ids)
			for len(c.nodes) < size.nodes {
				c.join()
			}
			c.isSpread(t, "all joined one")
			c.join()
			c.isSpread(t, "one joined")
			c.leave(0)
			c.isSpread(t, "one left")
			for range size.nodes {
				c.leave(0)
				c.round()
				c.join()
				c.round()
				c.round()
			}
			if most := 3 * size.ids; c.moves > most {
				t.Errorf("%d moves in a rolling restart", c.moves)
			}
			c.isSpread(t, "rolling restart")
			var tenth []int
			for i := range (size.nodes + 9) / 10 {
				tenth = append(tenth, i)
			}
			c.leave(tenth...)
			c.isSpread(t, "a tenth died")
		})
	}
}
