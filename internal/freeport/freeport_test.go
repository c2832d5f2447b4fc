package freeport_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/Diggs/go-one/internal/freeport"
)

const shows = "GONE_TEST_SHOWS_A_PORT"

func TestMain(m *testing.M) {
	if os.Getenv(shows) != "" {
		fmt.Println(freeport.Next())
		_, _ = os.Stdin.Read(make([]byte, 1)) // lives until its parent wants
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestNoTwoProcessesHaveTheSamePorts(t *testing.T) {
	seen := map[int]bool{}
	for range 400 {
		port := freeport.Next()
		if seen[port] {
			t.Errorf("port %d came twice", port)
		}
		seen[port] = true
	}
	for range 2 {
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), shows+"=1")
		in, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = in.Close(); _ = other.Wait() }()
		var port int
		if _, err := fmt.Fscan(bufio.NewReader(out), &port); err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Errorf("port %d is another process's, too", port)
		}
		seen[port] = true
	}
}

func TestAPortThatSomebodyListensToIsNotGiven(t *testing.T) {
	taken := freeport.Next() + 1
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", taken))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if port := freeport.Next(); port == taken {
		t.Errorf("port %d was given", port)
	}
}
