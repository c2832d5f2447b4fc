package gone

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/boottime"
	"github.com/Diggs/go-one/internal/wire"
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
	now            func() time.Duration // the clock of leases
}

// An Option changes a default of [NewGone].
type Option func(*options)

// WithBind listens on addr ("tcp://host:port", where the host may be * and the
// port * or 0 for any) instead of the advertised address.
func WithBind(addr string) Option { return func(o *options) { o.bind = addr } }

// WithSendTimeout is how long a send without a deadline of its own tries.
func WithSendTimeout(d time.Duration) Option { return func(o *options) { o.sendTimeout = d } }

// WithCloseTimeout is how long [Gone.Close] waits for handlers that do not
// return, and for the lock service.
func WithCloseTimeout(d time.Duration) Option { return func(o *options) { o.closeTimeout = d } }

// WithMaxMessageSize is the largest data in bytes that this node sends and
// takes. All nodes must have the same: what exceeds the holder's limit by more
// than 64 KiB breaks the connection to its node each time it is sent, until the
// send ends with ErrBusy at its deadline.
func WithMaxMessageSize(bytes int) Option { return func(o *options) { o.maxMessageSize = bytes } }

// WithLogger logs there instead of to [slog.Default].
func WithLogger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

func newOptions(opts []Option) (options, error) {
	o := options{
		sendTimeout:    DefaultSendTimeout,
		closeTimeout:   DefaultCloseTimeout,
		maxMessageSize: DefaultMaxMessageSize,
		keys:           &keyOptions{},
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

// An endpoint is an address of ZeroMQ's form. libzmq reports a bad one late or
// never, so it is checked here.
type endpoint struct {
	host string // "*" for all interfaces
	port uint16 // 0 for any
}

func parseEndpoint(addr string) (endpoint, error) {
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("gone: address %.*q: %s", wire.MaxIdentity, addr, why)
	}
	hostport, ok := strings.CutPrefix(addr, "tcp://")
	switch {
	case !ok:
		return bad("want tcp://host:port")
	case len(addr) > wire.MaxIdentity:
		return bad("too long")
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return bad("want tcp://host:port")
	}
	ip, err := netip.ParseAddr(host)
	if host != "*" && (err != nil && !isHostName(host) || strings.ContainsFunc(ip.Zone(), notInName)) {
		return bad("malformed host")
	}
	if port == "*" {
		port = "0"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return bad("port is not in 0 … 65535")
	}
	return endpoint{host, uint16(n)}, nil
}

// isHostName reports whether host can be a name: labels of letters, digits and
// hyphens (and underscores, which some networks use), the last not a number,
// which would be a mistyped IPv4 address.
func isHostName(host string) bool {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, notInName) {
			return false
		}
	}
	_, err := strconv.ParseUint(labels[len(labels)-1], 10, 64)
	return err != nil
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// nobody reports whether the host is none that another could connect to: it
// stands for all interfaces of a machine, or for many machines.
func (e endpoint) nobody() bool {
	if e.host == "*" {
		return true
	}
	ip, err := netip.ParseAddr(e.host)
	ip = ip.WithZone("").Unmap()
	return err == nil && (ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}

// dialable parses the address of a holder.
func dialable(addr string) (endpoint, error) {
	e, err := parseEndpoint(addr)
	if err == nil && (e.nobody() || e.port == 0) {
		err = fmt.Errorf("gone: address %q: nobody can connect to it", addr)
	}
	return e, err
}

func (e endpoint) String() string {
	return "tcp://" + net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}
