package boottime

import (
	"testing"
	"time"
)

func TestTheClockGoesForward(t *testing.T) {
	wall := time.Now() // first, so that more of it passes
	before := Now()
	if before <= 0 {
		t.Fatalf("Now is %v", before)
	}
	for last := before; last-before < 10*time.Millisecond; {
		now := Now()
		if now < last {
			t.Fatalf("from %v back to %v", last, now)
		}
		last = now
		if time.Since(wall) > 10*time.Second {
			t.Fatalf("%v passed, Now says %v", time.Since(wall), now-before)
		}
	}
	if took := time.Since(wall); took < 10*time.Millisecond {
		t.Errorf("Now gained 10ms in %v", took)
	}
}
