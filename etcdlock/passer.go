package etcdlock

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
)

// passFor is how long the one that a lock was passed to has to take it, or the shortest
// lease that etcd grants.
const passFor = 2 * time.Second

// Ticket implements [gone.Passer].
func (l *Lock) Ticket() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ticket = cmp.Or(l.ticket, rand.Text())
	return l.ticket
}

// Pass implements [gone.Passer]. The lock with the ticket has 2 s to be locked, or the
// shortest lease that this etcd grants. Nobody is the holder until then.
//
// No transaction can put a key anew that it deletes, and a token is the revision of a new
// key. So what is passed is a reservation, a key of its own, which ends with a lease of
// its own.
func (l *Lock) Pass(ticket, value string) error {
	l.taking.Lock()
	defer l.taking.Unlock()
	l.mu.Lock()
	now := l.hold
	l.mu.Unlock()
	ctx, end, err := l.request()
	if err != nil {
		return l.failed("pass", err)
	}
	defer end()
	if now.lease == 0 {
		return fmt.Errorf("%w: etcd lock %q is not held", gone.ErrLockLost, l.id)
	}
	passed, err := l.reserve(ctx, now, reservedFor(ticket, value))
	if err != nil {
		return l.failed("pass", err)
	}
	l.mu.Lock()
	l.hold.lease = 0
	if passed {
		l.lease = 0
	}
	l.mu.Unlock()
	if !passed {
		return fmt.Errorf("%w: etcd lock %q is another's or gone", gone.ErrLockLost, l.id)
	}
	// Else what Lock has sent, and comes late, may take the lock. But who is told of this
	// when Pass has returned must be in time.
	ctx, cancel := context.WithTimeout(ctx, passFor/4)
	defer cancel()
	l.revoke(ctx, now.lease)
	return nil
}

// reserve puts a reservation in the place of a hold, and reports whether it is there.
func (l *Lock) reserve(ctx context.Context, now hold, note string) (bool, error) {
	lease, err := l.grant(ctx, seconds(passFor))
	if err != nil {
		return false, err
	}
	r, err := hedged(ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return l.etcd.client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(l.key()), "=", now.token), clientv3.Compare(clientv3.LeaseValue(l.key()), "=", now.lease)).
			Then(clientv3.OpDelete(l.key()), clientv3.OpPut(l.reservation(), note, clientv3.WithLease(lease))).
			Else(clientv3.OpGet(l.reservation())).
			Commit()
	})
	if err != nil || r.Succeeded {
		return err == nil, err
	}
	kv := first(r.Responses[0].GetResponseRange().Kvs)
	return kv != nil && string(kv.Value) == note, nil // by an earlier request
}

func reservedFor(ticket, value string) string { return value + " " + ticket }

// mine reports whether what was read is a reservation for this lock.
func (l *Lock) mine(kv *mvccpb.KeyValue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return kv != nil && !l.isHold(kv) && l.ticket != "" && string(kv.Value) == reservedFor(l.ticket, l.value)
}
