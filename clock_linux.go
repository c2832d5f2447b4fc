package gone

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is a clock that no one sets and that goes on while the machine
// sleeps. Go's own monotonic clock stands still in suspend, and a lease that is
// measured with it would outlive its lock.
func boottime() time.Duration {
	var ts unix.Timespec
	// It cannot fail: the clock exists since Linux 2.6.39.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}
