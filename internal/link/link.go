package link

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// A Link is what this process and another have between them. Its methods may be
// called concurrently.
type Link struct {
	Identity string // of the other process
	mesh     *Mesh
	id       uint64 // this side's number
	conn     Conn   // the flusher's

	mu    sync.Mutex
	state state
	why   error // it cannot be opened, or has ended
	other
	out outbound
	in  inbound
	health
}

// other is the other side.
type other struct {
	remote uint64 // its number of the link, 0 while it is not known
	from   string // as the carrier calls it
}

type state uint8

const (
	opening state = iota
	open
	ended
)

// inbound is what comes from the other side.
type inbound struct {
	taken   uint64 // frames up to it
	told    uint64 // frames up to it have been acknowledged
	prove   bool   // an acknowledgement is due even if nothing was taken
	closed  bool   // no more are taken
	gap     bool   // what is missing is to be asked for, …
	gapFrom uint64 // … as was done behind this one, …
	gapAt   time.Time
	owing   bool // in the mesh's list
}

// health is whether what is sent arrives.
type health struct {
	made    time.Time
	used    time.Time // when something went over it
	heard   time.Time // when the other side had last taken what was sent
	wanted  bool      // somebody here has asked for it
	due     time.Time // since when an acknowledgement is; zero: none is
	silent  bool
	renewed time.Time
	over    time.Time // when the link ended
	left    chan struct{}
}

var (
	errAnew      = errors.New("the process at the address was started anew")
	errUnwelcome = errors.New("its key is not allowed any more")
	errBye       = errors.New("the other node was closed")
	errClosed    = errors.New("closed here")
	errForgotten = errors.New("never opened")
	errSilence   = errors.New("silent for too long")
	errFlooded   = errors.New("it acknowledges nothing")
)

// Over reports whether the link has ended.
func (l *Link) Over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == ended
}

func (l *Link) isOpen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == open
}

// Silent reports whether nothing arrives any more, as far as is known.
func (l *Link) Silent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.silent
}

// Trouble is why the other side cannot be reached, nil where nothing is known.
func (l *Link) Trouble() error {
	l.mu.Lock()
	why := l.why
	l.mu.Unlock()
	if why != nil {
		return why
	}
	return l.conn.Trouble()
}

// want has a link opened that only the other side has asked for so far.
func (l *Link) want() {
	l.mu.Lock()
	if l.wanted || l.state != opening {
		l.wanted = true
		l.mu.Unlock()
		return
	}
	l.wanted, l.due, l.out.hello = true, time.Now(), true
	l.mesh.tick.By(l.due.Add(resendFirst))
	l.mu.Unlock()
	l.Flush()
}

// fits reports whether the other side's number is, or may be, this one.
func (l *Link) fits(remote uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != ended && (l.remote == remote || l.state == opening && l.wanted)
}

// greeted takes a Hello, or a Welcome, which proves that the other side knows
// this side's number, and so that it is where it says.
func (l *Link) greeted(g wire.Greeting, from string) {
	l.mu.Lock()
	proved := false
	switch {
	case l.state == ended:
	case g.Highest < wire.Lowest || g.Lowest > wire.Version:
		l.why = fmt.Errorf("it speaks versions %d to %d, this node %d to %d", g.Lowest, g.Highest, wire.Lowest, wire.Version)
	case l.state == opening:
		l.againLocked(g, time.Now())
		l.remote, l.from, l.why = g.Link, from, nil
		if proved = g.Echo == l.id; proved {
			l.openLocked()
		}
	case l.from != from:
	case l.remote == g.Link:
	case g.Welcome: // the other side knows nothing of this link
		l.endLocked(errAnew)
	default: // a Hello of its predecessor, late
		l.mu.Unlock()
		return
	}
	if l.state != ended && g.Welcome {
		l.in.prove = true // the other side wants a proof, too
		l.owe()
	} else if l.state != ended {
		l.out.welcome = true
	}
	l.mu.Unlock()
	if proved {
		l.mesh.promote(l)
	}
	l.Flush()
}

// againLocked connects anew where a stranger asks for a link again, as the answer has not
// reached him.
func (l *Link) againLocked(g wire.Greeting, now time.Time) {
	if !l.wanted && !g.Welcome && l.remote == g.Link && now.Sub(l.made) > silentAfter && now.Sub(l.renewed) > silentAfter {
		l.renewed, l.out.renew = now, true
	}
}

// openLocked lets frames leave.
func (l *Link) openLocked() {
	l.state = open
	l.mesh.note(l, Opened)
	l.hearLocked(time.Now())
}

// knows reports whether someone may speak for the other side.
func (l *Link) knows(from string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remote != 0 && l.from == from
}

// receive takes a frame, and returns its items if it is the next one.
func (l *Link) receive(h wire.Header, body []byte) []byte {
	l.mu.Lock()
	if h.From != l.remote {
		l.mu.Unlock()
		return nil // of a link that this one might have become, or is no more
	}
	proved := l.state == opening
	if proved {
		l.openLocked()
	}
	now := time.Now()
	room := l.acknowledgeLocked(h, now)
	fresh := false
	if h.Number != 0 {
		fresh = l.takeLocked(h.Number, now)
	}
	// When both take leave at once neither takes the other's frames.
	if h.Kind == wire.Bye && l.state == open && (fresh || l.in.closed) {
		fresh = false
		l.in.taken = h.Number
		l.endLocked(errBye)
	}
	urgent := l.in.gap || l.out.ack
	if l.state == ended && h.Kind == wire.Bye { // again, if need be
		l.out.ack, urgent = true, true
	}
	l.mu.Unlock()
	if proved {
		l.mesh.promote(l)
	}
	if room || urgent {
		l.Flush()
	}
	if !fresh {
		return nil
	}
	return body
}

// takeLocked reports whether a frame is the next one.
func (l *Link) takeLocked(number uint64, now time.Time) bool {
	in := &l.in
	l.used = now
	switch {
	case in.closed:
	case number == in.taken+1:
		in.taken++
		l.owe()
		return true
	case number <= in.taken: // a copy: its acknowledgement was lost
		in.told = 0
		l.owe()
	case in.gapFrom != in.taken || now.Sub(in.gapAt) > resendFirst/4:
		in.gap, in.gapFrom, in.gapAt = true, in.taken, now
	}
	return false
}

// owe has what was taken acknowledged soon, unless a frame does that before. It
// is called with mu held.
func (l *Link) owe() {
	if !l.in.owing {
		l.in.owing = true
		l.mesh.owe(l)
	}
}

// settleUp sends an acknowledgement that nothing has carried, or a frame that
// was held for others to join it.
func (l *Link) settleUp(now time.Time) {
	l.mu.Lock()
	l.in.owing = false
	l.out.ack = l.in.told < l.in.taken || l.in.prove
	if held := l.out.held; !held.IsZero() {
		if l.out.overdue = now.Sub(held) >= holdMost; !l.out.overdue {
			l.owe()
		}
	}
	l.mu.Unlock()
	l.Flush()
}

// hearLocked notes that what is sent arrives.
func (l *Link) hearLocked(now time.Time) {
	l.due, l.heard = time.Time{}, now
	l.out.resend = resendFirst
	if l.out.first < l.out.next {
		l.dueLocked(now)
	}
	if l.silent {
		l.silent = false
		l.mesh.note(l, Recovered)
	}
}

// dueLocked notes that an acknowledgement is due.
func (l *Link) dueLocked(now time.Time) {
	if l.due.IsZero() {
		l.due, l.out.resent = now, now
		l.mesh.tick.By(now.Add(resendFirst))
	}
}

// Probe has the silence of the other side noticed while somebody waits for it: an
// empty frame asks for an acknowledgement, if none is due and none has come of
// late. It returns when to call again, as long as somebody waits.
func (l *Link) Probe(now time.Time) (next time.Time) {
	l.mu.Lock()
	o := &l.out
	switch {
	case l.state == ended || l.in.closed:
		l.mu.Unlock()
		return time.Time{}
	case l.state == open && len(o.queue) == 0 && o.w.Empty():
		if next = l.heard.Add(ProbeAfter); now.Before(next) {
			l.mu.Unlock()
			return next
		}
		o.sealLocked(l.mesh)
		// Since then somebody has waited; but not longer than the question is late.
		l.due, o.resent = now.Add(-ProbeAfter), now
		l.mesh.tick.By(l.due.Add(silentAfter))
	}
	l.mu.Unlock()
	l.Flush()
	return l.mesh.tick.Align(now.Add(ProbeAfter), stallMost/2)
}

// end ends the link: whatever its state, nothing is sent or taken any more.
func (l *Link) end(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(why)
}

func (l *Link) endLocked(why error) {
	if l.state == ended {
		return
	}
	if why != errForgotten {
		l.mesh.renewSecret() // there must not be another with this number
	}
	l.state, l.why, l.over = ended, why, time.Now()
	l.silent = false
	l.due = time.Time{}
	l.in.closed = true
	l.out.dropLocked(l.mesh)
	if l.left != nil {
		close(l.left)
	}
	l.mesh.note(l, Ended)
}

// Refuse has no frame taken any more. When what was taken is dealt with, Bye can
// follow.
func (l *Link) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in.closed = true
}

// RefuseIdle is Refuse if nothing went over the link for so long, and reports
// whether it is.
func (l *Link) RefuseIdle(now time.Time, most time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.idleLocked(now, most) {
		return false
	}
	l.in.closed = true
	return true
}

// Bye tells the other side after Refuse that no frame of its is taken any more,
// once it has taken all that was appended here; then the link ends. It reports
// whether that is to be expected.
func (l *Link) Bye() bool {
	l.mu.Lock()
	switch {
	case l.state != opening:
	case l.remote == 0:
		l.endLocked(errClosed)
	default: // the other side may know this side's number, and have sent already
		l.openLocked()
	}
	alive := l.state == open && !l.silent
	if l.state == open && !l.out.bye {
		l.out.byeLocked(l.mesh)
	}
	l.mu.Unlock()
	l.Flush()
	return alive
}

// gone is closed when the link has ended.
func (l *Link) gone() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == nil {
		l.left = make(chan struct{})
		if l.state == ended {
			close(l.left)
		}
	}
	return l.left
}

// idle reports whether nothing went over the link for so long.
func (l *Link) idle(now time.Time, most time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.idleLocked(now, most)
}

func (l *Link) idleLocked(now time.Time, most time.Duration) bool {
	return l.state == open && !l.in.closed && l.out.size == 0 && l.out.w.Empty() && now.Sub(l.used) > most
}

// spared reports whether the link can be: it has ended, or only a stranger has
// asked for it, or it was never opened though that was tried for a while.
func (l *Link) spared() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == ended || l.state == opening && (!l.wanted || l.silent)
}

// free closes the connection, when nobody uses it.
func (l *Link) free() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == opening {
		l.endLocked(errForgotten)
	}
	l.endLocked(errClosed)
	l.out.hangUp = true
	if !l.out.flushing {
		l.conn.Close()
	}
}

// tick does what time demands. It returns when it is to be called again, and
// whether the link is to be forgotten.
func (l *Link) tick(now time.Time) (next time.Time, over bool) {
	l.mu.Lock()
	switch {
	case l.state == ended:
		next = l.over.Add(afterlife)
		over = !now.Before(next)
	case l.state == opening && !l.wanted:
		next = l.made.Add(strangerMost)
		over = !now.Before(next)
	case !l.due.IsZero():
		next = l.waitLocked(now)
	}
	o := &l.out
	if !o.retry.IsZero() {
		if now.Before(o.retry) {
			next = pulse.Earliest(next, o.retry)
		} else {
			o.retry = time.Time{}
		}
	}
	l.mu.Unlock()
	if !over {
		l.Flush()
	}
	return next, over
}

// waitLocked waits for an acknowledgement that is due.
func (l *Link) waitLocked(now time.Time) (next time.Time) {
	o := &l.out
	for _, limit := range [...]time.Duration{silentAfter, giveUpAfter} {
		if at := l.due.Add(limit); now.Before(at) {
			next = pulse.Earliest(next, at)
		}
	}
	quiet := now.Sub(l.due)
	refused := l.state == open && !o.stalled.IsZero() && now.Sub(o.stalled) >= stalledMost
	if !l.silent && (quiet >= silentAfter || refused) {
		l.silent = true
		l.mesh.note(l, Silent)
	}
	if quiet >= giveUpAfter {
		l.endLocked(errSilence)
		return now.Add(afterlife)
	}
	if l.silent && now.Sub(l.renewed) > renewAfter {
		l.renewed, o.renew = now, true
	}
	if at := o.resent.Add(o.resend); now.Before(at) {
		next = pulse.Earliest(next, at)
	} else {
		o.resent, o.resend = now, min(2*o.resend, resendMost)
		o.next = o.first
		o.hello = o.hello || l.state == opening || l.silent
		next = pulse.Earliest(next, now.Add(o.resend))
	}
	if l.silent { // as may be many
		next = l.mesh.tick.Align(next, stallMost/2)
	}
	return next
}
