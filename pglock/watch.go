package pglock

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// spread is how far those who wait for the end of one hold lie apart, and how late
	// the first may be.
	spread = 20 * time.Millisecond
	// linger is how long a watch goes on when nobody waits.
	linger = 10 * time.Second
	// silence is how long a connection for wake-ups may hear nothing before it is tried,
	// and how long that may take.
	silence = 5 * time.Second
)

var errPooler = errors.New("there is a pooler in between, which may keep notifications to itself")

// A watch wakes those who wait for locks of one table, with two goroutines whatever
// their number, and none while nobody waits. One looks: a single query for all whose
// time has come. The other hears what Lock and Unlock notify. Extend does not notify:
// NOTIFY has all commits of a server wait for each other. Instead, whoever waits looks
// when the hold would have ended, and as others look with him, that is a few queries a
// TTL for all of them together.
type watch struct {
	db *database
	t  *table

	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{} // for whoever looks: the earliest time has changed

	mu      sync.Mutex
	waits   map[string][]*wait // by id
	running bool
	hearing bool // notifications arrive
}

// A wait is for the end of any hold, or for one with another token than was seen.
type wait struct {
	id    string
	ttl   time.Duration
	held  bool
	seen  int64
	until time.Time // when the hold ends, as far as is known
	wake  func()    // called once; it must not block

	look time.Time // the watch's: when to look
}

func newWatch(db *database, t *table) *watch {
	w := &watch{db: db, t: t, kick: make(chan struct{}, 1), waits: map[string][]*wait{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// await arranges for one call of wake. The first look comes at once, as what happened
// before was not heard.
func (w *watch) await(x *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		x.wake()
		return
	}
	x.look = time.Now()
	w.waits[x.id] = append(w.waits[x.id], x)
	if !w.running {
		w.running = true
		go w.run()
	}
	w.stir()
}

// abandon ends a wait without a call of wake, unless that was made already.
func (w *watch) abandon(x *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(x)
}

// close ends the watch. Whoever still waits looks for himself.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cancel()
	for _, xs := range w.waits {
		for _, x := range slices.Clone(xs) {
			w.wake(x)
		}
	}
}

// run listens and looks until nobody has waited for a while.
func (w *watch) run() {
	for again := true; again; again = w.wanted() {
		ctx, cancel := context.WithCancel(w.ctx)
		var listener sync.WaitGroup
		listener.Go(func() { w.listen(ctx) })
		w.lookOut(ctx)
		cancel()
		listener.Wait() // there is never more than one, which knows whether it hears
	}
}

// wanted reports whether run has to go on.
func (w *watch) wanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = len(w.waits) > 0
	return w.running
}

func (w *watch) lookOut(ctx context.Context) {
	for ctx.Err() == nil {
		due, next := w.due(time.Now())
		if len(due) > 0 {
			w.lookFor(ctx, due)
			continue
		}
		idle := next.IsZero()
		if idle {
			next = time.Now().Add(linger)
		}
		select {
		case <-time.After(time.Until(next)):
			if idle {
				return
			}
		case <-w.kick:
		case <-ctx.Done():
		}
	}
}

// due is whose time has come, and with them whose time comes soon; or, if there is
// nobody, when it comes.
func (w *watch) due(now time.Time) (due []*wait, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, xs := range w.waits {
		for _, x := range xs {
			if next.IsZero() || x.look.Before(next) {
				next = x.look
			}
		}
	}
	if next.IsZero() || next.After(now) {
		return nil, next
	}
	for _, xs := range w.waits {
		for _, x := range xs {
			if x.look.Before(now.Add(x.ttl / 3)) {
				due = append(due, x)
			}
		}
	}
	return due, next
}

// lookFor asks the server. Where it does not answer, who asked has to ask for himself,
// and hears why.
func (w *watch) lookFor(ctx context.Context, due []*wait) {
	ttl := due[0].ttl
	ids := make([][]byte, len(due))
	for i, x := range due {
		ids[i] = []byte(x.id)
		ttl = min(ttl, x.ttl)
	}
	type state struct {
		token     int64
		remaining time.Duration
	}
	states := make([]state, len(due))
	ctx, cancel := context.WithTimeout(ctx, min(ttl/4, 5*time.Second))
	defer cancel()
	_, err := w.db.ask(ctx, w.t.look, func(row pgx.Rows) error {
		var (
			standby          bool
			place, token, us int64
		)
		if err := row.Scan(&standby, &place, &token, &us); err != nil {
			return err
		}
		if standby { // what it knows may be old
			return errStandby
		}
		states[place-1] = state{token, time.Duration(us) * time.Microsecond}
		return nil
	}, ids)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, x := range due {
		lasts := states[i].remaining > 0
		switch {
		case !slices.Contains(w.waits[x.id], x): // it was woken meanwhile
		case err != nil, lasts && x.held && states[i].token != x.seen, !lasts && !x.held:
			w.wake(x)
		default:
			x.until = time.Now().Add(min(states[i].remaining, x.ttl))
			w.arm(x)
		}
	}
}

// listen keeps a connection that hears.
func (w *watch) listen(ctx context.Context) {
	const first, most = 100 * time.Millisecond, 10 * time.Second
	for pause := first; ; pause = min(2*pause, most) {
		began := time.Now()
		err := w.hear(ctx)
		w.heard(false)
		if errors.Is(err, errPooler) {
			pause = time.Minute
		} else if time.Since(began) > most {
			pause = first
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

// hear listens on a connection taken out of the pool until that fails.
func (w *watch) hear(ctx context.Context) error {
	c, err := w.db.acquire(ctx)
	if err != nil {
		return err
	}
	conn := c.Hijack()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if err := w.subscribe(ctx, conn); err != nil {
		return err
	}
	w.heard(true)
	for {
		quiet, cancel := context.WithTimeout(ctx, silence)
		n, err := conn.WaitForNotification(quiet)
		if err != nil && ctx.Err() == nil && quiet.Err() != nil { // nothing was said
			err = ping(ctx, conn)
		}
		cancel()
		if err != nil {
			return err
		}
		if n != nil {
			w.tell(n.Payload)
		}
	}
}

func (w *watch) subscribe(ctx context.Context, conn *pgx.Conn) error {
	if conn.PgConn().CustomData()[poolerKey] == true {
		return errPooler
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	_, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{w.t.channel}.Sanitize())
	return err
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	return conn.Ping(ctx)
}

// heard takes note of whether notifications arrive from now on. Those before were lost.
func (w *watch) heard(hearing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hearing == hearing {
		return
	}
	w.hearing = hearing
	for _, xs := range w.waits {
		for _, x := range xs {
			x.look = time.Now()
		}
	}
	w.stir()
}

// tell passes on a notification: "<token> <TTL, ms> <id, hex>", where no TTL is a
// release. Anybody may have sent it, so it can only wake, or bring a look forward.
func (w *watch) tell(payload string) {
	var (
		token, ms int64
		digits    string
	)
	if _, err := fmt.Sscan(payload, &token, &ms, &digits); err != nil || strings.Count(payload, " ") != 2 {
		return
	}
	id, err := hex.DecodeString(digits)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ends := time.Now().Add(time.Duration(ms) * time.Millisecond)
	for _, x := range slices.Clone(w.waits[string(id)]) {
		if lasts := ms > 0; lasts && x.held && token != x.seen || !lasts && !x.held {
			w.wake(x)
		} else if lasts && !x.held && ends.Before(x.look) { // what was passed is free sooner
			x.look = ends.Add(rand.N(spread))
			w.stir()
		}
	}
}

// The following are called with mu held.

func (w *watch) wake(x *wait) {
	w.remove(x)
	x.wake()
}

func (w *watch) remove(x *wait) {
	xs := w.waits[x.id]
	if i := slices.Index(xs, x); i < 0 {
		return
	} else if len(xs) == 1 {
		delete(w.waits, x.id)
	} else {
		w.waits[x.id] = slices.Delete(xs, i, i+1)
	}
}

// arm sets when to look: when the hold will have ended, and for a new one now and
// then, as a connection that hears may lead to the wrong server; sooner where nothing
// is heard.
func (w *watch) arm(x *wait) {
	now := time.Now()
	poll := min(max(x.ttl/10, 50*time.Millisecond), time.Second)
	poll = poll/2 + rand.N(poll)
	switch {
	case !w.hearing:
		x.look = now.Add(poll)
		if end := x.until.Add(rand.N(spread)); !x.held && end.Before(x.look) {
			x.look = end
		}
	case x.held:
		x.look = now.Add(min(x.ttl, 5*time.Second))
	default:
		x.look = x.until.Add(rand.N(spread))
	}
	w.stir()
}

func (w *watch) stir() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}
