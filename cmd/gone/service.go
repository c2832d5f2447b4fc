package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/goredislock"
	"github.com/Diggs/go-one/pglock"
)

// A service is a lock service as the user names it.
type service struct {
	redis, sentinel, shards, etcd, postgres string // one of them

	prefix, schema, table string
	ca, cert, key         string // files
}

func (v *service) define(flags *flag.FlagSet) {
	flags.StringVar(&v.redis, "redis", "", "URL")
	flags.StringVar(&v.sentinel, "redis-sentinel", "", "URL with master_name")
	flags.StringVar(&v.shards, "redis-cluster", "", "URL")
	flags.StringVar(&v.etcd, "etcd", "", "endpoints")
	flags.StringVar(&v.postgres, "postgres", "", "DSN")
	flags.StringVar(&v.prefix, "prefix", "", "before each id, in Redis and etcd")
	flags.StringVar(&v.schema, "schema", "", "of the table in PostgreSQL")
	flags.StringVar(&v.table, "table", "", "in PostgreSQL")
	flags.StringVar(&v.ca, "etcd-ca", "", "file")
	flags.StringVar(&v.cert, "etcd-cert", "", "file")
	flags.StringVar(&v.key, "etcd-key", "", "file")
}

func isService(flag string) bool {
	return slices.Contains([]string{"redis", "redis-sentinel", "redis-cluster", "etcd", "postgres"}, flag)
}

func (v *service) all() []*string {
	return []*string{&v.redis, &v.sentinel, &v.shards, &v.etcd, &v.postgres}
}

// chosen is how many there are.
func (v *service) chosen() (n int) {
	for _, s := range v.all() {
		if *s != "" {
			n++
		}
	}
	return n
}

// password matches what looks like one: behind a colon before an @, or by its name.
var password = regexp.MustCompile(`(?i)://[^@]*:.*@|password\s*=`)

// exposed refuses passwords, where the command line alone has been read.
func (v *service) exposed() error {
	for _, s := range v.all() {
		if !strings.HasPrefix(*s, "@") && password.MatchString(*s) {
			return misuse("a password on the command line is seen by other users of this machine and kept by the shell; " +
				"put the whole URL into the environment (GONE_REDIS, GONE_ETCD, GONE_POSTGRES …), or into a file and give @FILE")
		}
	}
	return nil
}

// A lockService is one that can be asked.
type lockService struct {
	locks gone.LockFactory
	host  string // host:port of a server; "" where there is none
	close func()
}

// open makes the client. It asks nothing yet, but for etcd with a password.
func (v *service) open(ctx context.Context) (*lockService, error) {
	switch n := v.chosen(); {
	case n == 0:
		return nil, misuse("which lock service? Give one of -redis, -redis-sentinel, -redis-cluster, -etcd, -postgres, or set GONE_REDIS …")
	case n > 1:
		return nil, misuse("more than one lock service is given")
	}
	for _, s := range v.all() {
		if file, ok := strings.CutPrefix(*s, "@"); ok {
			var err error
			if *s, err = line(file); err != nil {
				return nil, misused(err)
			}
		}
	}
	switch {
	case v.etcd != "":
		return v.openEtcd(ctx)
	case v.postgres != "":
		return v.openPostgres(ctx)
	case v.redis != "":
		return &lockService{gone.RedisLocks(v.redis, v.configure), hostOf(v.redis, "6379"), func() {}}, nil
	}
	return v.openGoRedis()
}

func (v *service) configure(l *gone.RedisLock) { l.Prefix = v.prefix }

func (v *service) openGoRedis() (*lockService, error) {
	const life = 10 * time.Second
	redis.SetLogger(silence{}) // what matters is in errors
	var client redis.UniversalClient
	var where string
	if v.sentinel != "" {
		o, err := redis.ParseFailoverURL(v.sentinel)
		if err != nil || o.MasterName == "" { // the error may show a password
			return nil, misuse("-redis-sentinel: want redis://host:26379?master_name=NAME")
		}
		o.ConnMaxLifetime, where = life, o.SentinelAddrs[0]
		client = redis.NewFailoverClient(o)
	} else {
		o, err := redis.ParseClusterURL(v.shards)
		if err != nil {
			return nil, misuse("-redis-cluster: want redis://host:6379?addr=host:port")
		}
		o.ConnMaxLifetime, where = life, o.Addrs[0]
		client = redis.NewClusterClient(o)
	}
	return &lockService{goredislock.New(client, v.configure), where, func() { _ = client.Close() }}, nil
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

func (v *service) openEtcd(ctx context.Context) (*lockService, error) {
	config := clientv3.Config{
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
		Logger: zap.NewNop(),
	}
	for _, endpoint := range strings.Split(v.etcd, ",") {
		if u, err := url.Parse(endpoint); strings.Contains(endpoint, "://") {
			if err != nil {
				return nil, misuse("-etcd: an endpoint can't be understood")
			}
			if u.User != nil {
				config.Username = u.User.Username()
				config.Password, _ = u.User.Password()
				u.User = nil
			}
			endpoint = u.String()
		}
		config.Endpoints = append(config.Endpoints, endpoint)
	}
	var err error
	if config.TLS, err = v.certificates(); err != nil {
		return nil, misused(err)
	}
	if until, ok := ctx.Deadline(); ok {
		config.DialTimeout = time.Until(until)
	}
	where := hostOf(config.Endpoints[0], "2379")
	client, err := clientv3.New(config)
	if err != nil {
		return nil, &serviceError{where, err}
	}
	locks := etcdlock.New(client, func(l *etcdlock.Lock) { l.Prefix = v.prefix })
	return &lockService{locks, where, func() { _ = client.Close() }}, nil
}

// certificates are nil where there are none, and then those of the system count.
func (v *service) certificates() (*tls.Config, error) {
	if v.ca == "" && v.cert == "" && v.key == "" {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if v.ca != "" {
		pem, err := os.ReadFile(v.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-etcd-ca: %s has no certificate", v.ca)
		}
	}
	if v.cert != "" || v.key != "" {
		pair, err := tls.LoadX509KeyPair(v.cert, v.key)
		if err != nil {
			return nil, fmt.Errorf("-etcd-cert, -etcd-key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (v *service) openPostgres(ctx context.Context) (*lockService, error) {
	config, err := pgxpool.ParseConfig(v.postgres)
	if err != nil {
		return nil, misuse("-postgres: %w", err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, misuse("-postgres: %w", err)
	}
	where := net.JoinHostPort(config.ConnConfig.Host, fmt.Sprint(config.ConnConfig.Port))
	if strings.HasPrefix(config.ConnConfig.Host, "/") {
		where = ""
	}
	locks := pglock.New(pool, func(l *pglock.Lock) { l.Schema, l.Table = v.schema, v.table })
	return &lockService{locks, where, pool.Close}, nil
}

// hostOf is the host and port of a URL, or of what has no scheme.
func hostOf(s, port string) string {
	if !strings.Contains(s, "://") {
		s = "any://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// A serviceError is what a lock service has said, or that it has not.
type serviceError struct {
	host string
	why  error
}

func (e *serviceError) Error() string {
	at := ""
	if e.host != "" {
		at = " at " + e.host
	}
	if e.why == context.DeadlineExceeded {
		return fmt.Sprintf("the lock service%s does not answer in time", at)
	}
	return fmt.Sprintf("the lock service%s: %s", at, strings.TrimPrefix(e.why.Error(), "gone: "))
}

func (e *serviceError) Unwrap() []error { return []error{gone.ErrLockService, e.why} }
