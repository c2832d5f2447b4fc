// Package redistest starts a redis-server for a test.
package redistest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Start starts a redis-server of the test's own, and returns its URL.
func Start(t testing.TB) (url string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "redis.sock")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatalf("redis-server is needed (make test installs it): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", sock); err == nil {
			_ = c.Close()
			return "unix://" + sock
		}
		if time.Now().After(end) {
			t.Fatal("redis-server does not answer")
		}
	}
}
