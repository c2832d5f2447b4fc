//go:build unix

package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/locktest"
)

func TestFileLockKeepsThePromisesOfALock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "locks")
	must := func(t testing.TB, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.Mkdir(dir, 0o700))
	path := func(id string) string { return filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(id)))) }
	locktest.Run(t, locktest.Service{
		IDs:   200,
		Locks: func(ttl time.Duration) gone.LockFactory { return Locks(dir, ttl) },
		Stop: func(t testing.TB) func() { // the disk is gone
			must(t, os.Rename(dir, dir+".away"))
			return func() { must(t, os.Rename(dir+".away", dir)) }
		},
		Forget: func(t testing.TB) {
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			must(t, err)
			for _, f := range files {
				if filepath.Ext(f) == "" {
					must(t, os.Remove(f))
				}
			}
		},
		Delete: func(t testing.TB, id string) { must(t, os.Remove(path(id))) },
		Spoil: func(t testing.TB, id string) {
			must(t, os.WriteFile(path(id), []byte("what somebody else keeps here"), 0))
		},
	})
}
