package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// The test binary is also the program under test: the crew starts its workers from it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTheStoryHoldsWithTheEmbeddedRedis(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, "", 100)
	if err := d.play(t.Context(), t.Logf); err != nil {
		t.Error(err)
	}
}

func TestWhatAPersonTypesIsDone(t *testing.T) {
	t.Parallel()
	d := startTestDemo(t, startRedis(t), 30)
	settle := func() {
		if err := d.settle(t.Context()); err != nil {
			t.Error(err)
		}
	}
	settle()
	for _, words := range [][]string{{"drain", "w2"}, {"move", "device7", "w1"}, {"resume"}, {"add"}, {"kill", "w3"}} {
		if err := d.do(t.Context(), words); err != nil {
			t.Errorf("%v: %v", words, err)
		}
	}
	settle()
	for _, words := range [][]string{{"bless"}, {"resume"}, {"move", "device7", "w9"}, {"move", "nothing", "w1"}} {
		if err := d.do(t.Context(), words); err == nil {
			t.Errorf("%v: no error", words)
		}
	}
	if err := d.field.now().judge(float64(4*d.devices), true); err != nil {
		t.Error(err)
	}
}

// A judge that finds nothing wrong says little.
func TestTheJudgeSeesMovesAndFailures(t *testing.T) {
	for what, c := range map[string]struct {
		a     act
		crash bool
		wrong bool
	}{
		"as it should be":  {act{moves: 25}, false, false},
		"too many moves":   {act{moves: 50}, false, true},
		"a request failed": {act{failed: []error{gone.ErrNotDelivered}}, true, true},
		"unknown, planned": {act{failed: []error{gone.ErrOutcomeUnknown}}, false, true},
		"unknown, a crash": {act{failed: []error{gone.ErrOutcomeUnknown}}, true, false},
	} {
		if err := c.a.judge(25, c.crash); (err != nil) != c.wrong {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// startTestDemo starts the demo, which ends with the test.
func startTestDemo(t *testing.T, redis string, devices int) *demo {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := startDemo(redis, devices, log)
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s", text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
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
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return "unix://" + socket
		}
		if time.Since(began) > patience {
			t.Fatal("redis-server does not listen")
		}
	}
}
