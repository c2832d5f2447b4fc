//go:build !linux

package gone

import "time"

var epoch = time.Now()

// boottime falls back on Go's monotonic clock. On macOS and Windows it may
// stand still while the machine sleeps; then a suspended machine notices the
// loss at its next Extend, not when it wakes.
func boottime() time.Duration { return time.Since(epoch) }
