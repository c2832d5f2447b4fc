package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// grant makes a lease. One that is granted twice, or to nobody who listens, expires
// without a key.
func (l *Lock) grant(ctx context.Context, seconds int64) (clientv3.LeaseID, error) {
	r, err := hedged(ctx, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return l.etcd.client.Grant(ctx, seconds)
	})
	if err != nil {
		return 0, err
	}
	return r.ID, nil
}

// seconds is a TTL for etcd, which must not be shorter than for gone.
func seconds(ttl time.Duration) int64 { return int64((ttl-1)/time.Second) + 1 }

// renew renews a lease. What it returns waits for that, and says whether it was done
// in the term in which a quorum has answered something else that was asked after
// renew was called. If it was, the leader was one, and whoever leads after it gives
// the lease its full time from then on.
func (l *Lock) renew(ctx context.Context, lease clientv3.LeaseID) (renewed func(term uint64) error) {
	type answer struct {
		term uint64
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := hedged(ctx, func(ctx context.Context) (*clientv3.LeaseKeepAliveResponse, error) {
			return l.etcd.client.KeepAliveOnce(ctx, lease)
		})
		if err != nil {
			done <- answer{err: err}
			return
		}
		done <- answer{term: r.RaftTerm}
	}()
	return func(term uint64) error {
		a := <-done
		if a.err == nil && a.term != term {
			return fmt.Errorf("the leader has changed: term %d, then %d", a.term, term)
		}
		return a.err
	}
}

// revoke tries to end a lease, with its keys.
func (l *Lock) revoke(ctx context.Context, lease clientv3.LeaseID) {
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		_, err := hedged(ctx, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
			return l.etcd.client.Revoke(ctx, lease)
		})
		if err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}
