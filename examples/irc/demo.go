package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"
)

type config struct {
	lockService          // its redis: "" means an embedded server
	irc           string // address; "" means an embedded server
	room          string
	http          string // address of the load balancer
	webs, workers int
	logs          string       // directory of the nodes' logs
	onLine        func(string) // called for every line of the room's transcript
}

// demo is everything at once: the servers, the load balancer, the nodes, and
// the witness in the room.
type demo struct {
	config
	id      string // of the singleton; a new one for every run, so that runs on one Redis do not meet
	room    *room
	cluster *cluster
	lb      *balancer
	pool    *redis.Pool
	end     []func() // in reverse order
	closed  sync.Once
	failed  error

	mu       sync.Mutex
	enqueued map[string]bool // tags in the queue, as far as we have looked
}

func startDemo(ctx context.Context, cfg config) (_ *demo, err error) {
	d := &demo{config: cfg, id: "irc-" + strings.ToLower(rand.Text()[:6]), room: newRoom(cfg.onLine), enqueued: map[string]bool{}}
	defer func() {
		if err != nil {
			_ = d.close()
		}
	}()

	if d.redis == "" {
		server, err := startRedis()
		if err != nil {
			return nil, err
		}
		d.end = append(d.end, server.Close)
		d.redis = server.Addr()
	}
	d.pool = newPool(d.redis)
	d.end = append(d.end, func() { _ = d.pool.Close() })
	if _, err := d.do("PING"); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	d.end = append(d.end, func() { _, _ = d.do("DEL", queueKey(d.id)) })

	if d.irc == "" {
		server, err := startIRCd("127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		d.end = append(d.end, server.Close)
		d.irc = server.Addr()
	}
	if err := d.seat(ctx); err != nil {
		return nil, fmt.Errorf("irc: %w", err)
	}

	if d.lb, err = startBalancer(d.http, d.room.post, d.room.confirm); err != nil {
		return nil, err
	}
	d.end = append(d.end, d.lb.Close)

	d.cluster = newCluster(d.webs, d.workers, d.logs, d.lb.set,
		append(d.lockService.args(), "-id", d.id, "-irc", d.irc, "-room", d.config.room)...)
	d.end = append(d.end, func() { d.failed = d.cluster.close() })
	errs := make(chan error)
	for _, n := range d.cluster.nodes {
		go func() { errs <- d.cluster.start(n.name) }()
	}
	for range d.cluster.nodes {
		err = cmp.Or(err, <-errs)
	}
	return d, err
}

func startRedis() (*miniredis.Miniredis, error) {
	server := miniredis.NewMiniRedis()
	server.ClockTTL(true) // keys expire as they do in Redis, by the clock
	return server, server.Start()
}

// seat puts the witness into the room before anybody else.
func (d *demo) seat(ctx context.Context) error {
	stay, leave := context.WithCancel(context.Background())
	seated, left := make(chan struct{}), make(chan error, 1)
	go func() { left <- d.room.witness(stay, d.irc, d.config.room, func() { close(seated) }) }()
	select {
	case <-seated:
		d.end = append(d.end, func() { leave(); <-left })
		return nil
	case err := <-left:
		leave()
		return err
	case <-ctx.Done():
		leave()
		<-left
		return ctx.Err()
	case <-time.After(joinWithin):
		leave()
		<-left
		return errors.New("the server does not let the witness in")
	}
}

// close ends everything. Its error is that of a node that did not end by
// itself.
func (d *demo) close() error {
	d.closed.Do(func() {
		for i := len(d.end) - 1; i >= 0; i-- {
			d.end[i]()
		}
	})
	return d.failed
}

// say posts a line through the load balancer and repeats it under the same key
// until it is confirmed. It returns the number of posts that took.
func (d *demo) say(ctx context.Context, text string) (tag string, posts int, err error) {
	return d.sayThrough(ctx, d.lb.URL(), text)
}

func (d *demo) sayThrough(ctx context.Context, url, text string) (tag string, posts int, err error) {
	tag = newTag()
	d.room.post(tag)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * sendWithin}
	for {
		posts++
		if err = postOnce(ctx, &client, url, tag, text); err == nil {
			d.room.confirm(tag)
			return tag, posts, nil
		}
		if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return tag, posts, fmt.Errorf("[%s] is not confirmed: %w", tag, err)
		}
	}
}

func postOnce(ctx context.Context, client *http.Client, url, tag, text string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/say", bytes.NewReader([]byte(text)))
	if err != nil {
		return err
	}
	req.Header.Set(keyHeader, tag)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	return err
}

// enqueue puts a line into the message queue. The queue confirms it by letting
// go of it.
func (d *demo) enqueue(text string) (tag string, err error) {
	// The room may hear the line before XADD has answered, so the tag is chosen
	// here and not by Redis.
	for {
		tag = fmt.Sprintf("%d-1", time.Now().UnixMicro())
		d.room.post(tag)
		_, err = d.do("XADD", queueKey(d.id), tag, "text", text)
		if err == nil {
			d.mu.Lock()
			d.enqueued[tag] = true
			d.mu.Unlock()
		}
		if err == nil || !strings.Contains(err.Error(), "equal or smaller") {
			return tag, err
		}
	}
}

// confirmQueue tells the judge which lines have left the queue. An error says
// that some have not.
func (d *demo) confirmQueue() error {
	entries, err := redis.Values(d.do("XRANGE", queueKey(d.id), "-", "+"))
	if err != nil {
		return err
	}
	queued := map[string]bool{}
	for _, e := range entries {
		queued[firstEntry([]any{e}).id] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for tag := range d.enqueued {
		if !queued[tag] {
			delete(d.enqueued, tag)
			d.room.confirm(tag)
		}
	}
	if len(queued) > 0 {
		return fmt.Errorf("%d lines are still in the queue", len(queued))
	}
	return nil
}

// pending is how many entries a worker has in hand.
func (d *demo) pending(worker string) int {
	entries, _ := redis.Values(d.do("XPENDING", queueKey(d.id), queueGroup, "-", "+", 100, worker))
	return len(entries)
}

// lock is what Redis says about the singleton: the holder's address and how
// long it still holds.
func (d *demo) lock() (holder string, ttl time.Duration) {
	holder, _ = redis.String(d.do("GET", d.id))
	ms, _ := redis.Int64(d.do("PTTL", d.id))
	return holder, time.Duration(max(0, ms)) * time.Millisecond
}

func (d *demo) do(command string, args ...any) (any, error) {
	conn := d.pool.Get()
	defer conn.Close()
	return conn.Do(command, args...)
}

// freeze and kill tell the judge first: from then on the bot cannot leave the
// room by itself.
func (d *demo) freeze(n node) error {
	d.room.excuse(n.nick)
	return d.cluster.freeze(n.name)
}

func (d *demo) kill(n node) error {
	d.room.excuse(n.nick)
	return d.cluster.kill(n.name)
}

// restart is a planned one: the node hands over, ends, and comes back.
func (d *demo) restart(name string) error {
	if err := d.cluster.stop(name); err != nil {
		return err
	}
	return d.cluster.start(name)
}

// until waits until cond holds, and names what it waited for when that takes
// too long.
func until(ctx context.Context, within time.Duration, what string, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for !cond() {
		if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("waited %v in vain until %s", within, what)
		}
	}
	return nil
}
