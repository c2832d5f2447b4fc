package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	zmq4 "github.com/pebbe/zmq4"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
	"github.com/Diggs/go-one/goredislock"
	"github.com/Diggs/go-one/internal/freeport"
	"github.com/Diggs/go-one/pglock"
)

func TestAServiceThatDoesNotAnswerIsToldInTime(t *testing.T) {
	t.Parallel()
	nobody, mute := freeport.Addr(), silent(t)
	for _, at := range []string{nobody, mute} {
		for _, which := range [][]string{
			{"-redis", "redis://" + at},
			{"-redis-sentinel", "redis://" + at + "?master_name=x"},
			{"-redis-cluster", "redis://" + at},
			{"-etcd", at},
			{"-postgres", "postgres://" + at + "/x?sslmode=disable"},
		} {
			t.Run(which[0][1:]+map[bool]string{true: " is not there", false: " is silent"}[at == nobody], func(t *testing.T) {
				t.Parallel()
				words := "the lock service at " + at
				if at == mute { // so it was not a limit of the client's own
					words += " does not answer in time"
				}
				for _, args := range [][]string{{"nodes"}, {"send", "id", "x"}} {
					c := call{args: append(append([]string{"-timeout", "1s"}, which...), args...)}
					// Beside other load, a process waits for its turn.
					if r := c.ends(t, exitUnreachable, words); r.took > 20*time.Second {
						t.Errorf("%q took %v", c.args, r.took)
					}
				}
			})
		}
	}
}

func TestItsAddressIsTheOneThatLeadsToTheNodes(t *testing.T) {
	t.Parallel()
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	want := map[string]string{"127.0.0.1:1": "127.0.0.1", "[::1]:1": "127.0.0.1", "": "127.0.0.1", "no such name:1": "127.0.0.1"}
	for _, a := range addrs {
		if ip := a.(*net.IPNet).IP; ip.IsGlobalUnicast() {
			want[net.JoinHostPort(ip.String(), "1")] = ip.String()
		}
	}
	for server, ip := range want {
		if got := towards(t.Context(), []string{"127.0.0.1:1", server}); got != ip {
			t.Errorf("%s is reached from %s, not %s", server, ip, got)
		}
	}
}

func TestAPasswordOnTheCommandLineIsRefused(t *testing.T) {
	t.Parallel()
	const secret = "p4ssw0rd"
	for _, which := range [][]string{
		{"-redis", "redis://:" + secret + "@h"},
		{"-redis", "unix://u:" + secret + "@/path"},
		{"-redis-sentinel", "redis://h?master_name=x&sentinel_password=" + secret},
		{"-redis-cluster", "redis://u:" + secret + "@h"},
		{"-etcd", "http://u:" + secret + "@h:2379"},
		{"-postgres", "host=h password=" + secret},
		{"-postgres", "postgres://u:" + secret + "@h/x"},
	} {
		r := call{args: append(which, "nodes")}.ends(t, exitMisused, "GONE_REDIS")
		if strings.Contains(r.err, secret) {
			t.Errorf("it is shown: %s", r.err)
		}
	}
}

func TestAPasswordComesFromTheEnvironmentOrAFile(t *testing.T) {
	t.Parallel()
	const secret = "p4ssw0rd"
	at := startRedis(t, "--requirepass", secret)
	url := "redis://default:" + secret + "@" + at
	w := &world{t: t, locks: gone.RedisLocks(url), env: []string{"GONE_REDIS=" + url}}
	a := w.node()
	w.hold(a, "id", echo)
	w.call("holder", "id").ends(t, 0, a.Addr())
	w.env = nil
	w.call("holder", "id", "-redis", "@"+file(t, url+"\n")).ends(t, 0, a.Addr())
	w.env = []string{"GONE_REDIS=@" + file(t, url), "GONE_O=json"}
	w.call("holder", "id").ends(t, 0, a.Addr(), `"token"`)
	// What the command line says counts.
	w.call("holder", "id", "-etcd", freeport.Addr(), "-timeout", "1s").ends(t, exitUnreachable)
	for _, wrong := range []string{"redis://default:wr0ng@" + at, "redis://" + at} {
		w.env = []string{"GONE_REDIS=" + wrong}
		if r := w.call("holder", "id").ends(t, exitUnreachable); strings.Contains(r.err, "wr0ng") {
			t.Errorf("a password is shown: %s", r.err)
		}
	}
}

func TestWhoHasAWrongKeyIsRefused(t *testing.T) {
	t.Parallel()
	public, secret, err := zmq4.NewCurveKeypair()
	must(t, err)
	public2, secret2, err := zmq4.NewCurveKeypair()
	must(t, err)
	w := sharedWorld(t)
	w.opts = append(w.opts, gone.WithCurve(public, secret))
	a := w.node()
	w.hold(a, "id", echo)
	keys, strange := file(t, public+"\n"+secret+"\n"), file(t, public2+" "+secret2)
	if r := w.gone(0, "request", "id", "x", "-keys", keys); r.out != "x" {
		t.Error(r.out)
	}
	w.gone(0, "ids", "-keys", keys)
	w.gone(0, "drain", a.Addr(), "-keys", keys)
	w.gone(0, "resume", a.Addr(), "-keys", keys)
	c := w.call("request", "id", "x")
	c.env = []string{"GONE_PUBLIC_KEY=" + public, "GONE_SECRET_KEY=" + secret}
	c.ends(t, 0)
	eventually(t, "it is held", func() bool { return w.call("holder", "id").run(t).code == 0 })
	for what, with := range map[string][]string{
		"none": nil, "not allowed here": {"-keys", strange}, "not allowed there": {"-keys", strange, "-allowed", file(t, public)},
	} {
		for _, args := range [][]string{{"send", "id", "x"}, {"ids"}, {"check"}, {"drain", a.Addr()}} {
			r := w.call(append(args, with...)...).ends(t, exitRefused, "refused")
			if r.took > 20*time.Second || strings.Contains(r.err+r.out, secret2) {
				t.Errorf("%s: %+v", what, r)
			}
		}
	}
	w.gone(exitMisused, "ids", "-keys", file(t, "no key"))
	w.gone(exitMisused, "ids", "-keys", file(t, public))
	w.gone(exitMisused, "ids", "-allowed", file(t, public))
	if a.Stats().Held != 1 {
		t.Error("who is refused has drained it")
	}
}

// holds checks what depends on the lock service.
func (w *world) holds() {
	w.t.Helper()
	a, b := w.node(), w.node()
	w.hold(a, "id", echo)
	_, err := b.RunOne("id", echo)
	must(w.t, err)
	eventually(w.t, "both are listed", func() bool {
		r := w.gone(0, "nodes")
		return strings.Contains(r.out, a.Addr()) && strings.Contains(r.out, b.Addr())
	})
	w.call("holder", "id").ends(w.t, 0, a.Addr())
	w.gone(exitNobody, "holder", "other")
	w.call("ids").ends(w.t, 0, a.Addr())
	w.call("request", "id", "hello").ends(w.t, 0, "hello")
	w.gone(0, "move", "id", b.Addr())
	eventually(w.t, "it has moved", func() bool { return strings.Contains(w.call("holder", "id").run(w.t).out, b.Addr()) })
	w.gone(0, "check")
	w.gone(0, "bench", "-for", "200ms")
}

func TestItWorksWithEtcd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at, peer := freeport.Addr(), freeport.Addr()
	cmd := exec.Command("etcd", "--data-dir", dir, "--logger", "zap", "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", "http://"+at, "--advertise-client-urls", "http://"+at,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "default=http://"+peer)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	must(t, listens(at))
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{at}, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	eventually(t, "etcd answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err == nil
	})
	w := &world{
		t: t, locks: etcdlock.New(client, func(l *etcdlock.Lock) { l.Prefix = "own/" }),
		which: []string{"-etcd", at, "-prefix", "own/"}, opts: []gone.Option{gone.WithControl()},
	}
	w.holds()
	w.call("holder", "id", "-etcd", "http://"+at).ends(t, 0)

	// With a user, whose password is not on the command line.
	_, err = client.UserAdd(t.Context(), "root", "p4ss")
	must(t, err)
	_, err = client.RoleAdd(t.Context(), "root")
	must(t, err)
	_, err = client.UserGrantRole(t.Context(), "root", "root")
	must(t, err)
	_, err = client.AuthEnable(t.Context())
	must(t, err)
	c := call{args: []string{"nodes", "-prefix", "own/"}, env: []string{"GONE_ETCD=http://root:p4ss@" + at}}
	c.ends(t, 0)
	c.env = []string{"GONE_ETCD=http://root:wr0ng@" + at}
	if r := c.ends(t, exitUnreachable); strings.Contains(r.err, "wr0ng") {
		t.Error(r.err)
	}
}

func TestItWorksWithPostgreSQL(t *testing.T) {
	t.Parallel()
	dsn := startPostgres(t)
	pool, err := pgxpool.New(t.Context(), dsn)
	must(t, err)
	t.Cleanup(pool.Close)
	in := func(l *pglock.Lock) { l.Schema, l.Table = "mine", "locks" }
	w := &world{
		t: t, locks: pglock.New(pool, in), opts: []gone.Option{gone.WithControl()},
		which: []string{"-postgres", dsn, "-schema", "mine", "-table", "locks"},
	}
	w.gone(exitUnreachable, "nodes") // there is no table
	must(t, pglock.Migrate(t.Context(), pool, in))
	w.holds()
}

// startPostgres starts a real server on a Unix socket, and returns its DSN.
func startPostgres(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // short, for the socket
	must(t, err)
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // whose PostgreSQL refuses to be
		u, err := user.Lookup("nobody")
		must(t, err)
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		must(t, os.Chown(dir, uid, gid))
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	tool := func(name string, args ...string) *exec.Cmd {
		path, err := exec.LookPath(name)
		if err != nil {
			paths, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // Debian keeps them off the PATH
			path = append(paths, name)[max(len(paths)-1, 0)]
		}
		cmd := exec.Command(path, args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		return cmd
	}
	data := filepath.Join(dir, "data")
	if out, err := tool("initdb", "--pgdata="+data, "--username=gone", "--auth=trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb is needed (make test installs it): %v: %s", err, out)
	}
	server := tool("postgres", "-D", data, "-k", dir, "-h", "", "-c", "fsync=off")
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGQUIT)
		_ = server.Wait()
		_ = os.RemoveAll(dir)
	})
	dsn := "host=" + dir + " user=gone dbname=postgres"
	eventually(t, "PostgreSQL answers", func() bool {
		pool, err := pgxpool.New(t.Context(), dsn)
		must(t, err)
		defer pool.Close()
		return pool.Ping(t.Context()) == nil
	})
	return dsn
}

func TestItWorksWithSentinel(t *testing.T) {
	t.Parallel()
	at := startRedis(t)
	host, port, _ := net.SplitHostPort(at)
	startRedis(t, "--replicaof", host, port)
	watcher := startSentinel(t, at)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: "mine", SentinelAddrs: []string{watcher}})
	t.Cleanup(func() { _ = client.Close() })
	w := &world{
		t: t, locks: goredislock.New(client), opts: []gone.Option{gone.WithControl()},
		which: []string{"-redis-sentinel", "redis://" + watcher + "?master_name=mine"},
	}
	eventually(t, "the replica is in step", func() bool {
		n, err := client.Do(t.Context(), "WAIT", 1, 100).Int()
		return err == nil && n == 1
	})
	w.holds()
}

func startSentinel(t *testing.T, master string) string {
	t.Helper()
	host, port, _ := net.SplitHostPort(master)
	at := freeport.Addr()
	_, own, _ := net.SplitHostPort(at)
	config := file(t, fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor mine %s %s 1\n", own, t.TempDir(), host, port))
	cmd := exec.Command("redis-server", config, "--sentinel")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	must(t, listens(at))
	return at
}

func TestItWorksWithRedisCluster(t *testing.T) {
	t.Parallel()
	at := startRedis(t, "--cluster-enabled", "yes")
	one := redis.NewClient(&redis.Options{Addr: at})
	defer one.Close()
	must(t, one.ClusterAddSlotsRange(t.Context(), 0, 16383).Err())
	eventually(t, "the cluster is", func() bool {
		info, err := one.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{at}})
	t.Cleanup(func() { _ = client.Close() })
	w := &world{
		t: t, opts: []gone.Option{gone.WithControl()}, which: []string{"-redis-cluster", "redis://" + at},
		locks: goredislock.New(client, func(l *goredislock.Lock) { l.Replicas = 0 }), // it has none
	}
	a := w.node()
	w.hold(a, "id", echo)
	w.call("holder", "id").ends(t, 0, a.Addr())
	w.call("nodes").ends(t, 0, a.Addr())
	w.call("request", "id", "hello").ends(t, 0, "hello")
}

func TestShellsCompleteCommandsNodesAndIDs(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a := w.node()
	w.hold(a, "first:id", echo)
	dir := installed(t)
	env := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir,
		"GONE_REDIS="+w.which[1], "GONE_PREFIX="+w.which[3], "GONE_TIMEOUT=20s")
	for shell, script := range map[string]string{
		"bash": `source <(gone completion bash); COMP_LINE=$LINE COMP_POINT=${#LINE}; _gone; printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh": `compdef() { :; }; compadd() { print -l -- "${(@P)2}"; }; _files() { print files; }
			source <(gone completion zsh); words=("${(@s: :)LINE}"); CURRENT=${#words}; _gone`,
		"fish": `gone completion fish | source; complete -C "$LINE"`,
	} {
		var all sync.WaitGroup
		for line, want := range map[string]string{
			"gone ho": "holder", "gone -o j": "json", "gone -o json hol": "holder", "gone drain tcp://1": a.Addr(), "gone nodes -ti": "-timeout",
			"gone holder fir": "first:id", "gone move first:id tc": a.Addr(), "gone completion z": "zsh",
		} {
			all.Go(func() {
				cmd := exec.CommandContext(t.Context(), shell, "-c", script)
				cmd.Env = append(slices.Clone(env), "LINE="+line)
				out, err := cmd.CombinedOutput()
				got := strings.TrimSpace(string(out))
				if shell == "bash" { // it has what stands before a colon already
					word := line[strings.LastIndex(line, " ")+1:]
					want = strings.TrimPrefix(want, word[:strings.LastIndex(word, ":")+1])
				}
				if err != nil || got != want {
					t.Errorf("%s: %q is completed by %q, %v, want %q", shell, line, got, err, want)
				}
			})
		}
		all.Wait()
	}
}

func TestItIsInstalledFromItsDirectory(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(filepath.Join(installed(t), "gone"), "help").Output()
	if err != nil || !strings.Contains(string(out), "gone nodes") {
		t.Errorf("%v: %s", err, out)
	}
}

// installed is where go install has put the command.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "install", "-buildvcs=false", ".")
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}
