package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func ids(from, to int) Digest {
	return DigestOf(func(yield func(string) bool) {
		for i := from; i != to; i++ {
			if !yield(fmt.Sprint(i)) {
				return
			}
		}
	})
}

func TestADigestTellsOtherSetsOfIDsApart(t *testing.T) {
	if ids(0, 1000) == ids(0, 1001) {
		t.Error("other ids, one digest")
	}
	a := ids(0, 1000)
	text, err := a.MarshalText()
	var b Digest
	if err != nil || b.UnmarshalText(text) != nil || a != b {
		t.Error(b, err)
	}
	for _, s := range []string{"", "x", string(text) + "AA", "=" + string(text)[1:]} {
		if b.UnmarshalText([]byte(s)) == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestNodesAreKinWhoseIDsAreMuchTheSame(t *testing.T) {
	for what, c := range map[string]struct {
		a, b Digest
		want bool
	}{
		"the same":               {ids(0, 1000), ids(0, 1000), true},
		"one id":                 {ids(0, 1), ids(0, 1), true},
		"a hundred each besides": {ids(0, 1100), ids(100, 1200), true},
		"none":                   {ids(0, 1000), ids(1000, 1000), false},
		"none of the same":       {ids(0, 1000), ids(1000, 2000), false},
		"few of the same":        {ids(0, 1000), ids(990, 2000), false},
		"few, and none the same": {ids(0, 60), ids(60, 64), false},
	} {
		if kin(&c.a, &c.b) != c.want || kin(&c.b, &c.a) != c.want {
			t.Errorf("%s: kin is %v", what, !c.want)
		}
	}
}

// With one roster for all, each id is competed for by three nodes of those that run
// it, and when one of them goes, by one that did not before.
func TestEachIDHasItsStandbys(t *testing.T) {
	c := newCluster(20, 0)
	c.nodes[3].Weight, c.nodes[4].Leaving = 0, true
	for i := range 2 {
		c.nodes[i].Runs = ids(0, 301) // and with that another sum for one bucket
	}
	spoilt := hash("300") % buckets
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
		if hash(id)%buckets == spoilt {
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
	runs  Digest
	moves int
	named int
}

func newCluster(nodes, held int) *cluster {
	c := &cluster{runs: ids(0, 300)}
	for range nodes {
		c.join().Young = false
	}
	for i := range held {
		c.nodes[i%nodes].Held++
	}
	return c
}

func (c *cluster) join() *Node {
	c.named++
	c.nodes = append(c.nodes, Node{Name: fmt.Sprint("node", c.named), Weight: 1, Young: true, Runs: c.runs})
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

// view is that of a node, but for what it competes for.
func (c *cluster) view(i int) *View {
	return &View{me: c.nodes[i], kin: slices.Concat(c.nodes[:i], c.nodes[i+1:])}
}

// round returns how many ids were moved.
func (c *cluster) round() (moves int) {
	var gifts [][]Gift
	for i := range c.nodes {
		v := c.view(i)
		gifts = append(gifts, v.Gifts())
	}
	index := map[string]int{}
	room := make([]int, len(c.nodes))
	for i, n := range c.nodes {
		index[n.Name] = i
		v := c.view(i)
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
		v := c.view(i)
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

// A thousand nodes and a million ids, as docs/scale.md has it.
func TestLongAThousandNodesWithAMillionIDs(t *testing.T) {
	const nodes, all = 1000, 1_000_000
	c := newCluster(nodes, all)
	c.isSpread(t, "at first")
	c.join()
	c.isSpread(t, "one joined")
	c.leave(0)
	c.isSpread(t, "one left")
	for range nodes / 50 { // fifty at a time
		var old []int
		for i := range 50 {
			old = append(old, i)
		}
		c.leave(old...)
		c.round()
		for range old {
			c.join()
		}
		c.round()
		c.round()
	}
	t.Logf("deploy of all, fifty at a time: %d moves besides those of the restarts", c.moves)
	c.moves = 0
	c.isSpread(t, "after it")
	var tenth []int
	for i := range nodes / 10 {
		tenth = append(tenth, i)
	}
	c.leave(tenth...)
	c.isSpread(t, "a tenth died")
	before := c.moves
	c.round()
	if c.moves != before {
		t.Error("ids still move")
	}
}

// What a node's part costs: the roster's note, a view, and a round.
func BenchmarkView(b *testing.B) {
	for _, n := range []int{5, 100, 1000} {
		c := newCluster(n, 1000*n)
		b.Run(fmt.Sprint(n, " nodes"), func(b *testing.B) {
			for b.Loop() {
				See(c.nodes[0], c.nodes, nil)
			}
		})
		before := See(c.nodes[0], c.nodes, nil)
		b.Run(fmt.Sprint(n, " nodes, none came or went"), func(b *testing.B) {
			for b.Loop() {
				See(c.nodes[0], c.nodes, before).Gifts()
			}
		})
	}
}
