package gonetest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

func TestIDsAreSpreadWhenNodesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0, gone.WithBalance())
		run := func(g *gone.Gone) {
			for i := range 1000 {
				if _, err := g.RunOne(fmt.Sprint("id", i), func(r *gone.GoneRunner) {
					for range r.Messages() {
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var nodes []*gone.Gone
		show := func(what string) {
			s := ""
			for _, g := range nodes {
				s += fmt.Sprint(" ", g.Stats().Held, "/", g.Stats().Tenures)
			}
			t.Log(what, s)
		}
		for range 4 {
			g := c.Start()
			run(g)
			nodes = append(nodes, g)
			time.Sleep(time.Second)
			show("started")
		}
		for range 10 {
			time.Sleep(3 * time.Second)
			show("later")
		}
		t.Log(nodes[0].Nodes(context.Background()))
		g := c.Start()
		run(g)
		nodes = append(nodes, g)
		for range 8 {
			time.Sleep(3 * time.Second)
			show("fifth")
		}
		g.Close()
		for range 8 {
			time.Sleep(3 * time.Second)
			show("left")
		}
		nodes[1].Drain(context.Background())
		for range 4 {
			time.Sleep(3 * time.Second)
			show("drained")
		}
		t.Log(nodes[0].Move(context.Background(), "id1", nodes[2].Addr()))
		h, err := nodes[0].Holder(context.Background(), "id1")
		t.Log(h, err, nodes[2].Addr())
	})
}
