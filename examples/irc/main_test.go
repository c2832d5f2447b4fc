package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/internal/freeport"
)

// The test binary is also the program under test: the cluster starts its nodes
// from it, and one test kills it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "node":
			os.Exit(runNode(os.Args[2:]))
		case "supervisor":
			os.Exit(superviseUntilKilled(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

func TestTheStoryHoldsWithARealRedisAndARealIRCServer(t *testing.T) {
	playStory(t, config{lockService: lockService{redis: startRedisServer(t)}, irc: startNgircd(t)})
}

func TestTheStoryHoldsWithTheEmbeddedServers(t *testing.T) {
	playStory(t, config{})
}

func TestAnotherNodeTakesOverWithTheLockInEtcd(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, config{webs: 2, lockService: lockService{etcd: startEtcd(t)}})
	for _, text := range []string{"before", "after"} {
		if _, _, err := d.say(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		holder, ok := d.cluster.holder()
		if !ok {
			t.Fatal("nobody has the bot")
		}
		if err := d.cluster.kill(holder.name); err != nil {
			t.Fatal(err)
		}
		if err := d.cluster.start(holder.name); err != nil {
			t.Fatal(err)
		}
	}
	if holder, _ := d.lock(); holder != "" {
		t.Errorf("Redis has a lock, of %s", holder)
	}
}

func TestAPostRepeatedUnderItsKeyIsSaidOnce(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, config{webs: 2})
	ctx := t.Context()
	tag, _, err := d.say(ctx, "once")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := postOnce(ctx, testClient, d.lb.URL(), tag, "once"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := d.say(ctx, "after it"); err != nil { // when this is heard, so would be the others
		t.Fatal(err)
	}
	if err := until(ctx, patience, "all is said", d.room.everythingSaid); err != nil {
		t.Fatal(err)
	}
	if got := d.room.tally(); got.said != 2 {
		t.Errorf("%d lines were said, want 2", got.said)
	}
	if err := d.room.verdict(); err != nil {
		t.Error(err)
	}
}

func TestEveryWebNodeServesThePageOfTheCluster(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, config{webs: 2})
	if _, _, err := d.say(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	for _, n := range d.cluster.snapshot() {
		if n.role != "web" {
			continue
		}
		resp, err := testClient.Get("http://" + n.http + "/gone/?format=json")
		if err != nil {
			t.Fatal(err)
		}
		var v gonehttp.View
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&v), resp.Body.Close())
		if err != nil || len(v.IDs.Rows) != 1 || v.IDs.Rows[0].ID != d.id || len(v.Troubles) > 0 {
			t.Errorf("%s: %v, %+v", n.name, err, v)
		}
	}
}

func TestTheJudgeKnowsThePostsOfStrangers(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, config{webs: 2})
	resp, err := testClient.Post(d.lb.URL()+"/say", "text/plain", strings.NewReader("posted with curl"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := d.room.tally(); resp.StatusCode != 200 || got.posted != 1 || got.confirmed != 1 {
		t.Errorf("status %d, tally %+v", resp.StatusCode, got)
	}
	if err := until(t.Context(), patience, "it is said", d.room.everythingSaid); err != nil {
		t.Error(err)
	}
	if err := d.room.verdict(); err != nil {
		t.Error(err)
	}
}

func TestAPostCannotInjectIRCCommands(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, config{webs: 2})
	if _, _, err := d.say(t.Context(), "hello\r\nQUIT :gotcha\r\nPRIVMSG #gone :and \x01more"); err != nil {
		t.Fatal(err)
	}
	if err := until(t.Context(), patience, "it is said", d.room.everythingSaid); err != nil {
		t.Fatal(err)
	}
	if got := d.room.tally().joins; got != 1 {
		t.Errorf("a bot joined %d times, want 1", got)
	}
	if err := d.room.verdict(); err != nil {
		t.Error(err)
	}
}

func TestNodesDieWithTheirSupervisorEvenWhenFrozen(t *testing.T) {
	t.Parallel()
	redis, err := startRedis()
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	irc, err := startIRCd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer irc.Close()
	supervisor := exec.Command(os.Args[0], "supervisor", redis.Addr(), irc.Addr())
	supervisor.Stderr = os.Stderr
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := startChild(supervisor); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) < 3 && lines.Scan(); {
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "pid %d", &pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if err := supervisor.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = supervisor.Wait()
	if len(pids) != 3 {
		t.Fatalf("the supervisor started %d nodes, want 3", len(pids))
	}
	for _, pid := range pids {
		err := until(t.Context(), patience, fmt.Sprintf("node %d is dead", pid), func() bool {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// superviseUntilKilled starts nodes, freezes one, and tells their pids.
func superviseUntilKilled(redis, irc string) int {
	logs, err := os.MkdirTemp("", "gone-irc-test-")
	if err != nil {
		return 1
	}
	defer os.RemoveAll(logs)
	c := newCluster(2, 1, logs, func(string, string) {}, "-redis", redis, "-irc", irc)
	for _, n := range c.snapshot() {
		if err := c.start(n.name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := c.freeze("web2"); err != nil {
		return 1
	}
	_ = os.RemoveAll(logs)
	for _, n := range c.snapshot() {
		fmt.Println("pid", n.cmd.Process.Pid)
	}
	select {}
}

func playStory(t *testing.T, cfg config) {
	t.Parallel()
	cfg.webs, cfg.workers = 3, 2
	d := startTestDemo(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := &story{demo: d, tell: t.Logf}
	if err := errors.Join(s.run(ctx), d.close(), d.room.verdict()); err != nil {
		t.Error(err)
	}
	t.Log(s.summary())
}

// startTestDemo starts the demo and ends it with the test; the nodes' logs are
// shown when the test has failed.
func startTestDemo(t *testing.T, cfg config) *demo {
	t.Helper()
	cfg.room, cfg.http, cfg.logs = "#gone", "127.0.0.1:0", t.TempDir()
	cfg.onLine = func(line string) { t.Log("   ", line) }
	d, err := startDemo(t.Context(), cfg)
	if err != nil {
		showLogs(t, cfg.logs)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			showLogs(t, cfg.logs)
		}
	})
	return d
}

func showLogs(t *testing.T, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, file := range files {
		log, _ := os.ReadFile(file)
		t.Logf("%s:\n%s", filepath.Base(file), log)
	}
}

func startRedisServer(t *testing.T) string {
	return startServer(t, "redis-server", func(dir, port string) []string {
		return []string{"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no"}
	})
}

// startNgircd leaves ngircd's limits as Debian ships them: floods, nicks of
// nine characters, five connections from one address.
func startNgircd(t *testing.T) string {
	return startServer(t, "ngircd", func(dir, port string) []string {
		conf := filepath.Join(dir, "ngircd.conf")
		err := os.WriteFile(conf, []byte(strings.Join([]string{
			"[Global]", "Name = irc.test.local", "Info = test", "Listen = 127.0.0.1", "Ports = " + port,
			"ServerUID = 65534", "ServerGID = 65534", // used when started by root
			"[Options]", "DNS = no", "Ident = no", "PAM = no", "",
		}, "\n")), 0o644)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"-n", "-f", conf}
	})
}

// startServer starts a server on a free port and returns its address once it
// accepts connections. Between our finding the port and its binding it another
// may take it, so it has three attempts.
func startServer(t *testing.T, name string, args func(dir, port string) []string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	var output bytes.Buffer
	for range 3 {
		addr := freeport.Addr()
		_, port, _ := net.SplitHostPort(addr)
		server := exec.Command(path, args(t.TempDir(), port)...)
		server.Stdout, server.Stderr = &output, &output
		if err := startChild(server); err != nil {
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() { _ = server.Wait(); close(exited) }()
		stop := func() { _ = server.Process.Kill(); <-exited }
		err := until(t.Context(), patience, name+" answers", func() bool {
			select {
			case <-exited:
				return true
			default:
			}
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		})
		if err != nil {
			stop()
			t.Fatalf("%v\n%s", err, output.String())
		}
		select {
		case <-exited:
			continue
		default:
		}
		t.Cleanup(stop)
		return addr
	}
	t.Fatalf("%s does not start:\n%s", name, output.String())
	return ""
}

// startEtcd starts an etcd of one member.
func startEtcd(t *testing.T) (url string) {
	return "http://" + startServer(t, "etcd", func(dir, port string) []string {
		client, peer := "http://127.0.0.1:"+port, "http://"+freeport.Addr()
		return []string{
			"--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		}
	})
}
