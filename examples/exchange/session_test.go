package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

func TestAPlannedEndAnswersEveryOpenOrder(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 20)
	x.slow(300 * time.Millisecond)
	redis := startRedis(t)
	holder := startDesk(t, redis, x)
	client := startNode(t, redis)
	results := openOrders(t, client, x, 20)
	if err := holder.Close(); err != nil {
		t.Error(err)
	}
	seen := map[int]bool{}
	for range 20 {
		r := <-results
		if r.err != nil || r.answer.Type != "executed" || r.answer.Quantity != r.quantity || seen[r.answer.Execution] {
			t.Errorf("order %d: %+v, %v", r.quantity, r.answer, r.err)
		}
		seen[r.answer.Execution] = true
	}
}

func TestALostSessionLeavesOpenOrdersUnknownAndTheNextOneTrades(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 21)
	x.slow(time.Minute)
	redis := startRedis(t)
	holder := startDesk(t, redis, x)
	results := openOrders(t, holder, x, 20)
	x.slow(usualAnswer)
	x.cut(firm)
	for range 20 {
		if r := <-results; !errors.Is(r.err, gone.ErrOutcomeUnknown) || !errors.Is(r.err, gone.ErrNoReply) {
			t.Errorf("order %d: %+v, %v", r.quantity, r.answer, r.err)
		}
	}
	if r := <-openOrders(t, holder, x, 1); r.err != nil {
		t.Error(r.err)
	}
}

func TestARejectionIsTheHandlersError(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 0)
	holder := startDesk(t, startRedis(t), x)
	var refused *gone.HandlerError
	if _, err := holder.Request(t.Context(), firm, []byte(`{"order":"of nothing"}`)); !errors.As(err, &refused) || refused.Text != "an order of nothing" {
		t.Error(err)
	}
	if _, err := holder.Request(t.Context(), firm, []byte(`no JSON`)); !errors.As(err, &refused) {
		t.Error(err)
	}
}

func TestAnOrderThatNobodyWaitsForIsNotExecuted(t *testing.T) {
	t.Parallel()
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	const late = `{"order":"late","quantity":1}`
	x := newExchange(t, 1)
	d := &desk{node: "desk", exchange: x.Addr(), account: firm}
	g := startHandler(t, startRedis(t), x, func(r *gone.GoneRunner) {
		s, err := d.login(r)
		if err != nil {
			return
		}
		defer s.conn.Close()
		go func() { _ = s.answer() }()
		for m := range r.Messages() {
			if string(m.Data) == late {
				giveUp()
				<-m.Context().Done()
			}
			s.take(m)
		}
	})
	if _, err := g.Request(ctx, firm, []byte(late)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if r := <-openOrders(t, g, x, 1); r.err != nil {
		t.Error(r.err)
	}
}

func TestAnOrderThatArrivesAtAPlannedEndIsExecutedAndAnswered(t *testing.T) {
	t.Parallel()
	x := newExchange(t, 1)
	d := &desk{node: "desk", exchange: x.Addr(), account: firm}
	g := startHandler(t, startRedis(t), x, func(r *gone.GoneRunner) {
		s, err := d.login(r)
		if err != nil {
			return
		}
		defer s.conn.Close()
		go func() {
			m := <-r.Inbox
			_ = r.Close()
			<-r.Exit
			s.take(m)
			s.forward(r)
		}()
		_ = s.answer()
	})
	if r := <-openOrders(t, g, x, 1); r.err != nil || r.answer.Type != "executed" {
		t.Errorf("%+v, %v", r.answer, r.err)
	}
}

type result struct {
	quantity int
	answer   line
	err      error
}

// openOrders returns when the exchange has executed so many orders more, which
// it will answer later.
func openOrders(t *testing.T, g *gone.Gone, x *exchange, n int) <-chan result {
	t.Helper()
	before, _ := x.figures()
	results := make(chan result, n)
	for i := range n {
		go func() {
			data, _ := json.Marshal(line{Order: fmt.Sprint("order ", i+1), Quantity: i + 1})
			reply, err := g.Request(t.Context(), firm, data)
			r := result{quantity: i + 1, err: err}
			if err == nil {
				r.err = json.Unmarshal(reply, &r.answer)
			}
			results <- r
		}()
	}
	err := until(t.Context(), "all orders are executed", func() bool {
		executed, _ := x.figures()
		return executed == before+n
	})
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func startNode(t *testing.T, redis string) *gone.Gone {
	t.Helper()
	g, err := gone.NewGone("tcp://127.0.0.1:0", gone.RedisLocks(redis), gone.WithSendTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// startDesk starts a node that has the session.
func startDesk(t *testing.T, redis string, x *exchange) *gone.Gone {
	t.Helper()
	d := &desk{node: "desk", exchange: x.Addr(), account: firm}
	return startHandler(t, redis, x, d.run)
}

func startHandler(t *testing.T, redis string, x *exchange, run gone.RunHandler) *gone.Gone {
	t.Helper()
	g := startNode(t, redis)
	if _, err := g.RunOne(firm, run); err != nil {
		t.Fatal(err)
	}
	err := until(t.Context(), "there is a session", func() bool {
		_, _, live := x.session(firm)
		return live
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}
