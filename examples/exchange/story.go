package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// play is the demo without a person: it does to the cluster what happens to
// clusters, while orders are posted. Nothing in it waits for a fixed time; every
// wait is for something that can be seen, with a bound.
func (d *demo) play(ctx context.Context, rounds int) error {
	acts := []struct {
		title string
		play  func(context.Context) error
	}{
		{"Everybody trades through one session", d.open},
		{"The session's process is killed with kill -9", d.crash},
		{"The session's process is frozen with SIGSTOP", d.freezeAndThaw},
		{"Every process is restarted with SIGTERM, one after the other", d.rollingRestart},
		{"The exchange is slow", d.slow},
		{"The exchange cuts the connection", d.cut},
	}
	for round := range rounds {
		for i, act := range acts {
			if round > 0 && i == 0 {
				continue
			}
			d.tell("== %s", act.title)
			if err := act.play(ctx); err != nil {
				return err
			}
			if err := d.settle(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// settle waits until every trader's order is executed again, and every node
// has a new price.
func (d *demo) settle(ctx context.Context) error {
	began := time.Now()
	if err := d.told(ctx, began, http.StatusOK, d.clients); err != nil {
		return err
	}
	_, tick := d.exchange.figures()
	for _, n := range d.cluster.views() {
		if n.state != up {
			continue
		}
		if err := until(ctx, n.name+" has a new price", func() bool { return price(ctx, n.http) >= tick }); err != nil {
			return err
		}
	}
	return nil
}

// told waits until so many traders were told that, of orders that they posted
// since then.
func (d *demo) told(ctx context.Context, began time.Time, status, traders int) error {
	return until(ctx, fmt.Sprintf("%d traders are told %d", traders, status), func() bool {
		who := map[byte]bool{}
		for _, p := range d.traders.since(began) {
			if p.status == status {
				who[p.order[0]] = true
			}
		}
		return len(who) >= traders
	})
}

func (d *demo) open(ctx context.Context) error {
	holder, token, err := d.holder(ctx)
	if err == nil {
		d.tell("%s has the session, with fencing token %d", holder, token)
	}
	return err
}

// crash: who posts while nobody has noticed it yet is told that his order was
// not delivered.
func (d *demo) crash(ctx context.Context) error {
	holder, _, err := d.holder(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.overcome(ctx, holder, d.cluster.kill); err != nil {
		return err
	}
	if err := d.told(ctx, began, http.StatusServiceUnavailable, 1); err != nil {
		return err
	}
	return d.cluster.start(holder)
}

// freezeAndThaw: the frozen process cannot know that it has been overtaken. The
// exchange does: by the token.
func (d *demo) freezeAndThaw(ctx context.Context) error {
	holder, token, err := d.holder(ctx)
	if err != nil {
		return err
	}
	if err := d.overcome(ctx, holder, d.cluster.freeze); err != nil {
		return err
	}
	answer, err := login(ctx, d.exchange.Addr(), holder, token)
	if err != nil {
		return err
	}
	if answer.Type != "refused" {
		return fmt.Errorf("the exchange lets token %d in again: %+v", token, answer)
	}
	d.tell("the exchange would not let %s in again: %s", holder, answer.Reason)
	if err := d.told(ctx, time.Now(), http.StatusOK, 2); err != nil {
		return err
	}
	d.tell("%s wakes up", holder)
	return d.cluster.thaw(holder)
}

// login tries to log in as a node that is behind the time would.
func login(ctx context.Context, addr, node string, token uint64) (answer line, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return line{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := writeLine(conn, line{Type: "login", Account: firm, Node: node, Token: token}); err != nil {
		return line{}, err
	}
	return readLine(bufio.NewReader(conn))
}

// rollingRestart is a deploy. Nothing is broken in it, so every order has its
// answer, unless its client could not even wait for a planned hand-over.
func (d *demo) rollingRestart(ctx context.Context) error {
	began := time.Now()
	_, before, err := d.holder(ctx)
	if err != nil {
		return err
	}
	for _, n := range d.cluster.views() {
		if err := errors.Join(d.cluster.stop(n.name), d.cluster.start(n.name)); err != nil {
			return err
		}
		if err := d.told(ctx, time.Now(), http.StatusOK, d.clients); err != nil {
			return err
		}
	}
	_, after, err := d.holder(ctx)
	if err == nil && after == before {
		err = errors.New("the session should have moved")
	}
	posts := d.traders.since(began)
	for _, p := range posts {
		if !p.answered() && !p.hurried() {
			err = errors.Join(err, fmt.Errorf("in a planned restart: %v", p))
		}
	}
	if err == nil {
		d.tell("the session moved, and %d posts meanwhile had their answers", len(posts))
	}
	return err
}

// slow: nobody can tell what becomes of an order that the exchange has and does
// not answer in time. That is no reason to give up the session.
func (d *demo) slow(ctx context.Context) error {
	_, before, err := d.holder(ctx)
	if err != nil {
		return err
	}
	from := time.Now()
	d.exchange.slow(3 * impatient)
	err = d.told(ctx, from, http.StatusGatewayTimeout, d.clients/2)
	d.exchange.slow(usualAnswer)
	if err != nil {
		return err
	}
	d.tell("all impatient traders were told that nobody knows")
	if _, after, live := d.exchange.session(firm); live && after == before {
		d.tell("the session goes on")
	}
	return nil
}

func (d *demo) cut(ctx context.Context) error {
	holder, _, err := d.holder(ctx)
	if err != nil {
		return err
	}
	return d.overcome(ctx, holder, func(string) error {
		d.exchange.cut(firm)
		return nil
	})
}
