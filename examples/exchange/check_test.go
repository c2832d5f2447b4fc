package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

func TestTheCheckerSeesWhatIsAgainstAPromise(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what    string
		against int // the index of the verdict, -1 for none
		change  func(h *history)
	}{
		{"nothing", -1, func(*history) {}},
		{"two executions of a try", 0, func(h *history) { h.execute("e-1.1", 1); h.execute("e-1.1", 2) }},
		{"executions of two tries", 0, func(h *history) { h.execute("e-1.1", 1); h.execute("e-1.2", 1) }},
		{"an execution of what was not delivered", 1, func(h *history) { h.execute("c-1.1", 1) }},
		{"an execution of what was refused", 2, func(h *history) { h.execute("d-1.1", 1) }},
		{"200 without an execution", 3, func(h *history) { h.journal = slices.Delete(h.journal, 2, 3) }},
		{"the answer to another order", 3, func(h *history) { h.posts[0].answer = h.posts[1].answer }},
		{"another execution's number", 3, func(h *history) { h.journal[1].Execution++ }},
		{"504 when all was well", 4, func(h *history) { h.posts[4].began = h.journal[3].At }},
		{"504 for something else", 4, func(h *history) { h.posts[4].answer = "gone: not delivered" }},
		{"503 when all was well", 5, func(h *history) { h.posts[2].began = h.journal[3].At }},
		{"503 after a clean end", 5, func(h *history) {
			h.journal = slices.Insert(h.journal, 3, line{Type: "logout", Token: 1})
			h.posts[4].harmed = true
		}},
		{"no answer from a process that was well", 5, func(h *history) { h.posts[5].harmed = false }},
		{"500", 5, func(h *history) { h.posts[3].status = http.StatusInternalServerError }},
		{"an older token", 6, func(h *history) { h.journal[2].Token = 0 }},
		{"two logins with one token", 6, func(h *history) { h.journal = append(h.journal, line{Type: "login", Token: 2}) }},
	} {
		h := goodHistory()
		c.change(h)
		for i, v := range h.check() {
			if (i == c.against) != (len(v.against) > 0) {
				t.Errorf("%s: %q has against it: %q", c.what, v.promise, v.against)
			}
		}
	}
}

// execute writes into the journal what the exchange would.
func (h *history) execute(name string, quantity int) (answer string) {
	l := line{Type: "executed", Order: name, Quantity: quantity, Execution: len(h.journal), Price: 100}
	data, _ := json.Marshal(l)
	l.Token = h.journal[len(h.journal)-1].Token
	h.journal = append(h.journal, l)
	return string(data)
}

// goodHistory has one post of each outcome, a-1.1 to f-1.1, all of them under
// way when a session was lost, or their node killed.
func goodHistory() *history {
	began := time.Now()
	h := &history{journal: []line{{Type: "login", Token: 1, At: began}}}
	for i, status := range []int{200, 200, 503, 422, 504, noAnswer} {
		p := post{order: string(rune('a'+i)) + "-1", try: 1, status: status, began: began, ended: began.Add(expiry)}
		switch status {
		case http.StatusOK:
			p.answer = h.execute(p.name(), 1+i)
		case http.StatusGatewayTimeout:
			p.answer = gone.ErrOutcomeUnknown.Error()
		case noAnswer:
			p.harmed = true
		}
		h.posts = append(h.posts, p)
	}
	h.journal = append(h.journal, line{Type: "login", Token: 2, At: began.Add(expiry)})
	return h
}
