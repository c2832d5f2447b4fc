// Package link makes frames between two processes reliable and ordered over a
// carrier that may lose, double, delay and reorder them. It knows bytes, who is
// at the other end, and silence; what the frames mean is its users' business.
//
// A link is what two processes have between them, in both directions. It is
// opened by a Hello and ends once, for good; a frame that comes later fits
// nowhere, as it names either side's number for the link. Between the two every
// frame that was appended is taken by the other side once and in order, or the
// end of the link tells which certainly were not. This is the one place where it
// is decided whether something may have arrived: see [Link.Recall].
//
//	opening ── the other side proves that it knows this side's number ──▶ open
//	   │                                                                   │
//	   │ not in time, if nobody here wants it     Bye sent and acknowledged│
//	   │                                          Bye taken                │
//	   │                                          the other side was begun │
//	   │                                          anew, or its key withdrawn
//	   ▼                                          silence for very long    ▼
//	 ended ◀─────────────────────────────────────────────────────────── ended
//
// Locks: a mesh's mu is taken before that of a link, and no other room is
// entered with either.
package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/pulse"
	"github.com/Diggs/go-one/internal/wire"
)

// A Carrier takes frames to other processes, well or badly.
type Carrier interface {
	// Dial returns the way to an identity. It connects in the background.
	Dial(identity string) (Conn, error)
}

// A Conn is a carrier's way to one identity. One goroutine at a time uses it,
// but for Trouble.
type Conn interface {
	// Send takes a frame, or returns false at once: then it has certainly not
	// left. The frame is the caller's again when it returns.
	Send(frame []byte) bool
	// Renew connects anew: what was sent seems not to arrive.
	Renew()
	// Trouble is why there is no connection, nil where nothing is known.
	Trouble() error
	Close()
}

// Config is what a mesh needs.
type Config struct {
	Identity string // of this process: what others dial
	Carrier  Carrier
	// Vouches reports whether frames that the carrier says are from someone may
	// claim an identity.
	Vouches func(identity []byte, from string) bool
	// Twin is called, if set, for each Hello in this process's name that it has not sent.
	// It must not block.
	Twin func()
	Limits
}

// Limits bound what others can make this process keep. 0 is the default.
type Limits struct {
	Links int // at once
	Bytes int // kept for all links together, beyond one frame for each
}

// FrameSize is what a frame has grown over when it is closed.
const FrameSize = 64 << 10

const (
	linkBytes   = 64 << 20  // kept for one link
	meshBytes   = 256 << 20 // kept for all
	meshLinks   = 4096
	windowBytes = 4 << 20 // sent and not acknowledged; a single frame may exceed it
	// As many frames are sent and not acknowledged; well below what the carrier
	// queues for a connection.
	windowFrames = 48
	// Of small frames with requests so many: what comes meanwhile shares the
	// next one. It waits for holdMost at most.
	windowSmall = 2
	holdMost    = time.Millisecond

	ackAfter    = 100 * time.Microsecond // where nothing goes back that carries it
	crowded     = 50 * time.Microsecond  // frames that follow each other so closely could be one
	stallFirst  = 200 * time.Microsecond // where the carrier takes nothing
	stallMost   = 50 * time.Millisecond
	resendFirst = 200 * time.Millisecond // without an acknowledgement
	resendMost  = time.Second
	silentAfter = time.Second // without an acknowledgement
	stalledMost = time.Second / 4
	renewAfter  = 2 * time.Second
	giveUpAfter = 5 * time.Minute // of silence

	strangerMost = 3 * time.Second // for the other side to prove that it is there
	afterlife    = 2 * time.Second // in which an ended link acknowledges a Bye again
	pace         = time.Second / 4000
)

// ProbeAfter is how long nothing may be heard of a process that somebody waits for,
// before it is asked: see [Link.Probe].
const ProbeAfter = time.Second / 2

// A Mesh is all links of a process. Its methods may be called concurrently, but
// for Receive.
type Mesh struct {
	Config
	tick *pulse.Pulse // the owner's, which calls Tick
	soon *pulse.Pulse // acknowledgements and held frames

	secret atomic.Pointer[[32]byte] // see reckon
	kept   atomic.Int64             // bytes, by all links
	resent atomic.Uint64            // frames
	news   atomic.Bool              // there are changes
	mirror mirror

	mu      sync.RWMutex
	links   map[uint64]*Link // by this side's number; ended ones for a while
	current map[string]*Link // by identity
	newest  time.Time        // when the last one was made
	closed  bool

	lists   sync.Mutex // the innermost lock
	changes []Change
	owing   []*Link // an acknowledgement, or a held frame
}

// NewMesh makes a mesh. Its owner calls [Mesh.Tick] whenever tick beats.
func NewMesh(c Config, tick *pulse.Pulse) *Mesh {
	if c.Links == 0 {
		c.Links = meshLinks
	}
	if c.Bytes == 0 {
		c.Bytes = meshBytes
	}
	m := &Mesh{Config: c, tick: tick, links: map[uint64]*Link{}, current: map[string]*Link{}}
	m.mirror = mirror{number: draw(), waits: map[uint64]chan struct{}{}}
	m.soon = pulse.New(m.settleUp)
	m.renewSecret()
	return m
}

var (
	// ErrClosed is returned when the mesh has been closed.
	ErrClosed = errors.New("link: closed")
	// ErrStranger is returned for a frame that is not from the other side of its
	// link.
	ErrStranger = errors.New("link: not from the other side")
	// ErrCrowded wraps why there is no room for another link.
	ErrCrowded = errors.New("link: crowded")
)

// To returns the link to an identity, which it opens if there is none.
func (m *Mesh) To(identity string) (*Link, error) {
	m.mu.RLock()
	l := m.current[identity]
	m.mu.RUnlock()
	if l == nil || l.Over() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l = m.current[identity]; l == nil || l.Over() {
			var err error
			if l, err = m.makeLocked(draw(), identity); err != nil {
				return nil, err
			}
			m.current[identity] = l
		}
	}
	l.want()
	return l, nil
}

// makeLocked makes a link that is opening. It is called with mu held.
func (m *Mesh) makeLocked(id uint64, identity string) (*Link, error) {
	now := time.Now()
	switch {
	case m.closed:
		return nil, ErrClosed
	case len(m.links) > m.Links/4 && now.Sub(m.newest) < pace:
		return nil, fmt.Errorf("%w: too many new ones at once", ErrCrowded)
	case len(m.links) >= m.Links && !m.makeRoomLocked():
		return nil, fmt.Errorf("%w: %d other nodes are in use", ErrCrowded, len(m.links))
	}
	conn, err := m.Carrier.Dial(identity)
	if err != nil {
		return nil, err
	}
	l := &Link{mesh: m, Identity: identity, conn: conn, id: id, health: health{made: now, used: now}}
	l.out.first, l.out.next, l.out.resend = 1, 1, resendFirst
	l.out.w.Reset(nil)
	m.links[l.id] = l
	m.newest = now
	m.tick.By(now.Add(strangerMost))
	return l, nil
}

// makeRoomLocked drops a link that can be spared: a Hello can name any address,
// so those that nobody has proved to own go first. It is called with mu held.
func (m *Mesh) makeRoomLocked() bool {
	looked := 0
	for _, l := range m.links { // in no order
		if l.spared() {
			m.forgetLocked(l)
			return true
		}
		if looked++; looked == 64 {
			break
		}
	}
	return false
}

func (m *Mesh) forgetLocked(l *Link) {
	delete(m.links, l.id)
	if m.current[l.Identity] == l {
		delete(m.current, l.Identity)
	}
	l.free()
}

// Receive takes a frame that the carrier says is from someone. It returns the
// items of a frame that is the next one of its link, and the link. One goroutine
// at a time calls it.
func (m *Mesh) Receive(frame []byte, from string) (*Link, []byte, error) {
	h, body, err := wire.ParseFrame(frame)
	if err != nil {
		return nil, nil, err
	}
	if h.Kind == wire.Hello {
		return nil, nil, m.greet(frame, from)
	}
	m.mu.RLock()
	l := m.links[h.Link]
	m.mu.RUnlock()
	switch {
	case l == nil:
		return nil, nil, nil // of a link that is over
	case !l.knows(from):
		return nil, nil, ErrStranger
	}
	return l, l.receive(h, body), nil
}

// greet takes a Hello or a Welcome.
func (m *Mesh) greet(frame []byte, from string) error {
	g, err := wire.ParseHello(frame)
	if err != nil || !m.Vouches(g.Identity, from) {
		return err
	}
	if string(g.Identity) == m.Identity {
		m.back(g)
		return nil
	}
	m.mu.RLock()
	l := m.links[g.Echo]
	m.mu.RUnlock()
	if l != nil && l.Identity != string(g.Identity) {
		l = nil
	}
	if !g.Welcome && (l == nil || !l.fits(g.Link)) {
		l = m.toward(g)
	}
	if l != nil {
		l.greeted(g, from)
	}
	return nil
}

// toward returns the link that a Hello is about; nil: there is no room.
func (m *Mesh) toward(g wire.Greeting) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	identity := string(g.Identity)
	l := m.current[identity]
	if l != nil && l.fits(g.Link) {
		return l
	}
	// Perhaps the process was begun anew; perhaps this Hello is a very old one.
	// The link that there is stays until the other has proved itself.
	id := m.reckon(g, l)
	other := m.links[id]
	if other == nil {
		var err error
		if other, err = m.makeLocked(id, identity); err != nil {
			return nil
		}
	}
	if l == nil || l.Over() {
		m.current[identity] = other
	}
	return other
}

// reckon returns this side's number for a link that the other side asks for, beside
// the one that is open. It is always the same, until a link opens there or any ends:
// so one that was forgotten before it was open can be asked for again by a side for
// which it is, and which may have sent much. Nobody else can tell it.
func (m *Mesh) reckon(g wire.Greeting, beside *Link) uint64 {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], g.Link)
	if beside != nil && beside.isOpen() {
		binary.BigEndian.PutUint64(b[8:], beside.id)
	}
	h := hmac.New(sha256.New, m.secret.Load()[:])
	h.Write(b[:])
	h.Write(g.Identity)
	return binary.BigEndian.Uint64(h.Sum(nil)) | 1
}

// draw returns a random number for a link.
func draw() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.BigEndian.Uint64(b[:]) | 1
}

// renewSecret has no number reckoned again.
func (m *Mesh) renewSecret() {
	var s [32]byte
	_, _ = rand.Read(s[:])
	m.secret.Store(&s)
}

// promote makes a link that has proved itself the one to its identity.
func (m *Mesh) promote(l *Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.current[l.Identity]
	if before == l || m.links[l.id] != l {
		return
	}
	m.current[l.Identity] = l
	if before != nil {
		before.end(errAnew)
	}
}

// All returns all links.
func (m *Mesh) All() []*Link {
	m.mu.RLock()
	defer m.mu.RUnlock()
	ls := make([]*Link, 0, len(m.links))
	for _, l := range m.links {
		ls = append(ls, l)
	}
	return ls
}

// Tick does what time demands, and returns when to call again.
func (m *Mesh) Tick(now time.Time) (next time.Time) {
	for _, l := range m.All() {
		at, over := l.tick(now)
		if over {
			m.mu.Lock()
			m.forgetLocked(l)
			m.mu.Unlock()
			continue
		}
		next = pulse.Earliest(next, at)
	}
	return next
}

// owe has a link looked at soon.
func (m *Mesh) owe(l *Link) {
	m.lists.Lock()
	m.owing = append(m.owing, l)
	m.lists.Unlock()
	m.soon.By(time.Now().Add(ackAfter))
}

// settleUp sends what has waited for something to go with.
func (m *Mesh) settleUp(now time.Time) (next time.Time) {
	m.lists.Lock()
	ls := m.owing
	m.owing = nil
	m.lists.Unlock()
	for _, l := range ls {
		l.settleUp(now)
	}
	return time.Time{}
}

// Idle returns the open links over which nothing went for so long.
func (m *Mesh) Idle(now time.Time, most time.Duration) (ls []*Link) {
	for _, l := range m.All() {
		if l.idle(now, most) {
			ls = append(ls, l)
		}
	}
	return ls
}

// Drop ends the links to identities that are no longer welcome.
func (m *Mesh) Drop(welcome func(identity string) bool) {
	for _, l := range m.All() {
		if !welcome(l.Identity) {
			l.end(errUnwelcome)
		}
	}
}

// Count is how many links there are, ended ones of late included.
func (m *Mesh) Count() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.links)
}

// Refuse has no frame taken any more. When those that Receive has returned are
// dealt with, Farewell can follow.
func (m *Mesh) Refuse() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	for _, l := range m.All() {
		l.Refuse()
	}
}

// Farewell takes leave of all others after Refuse: each is told what was taken
// of its frames, and that no more will be. It waits until they have acknowledged
// that, and so all that they were sent before, but for those that are silent, and
// not for longer than patience. Receive and Tick go on being called meanwhile.
func (m *Mesh) Farewell(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var waits []*Link
	for _, l := range m.All() {
		if l.Bye() {
			waits = append(waits, l)
		}
	}
	for _, l := range waits {
		select {
		case <-l.gone():
		case <-timer.C:
			return
		}
	}
}

// Close frees everything. Receive and Tick are not called any more.
func (m *Mesh) Close() {
	m.soon.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, l := range m.links {
		l.free()
	}
	clear(m.links)
	clear(m.current)
}
