// Package etcdlock makes locks for [gone] in etcd.
package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
)

// A Lock is a [gone.GoneLock] in etcd, with all the extras.
//
// The key is Prefix and the id, and its value is the lock's, so that "etcdctl get" shows
// the holder's address. The key is attached to a lease of this hold alone. To release is
// to revoke the lease: the key goes with it, if it is still this hold's. A late request of
// Lock finds no lease and takes nothing.
//
// The fencing token is the revision at which the key was created. In one cluster revisions
// only grow, through all failovers. They do not survive the cluster: a new one starts at
// 1, and a restored one where its snapshot was taken, unless it is restored with
// --bump-revision.
//
// Etcd counts leases in whole seconds, and none is shorter than one and a half election
// timeouts, 2 s by default. So the lock of a node that died is free after Expiry rounded
// up to that, and up to a second more. A new leader gives every lease its full time again.
//
// A hold is extended when the leader has renewed its lease and a quorum has confirmed
// who has the key, both in the same term: a leader that was deposed and does not
// know it yet may still answer, but its word alone is not taken. Any error but the
// word of a quorum leaves open who holds it, "no leader" and "too many requests"
// among them.
//
// What is passed on is reserved by a second key, that of the lock and a NUL, whose lease
// is short. A node's entry in the roster is a key with a lease of its own, below Prefix
// and a NUL.
//
// The fields must not be changed while the lock is used.
type Lock struct {
	// Expiry sets the TTL. 0 means [gone.DefaultExpiry].
	Expiry time.Duration

	// Prefix sets what comes before the id in the key. It must be the same on all
	// nodes. "" means [DefaultPrefix].
	Prefix string

	id, value string
	etcd      *etcd

	taking sync.Mutex // Lock and Unlock: one at a time, as they come

	mu sync.Mutex
	known
	watch  *watch // from the first wait on
	closed bool

	entry entry
}

// known is what a lock has learned of holds.
type known struct {
	lease  clientv3.LeaseID // with which a Lock has succeeded, or may have; 0 is none
	hold   hold             // the last that Lock obtained
	other  int64            // the revision of what made Lock fail: a hold's token, or another's reservation
	seen   int64            // the token of the holder that was asked for last
	free   bool             // a wait has found no holder
	ticket string           // was asked for since the last hold; "" is none
}

// A hold is one lease's from the revision on at which it has created the key.
type hold struct {
	lease clientv3.LeaseID // 0 when it is over
	token int64
}

// DefaultPrefix begins the keys of locks that set no Prefix. The user's role must be
// allowed to read and write all that begins with it.
const DefaultPrefix = "gone/"

// New returns a factory of locks in the etcd of a client. The caller closes the client,
// after the nodes. Each configure is called for each lock, perhaps concurrently, before
// it is used.
//
// The client should have DialKeepAliveTime and DialKeepAliveTimeout of a few seconds,
// to notice a member that has fallen silent, and the endpoints of all members, to
// go on with another.
func New(client *clientv3.Client, configure ...func(*Lock)) gone.LockFactory {
	e := newEtcd(client)
	return func(id, value string) (gone.GoneLock, error) {
		if client == nil {
			return nil, errors.New("etcdlock: nil client")
		}
		l := &Lock{id: id, value: value, etcd: e}
		for _, f := range configure {
			f(l)
		}
		if l.TTL() < time.Millisecond || l.Expiry > math.MaxInt32*time.Second {
			return nil, fmt.Errorf("etcdlock: expiry of %v", l.Expiry)
		}
		return l, nil
	}
}

// TTL is Expiry, or [gone.DefaultExpiry].
func (l *Lock) TTL() time.Duration {
	if l.Expiry == 0 {
		return gone.DefaultExpiry
	}
	return l.Expiry
}

func (l *Lock) prefix() string {
	if l.Prefix == "" {
		return DefaultPrefix
	}
	return l.Prefix
}

// key is what the holder has. No id has a NUL, so what begins with the prefix and one is
// the rosters', and the key and one is this id's: for whom it is reserved, see Pass.
func (l *Lock) key() string { return l.prefix() + l.id }

func (l *Lock) reservation() string { return l.key() + "\x00" }

// both are the key and the reservation, of which one is there at most, but for what
// others have put there.
func (l *Lock) both() clientv3.OpOption { return clientv3.WithRange(l.key() + "\x00\x00") }

// Lock implements [gone.GoneLock].
func (l *Lock) Lock() error {
	l.taking.Lock()
	defer l.taking.Unlock()
	ctx, end, err := l.request()
	if err != nil {
		return l.failed("lock", err)
	}
	defer end()
	l.mu.Lock()
	lease, free := l.lease, l.free
	l.free = false
	l.mu.Unlock()
	if lease != 0 {
		err := l.take(ctx, lease, 0, false)
		if !errors.Is(err, errLeaseOver) {
			return err
		}
		l.mu.Lock()
		l.lease, l.hold.lease = 0, 0
		l.mu.Unlock()
	}
	// A lease costs the cluster a write. Who competes in vain does without.
	var reserved int64
	if !free {
		switch kv, _, err := l.get(ctx); {
		case err != nil:
			return l.failed("lock", err)
		case l.mine(kv):
			reserved = kv.ModRevision
		case kv != nil:
			return l.heldBy(kv)
		}
	}
	granted, err := l.grant(ctx, seconds(l.TTL()))
	if err != nil {
		return l.failed("lock", err)
	}
	l.mu.Lock()
	l.lease = granted
	l.mu.Unlock()
	return l.take(ctx, granted, reserved, true)
}

// errLeaseOver says that nothing was put with a lease, and nothing will be.
var errLeaseOver = errors.New("its lease is over")

// take puts the key with a lease, if there is no key, and no reservation but this lock's
// own of a revision, 0 for none. A lease that is not fresh has to be renewed.
func (l *Lock) take(ctx context.Context, lease clientv3.LeaseID, reserved int64, fresh bool) error {
	renewed := func(uint64) error { return nil }
	if !fresh {
		renewed = l.renew(ctx, lease)
	}
	for {
		r, err := hedged(ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
			return l.etcd.client.Txn(ctx).
				If(clientv3.Compare(clientv3.CreateRevision(l.key()), "=", 0), clientv3.Compare(clientv3.ModRevision(l.reservation()), "=", reserved)).
				Then(clientv3.OpPut(l.key(), l.value, clientv3.WithLease(lease)), clientv3.OpDelete(l.reservation())).
				Else(clientv3.OpGet(l.key(), l.both())).
				Commit()
		})
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound): // by the word of a quorum, unlike renewed's
			return l.failed("lock", errLeaseOver)
		case err != nil:
			return l.failed("lock", err)
		}
		token := r.Header.Revision
		if !r.Succeeded {
			kv := first(r.Responses[0].GetResponseRange().Kvs)
			switch {
			case kv == nil: // the reservation has ended
				reserved = 0
				continue
			case l.mine(kv):
				reserved = kv.ModRevision
				continue
			case clientv3.LeaseID(kv.Lease) != lease:
				return l.heldBy(kv)
			}
			token = kv.CreateRevision
		}
		if err := renewed(r.Header.RaftTerm); err != nil {
			return l.failed("lock", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.hold, l.ticket = hold{lease, token}, ""
		return nil
	}
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// heldBy is the error of a Lock that has found another's key.
func (l *Lock) heldBy(kv *mvccpb.KeyValue) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold.lease = 0
	l.other = kv.CreateRevision
	if kv.Lease == 0 {
		return l.foreign()
	}
	return fmt.Errorf("%w: etcd lock %q", gone.ErrLockHeld, l.id)
}

// Extend implements [gone.GoneLock].
func (l *Lock) Extend() error {
	l.mu.Lock()
	now := l.hold
	l.mu.Unlock()
	ctx, end, err := l.request()
	if err != nil {
		return l.failed("extend", err)
	}
	defer end()
	if now.lease == 0 {
		return fmt.Errorf("%w: etcd lock %q is not held", gone.ErrLockLost, l.id)
	}
	renewed := l.renew(ctx, now.lease)
	kv, term, err := l.get(ctx)
	if err != nil {
		return l.failed("extend", err)
	}
	if kv != nil && clientv3.LeaseID(kv.Lease) == now.lease && kv.CreateRevision == now.token {
		if err := renewed(term); err != nil {
			return l.failed("extend", err)
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hold == now { // and not one that a Lock has obtained meanwhile
		l.hold.lease = 0
	}
	if kv == nil {
		return fmt.Errorf("%w: etcd lock %q is gone", gone.ErrLockLost, l.id)
	}
	return fmt.Errorf("%w: etcd lock %q is another's", gone.ErrLockLost, l.id)
}

// Unlock implements [gone.GoneLock]. While etcd does not answer it tries again, for a
// quarter of the TTL or 5 s; then the lock is left to expire.
func (l *Lock) Unlock() {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	lease := l.lease
	l.lease, l.hold.lease = 0, 0
	l.mu.Unlock()
	if lease == 0 {
		return
	}
	ctx, end, err := l.request()
	if err != nil {
		return
	}
	defer end()
	l.revoke(ctx, lease)
}

// GetValue implements [gone.GoneLock].
func (l *Lock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

// FencingToken implements [gone.Fencer].
func (l *Lock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(l.hold.token)
}

// Holder implements [gone.Fencer].
func (l *Lock) Holder() (value string, token uint64, err error) {
	ctx, end, err := l.request()
	if err != nil {
		return "", 0, l.failed("read", err)
	}
	defer end()
	kv, _, err := l.get(ctx)
	switch {
	case err != nil:
		return "", 0, l.failed("read", err)
	case !l.isHold(kv):
		return "", 0, fmt.Errorf("%w: etcd lock %q", gone.ErrNoHolder, l.id)
	case kv.Lease == 0:
		return "", 0, l.foreign()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = kv.CreateRevision
	return string(kv.Value), uint64(kv.CreateRevision), nil
}

// isHold reports whether what was read is the key, and not a reservation, or nothing.
func (l *Lock) isHold(kv *mvccpb.KeyValue) bool { return kv != nil && string(kv.Key) == l.key() }

// get reads the key, else the reservation, nil where there is neither, as a quorum knows
// it, and the term in which it does.
func (l *Lock) get(ctx context.Context) (*mvccpb.KeyValue, uint64, error) {
	kvs, term, err := l.read(ctx, l.key(), l.both())
	return first(kvs), term, err
}

func (l *Lock) read(ctx context.Context, key string, opts ...clientv3.OpOption) ([]*mvccpb.KeyValue, uint64, error) {
	r, err := hedged(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return l.etcd.client.Get(ctx, key, opts...) })
	if err != nil {
		return nil, 0, err
	}
	return r.Kvs, r.Header.RaftTerm, nil
}

// Close gives back the lock's share of the watch. It does not unlock. Afterwards
// the other methods return [gone.ErrClosed].
func (l *Lock) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.watch != nil {
		l.etcd.unwatch(l.watch)
	}
	return nil
}

// request bounds a call with all its attempts, and the wait for its turn: one that
// hangs leaves time for others before the deadline of a lease.
func (l *Lock) request() (ctx context.Context, end func(), err error) {
	l.mu.Lock()
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, nil, gone.ErrClosed
	}
	ctx, cancel := context.WithTimeout(l.etcd.client.Ctx(), l.patience())
	if err := enter(ctx, l.etcd.calls); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() {
		cancel()
		<-l.etcd.calls
	}, nil
}

func (l *Lock) patience() time.Duration { return min(l.TTL()/4, 5*time.Second) }

// enter waits for one of the places of a channel.
func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hedged makes a request again, beside the first, while that has no answer: the client
// asks the members in turn, and one that is silent must not use up all the time. So
// it may be done several times.
func hedged[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	type answer struct {
		r   T
		err error
	}
	const most = 3
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline, _ := ctx.Deadline()
	pause := time.Until(deadline) / most
	answers := make(chan answer, most)
	for n := 1; ; n++ {
		go func() {
			r, err := ask(ctx)
			answers <- answer{r, err}
		}()
		var again <-chan time.Time
		if n < most {
			again = time.After(pause)
		}
		select {
		case a := <-answers:
			return a.r, a.err
		case <-again:
		}
	}
}

func (l *Lock) failed(what string, err error) error {
	return fmt.Errorf("gone: etcd lock %q: %s: %w", l.id, what, err)
}

func (l *Lock) foreign() error {
	return fmt.Errorf("gone: etcd lock %q: the key %q has no lease: no lock has put it there", l.id, l.key())
}
