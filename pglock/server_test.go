package pglock_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/pglock"
)

// A server is a real PostgreSQL, on a Unix socket in a directory of its own.
type server struct {
	dir  string
	args []string
	life *process
}

// base is the directory of all servers, and the user that they run as.
var base struct {
	dir string
	uid int // PostgreSQL refuses to be root's; 0 when the tests are not
	gid int
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gone") // short, for sockets
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	base.dir = dir
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		if err != nil {
			panic(err)
		}
		base.uid, _ = strconv.Atoi(u.Uid)
		base.gid, _ = strconv.Atoi(u.Gid)
		if err := os.Chown(dir, base.uid, base.gid); err != nil {
			panic(err)
		}
	}
	defer func() {
		if shared.server != nil {
			shared.server.stop("QUIT")
		}
	}()
	return m.Run()
}

// shared is the server of all tests that do it no harm.
var shared struct {
	once   sync.Once
	server *server
}

func sharedServer(t testing.TB) *server {
	shared.once.Do(func() { shared.server = newServer(t); shared.server.start(t) })
	if shared.server == nil || shared.server.life == nil {
		t.Fatal("the server did not start")
	}
	return shared.server
}

// startServer starts a server of a test's own.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := newServer(t, args...)
	t.Cleanup(func() { s.stop("QUIT") })
	s.start(t)
	return s
}

// template is a database directory as initdb makes it, which takes a second or two.
var template = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(base.dir, "template")
	return dir, tool("initdb", "--pgdata="+dir, "--username=gone", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
})

func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	from, err := template()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base.dir, "")
	must(t, err)
	must(t, os.Chown(dir, base.uid, base.gid))
	must(t, command("cp", "-R", from, filepath.Join(dir, "data")).Run())
	return &server{dir: dir, args: args}
}

func (s *server) start(t testing.TB) {
	t.Helper()
	s.launch(t)
	eventually(t, 30*time.Second, "the server answers", func() bool {
		_, err := s.try("SELECT 1")
		return err == nil
	})
}

// launch starts it without waiting until it answers.
func (s *server) launch(t testing.TB) {
	t.Helper()
	s.life = launch(t, filepath.Join(s.dir, "log"), append([]string{
		binary("postgres"),
		"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-h", "",
		"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_wal_senders=3", "-c", "wal_level=replica",
	}, s.args...)...)
}

// stop ends it: QUIT is a crash, INT an orderly end.
func (s *server) stop(signal string) {
	if s.life != nil {
		s.life.end(signal)
		s.life = nil
	}
}

func (s *server) url(options ...string) string {
	return strings.Join(append([]string{"host=" + s.dir, "user=gone", "dbname=postgres"}, options...), " ")
}

// try runs a statement on a connection of its own, and returns the first column of the
// first row.
func (s *server) try(sql string, args ...any) (first any, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url())
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return nil, err
		}
		first = values[0]
	}
	rows.Close()
	return first, rows.Err()
}

func (s *server) do(t testing.TB, sql string, args ...any) any {
	t.Helper()
	first, err := s.try(sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return first
}

func (s *server) pool(t testing.TB, options ...string) *pgxpool.Pool {
	return poolOf(t, s.url(options...))
}

func poolOf(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// schema makes a schema with a table for a test alone.
func (s *server) schema(t testing.TB) string {
	t.Helper()
	schema := fmt.Sprint("test ", time.Now().UnixNano())
	must(t, pglock.Migrate(t.Context(), s.pool(t), in(schema)))
	return schema
}

// in puts locks into a schema.
func in(schema string) func(*pglock.Lock) { return func(l *pglock.Lock) { l.Schema = schema } }

func expiry(ttl time.Duration) func(*pglock.Lock) { return func(l *pglock.Lock) { l.Expiry = ttl } }

// lock makes a lock that is released and closed with the test.
func lock(t testing.TB, locks gone.LockFactory, id string) *pglock.Lock {
	t.Helper()
	l, err := locks(id, "tcp://127.0.0.1:6381")
	must(t, err)
	t.Cleanup(func() {
		l.Unlock()
		_ = l.(*pglock.Lock).Close()
	})
	return l.(*pglock.Lock)
}

// A process ends with the test process, whatever ends that.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func launch(t testing.TB, log string, args ...string) *process {
	t.Helper()
	cmd := command("sh", append([]string{"-c", `"$@" & read -r signal; kill -s "${signal:-TERM}" $!; wait $!`, "sh"}, args...)...)
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	return &process{cmd, stdin}
}

func (p *process) end(signal string) {
	_, _ = io.WriteString(p.stdin, signal+"\n")
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
}

// command runs as the user of the servers.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = base.dir
	if base.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(base.uid), Gid: uint32(base.gid)}}
	}
	return cmd
}

func tool(name string, args ...string) error {
	if out, err := command(binary(name), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s (make test installs it): %w\n%s", name, err, out)
	}
	return nil
}

// binary finds a program, which Debian keeps off the PATH.
func binary(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	return append(paths, "/usr/sbin/"+name)[max(len(paths)-1, 0)]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls for a condition. A machine that is busy with others is no reason
// to fail, so it takes six times as long if need be.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	within *= 6
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
