package docs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/glogger"
	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/goredislock"
	"github.com/Diggs/go-one/locktest"
	"github.com/Diggs/go-one/pglock"
	redigo "github.com/gomodule/redigo/redis"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What fragments on the pages take as given.
var (
	ctx          = context.Background()
	addr         string // "tcp://host:port"
	id           = "id"
	data         []byte
	msgs         [][]byte
	devices      []string
	public       string
	secret       string
	err          error
	newLock      gone.LockFactory
	g            *gone.Gone
	r            *gone.GoneRunner
	client       redis.UniversalClient
	pool         *pgxpool.Pool
	logger       *slog.Logger
	mux          *http.ServeMux
	handler      = func(*gone.GoneRunner) {}
	store, serve func(...any) error

	// No page uses all that is here.
	_ = []any{ctx, addr, id, data, msgs, devices, public, secret, err, newLock, g, r, client, pool, logger, mux, handler, store, serve, mylock}
	_ = []any{errors.Is, fmt.Sprint, log.Print, net.Dial, os.Exit, testing.Short, synctest.Wait, time.Second}
	_ = []any{etcdlock.New, glogger.New, gonetest.Runner, goredislock.New, locktest.Run, pglock.New}
	_ = []any{gonehttp.New, http.Get, redigo.Dial, clientv3.New}
)

// mylock is a package that a reader has yet to write.
var mylock struct {
	New func(addr string, ttl time.Duration) gone.LockFactory
}
