package etcdlock

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An entry of a roster is a key with a lease of its own.
type entry struct {
	sync.Mutex // Enter and Leave: one at a time

	lease   clientv3.LeaseID // 0 is none
	seconds int64            // for which it was granted
}

// roster is what the keys of all entries begin with, each followed by the value.
func (l *Lock) roster() string { return l.prefix() + "\x00" + l.id + "\x00" }

// Enter implements [gone.Roster]. Where nothing has changed, it is a renewal and a read,
// at the same time, and no write.
func (l *Lock) Enter(note string, ttl time.Duration) error {
	l.entry.Lock()
	defer l.entry.Unlock()
	ctx, end, err := l.request()
	if err != nil {
		return l.failed("enter", err)
	}
	defer end()
	listed, err := l.renewEntry(ctx, note, seconds(ttl))
	if err == nil && !listed {
		err = l.putEntry(ctx, note, seconds(ttl))
	}
	if err != nil {
		return l.failed("enter", err)
	}
	return nil
}

// renewEntry renews the lease of the entry, if it has one, and reports whether the note is
// listed.
func (l *Lock) renewEntry(ctx context.Context, note string, seconds int64) (bool, error) {
	e := &l.entry
	if e.lease == 0 || e.seconds != seconds {
		e.lease, e.seconds = 0, seconds
		return false, nil
	}
	renewed := l.renew(ctx, e.lease)
	kvs, term, err := l.read(ctx, l.roster()+l.value)
	if err != nil {
		return false, err
	}
	if err := renewed(term); errors.Is(err, rpctypes.ErrLeaseNotFound) {
		e.lease = 0
		return false, nil
	} else if err != nil {
		return false, err
	}
	kv := first(kvs)
	return kv != nil && clientv3.LeaseID(kv.Lease) == e.lease && string(kv.Value) == note, nil
}

func (l *Lock) putEntry(ctx context.Context, note string, seconds int64) error {
	e := &l.entry
	if e.lease == 0 {
		lease, err := l.grant(ctx, seconds)
		if err != nil {
			return err
		}
		e.lease = lease
	}
	_, err := hedged(ctx, func(ctx context.Context) (*clientv3.PutResponse, error) {
		return l.etcd.client.Put(ctx, l.roster()+l.value, note, clientv3.WithLease(e.lease))
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		e.lease = 0
	}
	return err
}

// Leave implements [gone.Roster].
func (l *Lock) Leave() error {
	l.entry.Lock()
	defer l.entry.Unlock()
	ctx, end, err := l.request()
	if err != nil {
		return l.failed("leave", err)
	}
	defer end()
	_, err = hedged(ctx, func(ctx context.Context) (*clientv3.DeleteResponse, error) {
		return l.etcd.client.Delete(ctx, l.roster()+l.value)
	})
	if err != nil {
		return l.failed("leave", err)
	}
	if lease := l.entry.lease; lease != 0 { // what Enter has sent, and comes late, is not listed
		l.entry.lease = 0
		l.revoke(ctx, lease)
	}
	return nil
}

// Entered implements [gone.Roster].
func (l *Lock) Entered() (map[string]string, error) {
	ctx, end, err := l.request()
	if err != nil {
		return nil, l.failed("list", err)
	}
	defer end()
	kvs, _, err := l.read(ctx, l.roster(), clientv3.WithPrefix())
	if err != nil {
		return nil, l.failed("list", err)
	}
	notes := map[string]string{}
	for _, kv := range kvs {
		notes[strings.TrimPrefix(string(kv.Key), l.roster())] = string(kv.Value)
	}
	return notes, nil
}
