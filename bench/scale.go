package main

import (
	_ "embed"
	"fmt"
	"os"
	"time"
)

// A multitude is how large the clusters of docs/scale.md are.
type multitude struct {
	ids, members  int // of the measured cluster
	idle          time.Duration
	nodes, idsOf  int // of the simulated one: nodes, and ids of each
	saturate      time.Duration
	rosters, grow []int // numbers of nodes
}

func many(small bool) multitude {
	z := multitude{
		ids: 10_000, members: 5, idle: longTTL, nodes: 1000, idsOf: 1000, saturate: 4 * time.Second,
		rosters: []int{5, 10, 30, 100, 300, 1000}, grow: []int{3, 10, 30, 100, 300, 1000},
	}
	if small {
		z.ids, z.nodes, z.idle, z.saturate = 1000, 100, longTTL/3, time.Second
	}
	return z
}

// others is the comparison with what others do, by their own words.
//
//go:embed scale_others.md
var others string

// scale writes the report on clusters with many ids.
func scale(r *report, z multitude, out string) error {
	return r.page("scale", out, func(s *server, machine string) (head string, err error) {
		began := time.Now()
		var seen costs
		for _, c := range []struct {
			name  string
			write func(*report, *server, multitude, *costs) error
		}{
			{"memory", memoryOfIDs}, {"a cluster", measuredCluster}, {"Redis", costsOfRedis}, {"simulation", simulatedCluster}, {"walls", walls},
		} {
			fmt.Fprintf(os.Stderr, "%v: %s\n", time.Since(began).Round(time.Second), c.name)
			if err := c.write(r, s, z, &seen); err != nil {
				return "", fmt.Errorf("%s: %w", c.name, err)
			}
			if _, err := s.conn.Do("FLUSHALL"); err != nil {
				return "", err
			}
		}
		r.printf("%s", others)
		if z.nodes < 1000 {
			machine += "- a first look, of a tenth of the size\n"
		}
		return fmt.Sprintf(scaleHead, machine, time.Since(began).Round(time.Second)), nil
	})
}

const scaleHead = "# Many ids\n\nWritten by `make scale`. It shows what balance does and costs, measured with real processes and one Redis, and simulated\n" +
	"with the code that decides in real clusters.\n\n%s- in %v\n\n"

// costs is what the prediction is made of.
type costs struct {
	held, standby, parked float64         // bytes an id
	extend                time.Duration   // of Redis's CPU, each, with two standbys that hear of it
	extends               float64         // a second that one Redis did
	look                  []time.Duration // of Redis's CPU, by the nodes of rosters
	runOne                time.Duration   // for an id, at the start of a node
}
