package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	gone "github.com/Diggs/go-one"
)

// A history is what was seen of a run from outside: what clients were told, and
// what the exchange wrote into its journal.
type history struct {
	posts   []post
	journal []line
}

// A verdict is one promise, and what in the history is against it.
type verdict struct {
	promise string
	against []string
}

// check judges the history. It knows nothing of gone but the text of an error.
func (h *history) check() []verdict {
	executions := h.executions()
	times := map[string]int{} // each order was executed, whichever try of it
	for name, all := range executions {
		times[orderOf(name)] += len(all)
	}
	var twice []string
	for order, n := range times {
		if n > 1 {
			twice = append(twice, fmt.Sprintf("%s was executed %d times", order, n))
		}
	}
	return []verdict{
		{"no order was executed twice", twice},
		{"no 503 (not delivered) was executed", h.never(http.StatusServiceUnavailable, executions)},
		{"no 422 (refused) was executed", h.never(http.StatusUnprocessableEntity, executions)},
		{"every 200 was executed once, and has its own answer", h.answered(executions)},
		{"every 504 (unknown) could not be known", h.unknown(executions)},
		{"every other error had a reason", h.errors()},
		{"one session came after the other, with rising tokens", h.sessions()},
	}
}

// executions are those of each try.
func (h *history) executions() map[string][]line {
	all := map[string][]line{}
	for _, l := range h.journal {
		if l.Type == "executed" {
			all[l.Order] = append(all[l.Order], l)
		}
	}
	return all
}

// orderOf is the order that this is a try of.
func orderOf(name string) string {
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		return name[:dot]
	}
	return name
}

func (h *history) never(status int, executions map[string][]line) (against []string) {
	for _, p := range h.posts {
		if p.status == status && len(executions[p.name()]) > 0 {
			against = append(against, fmt.Sprintf("%s was executed, and answered %d: %s", p.name(), status, p.answer))
		}
	}
	return against
}

func (h *history) answered(executions map[string][]line) (against []string) {
	for _, p := range h.posts {
		if p.status != http.StatusOK {
			continue
		}
		var answer line
		err := json.Unmarshal([]byte(p.answer), &answer)
		all := executions[p.name()]
		if err != nil || len(all) != 1 || answer.Order != p.name() ||
			answer.Execution != all[0].Execution || answer.Quantity != all[0].Quantity || answer.Price != all[0].Price {
			against = append(against, fmt.Sprintf("%s was executed as %+v, and answered %s", p.name(), all, p.answer))
		}
	}
	return against
}

// unknown are the outcomes that were called so and could have been known.
func (h *history) unknown(executions map[string][]line) (against []string) {
	for _, p := range h.posts {
		if p.status == http.StatusGatewayTimeout && (!h.excused(p) || !strings.Contains(p.answer, gone.ErrOutcomeUnknown.Error())) {
			against = append(against, fmt.Sprintf("%v; executed: %t", p, len(executions[p.name()]) > 0))
		}
	}
	return against
}

func (h *history) errors() (against []string) {
	for _, p := range h.posts {
		switch p.status {
		case http.StatusOK, http.StatusUnprocessableEntity, http.StatusGatewayTimeout:
		case http.StatusServiceUnavailable:
			if !h.excused(p) {
				against = append(against, p.String())
			}
		case noAnswer, noConnection:
			if !p.harmed {
				against = append(against, p.String())
			}
		default:
			against = append(against, p.String())
		}
	}
	return against
}

// excused reports whether there was a reason not to answer the post: its web
// node was killed or frozen, a session was lost, or its client had no patience.
// To be restarted is no reason.
func (h *history) excused(p post) bool {
	if p.harmed || p.hurried() {
		return true
	}
	loggedOut := true
	for _, l := range h.journal {
		switch l.Type {
		case "logout":
			loggedOut = true
		case "login":
			// The session before was in trouble for as long as it takes to
			// notice, and before that for as long as it takes to trouble it.
			if !loggedOut && p.began.Before(l.At) && p.ended.After(l.At.Add(-2*expiry)) {
				return true
			}
			loggedOut = false
		}
	}
	return false
}

func (h *history) sessions() (against []string) {
	var token uint64
	for _, l := range h.journal {
		if l.Token < token || l.Type == "login" && l.Token == token {
			against = append(against, fmt.Sprintf("after token %d: %+v", token, l))
		}
		token = l.Token
	}
	return against
}

// summary counts what the posts came to.
func (h *history) summary() string {
	executions := h.executions()
	orders, count, executed := map[string]bool{}, map[int]int{}, map[int]int{}
	for _, p := range h.posts {
		orders[p.order] = true
		count[p.status]++
		executed[p.status] += len(executions[p.name()])
	}
	return fmt.Sprintf("%d orders in %d posts: %d executed (200), %d refused (422), %d not delivered (503),\n"+
		"  %d unknown (504; %d of them were executed), %d lost with their web node (%d of them were executed)",
		len(orders), len(h.posts), count[http.StatusOK], count[http.StatusUnprocessableEntity], count[http.StatusServiceUnavailable],
		count[http.StatusGatewayTimeout], executed[http.StatusGatewayTimeout],
		count[noAnswer]+count[noConnection], executed[noAnswer]+executed[noConnection])
}
