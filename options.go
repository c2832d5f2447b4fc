package gone

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/boottime"
	"github.com/Diggs/go-one/internal/wire"
	"github.com/Diggs/go-one/internal/zmq"
)

// MaxIDLength is the longest id, in bytes.
const MaxIDLength = wire.MaxID

// Defaults of the options.
const (
	DefaultSendTimeout    = 10 * time.Second
	DefaultCloseTimeout   = 10 * time.Second
	DefaultMaxMessageSize = 1 << 20
)

// maxMessageSize keeps frames well below what a length can say.
const maxMessageSize = 1 << 30

type options struct {
	bind           string
	sendTimeout    time.Duration
	closeTimeout   time.Duration
	maxMessageSize int
	logger         *slog.Logger
	keys           *keyOptions
	cluster        string
	balance        bool
	weight         float64
	now            func() time.Duration // the clock of leases
	observers
	control bool
	lookup  zmq.Lookup // of other nodes' names, and of its own
}

// An Option changes a default of [NewGone].
type Option func(*options)

// WithBind sets another address to listen on than the advertised one:
// "tcp://host:port", where the host may be * and the port * or 0 for any. Use
// "tcp://*:port", with the advertised port, where a node's name has no address yet when
// it starts, or leads to 127.0.1.1 on its own machine, as on Debian.
func WithBind(addr string) Option { return func(o *options) { o.bind = addr } }

// WithSendTimeout sets how long a send without a deadline of its own keeps trying.
func WithSendTimeout(d time.Duration) Option { return func(o *options) { o.sendTimeout = d } }

// WithCloseTimeout sets how long [Gone.Close] waits for handlers that do not
// return, and for the lock service.
func WithCloseTimeout(d time.Duration) Option { return func(o *options) { o.closeTimeout = d } }

// WithMaxMessageSize sets the largest data, in bytes, that this node sends and
// takes. It must be the same on all nodes. Data that exceeds the holder's limit by more
// than 64 KiB breaks the connection each time it is sent, until the send ends with
// ErrBusy at its deadline.
func WithMaxMessageSize(bytes int) Option { return func(o *options) { o.maxMessageSize = bytes } }

// WithCluster sets the name of the cluster whose nodes see each other in [Gone.Nodes],
// for a lock service that several clusters share; the default is "gone". Nodes of one
// cluster run the same ids, or some of them. The name does not keep the ids of two
// clusters apart: a lock's Prefix does.
func WithCluster(name string) Option { return func(o *options) { o.cluster = name } }

// WithBalance spreads the ids over the nodes of the cluster that have this option, by
// their weights: a node hands over to others what it holds beyond its share. Three nodes
// compete for each id, instead of all. NewGone returns an error that wraps ErrNoRoster
// when the lock service lists no nodes.
func WithBalance() Option { return func(o *options) { o.balance = true } }

// WithWeight sets this node's share of the ids relative to the others; the default is 1.
// With 0 it never holds an id, with or without [WithBalance].
func WithWeight(w float64) Option { return func(o *options) { o.weight = w } }

// WithObserver sets the observer that is told what happens at the node. Given several
// times, each is told, in their order.
func WithObserver(ob Observer) Option {
	return func(o *options) { o.Observer = o.and(ob) }
}

// WithPropagator sets what takes the values of a call, as its trace, to the handler's
// [Message.Context]. The nodes of senders and holders should have the same.
func WithPropagator(p Propagator) Option { return func(o *options) { o.propagator = p } }

// WithControl lets other nodes of the cluster drain and resume this one, and have it move
// its ids. Without it, this node alone can.
func WithControl() Option { return func(o *options) { o.control = true } }

// WithLogger sets the logger; the default is [slog.Default].
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

func newOptions(opts []Option) (options, error) {
	o := options{
		sendTimeout:    DefaultSendTimeout,
		closeTimeout:   DefaultCloseTimeout,
		maxMessageSize: DefaultMaxMessageSize,
		keys:           &keyOptions{},
		cluster:        "gone",
		weight:         1,
		now:            boottime.Now,
	}
	for _, opt := range opts {
		if opt == nil {
			return o, errors.New("gone: nil option")
		}
		opt(&o)
	}
	switch {
	case o.sendTimeout <= 0:
		return o, fmt.Errorf("gone: send timeout %v is not positive", o.sendTimeout)
	case o.closeTimeout < 0:
		return o, fmt.Errorf("gone: close timeout %v is negative", o.closeTimeout)
	case o.maxMessageSize < 1 || o.maxMessageSize > maxMessageSize:
		return o, fmt.Errorf("gone: max message size %d is not in 1 … %d", o.maxMessageSize, maxMessageSize)
	case o.weight < 0 || math.IsNaN(o.weight) || math.IsInf(o.weight, 0):
		return o, fmt.Errorf("gone: weight %v is not a share", o.weight)
	}
	if err := checkID(o.cluster); err != nil {
		return o, fmt.Errorf("gone: name of the cluster: %w", err)
	}
	if o.logger == nil {
		o.logger = slog.Default()
	}
	return o, nil
}

func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("gone: empty id")
	case len(id) > MaxIDLength:
		return fmt.Errorf("gone: id of %d bytes is longer than %d", len(id), MaxIDLength)
	case strings.ContainsRune(id, 0):
		return fmt.Errorf("gone: id %q contains a NUL", id)
	}
	return nil
}
