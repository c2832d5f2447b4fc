package mailbox

import (
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A result is that of some adjoining messages of one origin. Without a status there
// are only replies to be flushed.
type result struct {
	Origin
	number, count uint64
	s             wire.Status
	batch         bool
}

// reportOne reports results of the handler's doing, and those that are given: at
// once, or where it has just been done, with what comes of the handler meanwhile.
func (b *Box) reportOne(more ...result) {
	b.mu.Lock()
	b.results = append(b.results, more...)
	if len(b.results) == 0 || b.dirty {
		b.mu.Unlock()
		return
	}
	now := time.Now()
	if now.Sub(b.reported) < reportAfter {
		b.soonLocked()
		b.mu.Unlock()
		return
	}
	b.reported = now
	b.mu.Unlock()
	b.report()
}

// soonLocked has the results reported before long.
func (b *Box) soonLocked() {
	if len(b.results) > 0 && !b.dirty {
		b.dirty = true
		b.room.reports.add(b, reportAfter)
	}
}

// report tells the origins their results. When it returns, all that there were
// have been told.
func (b *Box) report() {
	b.reporting.Lock()
	defer b.reporting.Unlock()
	b.mu.Lock()
	rs := b.results
	b.results, b.dirty = nil, false
	b.mu.Unlock()
	for i, r := range rs {
		if r.s != 0 {
			r.Answer(r.number, r.count, r.s)
		}
		if i+1 == len(rs) || rs[i+1].Origin != r.Origin {
			r.Flush()
		}
	}
	if len(rs) == 0 || cap(rs) > 256 {
		return
	}
	clear(rs)
	b.mu.Lock()
	if b.results == nil {
		b.results = rs[:0] // for use again
	}
	b.mu.Unlock()
}
