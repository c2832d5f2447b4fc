package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-addr" { // started by the test below: be the program
		main()
		return
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

func TestThreeProcessesShareOneGoroutineAndHandItOver(t *testing.T) {
	redis := startRedis(t)
	processes := []*process{start(t, redis), start(t, redis), start(t, redis)}

	holder := whoSees(t, processes, "The goroutine runs here now.")
	for i, p := range processes {
		p.typeLine(t, fmt.Sprintf("line from %d", i))
		if got := whoSees(t, processes, fmt.Sprintf("Received line from %d", i)); got != holder {
			t.Errorf("line from %d went elsewhere", i)
		}
		if got := whoSees(t, processes, fmt.Sprintf("Answer: line from %d is line %d", i, i+1)); got != p {
			t.Errorf("the answer to %d went elsewhere", i)
		}
	}

	if err := holder.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := holder.cmd.Wait(); err != nil {
		t.Errorf("the holder ended with %v", err)
	}
	var rest []*process
	for _, p := range processes {
		if p != holder {
			rest = append(rest, p)
		}
	}
	successor := whoSees(t, rest, "The goroutine runs here now.")
	rest[0].typeLine(t, "after the hand-over")
	if got := whoSees(t, rest, "Received after the hand-over"); got != successor {
		t.Error("the line after the hand-over went elsewhere")
	}
	whoSees(t, rest[:1], "Answer: after the hand-over is line 1")
}

// process is one of the three; what it logs is collected.
type process struct {
	cmd   *exec.Cmd
	stdin io.Writer

	mu  sync.Mutex
	log strings.Builder
}

func start(t *testing.T, redis string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "-addr", "tcp://127.0.0.1:0", "-redis", "redis://"+redis)}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.cmd.Stderr = stdin, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("process %d:\n%s", p.cmd.Process.Pid, p.log.String())
		}
	})
	return p
}

// Write takes what the process writes to stderr.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) typeLine(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, line); err != nil {
		t.Fatal(err)
	}
}

func (p *process) logged(text string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Count(p.log.String(), text+"\n")
}

// whoSees waits until one of the processes has logged the text, and fails when more than once was logged.
func whoSees(t *testing.T, processes []*process, text string) *process {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var who *process
		times := 0
		for _, p := range processes {
			if n := p.logged(text); n > 0 {
				who, times = p, times+n
			}
		}
		if times > 1 {
			t.Fatalf("%q was logged %d times", text, times)
		}
		if who != nil {
			return who
		}
	}
	t.Fatalf("%q was not logged within %v", text, patience)
	return nil
}

// startRedis starts a redis-server on a free port. Another process may take the port between our finding it and the
// server's binding it, so it has three attempts.
func startRedis(t *testing.T) string {
	t.Helper()
	for range 3 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := listener.Addr().String()
		_ = listener.Close()
		_, port, _ := net.SplitHostPort(addr)
		server := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", t.TempDir(), "--save", "")
		if err := server.Start(); err != nil {
			t.Fatalf("%v: `make test` installs it", err)
		}
		exited := make(chan struct{})
		go func() { _ = server.Wait(); close(exited) }()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			select {
			case <-exited:
			default:
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					continue
				}
				_ = conn.Close()
				t.Cleanup(func() { _ = server.Process.Kill(); <-exited })
				return addr
			}
			break
		}
		_ = server.Process.Kill()
		<-exited
	}
	t.Fatal("redis-server does not start")
	return ""
}
