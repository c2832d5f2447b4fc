package gone_test

import (
	"context"
	"flag"
	"net"
	"os"
	"sync/atomic"
	"testing"

	gone "github.com/Diggs/go-one"
)

// exampleRedis is the server of the examples, which have no testing.T.
var exampleRedis net.Addr

func newExampleLock(id, value string) (gone.GoneLock, error) {
	return gone.NewRedisLock(exampleRedis, id, value)
}

func TestMain(m *testing.M) {
	if sock := os.Getenv(crashingSocket); sock != "" {
		crashing(sock)
	}
	if sock := os.Getenv(fewFiles); sock != "" {
		runOutOfFiles(sock)
	}
	flag.Parse()
	os.Exit(runTests(m))
}

// nameServer is how name servers are reached; nil: as ever. The resolver itself is
// not changed while nodes may use it.
var nameServer atomic.Pointer[func(ctx context.Context, network, addr string) (net.Conn, error)]

func runTests(m *testing.M) int {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dial := nameServer.Load(); dial != nil {
			return (*dial)(ctx, network, addr)
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	var t exampleT
	defer t.cleanup()
	exampleRedis = startRedis(&t).addr
	return m.Run()
}

// exampleT is as much of a testing.TB as startRedis needs.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func (t *exampleT) Helper()          {}
func (t *exampleT) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }

func (t *exampleT) Fatal(args ...any) { panic(args) }

func (t *exampleT) Fatalf(format string, args ...any) { panic(append([]any{format}, args...)) }

func (t *exampleT) cleanup() {
	for _, f := range t.cleanups {
		f()
	}
}
