// Package gonetest tests what runs on a cluster of [gone] nodes without one: no
// Redis, no ports, no waiting.
//
// [Runner] calls a handler with a runner that the test feeds and watches. What is
// around the handler is real: the lease with its deadline, the order and the
// results of messages. [Cluster] is for what needs several nodes, such as a
// hand-over, or a sender's view of a crash. [Locks] is the lock service of both, in
// memory; the test has it hang, fail, lose answers or forget who holds a lock.
//
// All may be in a bubble of testing/synctest, where a TTL of half a minute takes no
// time:
//
//	func TestALostLockEndsTheHandler(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			r := gonetest.Runner(t, handler)
//			reply, err := r.Request(t.Context(), []byte("hello"))
//			…
//			time.Sleep(time.Hour) // the handler keeps its lease
//			if r.Extends() == 0 {
//				t.Error("it does not")
//			}
//			r.End(gone.ErrLockLost)
//			<-r.Done() // the handler has returned
//		})
//	}
//
// What is made in a bubble must stay there, and what is used in a bubble must be made
// there.
package gonetest
