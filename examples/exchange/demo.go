package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/alicebob/miniredis/v2"
)

const (
	firm     = "acme"           // whose account it is
	patience = 30 * time.Second // bounds every single wait; far above what any takes
)

type config struct {
	lockService    // none: an embedded Redis
	nodes, clients int
	logs           string // directory of the nodes' logs and the exchange's journal
	tell           func(format string, args ...any)
}

// A demo is everything at once: Redis, the exchange, the nodes and the traders.
type demo struct {
	config
	redisd   *miniredis.Miniredis // nil when Redis is not ours
	exchange *exchange
	cluster  *cluster
	traders  *traders
}

func startDemo(cfg config) (_ *demo, err error) {
	d := &demo{config: cfg}
	defer func() {
		if err != nil {
			_ = d.close()
		}
	}()
	if d.lockService == (lockService{}) {
		d.redisd = miniredis.NewMiniRedis()
		d.redisd.ClockTTL(true) // keys expire as they do in Redis, by the clock
		if err := d.redisd.Start(); err != nil {
			return nil, err
		}
		d.redis = "redis://" + d.redisd.Addr()
	}
	if d.exchange, err = startExchange("127.0.0.1:0", d.journal()); err != nil {
		return nil, err
	}
	d.cluster = newCluster(d.nodes, d.logs, append(d.lockService.args(), "-exchange", d.exchange.Addr(), "-account", firm)...)
	errs := make(chan error)
	for _, n := range d.cluster.views() {
		go func() { errs <- d.cluster.start(n.name) }()
	}
	for range d.nodes {
		err = cmp.Or(err, <-errs)
	}
	if err == nil {
		d.tell("the page of the cluster: http://%s/gone/", d.cluster.views()[0].http)
		d.traders = startTraders(d.cluster, cfg.clients)
	}
	return d, err
}

func (d *demo) journal() string { return filepath.Join(d.logs, "journal") }

// close ends everything, the last order first.
func (d *demo) close() error {
	var errs []error
	if d.traders != nil {
		d.traders.close()
	}
	if d.cluster != nil {
		errs = append(errs, d.cluster.close())
	}
	if d.exchange != nil {
		errs = append(errs, d.exchange.Close())
	}
	if d.redisd != nil {
		d.redisd.Close()
	}
	return errors.Join(errs...)
}

// judge tells what the history says, and ends with an error if anything in it
// is against a promise. Everything has been closed.
func (d *demo) judge() error {
	journal, err := readJournal(d.journal())
	if err != nil {
		return err
	}
	h := &history{posts: d.traders.since(time.Time{}), journal: journal}
	d.tell("%s", h.summary())
	for _, v := range h.check() {
		if len(v.against) == 0 {
			d.tell("ok      %s", v.promise)
			continue
		}
		d.tell("BROKEN  %s: %d times", v.promise, len(v.against))
		for _, a := range v.against[:min(5, len(v.against))] {
			err = errors.Join(err, errors.New(a))
		}
	}
	return err
}

// holder is the node that has the session; it waits for one.
func (d *demo) holder(ctx context.Context) (node string, token uint64, err error) {
	err = until(ctx, "there is a session", func() (live bool) {
		node, token, live = d.exchange.session(firm)
		return live
	})
	return node, token, err
}

// overcome does something bad to a node, and waits for another session if it
// had the one.
func (d *demo) overcome(ctx context.Context, name string, do func(name string) error) error {
	holder, token, err := d.holder(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := do(name); err != nil || name != holder {
		return err
	}
	var node string
	var newer uint64
	err = until(ctx, "there is another session", func() (live bool) {
		node, newer, live = d.exchange.session(firm)
		return live && newer > token
	})
	if err == nil {
		d.tell("%s has the session after %v, with fencing token %d", node, time.Since(began).Round(time.Millisecond), newer)
	}
	return err
}

// price is the last one that a node has, at the address.
func price(ctx context.Context, addr string) (tick int) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/price", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var l line
	_ = json.NewDecoder(resp.Body).Decode(&l)
	return l.Tick
}

// until waits until cond holds, and names what it waited for when that takes
// too long.
func until(ctx context.Context, what string, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !cond() {
		if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("waited in vain until %s: %w", what, ctx.Err())
		}
	}
	return nil
}
