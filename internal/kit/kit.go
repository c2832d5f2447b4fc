// Package kit is where package gone leaves for gonetest what it shows nobody
// else. It can't name the types of gone, which imports it.
package kit

import "github.com/Diggs/go-one/internal/link"

// A Carrier is what a node's frames go by in place of ZeroMQ. Others are who it
// says they are.
type Carrier interface {
	link.Carrier
	// Receive has each frame that arrives handled, one at a time.
	Receive(receive func(frame []byte, from string))
	// Crash ends it: nothing is sent and nothing arrives any more.
	Crash()
}

// NewNode makes a node on a carrier, with a clock for its leases. It is a
//
//	func(addr string, c Carrier, now func() time.Duration, newLock gone.LockFactory,
//		opts ...gone.Option) (*gone.Gone, error)
var NewNode any
