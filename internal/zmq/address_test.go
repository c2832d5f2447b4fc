//go:build cgo

package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

const name = "node.example"

// names is a name service in which there is one name.
type names struct {
	mu    sync.Mutex
	leads []netip.Addr
	err   error
	asked int
}

func (n *names) set(hosts ...string) *names {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leads, n.err = nil, nil
	for _, host := range hosts {
		n.leads = append(n.leads, netip.MustParseAddr(host))
	}
	return n
}

func (n *names) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.asked++; host != name || n.err != nil {
		return nil, errors.Join(n.err, fmt.Errorf("%s is not known", host))
	}
	return slices.Clone(n.leads), nil
}

// keyring is a pair of keys, with others that are allowed; nil where keys are not
// wanted.
func keyring(t *testing.T, wanted bool, allowed ...string) *Keyring {
	t.Helper()
	if !wanted {
		return nil
	}
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	k, err := NewKeyring(public, secret, allowed, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// start starts a carrier that keeps what it gets.
func start(t *testing.T, c Config) (t2 *Carrier, got chan string) {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.MaxFrame = 1 << 20
	carrier, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan string, 1000)
	carrier.Receive(func(frame []byte, _ string) { got <- string(frame) })
	t.Cleanup(carrier.Close)
	return carrier, got
}

// freePort is a port that is free on 127.0.0.2 and beyond.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// deaf takes connections at a host, and says nothing.
func deaf(t *testing.T, host string, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// dial opens a way that the test's end closes before the carrier.
func dial(t *testing.T, c *Carrier, identity string) *Conn {
	t.Helper()
	conn, err := c.Dial(identity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// arrives sends a frame until it is taken, and waits until it arrives somewhere.
func arrives(t *testing.T, conn *Conn, frame string, got <-chan string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !conn.Send([]byte(frame)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q: nobody takes it; %v", frame, conn.Trouble())
		}
	}
	select {
	case f := <-got:
		if f != frame {
			t.Fatalf("%q arrived, want %q", f, frame)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%q has not arrived", frame)
	}
}

func TestOfANamesAddressesTheOneThatLeadsToTheNodeIsFound(t *testing.T) {
	t.Parallel()
	many := []string{"127.0.0.3"}
	for i := range 12 {
		many = append([]string{fmt.Sprint("127.0.1.", i+1)}, many...)
	}
	for what, c := range map[string]struct {
		leads []string
		at    string
		deaf  string
	}{
		"the only one":                {leads: []string{"127.0.0.3"}, at: "127.0.0.3"},
		"the first one refuses":       {leads: []string{"127.0.0.2", "127.0.0.3"}, at: "127.0.0.3"},
		"the first one says nothing":  {leads: []string{"127.0.0.2", "127.0.0.3"}, at: "127.0.0.3", deaf: "127.0.0.2"},
		"IPv6 refuses":                {leads: []string{"::1", "127.0.0.3"}, at: "127.0.0.3"},
		"IPv4 refuses":                {leads: []string{"127.0.0.3", "::1"}, at: "::1"},
		"IPv6 says nothing":           {leads: []string{"::1", "127.0.0.3"}, at: "127.0.0.3", deaf: "::1"},
		"the last one of a good many": {leads: many, at: "127.0.0.3"},
	} {
		for _, curve := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, curve %v", what, curve), func(t *testing.T) {
				t.Parallel()
				keys := keyring(t, curve)
				port := freePort(t)
				_, got := start(t, Config{Advertise: endpoint{name, port}.String(), Bind: endpoint{c.at, port}.String(), Keys: keys, Lookup: new(names).set(c.leads...).lookup})
				if c.deaf != "" {
					deaf(t, c.deaf, port)
				}
				from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0", Keys: keys, Lookup: new(names).set(c.leads...).lookup})
				conn := dial(t, from, keys.identity(endpoint{name, port}.String()))
				for i := range 10 {
					arrives(t, conn, fmt.Sprint(i), got)
				}
				if len(conn.attempts) != 1 {
					t.Errorf("%d connections", len(conn.attempts))
				}
			})
		}
	}
}

// A stranger can name any name.
func TestFewOfManyAddressesAreTriedAtATime(t *testing.T) {
	t.Parallel()
	n := &names{}
	for i := range 100 {
		n.leads = append(n.leads, netip.AddrFrom4([4]byte{127, 0, 2, byte(i)}))
	}
	from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0", Lookup: n.lookup})
	conn := dial(t, from, endpoint{name, freePort(t)}.String())
	for end := time.Now().Add(20 * time.Second); conn.turn < 2*attemptsMost; time.Sleep(10 * time.Millisecond) {
		if conn.Send([]byte("x")) || time.Now().After(end) {
			t.Fatalf("%d have been tried", conn.turn)
		}
		if n := len(conn.attempts); n > attemptsMost {
			t.Fatalf("%d at a time", n)
		}
	}
}

// It may take what is sent to it, and know nothing of whom it is for.
func TestAnAddressThatLeadsToAnotherNodeIsTriedLaterWhenTheConnectionIsRenewed(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	n := new(names).set("127.0.0.2", "127.0.0.3")
	_, others := start(t, Config{Advertise: endpoint{"127.0.0.2", port}.String()})
	_, got := start(t, Config{Advertise: endpoint{"127.0.0.3", port}.String()})
	from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0", Lookup: n.lookup})
	conn := dial(t, from, endpoint{name, port}.String())
	arrives(t, conn, "to another", others)
	renewed(t, conn)
	arrives(t, conn, "to it", got)
	renewed(t, conn)
	arrives(t, conn, "to another again", others)
}

// renewed renews a connection, and waits until the name has been looked up.
func renewed(t *testing.T, c *Conn) {
	t.Helper()
	c.Renew()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		looking := c.looking
		c.mu.Unlock()
		if !looking {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the name is still looked up")
		}
	}
}

// With CURVE it is known at once who is there.
func TestAnAddressThatLeadsToANodeWithAnotherKeyIsPassedOver(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	right, wrong := keyring(t, true), keyring(t, true)
	own := keyring(t, true, right.public, wrong.public)
	for _, k := range []*Keyring{right, wrong} {
		if err := k.Allow([]string{own.public}); err != nil {
			t.Fatal(err)
		}
	}
	_, others := start(t, Config{Advertise: endpoint{"127.0.0.2", port}.String(), Keys: wrong})
	_, got := start(t, Config{Advertise: endpoint{"127.0.0.3", port}.String(), Keys: right})
	from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0", Keys: own, Lookup: new(names).set("127.0.0.2", "127.0.0.3").lookup})
	conn := dial(t, from, right.identity(endpoint{name, port}.String()))
	arrives(t, conn, "to it", got)
	if err := conn.Trouble(); err != nil {
		t.Error(err)
	}
	if len(others) > 0 {
		t.Error("the other node got it")
	}
}

func TestANodeThatComesBackElsewhereIsFollowedWhenTheConnectionIsRenewed(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	n := new(names).set("127.0.0.2")
	before, got := start(t, Config{Advertise: endpoint{"127.0.0.2", port}.String()})
	from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0", Lookup: n.lookup})
	conn := dial(t, from, endpoint{name, port}.String())
	arrives(t, conn, "here", got)
	before.Close()
	before.end = func() {}
	_, got = start(t, Config{Advertise: endpoint{"127.0.0.3", port}.String()})
	n.set("127.0.0.3")
	renewed(t, conn)
	arrives(t, conn, "there", got)
	// While nobody can say where it is, it is where it was.
	n.mu.Lock()
	n.err = errors.New("no name server")
	n.mu.Unlock()
	renewed(t, conn)
	arrives(t, conn, "still there", got)
}

func TestANodeListensOnAllAddressesOfItsName(t *testing.T) {
	t.Parallel()
	// One is of another machine, or of a translator in between.
	c, got := start(t, Config{Advertise: endpoint{name, 0}.String(), Lookup: new(names).set("127.0.0.2", "203.0.113.1", "::1", "127.0.0.2").lookup})
	at, err := parseEndpoint(c.Addr)
	if err != nil || at.host != name || at.port == 0 {
		t.Fatalf("%q: %v", c.Addr, err)
	}
	from, _ := start(t, Config{Advertise: "tcp://127.0.0.1:0"})
	for _, host := range []string{"127.0.0.2", "::1"} {
		arrives(t, dial(t, from, endpoint{host, at.port}.String()), host, got)
	}
	_, err = Listen(Config{Advertise: endpoint{name, 0}.String(), Lookup: new(names).set("203.0.113.1", "203.0.113.2").lookup, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "203.0.113.") {
		t.Errorf("with none of this machine's: %v", err)
	}
	_, err = Listen(Config{Advertise: at.String(), Lookup: new(names).set("127.0.0.3", "127.0.0.2").lookup, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, inUse) {
		t.Errorf("with one that another process listens on: %v", err)
	}
}

func TestAWildcardIsBothKindsOfAddresses(t *testing.T) {
	t.Parallel()
	c, got := start(t, Config{Advertise: "tcp://127.0.0.1:0", Bind: "tcp://*:*"})
	at, err := parseEndpoint(c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		from, _ := start(t, Config{Advertise: endpoint{host, 0}.String()})
		arrives(t, dial(t, from, endpoint{host, at.port}.String()), host, got)
	}
}

func TestANameThatLeadsToLoopbackIsWarnedOf(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		advertise, bind string
		leads           []string
		warned          bool
	}{
		"as of Debian":             {"tcp://" + name + ":0", "", []string{"127.0.1.1"}, true},
		"in both kinds":            {"tcp://" + name + ":0", "", []string{"127.0.0.2", "::1"}, true},
		"and elsewhere":            {"tcp://" + name + ":0", "", []string{"127.0.0.2", "203.0.113.1"}, false},
		"but listens on all":       {"tcp://" + name + ":0", "tcp://*:*", []string{"127.0.1.1"}, false},
		"an address, not a name":   {"tcp://127.0.0.1:0", "", nil, false},
		"a name that is meant to":  {"tcp://localhost:0", "", []string{"127.0.0.1"}, false},
		"another that is meant to": {"tcp://a.localhost.:0", "", []string{"127.0.0.1"}, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			leads := new(names).set(c.leads...).leads
			start(t, Config{
				Advertise: c.advertise, Bind: c.bind, Log: slog.New(slog.NewTextHandler(&log, nil)),
				Lookup: func(context.Context, string) ([]netip.Addr, error) { return leads, nil },
			})
			if warned := strings.Contains(log.String(), "leads to loopback"); warned != c.warned {
				t.Errorf("warned %v: %s", warned, &log)
			}
		})
	}
}

func TestANodeWhoseNameHasNoAddressStartsIfItIsToldWhereToListen(t *testing.T) {
	t.Parallel()
	n := &names{err: errors.New("nothing is known yet")}
	_, err := Listen(Config{Advertise: endpoint{name, 1}.String(), Lookup: n.lookup, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, n.err) || !strings.Contains(err.Error(), "tcp://*:port") {
		t.Error(err)
	}
	if c, _ := start(t, Config{Advertise: endpoint{name, 0}.String(), Bind: "tcp://*:0", Lookup: n.lookup}); !strings.HasPrefix(c.Addr, "tcp://"+name+":") {
		t.Error(c.Addr)
	}
}

func TestTheKindsOfAddressesAreTriedByTurns(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"::1 ::2 ::3 127.0.0.1 127.0.0.2":   "::1 127.0.0.1 ::2 127.0.0.2 ::3",
		"127.0.0.1 127.0.0.2 ::1":           "127.0.0.1 ::1 127.0.0.2",
		"::ffff:127.0.0.1 127.0.0.1 ::1":    "127.0.0.1 ::1",
		"127.0.0.3 127.0.0.2 127.0.0.3":     "127.0.0.3 127.0.0.2",
		"fe80::1%eth0 fe80::1%eth1 ::2 ::2": "fe80::1%eth0 fe80::1%eth1 ::2",
	} {
		got := fmt.Sprint(byTurns(new(names).set(strings.Fields(from)...).leads))
		if got != "["+want+"]" {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}
