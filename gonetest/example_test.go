package gonetest_test

import (
	"context"
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

// A counter answers each request with the sum so far.
func ExampleRunner() {
	t := new(exampleT) // in a test it is that test's, and ends by itself
	defer t.end()

	r := gonetest.Runner(t, func(r *gone.GoneRunner) {
		sum := 0
		for m := range r.Messages() {
			n, err := strconv.Atoi(string(m.Data))
			if err != nil {
				_ = m.Fail(err)
				continue
			}
			sum += n
			_ = m.Reply([]byte(strconv.Itoa(sum)))
		}
	})
	for _, data := range []string{"2", "3", "many"} {
		reply, err := r.Request(context.Background(), []byte(data))
		fmt.Printf("%s, %v\n", reply, err)
	}
	r.End(gone.ErrLockLost)
	<-r.Done() // the handler has returned
	// Output:
	// 2, <nil>
	// 5, <nil>
	// , strconv.Atoi: parsing "many": invalid syntax
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
