package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/Diggs/go-one/gonehttp"
)

// The test binary is also the program under test: the cluster starts its nodes
// from it, and one test kills it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "node":
			main()
			os.Exit(0)
		case "supervisor":
			os.Exit(superviseUntilKilled(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

func TestTheStoryHoldsWithARealRedis(t *testing.T) {
	t.Parallel()
	playStory(t, lockService{redis: startRedis(t)})
}

func TestTheStoryHoldsWithTheEmbeddedRedis(t *testing.T) {
	t.Parallel()
	playStory(t, lockService{})
}

func playStory(t *testing.T, service lockService) {
	d := startTestDemo(t, service)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := d.play(ctx, 1); err != nil {
		t.Error(err)
	}
}

func TestEveryNodeServesThePageOfTheCluster(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, lockService{})
	if err := d.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range d.cluster.views() {
		resp, err := http.Get("http://" + n.http + "/gone/?format=json")
		if err != nil {
			t.Fatal(err)
		}
		var v gonehttp.View
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&v), resp.Body.Close())
		if err != nil || len(v.Nodes) != 3 || len(v.IDs.Rows) != 1 || v.IDs.Rows[0].ID != firm {
			t.Errorf("%s: %v, %+v", n.name, err, v)
		}
	}
}

func TestWhatAPersonTypesIsDone(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, lockService{redis: startRedis(t)})
	for _, command := range []string{"kill", "start", "freeze", "", "thaw", "stop", "start", "cut"} {
		if err := d.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.do(t.Context(), command, ""); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if err := d.do(t.Context(), "bless", ""); err == nil {
		t.Error("an unknown command is no error")
	}
}

func TestAnotherNodeTakesOverOnWhateverService(t *testing.T) {
	for name, service := range map[string]func(*testing.T) lockService{
		"etcd":       func(t *testing.T) lockService { return lockService{etcd: startEtcd(t)} },
		"PostgreSQL": func(t *testing.T) lockService { return lockService{postgres: startPostgres(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startTestDemo(t, service(t))
			for _, command := range []string{"kill", "start", "stop", "start"} {
				if err := d.settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := d.do(t.Context(), command, ""); err != nil {
					t.Errorf("%s: %v", command, err)
				}
			}
		})
	}
}

func TestNodesDieWithTheirSupervisorEvenWhenFrozen(t *testing.T) {
	t.Parallel()
	supervisor := exec.Command(os.Args[0], "supervisor", startRedis(t))
	supervisor.Stderr = os.Stderr
	out, err := supervisor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); len(pids) < 2 && lines.Scan(); {
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
	if len(pids) != 2 {
		t.Fatalf("the supervisor started %d nodes, want 2", len(pids))
	}
	for _, pid := range pids {
		err := until(t.Context(), fmt.Sprintf("node %d is dead", pid), func() bool {
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// superviseUntilKilled starts nodes, freezes one, and tells their pids.
func superviseUntilKilled(redis string) int {
	logs, err := os.MkdirTemp("", "gone-exchange-test-")
	if err != nil {
		return 1
	}
	defer os.RemoveAll(logs)
	c := newCluster(2, logs, "-redis", redis)
	for _, n := range c.views() {
		if err := c.start(n.name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := c.freeze("web2"); err != nil {
		return 1
	}
	_ = os.RemoveAll(logs)
	for _, n := range c.nodes {
		fmt.Println("pid", n.cmd.Process.Pid)
	}
	select {}
}

// startTestDemo starts the demo. It ends with the test, and is judged then; the
// nodes' logs are shown when the test has failed.
func startTestDemo(t *testing.T, service lockService) *demo {
	t.Helper()
	logs := t.TempDir()
	d, err := startDemo(config{lockService: service, nodes: 3, clients: 6, logs: logs, tell: t.Logf})
	if err != nil {
		showLogs(t, logs)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.close(), d.judge()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			showLogs(t, logs)
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

// startRedis starts a redis-server on a socket of its own.
func startRedis(t *testing.T) (url string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gone") // short: a socket's path has its limits
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "redis")
	server := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no")
	if err := server.Start(); err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	err = until(t.Context(), "redis-server answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return "unix://" + socket
}
