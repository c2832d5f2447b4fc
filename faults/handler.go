package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// A handler is one call of the handler of an id. Behaviours other than "well" do
// what a handler should not.
type handler struct {
	*node
	r       *gone.GoneRunner
	self    Event // its id and token
	store   *storeClient
	replies sync.WaitGroup // that come late
	deserts atomic.Bool    // it does not wait for them, and gives only half of all replies
}

// handle is the handler of every id. Its first line is the first event of a
// tenure.
func (n *node) handle(r *gone.GoneRunner) {
	h := &handler{node: n, r: r, self: Event{ID: r.ID(), Token: r.FencingToken()}}
	h.note(Begin, "")
	defer h.note(Returned, "")
	go func() {
		<-r.Exit
		h.note(Exit, context.Cause(r.Context()).Error())
	}()
	h.store = n.dialStore()
	defer h.store.close()
	defer func() {
		if !h.deserts.Load() {
			h.replies.Wait()
		}
	}()
	h.write()
	if n.cfg.Loop {
		h.loop()
	} else {
		h.serve()
	}
}

func (h *handler) note(k Kind, text string) {
	e := h.self
	e.Kind, e.Text = k, text
	h.log.Add(e)
}

func (h *handler) write() { h.note(Wrote, h.store.write(h.self.ID, h.self.Token)) }

// serve is the handler that extends the lock itself.
func (h *handler) serve() {
	extend := time.NewTicker(h.cfg.Extend)
	defer extend.Stop()
	write := time.NewTicker(20 * time.Millisecond)
	defer write.Stop()
	for {
		data, inbox := h.r.Data, h.r.Inbox
		if rand.IntN(8) > 0 { // Data is asked first where both are
			data = nil
		}
		how, end := h.behave()
		switch how {
		case "ignore": // does not extend, and stays when Exit closes
			time.Sleep(time.Millisecond)
			continue
		case "deaf": // receives nothing, is healthy otherwise
			data, inbox = nil, nil
		}
		if end {
			return
		}
		select {
		case <-h.r.Exit:
			if how == "sluggish" { // takes its time to return
				time.Sleep(h.cfg.TTL / 2)
			}
			if h.cfg.Store != "" {
				h.write() // a last write, as real handlers do
			}
			return
		case d := <-data:
			h.received(d, "")
		case m := <-inbox:
			h.receive(m)
		case <-extend.C:
			text := "ok"
			if err := h.r.Extend(); err != nil {
				text = outcomeOf(err)
			}
			h.note(Extended, text)
		case <-write.C:
			h.write()
		}
	}
}

// loop is the handler that leaves that to Messages.
func (h *handler) loop() {
	for m := range h.r.Messages() {
		h.receive(m)
		if _, end := h.behave(); end {
			return
		}
	}
	h.write()
}

// behave does what a handler can do between two messages, and reports whether it
// is to return.
func (h *handler) behave() (how string, end bool) {
	switch how = h.behaviour(h.self.ID, h.self.Token); how {
	case "return": // at once
		return how, true
	case "desert": // whoever waits for a reply, after some messages more
		h.deserts.Store(true)
		return how, rand.IntN(50) == 0
	case "panic":
		panic("as told")
	case "leave": // calls Close on itself
		_ = h.r.Close()
	case "slow":
		time.Sleep(2 * time.Millisecond)
	case "hang": // until the lease is over
		time.Sleep(h.cfg.TTL)
	}
	return how, false
}

// The payload of a message is "from n" and padding.
func (h *handler) received(data []byte, door string) Event {
	e := h.self
	e.Kind, e.Text = Received, door
	if f := strings.Fields(string(data)); len(f) >= 2 {
		e.From = f[0]
		e.N, _ = strconv.Atoi(f[1])
	}
	h.log.Add(e)
	return e
}

// receive takes a message from the inbox, and replies to it now or later.
func (h *handler) receive(m *gone.Message) {
	e := h.received(m.Data, whole)
	switch {
	case !m.WantsReply():
	case rand.IntN(2) == 0:
		h.reply(m, e)
	default:
		h.replies.Go(func() {
			time.Sleep(rand.N(20 * time.Millisecond))
			h.reply(m, e)
		})
	}
}

// reply replies to a request, or fails it. That is noted before, so that a kill
// hides no reply. A second one must not be given.
func (h *handler) reply(m *gone.Message, e Event) {
	if h.deserts.Load() && rand.IntN(2) == 0 {
		return
	}
	text := padded(replyTo(e), len(m.Data))
	e.Kind, e.Text = Replied, replied
	if rand.IntN(8) == 0 {
		e.Text = failed
	}
	h.log.Add(e)
	if e.Text == failed {
		_ = m.Fail(errors.New(string(text)))
	} else {
		_ = m.Reply(text)
	}
	scribble(text)
	if m.Reply([]byte("a second reply")) == nil {
		e.Text = "twice"
		h.log.Add(e)
	}
}

// replyTo is the reply to the request of an event.
func replyTo(e Event) string { return fmt.Sprintf("%s %d %s %d", e.From, e.N, e.ID, e.Token) }

// padded gives a payload a size, and bare takes that away.
func padded(s string, size int) []byte {
	return append([]byte(s), bytes.Repeat([]byte{'.'}, max(size-len(s), 0))...)
}

func bare(s string) string { return strings.TrimRight(s, ".") }
