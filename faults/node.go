package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
)

// nodeEnv makes the process a node. Its value is a NodeConfig.
const nodeEnv = "GONE_FAULTS_NODE"

// A NodeConfig is what a node process is started with.
type NodeConfig struct {
	Addr, Bind  string
	Kind        string // of lock service: a key of openers
	Service     string // host:port, or several with commas between
	Password    string
	IDs         []string // to run
	TTL         time.Duration
	Extend      time.Duration // how often; 0: a third of the TTL
	Loop        bool          // the handler's is that of Messages
	Balance     bool
	SendTimeout time.Duration
	Store       string // Unix socket of the fenced store
	Guard       bool   // the restart guard of RedisLock
	Replicas    int    // to wait for; 0: as many as is usual
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
	open   gone.LockFactory
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
	n.open = openers[n.cfg.Kind](n.cfg)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	opts := []gone.Option{gone.WithLogger(slog.New(&logHandler{log: n.log}))}
	if n.cfg.Bind != "" {
		opts = append(opts, gone.WithBind(n.cfg.Bind))
	}
	if k := n.cfg.Curve; k != (Pair{}) {
		opts = append(opts, gone.WithCurve(k.Public, k.Secret), gone.WithAllowedKeys(n.cfg.Allowed...))
	}
	if n.cfg.Balance {
		opts = append(opts, gone.WithBalance(), gone.WithControl())
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

// run calls RunOne, again for some time while the service can't be used.
func (n *node) run(id string) {
	for end := clock() + 10*time.Second; ; time.Sleep(50 * time.Millisecond) {
		_, err := n.gone.RunOne(id, n.handle)
		if err == nil {
			return
		}
		if clock() > end || errors.Is(err, gone.ErrClosed) {
			n.log.Add(Event{Kind: Failed, ID: id, Text: err.Error()})
			return
		}
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
	case "behave": // id, how, and the token of the tenure that shall, else all of them; see handler
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
	case "drain", "resume", "move": // move has an id and an address
		n.log.Add(Event{Kind: Stats, Text: fmt.Sprint(n.place(words))})
	case "send", "ask":
		n.startSenders(words)
	case "quiet":
		n.stopSenders()
		n.log.Add(Event{Kind: Quiet})
	default:
		n.fail(fmt.Errorf("command %q", words))
	}
}

// place has ids held elsewhere, or here again.
func (n *node) place(words []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch words[0] {
	case "drain":
		return n.gone.Drain(ctx)
	case "resume":
		return n.gone.Resume()
	}
	return n.gone.Move(ctx, words[1], words[2])
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
