// Package pulse is a timer that many share, so that what waits in thousands
// costs one timer and, while nothing waits, none.
package pulse

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Pulse beats at the earliest of the times that were asked for.
type Pulse struct {
	beat  func(now time.Time) (next time.Time)
	epoch time.Time

	at atomic.Int64 // when the timer fires, in nanoseconds after epoch; 0: it is not set

	beats   sync.Mutex // held during a beat, of which there is one at a time
	mu      sync.Mutex // never held during one
	timer   *time.Timer
	waiting bool // a beat is about to begin, when the one before has ended
	stopped bool
}

// New makes a Pulse. Each beat returns by when there is to be another, or the
// zero time.
func New(beat func(now time.Time) (next time.Time)) *Pulse {
	return &Pulse{beat: beat, epoch: time.Now()}
}

// By has it beat at t or before.
func (p *Pulse) By(t time.Time) {
	want := max(int64(t.Sub(p.epoch)), 1)
	if at := p.at.Load(); at != 0 && at <= want {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := p.at.Load(); p.stopped || at != 0 && at <= want {
		return
	}
	p.at.Store(want)
	switch d := time.Until(t); {
	case d <= 0: // by no timer, as in linktest
		if p.timer != nil {
			p.timer.Stop()
		}
		go p.fire()
	case p.timer == nil:
		p.timer = time.AfterFunc(d, p.fire)
	default:
		p.timer.Reset(d)
	}
}

// Align returns the first of the times at t or after that are a multiple of step
// apart, so that many who want to be woken then and about share a beat.
func (p *Pulse) Align(t time.Time, step time.Duration) time.Time {
	if over := t.Sub(p.epoch) % step; over > 0 {
		t = t.Add(step - over)
	}
	return t
}

func (p *Pulse) fire() {
	p.mu.Lock()
	more := p.waiting
	p.waiting = true
	p.mu.Unlock()
	if more { // than one that waits would only be in the way
		return
	}
	p.beats.Lock()
	defer p.beats.Unlock()
	p.mu.Lock()
	p.waiting = false
	p.at.Store(0)
	stopped := p.stopped
	p.mu.Unlock()
	if stopped {
		return
	}
	if next := p.beat(time.Now()); !next.IsZero() {
		p.By(next)
	}
}

// Stop ends it, when a beat that is under way has ended.
func (p *Pulse) Stop() {
	p.mu.Lock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.mu.Unlock()
	p.beats.Lock() // waits for a beat
	defer p.beats.Unlock()
}

// Earliest is the earlier of two times, where the zero time is none.
func Earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
