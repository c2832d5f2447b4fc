package gone

import (
	"errors"
	"time"

	"github.com/Diggs/go-one/internal/kit"
)

func init() { kit.NewNode = newPlayed }

// newPlayed makes a node of a test's: its frames go by a carrier of the test's,
// and so does the time of its leases by a clock.
func newPlayed(addr string, c kit.Carrier, now func() time.Duration, newLock LockFactory, opts ...Option) (*Gone, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	if o.keys.curve || o.bind != "" {
		return nil, errors.New("gone: WithCurve and WithBind are for a node with sockets")
	}
	o.now = now
	g := newGone(o, newLock)
	g.assemble(c, &wireEnd{addr: addr, identity: addr, close: c.Crash}, func(identity []byte, from string) bool { return string(identity) == from })
	c.Receive(g.receive)
	if err := g.join(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}
