package main

import (
	"fmt"
	"os"
	"slices"

	"gonum.org/v1/plot/plotter"

	"github.com/Diggs/go-one/internal/placement"
	"github.com/Diggs/go-one/internal/placement/placementtest"
)

// simulatedCluster is the chapter on a cluster that is too large for a machine.
func simulatedCluster(r *report, _ *server, z multitude, _ *costs) error {
	all := z.nodes * z.idsOf
	r.printf("## Simulated\n\n%d nodes and %d ids. Package placement decides, as it does in every node. A round takes some 6 s.\n\n", z.nodes, all)
	r.printf("| | ids that have to move | moved | rounds | ids of a node, least to most | furthest from the share |\n|---|--:|--:|--:|--:|--:|\n")
	c := placementtest.New(1, all)
	for len(c.Nodes) < z.nodes {
		c.Join()
	}
	var err error
	row := func(what string, must int) {
		rounds, ok := c.Settle(20)
		if !ok && err == nil {
			err = fmt.Errorf("%s: ids still move after %d rounds", what, rounds)
		}
		ids, parts := c.Off()
		least, most := extremes(c)
		fmt.Fprintf(os.Stderr, "  %s: %d moves\n", what, c.Moves)
		r.printf("| %s | %d | %d | %d | %d to %d | %.0f ids, %.1f %% |\n", what, must, c.Moves, rounds, least, most, ids, 100*parts)
		c.Moves = 0
	}
	row("the others join one that holds everything", all-z.idsOf)
	c.Join()
	row("one joins", all/len(c.Nodes))
	c.Moves = c.Leave(1)
	row("one leaves", c.Moves)

	batch := max(z.nodes/20, 1)
	must, deploy := rollSimulated(c, batch)
	row(fmt.Sprintf("all are restarted, %d at a time", batch), must)
	c.Moves = c.Leave(z.nodes / 10)
	row("a tenth dies at once", c.Moves)
	r.printf("\nStandbys take over what a leaving or dead node held, and balance evens it out. So a deploy moves an id about twice: off the\nnode that ends, and to one that has come. A node within 3 %% or 1.5 ids of its share causes no moves.\n\n")
	if err != nil {
		return err
	}
	if err := r.picture("deploy", "ids of the nodes that have least and most during a restart of all", chart{
		title: fmt.Sprintf("All %d nodes are restarted, %d at a time", z.nodes, batch), x: "half steps: some end, some start", y: "ids of a node",
		lines: []curve{{name: "the node that has least", points: deploy[0]}, {name: "the node that has most", points: deploy[1]}},
	}); err != nil {
		return err
	}
	return growth(r, z)
}

// rollSimulated restarts all nodes, some at a time. It returns how many ids had to move
// for that, and after each half step what the nodes have that have least and most.
func rollSimulated(c *placementtest.Cluster, batch int) (must int, extreme [2]plotter.XYs) {
	draw := func() {
		least, most := extremes(c)
		for i, y := range []int{least, most} {
			extreme[i] = append(extreme[i], plotter.XY{X: float64(len(extreme[i])), Y: float64(y)})
		}
	}
	draw()
	for range len(c.Nodes) / batch {
		had := c.Leave(batch)
		must, c.Moves = must+had, c.Moves+had
		c.Round()
		draw()
		for range batch {
			c.Join()
		}
		c.Round()
		c.Round()
		draw()
	}
	return must, extreme
}

// extremes are what the nodes have that have least and most, but for those that have
// just come.
func extremes(c *placementtest.Cluster) (least, most int) {
	var held []int
	for _, n := range c.Nodes {
		if n.Held > 0 {
			held = append(held, n.Held)
		}
	}
	return slices.Min(held), slices.Max(held)
}

// growth is how a node's part grows with the nodes.
func growth(r *report, z multitude) error {
	var mean, most, without plotter.XYs
	r.printf("### A node's part\n\nHow many ids a node competes for, those included that it holds, with %d ids per node.\n\n", z.idsOf)
	r.printf("| nodes | competes for, mean | most of any node | without balance |\n|--:|--:|--:|--:|\n")
	for _, n := range z.grow {
		c := placementtest.New(n, 0)
		counts := make([]float64, n)
		sum := 0.0
		for slot := range placement.Slots {
			for _, i := range placement.Contenders(c.Nodes, slot) {
				counts[i]++
				sum++
			}
		}
		ids := float64(n * z.idsOf)
		for _, s := range []struct {
			to *plotter.XYs
			y  float64
		}{{&mean, sum / float64(n)}, {&most, slices.Max(counts)}, {&without, placement.Slots}} {
			*s.to = append(*s.to, plotter.XY{X: float64(n), Y: s.y / placement.Slots * ids})
		}
		last := len(mean) - 1
		r.printf("| %d | %.0f | %.0f | %.0f |\n", n, mean[last].Y, most[last].Y, without[last].Y)
	}
	r.printf("\n")
	return r.picture("standbys", "ids that a node competes for, by the number of nodes", chart{
		title: fmt.Sprintf("Ids that a node competes for, %d ids a node", z.idsOf), x: "nodes", y: "ids", logX: true, logY: true,
		lines: []curve{{name: "mean", points: mean, dots: true}, {name: "most of any node", points: most, dots: true}, {name: "without balance", points: without, dots: true}},
	})
}
