package gone

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// What comes again and again is a warning once.

const troublesMost = 16 // kinds logged, in case that none ever is the same

// trouble logs each kind of trouble once, however long it lasts.
func (c *candidate) trouble(err error) {
	if k := kindOf(err); !slices.Contains(c.luck.troubles, k) && len(c.luck.troubles) < troublesMost {
		c.luck.troubles = append(c.luck.troubles, k)
		c.node.log.Warn("gone: can't compete, will retry", "id", c.id, "err", err)
	}
}

// kindOf is the text of the innermost cause. That of the others may never be
// the same twice: network errors name the port of their connection.
func kindOf(err error) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err.Error()
}

// reportLoss logs once that a tenure is lost, if it is. It does not wait for the
// handler, which may never return.
func (c *candidate) reportLoss(t *tenure) {
	over := t.lease.Err()
	if t.mourned || !errors.Is(over, ErrLockLost) {
		return
	}
	t.mourned = true
	if _, asked := t.lease.Quiet(); !asked && errors.Is(over, ErrLeaseExpired) {
		c.node.log.Warn("gone: tenure lost, as its handler never called Extend",
			"id", c.id, "token", t.token, "cause", over, "ttl", t.TTL(), "do", c.remedy())
		return
	}
	c.node.log.Warn("gone: tenure lost", "id", c.id, "token", t.token, "cause", over)
}

// reportPace logs, once for each RunOne, that the handler let so much time pass
// before an Extend that one that fails would hardly have another chance.
func (c *candidate) reportPace(quiet time.Duration) {
	if !c.paced.Swap(true) {
		c.node.log.Warn("gone: the handler extends late, and may lose its tenure", "id", c.id,
			"after", quiet.Round(time.Millisecond), "ttl", ttlOf(c.lock), "do", c.remedy())
	}
}

// remedy is what to do about a handler that extends late, or never.
func (c *candidate) remedy() string {
	return fmt.Sprintf("extend every %v, a third of the TTL; a loop over r.Messages() or r.Batches(max) does while it comes round",
		(ttlOf(c.lock) / 3).Round(time.Millisecond))
}
