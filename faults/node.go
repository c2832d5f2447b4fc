package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
)

// nodeEnv makes the process a node. Its value is a NodeConfig.
const nodeEnv = "GONE_FAULTS_NODE"

// A NodeConfig is what a node process is started with.
type NodeConfig struct {
	Addr, Bind  string
	Redis       string // host:port
	Password    string
	IDs         []string // to run
	TTL         time.Duration
	Extend      time.Duration // how often; 0: a third of the TTL
	SendTimeout time.Duration
	Store       string // Unix socket of the fenced store
	Guard       bool   // the restart guard of RedisLock
	Replicas    int    // to wait for
	Curve       Pair   // zero: the wire is plain
	Allowed     []string
}

// A Pair is a CURVE key pair.
type Pair struct{ Public, Secret string }

// A node is the process under test: a Gone, handlers that log what happens to
// them, and senders. It obeys lines on stdin and logs to stdout.
type node struct {
	cfg    NodeConfig
	log    *EventLog
	gone   *gone.Gone
	pool   *redis.Pool
	behave sync.Map // of the handlers: id → behaviour
	calls  atomic.Int64

	senders sync.WaitGroup
	quit    chan struct{} // ends the senders
	sending int
}

// nodeMain is main of a node process. It never returns.
func nodeMain(config string) {
	n := &node{log: &EventLog{w: os.Stdout}}
	if err := json.Unmarshal([]byte(config), &n.cfg); err != nil {
		n.fail(err)
	}
	if n.cfg.Extend == 0 {
		n.cfg.Extend = n.cfg.TTL / 3
	}
	if n.cfg.Password != "" {
		n.pool = &redis.Pool{
			MaxActive: 16, MaxIdle: 16, Wait: true,
			DialContext: func(ctx context.Context) (redis.Conn, error) {
				return redis.DialContext(ctx, "tcp", n.cfg.Redis, redis.DialPassword(n.cfg.Password),
					redis.DialConnectTimeout(time.Second), redis.DialReadTimeout(time.Second), redis.DialWriteTimeout(time.Second))
			},
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	opts := []gone.Option{gone.WithLogger(slog.New(&logHandler{log: n.log}))}
	if n.cfg.Bind != "" {
		opts = append(opts, gone.WithBind(n.cfg.Bind))
	}
	if k := n.cfg.Curve; k != (Pair{}) {
		opts = append(opts, gone.WithCurve(k.Public, k.Secret), gone.WithAllowedKeys(n.cfg.Allowed...))
	}
	if n.cfg.SendTimeout > 0 {
		opts = append(opts, gone.WithSendTimeout(n.cfg.SendTimeout))
	}
	var err error
	if n.gone, err = gone.NewGone(n.cfg.Addr, n.newLock, opts...); err != nil {
		n.fail(err)
	}
	for _, id := range n.cfg.IDs {
		n.run(id)
	}
	n.log.Add(Event{Kind: Ready, Text: n.gone.Addr()})

	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		os.Exit(3) // the suite is gone
	}()
	for {
		select {
		case <-term:
			n.close()
		case line := <-lines:
			n.obey(strings.Fields(line))
		}
	}
}

func (n *node) fail(err error) {
	n.log.Add(Event{Kind: Failed, Text: err.Error()})
	os.Exit(1)
}

func (n *node) close() {
	n.stopSenders()
	err := n.gone.Close()
	n.log.Add(Event{Kind: Closed, Text: fmt.Sprint(err)})
	os.Exit(0)
}

func (n *node) run(id string) {
	if _, err := n.gone.RunOne(id, n.handle); err != nil {
		n.log.Add(Event{Kind: Failed, ID: id, Text: err.Error()})
	}
}

func (n *node) obey(words []string) {
	switch words[0] {
	case "run":
		n.run(words[1])
	case "close": // the node
		n.close()
	case "leave": // one id; it may be run again
		r, err := n.gone.RunOne(words[1], n.handle)
		if err == nil {
			err = r.Close()
		}
		if err != nil {
			n.log.Add(Event{Kind: Failed, ID: words[1], Text: err.Error()})
		}
	case "behave": // id, how, and the token of the tenure that shall, else all of them; see handle
		b := behaviour{how: words[2]}
		if len(words) > 3 {
			b.token, _ = strconv.ParseUint(words[3], 10, 64)
		}
		n.behave.Store(words[1], b)
	case "clock":
		n.log.Add(Event{Kind: Stats, Text: strconv.FormatInt(time.Now().Unix(), 10)})
	case "stats":
		s, _ := json.Marshal(n.gone.Stats())
		n.log.Add(Event{Kind: Stats, Text: string(s)})
	case "send": // goroutines, pause, bytes, share of impatient sends in percent, ids
		count, _ := strconv.Atoi(words[1])
		pause, _ := time.ParseDuration(words[2])
		size, _ := strconv.Atoi(words[3])
		impatient, _ := strconv.Atoi(words[4])
		n.startSenders(count, pause, size, impatient, words[5:])
	case "quiet":
		n.stopSenders()
		n.log.Add(Event{Kind: Quiet})
	default:
		n.fail(fmt.Errorf("command %q", words))
	}
}

// A behaviour is how the handlers of an id behave. Where it ends a tenure, it is
// meant for that one: the node may get the next one before it is told to behave
// well again.
type behaviour struct {
	how   string
	token uint64 // 0: of every tenure
}

func (n *node) behaviour(id string, token uint64) string {
	b, _ := n.behave.Load(id)
	if b, _ := b.(behaviour); b.token == 0 || b.token == token {
		return b.how
	}
	return "well"
}

// handle is the handler of every id. Its first line is the first event of a
// tenure. Behaviours other than "well" do what a handler should not.
func (n *node) handle(r *gone.GoneRunner) {
	e := Event{ID: r.ID(), Token: r.FencingToken()}
	note := func(k Kind, text string) { e := e; e.Kind, e.Text = k, text; n.log.Add(e) }
	note(Begin, "")
	defer note(Returned, "")
	go func() {
		<-r.Exit
		note(Exit, context.Cause(r.Context()).Error())
	}()
	store := n.dialStore()
	defer store.close()

	extend := time.NewTicker(n.cfg.Extend)
	defer extend.Stop()
	write := time.NewTicker(20 * time.Millisecond)
	defer write.Stop()
	note(Wrote, store.write(e.ID, e.Token))
	for {
		data := r.Data
		behave := n.behaviour(e.ID, e.Token)
		switch behave {
		case "return": // at once
			return
		case "panic":
			panic("as told")
		case "leave": // calls Close on itself
			_ = r.Close()
		case "ignore": // does not extend, and stays when Exit closes
			time.Sleep(time.Millisecond)
			continue
		case "deaf": // never reads Data, is healthy otherwise
			data = nil
		case "slow":
			time.Sleep(2 * time.Millisecond)
		}
		select {
		case <-r.Exit:
			if behave == "sluggish" { // takes its time to return
				time.Sleep(n.cfg.TTL / 2)
			}
			if n.cfg.Store != "" {
				note(Wrote, store.write(e.ID, e.Token)) // a last write, as real handlers do
			}
			return
		case d := <-data:
			n.received(e, d)
		case <-extend.C:
			text := "ok"
			if err := r.Extend(); err != nil {
				text = outcomeOf(err)
			}
			note(Extended, text)
		case <-write.C:
			note(Wrote, store.write(e.ID, e.Token))
		}
	}
}

// outcomeOf is the first word of a lock's result, then the error.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, gone.ErrLeaseExpired):
		return "lost (lease) " + err.Error()
	case errors.Is(err, gone.ErrLockLost):
		return "lost " + err.Error()
	case errors.Is(err, gone.ErrLockHeld):
		return "held"
	}
	return "unknown " + err.Error()
}

// The payload of a message is "from n" and padding.
func (n *node) received(e Event, data []byte) {
	e.Kind = Received
	if f := strings.Fields(string(data)); len(f) >= 2 {
		e.From = f[0]
		e.N, _ = strconv.Atoi(f[1])
	}
	n.log.Add(e)
}

func (n *node) startSenders(count int, pause time.Duration, size, impatient int, ids []string) {
	if n.quit == nil {
		n.quit = make(chan struct{})
	}
	quit := n.quit
	for range count {
		// Process ids differ, so that a node started anew has other names.
		from := fmt.Sprintf("%d/%d", os.Getpid(), n.sending)
		n.sending++
		n.senders.Go(func() {
			next := map[string]int{} // number of the next message to an id
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				id := ids[i%len(ids)]
				count, how := 1, patiently
				switch d := rand.IntN(100); {
				case d < impatient:
					how = impatiently
				case d >= 90:
					how = trying
				case d >= 80:
					count, how = 4, batching
				}
				n.send(from, id, next[id], count, size, how)
				next[id] += count
				if pause > 0 {
					time.Sleep(pause/2 + rand.N(pause))
				}
			}
		})
	}
}

func (n *node) stopSenders() {
	if n.quit != nil {
		close(n.quit)
		n.senders.Wait()
		n.quit = nil
	}
}

type manner int

const (
	patiently   manner = iota // SendData
	impatiently               // SendDataContext, withdrawn within 3 ms
	trying                    // TrySendData
	batching                  // SendBatch
)

// send sends count messages and logs what became of each.
func (n *node) send(from, id string, number, count, size int, how manner) {
	msgs := make([][]byte, count)
	for i := range msgs {
		msgs[i] = fmt.Appendf(nil, "%s %d ", from, number+i)
		for len(msgs[i]) < size {
			msgs[i] = append(msgs[i], '.')
		}
	}
	var delivered int
	var err error
	var manner string
	began := clock()
	switch how {
	case patiently:
		err = n.gone.SendData(id, msgs[0])
	case impatiently:
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(3*time.Millisecond))
		err = n.gone.SendDataContext(ctx, id, msgs[0])
		cancel()
		manner = "-withdrawn"
	case trying:
		err = n.gone.TrySendData(id, msgs[0])
		manner = "-tried"
	case batching:
		delivered, err = n.gone.SendBatch(context.Background(), id, msgs)
	}
	took := clock() - began
	for i, data := range msgs {
		for j := range data { // it is the caller's again
			data[j] = '#'
		}
		result := "nil"
		if err != nil && i >= delivered { // of a batch, also what comes after the first that failed
			result = resultOf(err) + manner
		}
		n.log.Add(Event{Kind: Sent, ID: id, From: from, N: number + i, Text: fmt.Sprintf("%s %d %d %v", result, began, took, err)})
	}
}

// resultOf is which of the three results a send had.
func resultOf(err error) string {
	not, unknown := errors.Is(err, gone.ErrNotDelivered), errors.Is(err, gone.ErrOutcomeUnknown)
	switch {
	case err == nil:
		return "nil"
	case not && !unknown:
		return "not"
	case unknown && !not:
		return "unknown"
	}
	return "neither"
}

// newLock makes RedisLocks that log every call. All the extras stay.
func (n *node) newLock(id, value string) (gone.GoneLock, error) {
	var l *gone.RedisLock
	var err error
	if n.pool != nil {
		l, err = gone.NewRedisLockPool(n.pool, id, value)
	} else {
		var addr *net.TCPAddr
		if addr, err = net.ResolveTCPAddr("tcp", n.cfg.Redis); err == nil {
			l, err = gone.NewRedisLock(addr, id, value)
		}
	}
	if err != nil {
		return nil, err
	}
	l.Expiry, l.RestartGuard, l.Replicas = n.cfg.TTL, n.cfg.Guard, n.cfg.Replicas
	ll := &loggedLock{RedisLock: l, n: n, id: id}
	ll.acquisition.Store(n.calls.Add(1))
	return ll, nil
}

type loggedLock struct {
	*gone.RedisLock
	n  *node
	id string
	// acquisition names what one secret of the lock stands for: from the first
	// attempt to Unlock, or to the news that the lock is another's.
	acquisition atomic.Int64
}

func (l *loggedLock) call(k Kind) (ret func(k Kind, text string)) {
	e := Event{
		Kind: k, ID: l.id, Token: l.FencingToken(),
		From: fmt.Sprintf("%d/%d", os.Getpid(), l.acquisition.Load()), N: int(l.n.calls.Add(1)),
	}
	l.n.log.Add(e)
	return func(k Kind, text string) {
		if k == LockRet {
			e.Token = l.FencingToken()
		}
		e.Kind, e.Text = k, text
		l.n.log.Add(e)
	}
}

func (l *loggedLock) Lock() error {
	ret := l.call(LockCall)
	err := l.RedisLock.Lock()
	ret(LockRet, outcomeOf(err))
	return err
}

func (l *loggedLock) Extend() error {
	ret := l.call(ExtendCall)
	err := l.RedisLock.Extend()
	ret(ExtendRet, outcomeOf(err))
	if errors.Is(err, gone.ErrLockLost) {
		l.acquisition.Store(l.n.calls.Add(1))
	}
	return err
}

func (l *loggedLock) Unlock() {
	ret := l.call(UnlockCall)
	l.RedisLock.Unlock()
	ret(UnlockRet, "")
	l.acquisition.Store(l.n.calls.Add(1))
}

// logHandler turns what gone logs into events.
type logHandler struct{ log *EventLog }

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler           { return h }
func (h *logHandler) WithGroup(string) slog.Handler                { return h }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	e := Event{Kind: Log, Text: r.Level.String() + " " + r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "id" {
			e.ID = a.Value.String()
		} else {
			e.Text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	h.log.Add(e)
	return nil
}
