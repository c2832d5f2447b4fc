package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/Diggs/go-one/internal/freeport"
)

// startEtcd starts an etcd of one member.
func startEtcd(t *testing.T) (url string) {
	t.Helper()
	client, peer := "http://"+freeport.Addr(), "http://"+freeport.Addr()
	run(t, exec.Command("etcd", "--data-dir", t.TempDir(), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer))
	return client
}

// startPostgres starts a PostgreSQL on a socket of its own. It refuses to be root's.
func startPostgres(t *testing.T) (url string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // short: a socket's path has its limits
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var attr syscall.SysProcAttr
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	command := func(name string, args ...string) *exec.Cmd {
		if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 { // off the PATH on Debian
			name = found[len(found)-1]
		}
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.SysProcAttr = dir, &attr
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := command("initdb", "--pgdata="+data, "--username=gone", "--auth=trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("%v: `make test` installs it\n%s", err, out)
	}
	run(t, command("postgres", "-D", data, "-k", dir, "-h", "", "-c", "fsync=off"))
	url = fmt.Sprintf("postgres:///postgres?host=%s&user=gone", dir)
	err = until(t.Context(), "postgres answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			_ = conn.Close(ctx)
		}
		return err == nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// run starts a server that ends with the test: SIGQUIT has PostgreSQL end its other
// processes, too.
func run(t *testing.T, server *exec.Cmd) {
	t.Helper()
	if err := server.Start(); err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	t.Cleanup(func() { _ = server.Process.Signal(syscall.SIGQUIT); _ = server.Wait() })
}
