package placement_test

import (
	"fmt"
	"testing"

	"github.com/Diggs/go-one/internal/placement/placementtest"
)

// isSpread has the cluster settle, and sees that it is even then.
func isSpread(t *testing.T, c *placementtest.Cluster, what string) {
	t.Helper()
	rounds, ok := c.Settle(12)
	ids, parts := c.Off()
	t.Logf("%s: %d nodes, %d moves, %d rounds, at most %.1f ids, %.1f %% from the share", what, len(c.Nodes), c.Moves, rounds, ids, 100*parts)
	if !ok {
		t.Fatalf("%s: ids still move", what)
	}
	if ids > 2 && parts > 0.05 {
		t.Errorf("%s: %.1f ids, %.1f %% from the share", what, ids, 100*parts)
	}
	c.Moves = 0
}

func TestIDsAreSpreadAndThenStay(t *testing.T) {
	for _, size := range []struct{ nodes, ids int }{{2, 7}, {4, 1000}, {5, 100_000}, {50, 10_000}, {70, 700}} {
		t.Run(fmt.Sprint(size.nodes, " nodes, ", size.ids, " ids"), func(t *testing.T) {
			c := placementtest.New(1, size.ids)
			for len(c.Nodes) < size.nodes {
				c.Join()
			}
			isSpread(t, c, "all joined one")
			c.Join()
			isSpread(t, c, "one joined")
			c.Leave(1)
			isSpread(t, c, "one left")
			for range size.nodes {
				c.Leave(1)
				c.Round()
				c.Join()
				c.Round()
				c.Round()
			}
			if most := 3 * size.ids; c.Moves > most {
				t.Errorf("%d moves in a rolling restart", c.Moves)
			}
			isSpread(t, c, "rolling restart")
			c.Leave((size.nodes + 9) / 10)
			isSpread(t, c, "a tenth died")
		})
	}
}

// A thousand nodes and a million ids, as docs/scale.md has it.
func TestLongAThousandNodesWithAMillionIDs(t *testing.T) {
	const nodes, all, batch = 1000, 1_000_000, 50
	c := placementtest.New(nodes, all)
	isSpread(t, c, "at first")
	c.Join()
	isSpread(t, c, "one joined")
	c.Leave(1)
	isSpread(t, c, "one left")
	for range nodes / batch {
		c.Leave(batch)
		c.Round()
		for range batch {
			c.Join()
		}
		c.Round()
		c.Round()
	}
	isSpread(t, c, "deploy of all, fifty at a time")
	c.Leave(nodes / 10)
	isSpread(t, c, "a tenth died")
	if c.Round() > 0 {
		t.Error("ids still move")
	}
}
