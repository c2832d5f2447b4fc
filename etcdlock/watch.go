package etcdlock

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
)

// WaitFree implements [gone.Waiter]. It costs etcd the grant of a lease, to take the
// lock with, and one read and renewal in each TTL, as no client can tell a watch that
// has fallen silent from one with nothing to say.
func (l *Lock) WaitFree(ctx context.Context) error {
	l.mu.Lock()
	other := l.other
	l.mu.Unlock()
	return l.wait(ctx, clientv3.EventTypeDelete, l.TTL(), func(kv *mvccpb.KeyValue) bool {
		return kv == nil || kv.CreateRevision != other
	})
}

// WaitHeld implements [gone.Waiter]: it waits for another holder than the one that
// Holder has named last.
func (l *Lock) WaitHeld(ctx context.Context) error {
	l.mu.Lock()
	seen := l.seen
	l.mu.Unlock()
	return l.wait(ctx, clientv3.EventTypePut, min(l.TTL(), 5*time.Second), func(kv *mvccpb.KeyValue) bool {
		return l.isHold(kv) && kv.CreateRevision != seen
	})
}

// wait returns when the key is as wanted, after an event of a kind, or when it is time
// to look again.
func (l *Lock) wait(ctx context.Context, kind mvccpb.Event_EventType, most time.Duration, wanted func(*mvccpb.KeyValue) bool) error {
	w, err := l.watching()
	if err != nil {
		return l.failed("wait", err)
	}
	woken, leave := w.join(l.key(), kind)
	defer leave()
	poll := time.After(jitter(min(max(l.TTL()/10, 50*time.Millisecond), time.Second)))
	select {
	case <-w.up():
	case <-poll: // there is no watch
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	// What has happened before the watch was there, or before join.
	kv, err := l.look(ctx)
	last := (<-chan time.Time)(time.After(jitter(most)))
	switch {
	case err != nil:
		last = poll
	case wanted(kv):
		l.mark(kv == nil)
		return nil
	case kind == clientv3.EventTypeDelete:
		l.prepare(ctx)
	}
	select {
	case deleted := <-woken:
		l.mark(deleted)
		return nil
	case <-last:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look is get for who has time: a thousand that begin to wait at once must not be in the
// way of those who extend.
func (l *Lock) look(ctx context.Context) (*mvccpb.KeyValue, error) {
	if err := enter(ctx, l.etcd.looks); err != nil {
		return nil, err
	}
	defer func() { <-l.etcd.looks }()
	ctx, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	r, err := l.etcd.client.Get(ctx, l.key(), l.both())
	if err != nil {
		return nil, err
	}
	return first(r.Kvs), nil
}

// prepare has a lease at hand for when the lock is free: Lock then waits for one write
// and not for two. Without one it grants it itself.
func (l *Lock) prepare(ctx context.Context) {
	if enter(ctx, l.etcd.looks) != nil {
		return
	}
	defer func() { <-l.etcd.looks }()
	l.taking.Lock()
	defer l.taking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.patience())
	defer cancel()
	l.mu.Lock()
	lease, busy := l.lease, l.closed || l.hold.lease != 0
	l.mu.Unlock()
	if busy {
		return
	}
	if lease != 0 {
		if _, err := l.etcd.client.KeepAliveOnce(ctx, lease); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return
		}
	}
	if granted, err := l.etcd.client.Grant(ctx, seconds(l.TTL())); err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lease = granted.ID
	}
}

// mark notes whether Lock need not look before it takes.
func (l *Lock) mark(free bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = free
}

func (l *Lock) watching() (*watch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, gone.ErrClosed
	}
	if l.watch == nil {
		l.watch = l.etcd.watch(l.prefix())
	}
	return l.watch, nil
}

// etcd is what the locks of a factory share.
type etcd struct {
	client *clientv3.Client
	// Places for those whose request is under way. More at once only wait for each
	// other, and then ask again.
	calls, looks chan struct{}

	mu sync.Mutex
	// By prefix, those that a lock uses. One watch for each of a thousand ids would be
	// a thousand goroutines here and a thousand watchers there.
	watches map[string]*watch
}

// A watch wakes those who wait for the keys with a prefix.
type watch struct {
	prefix string
	users  int // of etcd.mu
	end    context.CancelFunc

	mu      sync.Mutex
	live    chan struct{} // closed while events arrive
	waiters map[string]map[*waiter]struct{}
}

type waiter struct {
	kind  mvccpb.Event_EventType
	woken chan bool // whether the key was deleted; of one
}

func newEtcd(client *clientv3.Client) *etcd {
	return &etcd{
		client: client, calls: make(chan struct{}, 128), looks: make(chan struct{}, 16),
		watches: map[string]*watch{},
	}
}

func (e *etcd) watch(prefix string) *watch {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.watches[prefix]
	if w == nil {
		ctx, end := context.WithCancel(e.client.Ctx())
		w = &watch{prefix: prefix, end: end, live: make(chan struct{}), waiters: map[string]map[*waiter]struct{}{}}
		e.watches[prefix] = w
		go w.run(ctx, e.client)
	}
	w.users++
	return w
}

func (e *etcd) unwatch(w *watch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.users--; w.users == 0 {
		w.end()
		delete(e.watches, w.prefix)
	}
}

// run watches until the end. A watch that is over, because its history was compacted
// or its member has lost the leader, is made anew from now on, and who waits looks
// again.
func (w *watch) run(ctx context.Context, client *clientv3.Client) {
	const first, most = 50 * time.Millisecond, 5 * time.Second
	for pause := first; ctx.Err() == nil; pause = min(2*pause, most) {
		if w.follow(ctx, client) {
			pause = first
		}
		w.down()
		select {
		case <-time.After(jitter(pause)):
		case <-ctx.Done():
		}
	}
}

// follow wakes who waits until a watch ends, and reports whether it has begun.
func (w *watch) follow(ctx context.Context, client *clientv3.Client) (begun bool) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	keys := clientv3.WithRange(clientv3.GetPrefixRangeEnd(w.prefix)) // without the rosters, which all write to
	for r := range client.Watch(ctx, w.prefix+"\x01", keys, clientv3.WithCreatedNotify()) {
		if r.Err() != nil {
			return begun
		}
		if r.Created {
			begun = true
			w.begin()
		}
		for i, e := range r.Events {
			key, reserved := strings.CutSuffix(string(e.Kv.Key), "\x00")
			if reserved && e.Type == clientv3.EventTypePut || e.Type == clientv3.EventTypeDelete && replaced(r.Events, i) {
				continue
			}
			w.tell(key, e.Type)
		}
	}
	return begun
}

// replaced reports whether the transaction that has deleted a key has put another: the
// lock was reserved, or taken by whom it was reserved for, and is not free.
func replaced(events []*clientv3.Event, i int) bool {
	for _, e := range events[max(i-1, 0):min(i+2, len(events))] {
		if e.Type == clientv3.EventTypePut && e.Kv.ModRevision == events[i].Kv.ModRevision {
			return true
		}
	}
	return false
}

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.live:
	default:
		close(w.live)
	}
}

// down wakes all.
func (w *watch) down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.live:
		w.live = make(chan struct{})
	default:
		return
	}
	for _, waiters := range w.waiters {
		for x := range waiters {
			x.wake(false)
		}
	}
}

// up returns a channel that is closed while events arrive.
func (w *watch) up() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live
}

func (w *watch) tell(key string, kind mvccpb.Event_EventType) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.waiters[key] {
		if x.kind == kind {
			x.wake(kind == clientv3.EventTypeDelete)
		}
	}
}

// wake is for the first event; another changes nothing.
func (x *waiter) wake(deleted bool) {
	select {
	case x.woken <- deleted:
	default:
	}
}

func (w *watch) join(key string, kind mvccpb.Event_EventType) (woken <-chan bool, leave func()) {
	x := &waiter{kind, make(chan bool, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiters[key] == nil {
		w.waiters[key] = map[*waiter]struct{}{}
	}
	w.waiters[key][x] = struct{}{}
	return x.woken, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if delete(w.waiters[key], x); len(w.waiters[key]) == 0 {
			delete(w.waiters, key)
		}
	}
}

// jitter spreads d over [d/2, d).
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }
