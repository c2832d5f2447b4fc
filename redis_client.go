package gone

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

// A redisClient is this process's share of one Redis: a pool, and a connection
// for wake-ups once somebody waits. It is counted by the locks that use it.
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

func dialRedis(addr net.Addr) *redisClient {
	network, address := addr.Network(), addr.String()
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

func (c *redisClient) release() {
	redisClients.Lock()
	defer redisClients.Unlock()
	c.locks--
	if c.locks > 0 {
		return
	}
	delete(redisClients.m, c.key)
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

// do runs one command. Each attempt gets a new connection and the timeout for
// its reply; a broken connection is replaced twice, as all that gone asks of
// Redis may be repeated.
func (c *redisClient) do(timeout time.Duration, cmd string, args ...any) (reply any, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for range 3 {
		reply, err = c.once(ctx, timeout, cmd, args...)
		var said redis.Error
		if err == nil || errors.As(err, &said) || ctx.Err() != nil {
			break
		}
	}
	return reply, err
}

func (c *redisClient) once(ctx context.Context, timeout time.Duration, cmd string, args ...any) (any, error) {
	conn, err := c.pool.GetContext(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return redis.DoWithTimeout(conn, timeout, cmd, args...)
}

// A luaScript is sent by its hash, and by its text where Redis does not know it.
type luaScript struct {
	keys         int
	source, hash string
}

func newLuaScript(keys int, source string) *luaScript {
	return &luaScript{keys, source, redis.NewScript(keys, source).Hash()}
}

// eval is do for a script; redigo's Script has no timeout of the call's own.
func (c *redisClient) eval(timeout time.Duration, s *luaScript, args ...any) (any, error) {
	reply, err := c.do(timeout, "EVALSHA", append([]any{s.hash, s.keys}, args...)...)
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT ") {
		reply, err = c.do(timeout, "EVAL", append([]any{s.source, s.keys}, args...)...)
	}
	return reply, err
}

// wakeups is one connection that is subscribed to a channel for each lock that
// waits. It is a convenience: whoever waits has a timer as well.
type wakeups struct {
	dial   func(context.Context) (redis.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	running  bool
	conn     *redis.PubSubConn // nil while there is none
	ping     *time.Timer       // finds out that conn is dead
	channels map[string]*channel
}

type channel struct {
	live bool // Redis has confirmed the subscription
	subs map[*subscription]struct{}
}

// A subscription is one waiter's view of one channel: the latest message, and
// a signal that there is one.
type subscription struct {
	hub  *wakeups
	name string
	wake chan struct{} // capacity 1
	live atomic.Bool   // wake-ups can be expected

	mu        sync.Mutex
	remaining time.Duration
	known     bool // remaining is from a message; else: look for yourself
}

// take returns the latest news: how long the lock is held for, 0 for free.
func (s *subscription) take() (remaining time.Duration, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remaining, s.known
}

func (s *subscription) tell(remaining time.Duration, known bool) {
	s.mu.Lock()
	s.remaining, s.known = remaining, known
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func newWakeups(dial func(context.Context) (redis.Conn, error)) *wakeups {
	ctx, cancel := context.WithCancel(context.Background())
	return &wakeups{dial: dial, ctx: ctx, cancel: cancel, channels: map[string]*channel{}}
}

// subscribe starts to listen to a channel. The first news is "look for
// yourself" once Redis has confirmed: what was published before is lost.
func (w *wakeups) subscribe(name string) *subscription {
	s := &subscription{hub: w, name: name, wake: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[name]
	if ch == nil {
		ch = &channel{subs: map[*subscription]struct{}{}}
		w.channels[name] = ch
		if w.conn != nil {
			w.command(w.conn.Subscribe(name))
		}
	}
	ch.subs[s] = struct{}{}
	if ch.live {
		s.live.Store(true)
		s.tell(0, false)
	}
	if !w.running && w.ctx.Err() == nil {
		w.running = true
		go w.run()
	}
	return s
}

func (s *subscription) cancel() {
	w := s.hub
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[s.name]
	delete(ch.subs, s)
	if len(ch.subs) == 0 {
		delete(w.channels, s.name)
		if w.conn != nil {
			w.command(w.conn.Unsubscribe(s.name))
		}
	}
}

// command drops a connection that a command could not be written to; run makes
// the next.
func (w *wakeups) command(err error) {
	if err != nil && w.conn != nil {
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

func (w *wakeups) run() {
	for pause := 100 * time.Millisecond; w.ctx.Err() == nil; pause = min(2*pause, redisTimeout) {
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

// serve listens until the connection ends, then tells all to look for
// themselves.
func (w *wakeups) serve(conn *redis.PubSubConn) {
	defer conn.Close()
	w.mu.Lock()
	if w.ctx.Err() != nil {
		w.mu.Unlock()
		return
	}
	w.conn = conn
	for name := range w.channels {
		w.command(conn.Subscribe(name))
	}
	w.ping = time.AfterFunc(redisTimeout, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.conn == conn {
			w.command(conn.Ping(""))
			w.ping.Reset(redisTimeout)
		}
	})
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
		ch.live = false
		for s := range ch.subs {
			s.live.Store(false)
			s.tell(0, false)
		}
	}
}

func (w *wakeups) deliver(m redis.Message) {
	ms, err := strconv.ParseUint(string(m.Data), 10, 40)
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.channels[m.Channel]; ch != nil {
		for s := range ch.subs {
			s.tell(time.Duration(ms)*time.Millisecond, err == nil)
		}
	}
}

func (w *wakeups) confirm(m redis.Subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.channels[m.Channel]
	if ch == nil || m.Kind != "subscribe" {
		return
	}
	ch.live = true
	for s := range ch.subs {
		s.live.Store(true)
		s.tell(0, false)
	}
}
