package link

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A mirror is how a process sees itself from outside. A Hello in its own name opens no
// link: one that it has sent proves, when it arrives, that its identity leads to it, and
// any other that there is another process with this identity. One of a link is its own,
// too: it has dialled itself by another name for the same place.
type mirror struct {
	number uint64 // of this process, in its Hellos to itself

	mu    sync.Mutex
	waits map[uint64]chan struct{} // by the Hello's echo
}

var (
	// ErrElsewhere is returned where another process takes what is sent to this one.
	ErrElsewhere = errors.New("link: another process takes what is sent there")
	// ErrNowhere is returned where nobody does.
	ErrNowhere = errors.New("nobody takes what is sent there")
)

const (
	takenMost   = 5 * time.Second // until somebody takes a Hello
	troubleMost = 2 * time.Second // where it is known why nobody does
	arriveMost  = 2 * time.Second // from when it is taken, even if this machine is busy
	reachAgain  = 50 * time.Millisecond
)

// Reach returns nil when a Hello has arrived that this process sends to its own identity,
// over a connection of its own.
func (m *Mesh) Reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, takenMost+arriveMost, ErrNowhere)
	defer cancel()
	conn, err := m.Carrier.Dial(m.Identity)
	if err != nil {
		return err
	}
	defer conn.Close()
	echo, arrived := m.mirror.wait()
	defer m.mirror.forget(echo)
	hello := wire.AppendHello(nil, false, m.mirror.number, echo, m.Identity)
	again := time.NewTicker(reachAgain)
	defer again.Stop()
	began, taken := time.Now(), (<-chan time.Time)(nil)
	for {
		if conn.Send(hello) && taken == nil {
			taken = time.After(arriveMost)
		}
		select {
		case <-arrived:
			return nil
		case <-taken:
			select { // this process may have been stopped meanwhile
			case <-arrived:
				return nil
			default:
				return ErrElsewhere
			}
		case <-ctx.Done():
			return cmp.Or(conn.Trouble(), context.Cause(ctx))
		case <-again.C:
		}
		if why := conn.Trouble(); why != nil && taken == nil && time.Since(began) > troubleMost {
			return why
		}
	}
}

// wait returns a number for a Hello, and what is closed when it has arrived.
func (m *mirror) wait() (echo uint64, arrived chan struct{}) {
	echo, arrived = draw(), make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waits[echo] = arrived
	return echo, arrived
}

func (m *mirror) forget(echo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waits, echo)
}

// back takes a Hello in this process's name.
func (m *Mesh) back(g wire.Greeting) {
	if g.Link != m.mirror.number {
		m.mu.RLock()
		own := m.links[g.Link] != nil
		m.mu.RUnlock()
		if !own && m.Twin != nil {
			m.Twin()
		}
		return
	}
	m.mirror.mu.Lock()
	defer m.mirror.mu.Unlock()
	if arrived := m.mirror.waits[g.Echo]; arrived != nil {
		close(arrived)
		delete(m.mirror.waits, g.Echo)
	}
}
