package redisconn

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// wakeups is one connection that is subscribed to a channel for each lock that
// waits; there is none while no lock does. It is a convenience: whoever waits
// has a timer as well.
type wakeups struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	running  bool
	conn     *ear  // nil while there is none
	deaf     error // the last refusal to subscribe, if nothing was granted since
	channels map[string]*channel
}

// An ear is the connection of wakeups.
type ear struct {
	Listener
	more  chan struct{} // todo has become longer
	over  chan struct{} // closed when nobody listens to it any more
	check *time.Timer

	// Guarded by wakeups.mu.
	todo  []func(Listener) error // to be written, in order
	probe string                 // the last that was sent
	heard chan struct{}          // nil when there is none to be heard
}

type channel struct {
	name string
	live bool // Redis has confirmed the subscription
	subs []*Subscription
}

// News is what a message says of a hold: its token, and its end, which has
// passed when it was released. None at all means: look for yourself.
type News struct {
	Token uint64
	Until time.Time
}

// A Subscription hears one channel for one waiter at a time. What it hears
// between two waits counts for the second.
type Subscription struct {
	hub *wakeups
	*channel

	// Guarded by hub.mu.
	wait     Wait // Wake is nil while nobody waits
	extended bool // Hold was, since the timer was set
	missed   bool // there was news while nobody waited: …
	news     News // … the latest
	timer    *time.Timer
}

// A Wait is what somebody waits for: the end of a hold, or, without one, the
// beginning of any.
type Wait struct {
	Hold News          // Until moves when it is said to be extended
	Most time.Duration // however long Hold may last
	Poll time.Duration // to wait where no news can be expected
	// Wake is called once, in good time or earlier, by whoever has the news. It
	// must not block.
	Wake func()
}

// spread is how far those who wait for the end of one hold lie apart, and how
// late the first may be.
const spread = 20 * time.Millisecond

func newWakeups(c *Client) *wakeups {
	ctx, cancel := context.WithCancel(context.Background())
	return &wakeups{client: c, ctx: ctx, cancel: cancel, channels: map[string]*channel{}}
}

// Subscribe starts to listen to a channel. The first news is "look for
// yourself" once Redis has confirmed: what was published before is lost.
func (c *Client) Subscribe(name string) *Subscription {
	w := c.wakeups
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[name]
	if ch == nil {
		ch = &channel{name: name}
		w.channels[name] = ch
		w.order(func(conn Listener) error { return conn.Subscribe(name) })
	}
	s := &Subscription{hub: w, channel: ch, missed: ch.live}
	ch.subs = append(ch.subs, s)
	if !w.running {
		w.running = true
		go w.run()
	}
	return s
}

// Await arranges for a call of Wake. Who waited before is woken now.
func (s *Subscription) Await(w Wait) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.wake()
	s.wait = w
	if s.missed && s.heed(s.news) {
		s.wake()
		return
	}
	s.missed = false
	s.arm()
}

// Abandon ends a wait without a call of Wake, unless that was made already.
func (s *Subscription) Abandon() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.end()
}

// Cancel ends the subscription. Whoever still waits looks for himself. Redis is
// told after a while, by nobody who has just got a lock: a connection that hangs
// would cost him his lease.
func (s *Subscription) Cancel() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.tell(News{})
	s.subs = slices.DeleteFunc(s.subs, func(other *Subscription) bool { return other == s })
	if len(s.subs) == 0 {
		time.AfterFunc(linger, func() { s.hub.leave(s.channel) })
	}
}

// leave unsubscribes from a channel that nobody hears any more.
func (w *wakeups) leave(ch *channel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(ch.subs) > 0 || w.channels[ch.name] != ch {
		return
	}
	delete(w.channels, ch.name)
	w.order(func(conn Listener) error { return conn.Unsubscribe(ch.name) })
}

// The following are called with hub.mu held.

func (s *Subscription) tell(n News) {
	if s.wait.Wake == nil {
		s.missed, s.news = true, n
	} else if s.heed(n) {
		s.wake()
	}
}

// heed reports whether news is a reason to wake up.
func (s *Subscription) heed(n News) bool {
	hold, lasts := &s.wait.Hold, n.Until.After(time.Now())
	switch {
	case n.Token == 0:
		return true
	case hold.Token == 0:
		return lasts
	case n.Token == hold.Token && lasts:
		hold.Until, s.extended = n.Until, true
		return false
	}
	// Another hold: either the one that is known is over, or there is a lock
	// with the same id in another database, whose channel is the same.
	return true
}

func (s *Subscription) wake() {
	if wake := s.wait.Wake; wake != nil {
		s.end()
		s.missed = false
		wake()
	}
}

func (s *Subscription) end() {
	s.wait.Wake = nil
	if s.timer != nil {
		s.timer.Stop()
	}
}

// arm sets the timer for the end of the hold. An extension does not touch it:
// when it fires, it is set again.
func (s *Subscription) arm() {
	s.extended = false
	d := s.wait.Most
	if until := s.wait.Hold.Until; !until.IsZero() {
		d = min(time.Until(until), d) + rand.N(spread)
	}
	if poll := s.wait.Poll; !s.live {
		d = min(d, poll/2+rand.N(max(poll, 1)))
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(d, s.fire)
	} else {
		s.timer.Reset(d)
	}
}

// fire is called without hub.mu. That of an earlier wait may come late: then
// somebody looks once more than necessary.
func (s *Subscription) fire() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch {
	case s.wait.Wake == nil:
	case s.extended:
		s.arm()
	default:
		s.wake()
	}
}

// order has something written to the connection, if there is one, by a goroutine
// that may be held up.
func (w *wakeups) order(write func(Listener) error) {
	if w.conn == nil {
		return
	}
	w.conn.todo = append(w.conn.todo, write)
	select {
	case w.conn.more <- struct{}{}:
	default:
	}
}

func (w *wakeups) close() { w.cancel() }

// run keeps a connection while there are channels.
func (w *wakeups) run() {
	const first = 100 * time.Millisecond
	for pause := first; w.wanted(); pause = min(2*pause, timeout) {
		began := time.Now()
		if conn, err := w.client.redis.Listen(w.ctx); err == nil {
			w.serve(conn)
		}
		if time.Since(began) > timeout {
			pause = first
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-w.ctx.Done():
		}
	}
}

func (w *wakeups) wanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = len(w.channels) > 0 && w.ctx.Err() == nil
	return w.running
}

// serve listens until the connection ends, then tells all that relied on it to
// look for themselves.
func (w *wakeups) serve(l Listener) {
	defer l.Close()
	defer context.AfterFunc(w.ctx, func() { _ = l.Close() })()
	e := &ear{Listener: l, more: make(chan struct{}, 1), over: make(chan struct{})}
	defer close(e.over)
	w.mu.Lock()
	w.conn = e
	names := slices.Collect(maps.Keys(w.channels))
	w.order(func(l Listener) error { return l.Subscribe(names...) })
	e.check = time.AfterFunc(timeout, func() { w.check(e) })
	w.mu.Unlock()
	go w.write(e)

	for {
		kind, name, payload, err := l.Receive(3 * timeout)
		if err != nil {
			if !isSaid(err) {
				break
			}
			w.refused(err)
		}
		switch kind {
		case "message":
			w.tell(name, payload)
		case "subscribe", "unsubscribe":
			w.confirm(name, kind == "subscribe")
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	e.check.Stop()
	w.conn = nil
	for _, ch := range w.channels {
		if ch.live {
			ch.live = false
			ch.tell(News{})
		}
	}
}

// refused takes note of NOPERM for a channel. The others go on.
func (w *wakeups) refused(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = err
}

// Deaf is why nothing is heard, where Redis has refused that.
func (c *Client) Deaf() error {
	w := c.wakeups
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaf
}

// write writes what is ordered. A connection that can't be written to is dropped;
// run makes the next.
func (w *wakeups) write(e *ear) {
	for {
		select {
		case <-e.more:
		case <-e.over:
			return
		}
		w.mu.Lock()
		todo := e.todo
		e.todo = nil
		w.mu.Unlock()
		for _, write := range todo {
			if write(e.Listener) != nil {
				_ = e.Close()
				return
			}
		}
	}
}

// check pings Redis, which shows a dead connection to serve, and sends a probe. A
// connection that is subscribed to nothing is given up; where that is so because
// an ACL denied it, the next may have more luck.
func (w *wakeups) check(e *ear) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != e {
		return
	}
	for name, ch := range w.channels {
		if !ch.live {
			continue
		}
		w.order(Listener.Ping)
		if e.heard == nil {
			e.probe, e.heard = Probe+strconv.FormatUint(rand.Uint64(), 36), make(chan struct{})
			go w.try(e, name, e.probe, e.heard)
		}
		e.check.Reset(timeout)
		return
	}
	_ = e.Close()
}

// Probe begins a message that at most its sender heeds.
const Probe = "? "

// try publishes a probe where locks are written to now. If it isn't heard, the
// connection leads elsewhere, to a server that has lost its role perhaps and goes
// on as if it had not: it is dropped. Where nothing can be published, nothing is
// known.
func (w *wakeups) try(e *ear, channel, probe string, heard <-chan struct{}) {
	w.client.Retain()
	defer w.client.Release()
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	err := w.client.With(ctx, channel, func(do do) error {
		_, err := do("PUBLISH", channel, probe)
		return err
	})
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !isSaid(err) { // what is denied is not tried again
			e.heard = nil
		}
		return
	}
	select {
	case <-heard:
	case <-e.over:
	case <-time.After(timeout):
		_ = e.Close()
	}
}

func (w *wakeups) tell(name, payload string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch ch := w.channels[name]; {
	case payload == w.conn.probe && w.conn.heard != nil:
		close(w.conn.heard)
		w.conn.heard = nil
	case ch != nil && !strings.HasPrefix(payload, Probe):
		ch.tell(parseNews(payload))
	}
}

func (ch *channel) tell(n News) {
	for _, s := range ch.subs {
		s.tell(n)
	}
}

// confirm takes note of what Redis has done, in the order in which it was
// asked: a channel may have been left and joined again meanwhile.
func (w *wakeups) confirm(name string, live bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.channels[name]; ch != nil {
		ch.live, w.deaf = live, nil
		ch.tell(News{})
	}
}

// FormatNews makes the message "<token> <remaining ms>", where 0 ms is a
// release. Waiters who know of no hold with that token look for themselves.
func FormatNews(token uint64, ms int64) string {
	return strconv.FormatUint(token, 10) + " " + strconv.FormatInt(ms, 10)
}

func parseNews(s string) News {
	digits, ms, _ := strings.Cut(s, " ")
	token, err := strconv.ParseUint(digits, 10, 64)
	left, err2 := strconv.ParseUint(ms, 10, 40)
	if err != nil || err2 != nil {
		return News{}
	}
	return News{token, time.Now().Add(time.Duration(left) * time.Millisecond)}
}
