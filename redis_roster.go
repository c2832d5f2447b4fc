package gone

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/Diggs/go-one/internal/redisconn"
)

//go:embed lua/roster.lua
var rosterLua string

var rosterScript = redisconn.NewScript(1, rosterLua)

// Ticket implements [Passer].
func (l *RedisLock) Ticket() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ticket := cmp.Or(l.known.hold.secret, l.known.attempt)
	if ticket == "" {
		ticket = l.newSecret()
		l.known.attempt = ticket
	}
	return ticket
}

// Pass implements [Passer]. The lock with the ticket has 2 s to be locked.
func (l *RedisLock) Pass(ticket, value string) error {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	hold := l.known.hold
	l.mu.Unlock()
	if hold.secret == "" {
		return fmt.Errorf("%w: redis lock %q is not held", ErrLockLost, l.id)
	}
	r, err := l.eval(l.Replicas, acquireScript, l.counter(), value, ticket, passFor.Milliseconds(), l.channel(), 0, hold.is())
	if err != nil {
		return l.failed("pass", err)
	}
	if r[0] <= 0 {
		return fmt.Errorf("%w: redis lock %q is another's or gone", ErrLockLost, l.id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known.hold.secret, l.known.attempt = "", ""
	return nil
}

const passFor = 2 * time.Second

// Enter implements [Roster].
func (l *RedisLock) Enter(note string, ttl time.Duration) error {
	_, err := l.list("enter", note, milliseconds(ttl))
	return err
}

// Leave implements [Roster].
func (l *RedisLock) Leave() error {
	_, err := l.list("leave", "", 0)
	return err
}

// Entered implements [Roster].
func (l *RedisLock) Entered() (map[string]string, error) { return l.list("list", "", -1) }

func (l *RedisLock) list(what, note string, ms int64) (notes map[string]string, err error) {
	err = l.request(context.Background(), func(ctx context.Context) error {
		all, err := l.redis.List(ctx, rosterScript, l.helper("nodes", "\x00\x00"), l.value, note, ms)
		notes = map[string]string{}
		for i := 0; i+1 < len(all); i += 2 {
			notes[all[i]] = all[i+1]
		}
		return err
	})
	if err != nil {
		return nil, l.failed(what, err)
	}
	return notes, nil
}
