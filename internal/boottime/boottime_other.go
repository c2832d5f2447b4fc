//go:build !linux || !cgo

// Linux without cgo is here for the sake of its build error, which is that of
// package zmq.

// Package boottime is a clock that no one sets.
package boottime

import "time"

var epoch = time.Now()

// Now falls back on Go's monotonic clock. On macOS and Windows it may stand
// still while the machine sleeps; then a suspended machine notices the loss of
// a lease at its next Extend, not when it wakes.
func Now() time.Duration { return time.Since(epoch) }
