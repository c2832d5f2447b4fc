package gone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A redisClient is this process's share of one Redis: a pool, and a connection
// for wake-ups while somebody waits. It is counted by the locks that use it.
type redisClient struct {
	pool    *redis.Pool
	wakeups *wakeups

	key   any // in redisClients
	own   bool
	locks int // guarded by redisClients
}

var redisClients = struct {
	sync.Mutex
	m map[any]*redisClient // by address or by the user's pool
}{m: map[any]*redisClient{}}

const redisTimeout = 5 * time.Second

func dialRedis(network, address string) *redisClient {
	return shareRedis([2]string{network, address}, true, func() *redis.Pool {
		return &redis.Pool{
			DialContext: func(ctx context.Context) (redis.Conn, error) {
				return redis.DialContext(ctx, network, address,
					redis.DialConnectTimeout(redisTimeout),
					redis.DialReadTimeout(redisTimeout),
					redis.DialWriteTimeout(redisTimeout))
			},
			MaxActive:   16,
			MaxIdle:     16,
			IdleTimeout: time.Minute,
			Wait:        true,
		}
	})
}

func useRedis(pool *redis.Pool) *redisClient {
	return shareRedis(pool, false, func() *redis.Pool { return pool })
}

func shareRedis(key any, own bool, pool func() *redis.Pool) *redisClient {
	redisClients.Lock()
	defer redisClients.Unlock()
	c := redisClients.m[key]
	if c == nil {
		c = &redisClient{key: key, own: own, pool: pool()}
		c.wakeups = newWakeups(c.dial)
		redisClients.m[key] = c
	}
	c.locks++
	return c
}

// release is called once by each lock, when none of its requests is under way:
// redigo's pool may panic when it is closed while somebody waits for it.
func (c *redisClient) release() {
	redisClients.Lock()
	c.locks--
	last := c.locks == 0
	if last {
		delete(redisClients.m, c.key)
	}
	redisClients.Unlock()
	if !last {
		return
	}
	c.wakeups.close()
	if c.own {
		_ = c.pool.Close()
	}
}

// dial makes a connection beside the pool, whose limit may be one.
func (c *redisClient) dial(ctx context.Context) (redis.Conn, error) {
	if c.pool.DialContext != nil {
		return c.pool.DialContext(ctx)
	}
	return c.pool.Dial()
}

// with lets ask use a connection until the context's deadline, and again with
// another when it breaks: all that gone asks of Redis may be repeated. A Redis
// that was restarted has left every idle connection broken, which only using
// it shows, hence the number of attempts.
func (c *redisClient) with(ctx context.Context, ask func(redis.Conn) error) error {
	for attempts := 3 + c.pool.IdleCount(); ; attempts-- {
		again, err := c.once(ctx, ask)
		if again && errors.Is(err, redis.ErrPoolExhausted) && sleepCtx(ctx, jitter(time.Millisecond)) == nil {
			attempts++ // a pool that does not wait itself
			continue
		}
		if !again || attempts <= 1 || ctx.Err() != nil {
			return err
		}
	}
}

func (c *redisClient) once(ctx context.Context, ask func(redis.Conn) error) (again bool, err error) {
	conn, err := c.get(ctx)
	if err != nil {
		var said redis.Error // such as WRONGPASS
		return !errors.As(err, &said), err
	}
	defer conn.Close()
	err = ask(conn)
	if err != nil && strings.Contains(err.Error(), "READONLY") {
		// A demoted master. The address may lead to another one by now, so this
		// connection must not go back to the pool, which keeps all that are not
		// broken: a read that should have ended before it began breaks it.
		_, _ = redis.DoWithTimeout(conn, -1, "PING")
	}
	return conn.Err() != nil, err
}

// get borrows a connection. A pool with Dial alone knows no context while it
// dials, so it is left to itself when that has ended.
func (c *redisClient) get(ctx context.Context) (redis.Conn, error) {
	if c.pool.DialContext != nil {
		return c.pool.GetContext(ctx)
	}
	type result struct {
		conn redis.Conn
		err  error
	}
	got := make(chan result)
	go func() {
		conn, err := c.pool.GetContext(ctx)
		select {
		case got <- result{conn, err}:
		case <-ctx.Done():
			_ = conn.Close()
		}
	}()
	select {
	case r := <-got:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// do runs one command on a connection, until the context's deadline.
func do(ctx context.Context, conn redis.Conn, cmd string, args ...any) (any, error) {
	deadline, _ := ctx.Deadline()
	return redis.DoWithTimeout(conn, max(time.Until(deadline), 1), cmd, args...)
}

// A luaScript is sent by its hash, and by its text where Redis does not know
// it. It returns an integer or several, the first being positive for "granted".
// Redigo's own has no timeout for one call.
type luaScript struct {
	keys         int
	source, hash string
}

func newLuaScript(keys int, source string) *luaScript {
	return &luaScript{keys, source, redis.NewScript(keys, source).Hash()}
}

// errUnconfirmed: Redis granted it, but not enough replicas know.
var errUnconfirmed = errors.New("too few replicas have confirmed")

// eval runs a script. What it grants must be confirmed by a number of
// replicas, in half of the time that is left.
func (c *redisClient) eval(ctx context.Context, replicas int, s *luaScript, args ...any) (r []int64, err error) {
	args = append([]any{s.hash, s.keys}, args...)
	err = c.with(ctx, func(conn redis.Conn) error {
		args[0] = s.hash
		reply, err := do(ctx, conn, "EVALSHA", args...)
		if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT ") {
			args[0] = s.source
			reply, err = do(ctx, conn, "EVAL", args...)
		}
		if n, ok := reply.(int64); ok {
			reply = []any{n}
		}
		if r, err = redis.Int64s(reply, err); err == nil && len(r) == 0 {
			err = errors.New("empty reply")
		}
		if err != nil || r[0] <= 0 || replicas <= 0 {
			return err
		}
		// On the same connection: WAIT is for what that has written.
		deadline, _ := ctx.Deadline()
		n, err := redis.Int(do(ctx, conn, "WAIT", replicas, 1+time.Until(deadline).Milliseconds()/2))
		if err != nil {
			return fmt.Errorf("%w: %w", errUnconfirmed, err)
		}
		if n < replicas {
			return fmt.Errorf("%w: %d of %d", errUnconfirmed, n, replicas)
		}
		return nil
	})
	return r, err
}

// wakeups is one connection that is subscribed to a channel for each lock that
// waits; there is none while no lock does. It is a convenience: whoever waits
// has a timer as well.
type wakeups struct {
	dial   func(context.Context) (redis.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	running  bool
	conn     *redis.PubSubConn // nil while there is none
	ping     *time.Timer       // finds out that conn is dead, or idle
	channels map[string]*channel
}

type channel struct {
	name string
	live atomic.Bool // Redis has confirmed the subscription
	subs map[*subscription]struct{}
}

// A subscription is one waiter's view of one channel.
type subscription struct {
	*channel
	hub  *wakeups
	news chan news // capacity 1: the latest. Sent to under hub.mu

	// Guarded by hub.mu.
	token uint64 // of a hold that is known; 0: none
	until news   // how long it has been extended since; none if it has not
}

// news is what a message says of a hold: its token, and its end, which has
// passed when it was released. None at all means: look for yourself.
type news struct {
	token uint64
	until time.Time
}

func (s *subscription) tell(n news) {
	select {
	case <-s.news:
	default:
	}
	s.news <- n
}

// watch names the hold of which the subscriber wants to know only when it is
// over.
func (s *subscription) watch(token uint64) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.token, s.until = token, news{}
}

// extended returns the last extension of the hold that is watched, if there
// was one since the last call.
func (s *subscription) extended() (n news, ok bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	n, s.until = s.until, news{}
	return n, n != news{}
}

func newWakeups(dial func(context.Context) (redis.Conn, error)) *wakeups {
	ctx, cancel := context.WithCancel(context.Background())
	return &wakeups{dial: dial, ctx: ctx, cancel: cancel, channels: map[string]*channel{}}
}

// subscribe starts to listen to a channel. The first news is "look for
// yourself" once Redis has confirmed: what was published before is lost.
func (w *wakeups) subscribe(name string) *subscription {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[name]
	if ch == nil {
		ch = &channel{name: name, subs: map[*subscription]struct{}{}}
		w.channels[name] = ch
		if w.conn != nil {
			w.written(w.conn.Subscribe(name))
		}
	}
	s := &subscription{channel: ch, hub: w, news: make(chan news, 1)}
	ch.subs[s] = struct{}{}
	if ch.live.Load() {
		s.tell(news{})
	}
	if !w.running {
		w.running = true
		go w.run()
	}
	return s
}

// cancel ends the subscription. Whoever still listens to it looks for himself.
func (s *subscription) cancel() {
	w := s.hub
	w.mu.Lock()
	defer w.mu.Unlock()
	s.tell(news{})
	delete(s.subs, s)
	if len(s.subs) == 0 {
		delete(w.channels, s.name)
		if w.conn != nil {
			w.written(w.conn.Unsubscribe(s.name))
		}
	}
}

// written drops a connection that a command could not be written to; run makes
// the next.
func (w *wakeups) written(err error) {
	if err != nil {
		_ = w.conn.Close()
	}
}

func (w *wakeups) close() {
	w.cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		_ = w.conn.Close()
	}
}

// run keeps a connection while there are channels.
func (w *wakeups) run() {
	for pause := 100 * time.Millisecond; w.wanted(); pause = min(2*pause, redisTimeout) {
		began := time.Now()
		if conn, err := w.dial(w.ctx); err == nil {
			w.serve(&redis.PubSubConn{Conn: conn})
		}
		if time.Since(began) > redisTimeout {
			pause = 100 * time.Millisecond
		}
		_ = sleepCtx(w.ctx, jitter(pause))
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
func (w *wakeups) serve(conn *redis.PubSubConn) {
	defer conn.Close()
	w.mu.Lock()
	w.conn = conn
	for name := range w.channels {
		w.written(conn.Conn.Send("SUBSCRIBE", name)) // one by one, as an ACL may deny some
	}
	w.written(conn.Conn.Flush())
	if w.ctx.Err() != nil {
		_ = conn.Close()
	}
	w.ping = time.AfterFunc(redisTimeout, func() { w.check(conn) })
	w.mu.Unlock()

	for err := error(nil); err == nil; {
		switch m := conn.ReceiveWithTimeout(3 * redisTimeout).(type) {
		case redis.Message:
			w.deliver(m)
		case redis.Subscription:
			w.confirm(m)
		case error:
			var said redis.Error
			if !errors.As(m, &said) { // NOPERM for a channel: the others go on
				err = m
			}
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.ping.Stop()
	w.conn = nil
	for _, ch := range w.channels {
		if ch.live.Swap(false) {
			for s := range ch.subs {
				s.tell(news{})
			}
		}
	}
}

// check pings Redis, which shows a dead connection to serve. A connection that
// is subscribed to nothing is given up; where that is so because an ACL denied
// it, the next may have more luck.
func (w *wakeups) check(conn *redis.PubSubConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != conn {
		return
	}
	for _, ch := range w.channels {
		if ch.live.Load() {
			w.written(conn.Ping(""))
			w.ping.Reset(redisTimeout)
			return
		}
	}
	_ = conn.Close()
}

func (w *wakeups) deliver(m redis.Message) {
	n := parseNews(string(m.Data))
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.channels[m.Channel]; ch != nil {
		now := time.Now()
		for s := range ch.subs {
			if n.token != 0 && n.token == s.token && n.until.After(now) {
				s.until = n // its timer will look
			} else {
				s.tell(n)
			}
		}
	}
}

// formatNews makes the message "<token> <remaining ms>", where 0 ms is a
// release. Waiters who know of no hold with that token look for themselves.
func formatNews(token uint64, ms int64) string {
	return strconv.FormatUint(token, 10) + " " + strconv.FormatInt(ms, 10)
}

func parseNews(s string) news {
	digits, ms, _ := strings.Cut(s, " ")
	token, err := strconv.ParseUint(digits, 10, 64)
	left, err2 := strconv.ParseUint(ms, 10, 40)
	if err != nil || err2 != nil {
		return news{}
	}
	return news{token, time.Now().Add(time.Duration(left) * time.Millisecond)}
}

// confirm takes note of what Redis has done, in the order in which it was
// asked: a channel may have been left and joined again meanwhile.
func (w *wakeups) confirm(m redis.Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[m.Channel]
	if ch == nil {
		return
	}
	ch.live.Store(m.Kind == "subscribe")
	for s := range ch.subs {
		s.tell(news{})
	}
}
