package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// A post is one try of one order, as its client saw it.
type post struct {
	order        string // a try's name is the order's with its number: "a-17.1"
	try          int
	within       time.Duration // that the client gives the web node
	status       int           // of HTTP, or one of those below
	answer       string        // the body, or the error
	harmed       bool          // the web node was killed or frozen meanwhile, or there was none
	began, ended time.Time
}

const (
	noAnswer     = 0
	noConnection = -1 // so that nothing was sent
)

func (p post) name() string { return fmt.Sprintf("%s.%d", p.order, p.try) }

// answered reports whether the exchange's answer came back.
func (p post) answered() bool {
	return p.status == http.StatusOK || p.status == http.StatusUnprocessableEntity
}

// hurried reports whether the client did not want to wait any longer.
func (p post) hurried() bool { return p.within == impatient && p.ended.Sub(p.began) >= impatient }

func (p post) String() string {
	return fmt.Sprintf("%s at %s, for %v: %d %s", p.name(), p.began.Format("15:04:05.000"),
		p.ended.Sub(p.began).Round(time.Millisecond), p.status, p.answer)
}

const (
	impatient = 500 * time.Millisecond // shorter than a crash goes unnoticed
	pace      = 20 * time.Millisecond  // between posts of one trader
)

// traders post orders, each one after the other, and write down what they were
// told. An order is tried again only when that is safe.
type traders struct {
	cluster *cluster
	stop    context.CancelFunc
	trading sync.WaitGroup

	mu    sync.Mutex
	posts []post
}

func startTraders(c *cluster, number int) *traders {
	ctx, cancel := context.WithCancel(context.Background())
	t := &traders{cluster: c, stop: cancel}
	for i := range number {
		t.trading.Go(func() { t.trade(ctx, i) })
	}
	return t
}

// close returns when the last order of each has its answer.
func (t *traders) close() {
	t.stop()
	t.trading.Wait()
}

// trade: every second trader is impatient, and hears of every failure; the
// others wait until it is over, if they can.
func (t *traders) trade(ctx context.Context, number int) {
	within := usualWithin
	if number%2 == 1 {
		within = impatient
	}
	for i := 1; ctx.Err() == nil; i++ {
		p := post{order: fmt.Sprintf("%c-%d", 'a'+number, i), try: 1, within: within}
		for {
			p = t.post(p, i%10) // every tenth is an order of nothing, which the exchange rejects
			if p.status != http.StatusServiceUnavailable && p.status != noConnection || ctx.Err() != nil {
				break
			}
			p.try++
			pause(ctx, pace)
		}
		pause(ctx, pace)
	}
}

// post makes one connection for each, so that none meets one that is being
// closed.
func (t *traders) post(p post, quantity int) post {
	p.began = time.Now()
	p.status, p.answer, p.harmed = noConnection, "no node is up", true
	if addr, over := t.cluster.pick(); over != nil {
		p.status, p.answer = send(p, addr, quantity)
		p.harmed = over()
	}
	p.ended = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.posts = append(t.posts, p)
	return p
}

func send(p post, addr string, quantity int) (status int, answer string) {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true},
		Timeout:   p.within + usualWithin,
	}
	body, _ := json.Marshal(line{Order: p.name(), Quantity: quantity})
	resp, err := client.Post(fmt.Sprintf("http://%s/orders?within=%v", addr, p.within), "application/json", bytes.NewReader(body))
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
	}
	var dial *net.OpError
	switch {
	case err == nil:
		return resp.StatusCode, string(bytes.TrimSpace(body))
	case errors.As(err, &dial) && dial.Op == "dial":
		return noConnection, err.Error()
	}
	return noAnswer, err.Error()
}

// since are the posts that began after that.
func (t *traders) since(began time.Time) (posts []post) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.posts {
		if p.began.After(began) {
			posts = append(posts, p)
		}
	}
	return posts
}
