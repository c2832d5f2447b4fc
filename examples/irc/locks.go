package main

import (
	"context"
	"flag"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/pglock"
)

// A lockService is who says who has the bot: an etcd or a PostgreSQL of the user's, both
// as URLs, else the Redis, an address, where the queue is in any case.
type lockService struct{ redis, etcd, postgres string }

func (s *lockService) define(flags *flag.FlagSet) {
	flags.StringVar(&s.etcd, "etcd", "", "etcd for the lock, as a URL, or several with commas between; Redis by default")
	flags.StringVar(&s.postgres, "postgres", "", "PostgreSQL for the lock, as a URL; Redis by default")
}

// args are those that define reads.
func (s *lockService) args() []string {
	return []string{"-redis", s.redis, "-etcd", s.etcd, "-postgres", s.postgres}
}

// locks is all that differs from service to service. End comes after the node's Close.
func (s *lockService) locks(ctx context.Context) (_ gone.LockFactory, end func(), err error) {
	switch {
	case s.etcd != "":
		client, err := clientv3.NewFromURLs(strings.Split(s.etcd, ","))
		if err != nil {
			return nil, nil, err
		}
		return etcdlock.New(client, func(l *etcdlock.Lock) { l.Expiry = expiry }), func() { _ = client.Close() }, nil
	case s.postgres != "":
		pool, err := pgxpool.New(ctx, s.postgres)
		if err != nil {
			return nil, nil, err
		}
		if err := pglock.Migrate(ctx, pool); err != nil {
			pool.Close()
			return nil, nil, err
		}
		return pglock.New(pool, func(l *pglock.Lock) { l.Expiry = expiry }), pool.Close, nil
	}
	return gone.RedisLocks("redis://"+s.redis, func(l *gone.RedisLock) { l.Expiry = expiry }), func() {}, nil
}

// elsewhere names the service if it is not Redis.
func (s *lockService) elsewhere() string {
	switch {
	case s.etcd != "":
		return "etcd"
	case s.postgres != "":
		return "PostgreSQL"
	}
	return ""
}
