package gone_test

import (
	"flag"
	"net"
	"os"
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

func runTests(m *testing.M) int {
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
