package gone

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/Diggs/go-one/internal/zmq"
)

// A Trouble is something that is wrong now, in words.
type Trouble struct {
	What  string
	Do    string    // about it
	Since time.Time `json:",omitzero"`
	Minor bool      `json:",omitempty"` // nothing fails of it
	Nodes []string  `json:",omitempty"` // in a [Report]: the addresses of those that have it
}

// troublesShown is how many of one kind are told of by name.
const troublesShown = 5

// troubles are this node's.
func (g *Gone) troubles() (ts []Trouble) {
	g.own.mu.Lock()
	lost := g.own.lost
	g.own.mu.Unlock()
	switch {
	case g.own.hasTwin():
		ts = append(ts, Trouble{
			What: "Another process has this node's address, so what is sent here may arrive there.",
			Do:   "Give each process an address of its own. Port 0 takes a free one.",
		})
	case lost != nil:
		ts = append(ts, Trouble{
			What: "This node does not reach itself at its address: " + plainly(lost) + ".",
			Do:   "Advertise the address that others reach it by, and bind with WithBind where that differs. Behind a NAT this may be all right.",
		})
	}
	lacks, fails, mute := g.serviceTrouble()
	if mute {
		ts = append(ts, Trouble{
			What:  "The lock service has not answered for a second.",
			Do:    "Look again soon. When it answers, or not in time, it is told here whether it can be used.",
			Minor: true,
		})
	}
	if fails != nil {
		ts = append(ts, Trouble{
			What: "The lock service can't be used: " + plainly(fails) + ".",
			Do:   "See whether it runs and whether this node reaches it. Without it nothing is extended, and no other node takes over.",
		})
	}
	if lacks != nil {
		ts = append(ts, Trouble{
			What: "The lock service works, but not well: " + plainly(lacks) + ".",
			Do:   "Change its settings or this node's rights there; docs/redis.md and SECURITY.md say which.",
		})
	}
	g.member.mu.Lock()
	unlisted := g.member.trouble
	g.member.mu.Unlock()
	if unlisted != nil {
		ts = append(ts, Trouble{
			What: "This node can't enter itself in the list of nodes: " + plainly(unlisted) + ".",
			Do:   "See whether it may write the roster; SECURITY.md lists the rights. Until then it is not listed, and its ids are not balanced.",
		})
	}
	if t, ok := g.late(); ok {
		ts = append(ts, t)
	}
	ts = append(ts, g.cutOff()...)
	if g.end.keys == nil && !loopback(g.Addr()) {
		ts = append(ts, Trouble{
			What:  "The wire is plain: whoever reaches the port can speak to handlers.",
			Do:    "Let only nodes reach the port, or encrypt with WithCurve.",
			Minor: true,
		})
	}
	return ts
}

// late is about handlers that ignore Exit.
func (g *Gone) late() (t Trouble, any bool) {
	var ids []string
	g.mu.Lock()
	for id, c := range g.byID {
		for ; c != nil; c = c.before {
			if r := c.current.Load(); r != nil {
				if told := r.overdue.Load(); told != nil {
					ids = append(ids, fmt.Sprintf("%q", id))
					if t.Since.IsZero() || told.Before(t.Since) {
						t.Since = *told
					}
				}
			}
		}
	}
	g.mu.Unlock()
	if ids == nil {
		return t, false
	}
	t.What = fmt.Sprintf("Exit has closed, and the handler of %s goes on. This node can't run the id again before it returns.", some(ids))
	t.Do = "Have it return when r.Exit closes, as a loop over r.Messages does. A dump of the goroutines (SIGQUIT) says where it is."
	return t, true
}

// cutOff is about the links over which nothing arrives.
func (g *Gone) cutOff() (ts []Trouble) {
	var silent []string
	for _, l := range g.mesh.All() {
		state, _, why := health(l)
		addr := addrOf(l.Identity)
		switch {
		case state == LinkRefused:
			if len(ts) < troublesShown {
				ts = append(ts, Trouble{
					What: fmt.Sprintf("The link to %s is refused: %s.", addr, plainly(why)),
					Do:   "Give both nodes keys that the other allows: WithCurve and WithAllowedKeys.",
				})
			}
		case state == LinkSilent, state == LinkOpening && why != nil:
			if why != nil {
				addr += " (" + plainly(why) + ")"
			}
			silent = append(silent, addr)
		}
	}
	if silent != nil {
		ts = append(ts, Trouble{
			What: "Nothing arrives from " + some(silent) + ".",
			Do:   "See whether that node runs and whether its port can be reached from here. When it has crashed, its ids move when their locks expire.",
		})
	}
	return ts
}

// some names the first of what may be many.
func some(names []string) string {
	slices.Sort(names)
	if more := len(names) - troublesShown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:troublesShown], ", "), more)
	}
	return strings.Join(names, ", ")
}

// plainly is an error within a sentence, on one line.
func plainly(err error) string {
	text := strings.ReplaceAll(strings.ReplaceAll(err.Error(), "gone: ", ""), "\n", "; ")
	return strings.TrimRight(text, ".")
}

// loopback reports whether an address is for this machine alone.
func loopback(addr string) bool {
	host := strings.TrimPrefix(addr, "tcp://")
	if host = host[:max(0, strings.LastIndexByte(host, ':'))]; host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}

// A Setup is what a node is made of and how it is set, without keys.
type Setup struct {
	Go       string // version
	ZeroMQ   string // version
	System   string // as linux/amd64
	CPUs     int
	Lock     string // type of the locks; empty where there is none yet
	Cluster  string
	Balance  bool
	Control  bool
	Keys     bool // WithCurve
	Observed bool
	Bind     string `json:",omitempty"`

	SendTimeout    time.Duration
	CloseTimeout   time.Duration
	MaxMessageSize int
}

func (g *Gone) setup() Setup {
	o := &g.opts
	s := Setup{
		Go: runtime.Version(), ZeroMQ: zmq.Version(), System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0),
		Cluster: o.cluster, Balance: o.balance, Control: o.control, Keys: g.end.keys != nil, Bind: o.bind,
		Observed:    o.Sending != nil || o.Sent != nil || o.Received != nil || o.Extended != nil || o.propagator != nil,
		SendTimeout: o.sendTimeout, CloseTimeout: o.closeTimeout, MaxMessageSize: o.maxMessageSize,
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.byID {
		s.Lock = fmt.Sprintf("%T", c.lock)
		break
	}
	return s
}
