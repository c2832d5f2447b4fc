package gonetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/kit"
	"github.com/Diggs/go-one/internal/link/linktest"
)

// Nodes are a cluster in the process of a test. Call Start only from the goroutine of the
// test, as with t.FailNow.
type Nodes struct {
	Locks *Locks

	t    testing.TB
	opts []gone.Option
	net  *linktest.Network
	all  []*gone.Gone
}

// Cluster starts n nodes, and closes them when the test ends. They are real
// nodes, but their lock service is [Locks], with a TTL of [gone.DefaultExpiry], and their
// network is memory. So they need no port, and may be in a bubble of
// testing/synctest. [gone.WithBind] and [gone.WithCurve] are for sockets; the test fails
// with them. A test about sockets makes its nodes with [gone.NewGone], at
// tcp://127.0.0.1:0, and with the locks of [NewLocks].
func Cluster(t testing.TB, n int, opts ...gone.Option) *Nodes {
	t.Helper()
	c := &Nodes{Locks: NewLocks(), t: t, opts: opts, net: linktest.New()}
	for range n {
		c.Start()
	}
	return c
}

// Start starts one more node, with further options of its own.
func (c *Nodes) Start(opts ...gone.Option) *gone.Gone {
	c.t.Helper()
	began := time.Now()
	return c.start(c.Locks.Factory(0), func() time.Duration { return time.Since(began) }, opts...)
}

func (c *Nodes) start(locks gone.LockFactory, now func() time.Duration, opts ...gone.Option) *gone.Gone {
	c.t.Helper()
	newNode := kit.NewNode.(func(string, kit.Carrier, func() time.Duration, gone.LockFactory, ...gone.Option) (*gone.Gone, error))
	addr := fmt.Sprintf("tcp://node%d.test:1", len(c.all))
	g, err := newNode(addr, c.net.Host(addr), now, locks, append(slices.Clone(c.opts), opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.all = append(c.all, g)
	c.t.Cleanup(func() {
		c.Cut()
		c.Locks.heal()
		if err := g.Close(); err != nil {
			c.t.Error(err)
		}
	})
	return g
}

// Node returns the i-th node that was started, from 0.
func (c *Nodes) Node(i int) *gone.Gone { return c.all[i] }

// Cut cuts these nodes off, and no others, from all nodes and from the lock service. To
// the others they have crashed, or are behind a partition. Their handlers run on until
// their leases are over. Cut without nodes mends all.
func (c *Nodes) Cut(nodes ...*gone.Gone) {
	cut := map[string]bool{}
	for _, g := range nodes {
		cut[g.Addr()] = true
	}
	c.net.Weather(func(from, to string, _ []byte) linktest.Fate {
		return linktest.Fate{Lost: from != to && (cut[from] || cut[to])}
	})
	c.Locks.cutOff(cut)
}
