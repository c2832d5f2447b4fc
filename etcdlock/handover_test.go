package etcdlock_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
)

func read(t testing.TB, client *clientv3.Client, key string) *mvccpb.KeyValue {
	t.Helper()
	r, err := client.Get(t.Context(), key)
	must(t, err)
	if len(r.Kvs) == 0 {
		t.Fatalf("there is no key %q", key)
	}
	return r.Kvs[0]
}

func TestWhoWaitsSleepsWhileALockIsPassedOn(t *testing.T) {
	t.Parallel()
	_, client := get(t, one)
	a, b, c := newLock(t, client, time.Minute, "a"), newLock(t, client, time.Minute, "b"), newLock(t, client, time.Minute, "c")
	gets(t, a)
	if err := c.Lock(); !errors.Is(err, gone.ErrLockHeld) {
		t.Fatal(err)
	}
	woken := waits(t, c)
	must(t, a.Pass(b.Ticket(), "b"))
	gets(t, b)
	select {
	case err := <-woken:
		t.Fatalf("it was woken, %v", err)
	case <-time.After(300 * time.Millisecond): // what wakes takes a few milliseconds
	}
	b.Unlock()
	must(t, <-woken)
	gets(t, c)
}

// What Lock has sent, and comes late, finds none.
func TestAHoldThatWasPassedOnLeavesNoLease(t *testing.T) {
	t.Parallel()
	_, client := get(t, one)
	a, b := newLock(t, client, time.Minute, "a"), newLock(t, client, time.Minute, "b")
	gets(t, a)
	lease := clientv3.LeaseID(read(t, client, etcdlock.DefaultPrefix+t.Name()).Lease)
	must(t, a.Pass(b.Ticket(), "b"))
	left, err := client.TimeToLive(t.Context(), lease)
	must(t, err)
	if left.TTL != -1 {
		t.Errorf("it lasts for %d s", left.TTL)
	}
}

func TestAnEntryIsWrittenWhenItHasToBe(t *testing.T) {
	t.Parallel()
	_, client := get(t, one)
	l := newLock(t, client, time.Minute, "a")
	key := etcdlock.DefaultPrefix + "\x00" + t.Name() + "\x00a"
	enter := func(note string) *mvccpb.KeyValue {
		t.Helper()
		must(t, l.Enter(note, time.Minute))
		return read(t, client, key)
	}
	first := enter("1")
	if again := enter("1"); again.ModRevision != first.ModRevision {
		t.Error("what had not changed was written again")
	}
	second := enter("2")
	if second.Lease != first.Lease || string(second.Value) != "2" {
		t.Errorf("it has become %v", second)
	}
	_, err := client.Delete(t.Context(), key)
	must(t, err)
	enter("2")
	_, err = client.Revoke(t.Context(), clientv3.LeaseID(second.Lease))
	must(t, err)
	if third := enter("2"); third.Lease == second.Lease {
		t.Error("its lease is one that is over")
	}
}

// The one that it was passed to has 2 s, and is told when Pass has returned.
func TestPassDoesNotWaitForALeaseThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	c, _ := get(t, one)
	client := c.dial(t, func(config *clientv3.Config) {
		config.DialOptions = append(config.DialOptions, grpc.WithUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if strings.HasSuffix(method, "LeaseRevoke") {
					<-ctx.Done()
					return ctx.Err()
				}
				return invoke(ctx, method, req, reply, conn, opts...)
			}))
	})
	a, b := newLock(t, client, time.Minute, "a"), newLock(t, client, time.Minute, "b")
	gets(t, a)
	sent := time.Now()
	must(t, a.Pass(b.Ticket(), "b"))
	if d := time.Since(sent); d > 4*time.Second { // a request may take 5
		t.Errorf("it took %v", d)
	}
	gets(t, b)
}
