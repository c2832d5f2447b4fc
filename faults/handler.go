package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
)

// A behaviour is how the handlers of an id behave. Where it ends a tenure, it is
// meant for that one: the node may get the next one before it is told to behave
// well again.
type behaviour struct {
	how   string
	token uint64 // 0: of every tenure
}

func (n *node) behaviour(id string, token uint64) string {
	b, _ := n.behave.Load(id)
	if b, _ := b.(behaviour); b.token == 0 || b.token == token {
		return b.how
	}
	return "well"
}

// handle is the handler of every id. Its first line is the first event of a
// tenure. Behaviours other than "well" do what a handler should not.
func (n *node) handle(r *gone.GoneRunner) {
	e := Event{ID: r.ID(), Token: r.FencingToken()}
	note := func(k Kind, text string) { e := e; e.Kind, e.Text = k, text; n.log.Add(e) }
	note(Begin, "")
	defer note(Returned, "")
	go func() {
		<-r.Exit
		note(Exit, context.Cause(r.Context()).Error())
	}()
	store := n.dialStore()
	defer store.close()

	extend := time.NewTicker(n.cfg.Extend)
	defer extend.Stop()
	write := time.NewTicker(20 * time.Millisecond)
	defer write.Stop()
	note(Wrote, store.write(e.ID, e.Token))
	for {
		data := r.Data
		behave := n.behaviour(e.ID, e.Token)
		switch behave {
		case "return": // at once
			return
		case "panic":
			panic("as told")
		case "leave": // calls Close on itself
			_ = r.Close()
		case "ignore": // does not extend, and stays when Exit closes
			time.Sleep(time.Millisecond)
			continue
		case "deaf": // never reads Data, is healthy otherwise
			data = nil
		case "slow":
			time.Sleep(2 * time.Millisecond)
		}
		select {
		case <-r.Exit:
			if behave == "sluggish" { // takes its time to return
				time.Sleep(n.cfg.TTL / 2)
			}
			if n.cfg.Store != "" {
				note(Wrote, store.write(e.ID, e.Token)) // a last write, as real handlers do
			}
			return
		case d := <-data:
			n.received(e, d)
		case <-extend.C:
			text := "ok"
			if err := r.Extend(); err != nil {
				text = outcomeOf(err)
			}
			note(Extended, text)
		case <-write.C:
			note(Wrote, store.write(e.ID, e.Token))
		}
	}
}

// The payload of a message is "from n" and padding.
func (n *node) received(e Event, data []byte) {
	e.Kind = Received
	if f := strings.Fields(string(data)); len(f) >= 2 {
		e.From = f[0]
		e.N, _ = strconv.Atoi(f[1])
	}
	n.log.Add(e)
}

