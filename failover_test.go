package gone_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// Environment of a child process that holds an id until it is killed.
const (
	crashingSocket = "GONE_TEST_CRASHING_SOCKET"
	crashingID     = "GONE_TEST_CRASHING_ID"
)

// crashing is the child's main.
func crashing(sock string) {
	g, err := gone.NewGone("tcp://127.0.0.1:0", locksAt(&net.UnixAddr{Net: "unix", Name: sock}, time.Second))
	if err == nil {
		_, err = g.RunOne(os.Getenv(crashingID), func(r *gone.GoneRunner) {
			fmt.Println("holds")
			for {
				select {
				case <-r.Data:
				case <-time.After(200 * time.Millisecond):
					_ = r.Extend()
				}
			}
		})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the parent
	os.Exit(0)
}

// startCrashing starts a process that holds id, and returns what kills it.
func startCrashing(t testing.TB, s *redisServer, id string) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashingSocket+"="+s.addr.Name, crashingID+"="+id)
	out, err := cmd.StdoutPipe()
	if err == nil {
		_, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "holds\n" {
		t.Fatalf("the child says %q", line)
	}
	return kill
}

// What waits for a dead holder's connection has left nobody's hands: it goes to
// the next holder, whichever node that is.
func TestDataThatHasNotLeftGoesToTheNextHolderOfACrashedOne(t *testing.T) {
	redis := startRedis(t)
	locks := redis.locks(time.Second)
	for name, next := range map[string]func(sender, other *gone.Gone) *gone.Gone{
		"another node": func(_, other *gone.Gone) *gone.Gone { return other },
		"the sender's": func(sender, _ *gone.Gone) *gone.Gone { return sender },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := t.Name()
			sender, other := startNode(t, locks), startNode(t, locks)
			crash := startCrashing(t, redis, id)
			if err := sender.SendData(id, []byte("before")); err != nil {
				t.Fatal(err)
			}
			crash()
			var in inbox
			runOne(t, next(sender, other), id, in.run)
			began := time.Now()
			err := sender.SendData(id, []byte("after"))
			if errors.Is(err, gone.ErrOutcomeUnknown) { // it left before the connection broke
				began = time.Now()
				err = sender.SendData(id, []byte("after"))
			}
			if err != nil {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			if took := time.Since(began); took > atOnce {
				t.Errorf("delivered after %v; the lock was free after one", took)
			}
		})
	}
}
