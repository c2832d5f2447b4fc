package placement

import (
	"fmt"
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
	c := nodesOf(20)
	c[3].Weight, c[4].Leaving = 0, true
	for i := range 2 {
		c[i].Runs = ids(0, 301) // and with that another sum for one bucket
	}
	same := slices.Clone(c[2:])
	spoilt := hash("300") % buckets
	stands := func() map[string][]string {
		who := map[string][]string{}
		for i := range c {
			v := See(c[i], c, nil)
			for id := range 300 {
				if id := fmt.Sprint(id); v.Competes(id) {
					who[id] = append(who[id], c[i].Name)
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
		if len(who) != want || slices.Contains(who, c[3].Name) || slices.Contains(who, c[4].Name) {
			t.Fatalf("%s: %v", id, who)
		}
		if want == Standbys {
			for _, i := range Contenders(same, Slot(id)) {
				if !slices.Contains(who, same[i].Name) && !slices.ContainsFunc(c[:2], func(n Node) bool { return slices.Contains(who, n.Name) }) {
					t.Fatalf("%s: %v, and %s is to compete", id, who, same[i].Name)
				}
			}
		}
	}
	gone := c[7].Name
	c = slices.Delete(c, 7, 8)
	for id, who := range stands() {
		had := before[id]
		for _, name := range had {
			if name != gone && !slices.Contains(who, name) {
				t.Fatalf("%s: %v, before %v", id, who, had)
			}
		}
	}
}

// nodesOf are some that run the same ids.
func nodesOf(n int) (nodes []Node) {
	for i := range n {
		nodes = append(nodes, Node{Name: fmt.Sprint("node", i), Weight: 1, Runs: ids(0, 300)})
	}
	return nodes
}

// What a node's part costs: the roster's note, a view, and a round.
func BenchmarkView(b *testing.B) {
	for _, n := range []int{5, 100, 1000} {
		c := nodesOf(n)
		b.Run(fmt.Sprint(n, " nodes"), func(b *testing.B) {
			for b.Loop() {
				See(c[0], c, nil).Competes("")
			}
		})
		before := See(c[0], c, nil)
		b.Run(fmt.Sprint(n, " nodes, none came or went"), func(b *testing.B) {
			for b.Loop() {
				See(c[0], c, before).Gifts()
			}
		})
	}
}
