package gonetest_test

import (
	"fmt"
	"strconv"
	"testing"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

// An exampleT is as much of a test as an example needs, which has none.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func (t *exampleT) Helper()          {}
func (t *exampleT) Cleanup(f func()) { t.cleanups = append(t.cleanups, f) }
func (t *exampleT) Error(err ...any) { panic(err) }

func (t *exampleT) end() {
	for _, f := range t.cleanups {
		f()
	}
}

// The handler adds up what it is sent, until the lock is lost.
func ExampleRunner() {
	t := new(exampleT) // in a test it is that test's, and ends by itself
	defer t.end()

	sum := 0
	r := gonetest.Runner(t, func(r *gone.GoneRunner) {
		for {
			select {
			case data := <-r.Data:
				n, _ := strconv.Atoi(string(data))
				sum += n
			case <-r.Exit:
				return
			}
		}
	})
	for _, n := range []string{"2", "3", "5"} {
		if err := r.Send([]byte(n)); err != nil {
			t.Error(err)
		}
	}
	r.End(gone.ErrLockLost)
	<-r.Done()
	fmt.Println("the sum is", sum)
	fmt.Println("late:", r.Send([]byte("7")))
	// Output:
	// the sum is 10
	// late: gone: not delivered: gone: no holder: the handler has returned
}

// A handler moves to the next node, and its senders do not notice.
func ExampleCluster() {
	t := new(exampleT) // in a test it is that test's, and ends by itself
	defer t.end()

	c := gonetest.Cluster(t, 3)
	for i := range 2 {
		_, err := c.Node(i).RunOne("greeter", func(r *gone.GoneRunner) {
			select {
			case name := <-r.Data:
				fmt.Printf("hello %s, from tenure %d\n", name, r.FencingToken())
			case <-r.Exit:
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"Ann", "Bob"} {
		if err := c.Node(2).SendData("greeter", []byte(name)); err != nil {
			t.Error(err)
		}
	}
	for i := range 2 {
		_ = c.Node(i).Close() // waits for the handler
	}
	// Output:
	// hello Ann, from tenure 1
	// hello Bob, from tenure 2
}
