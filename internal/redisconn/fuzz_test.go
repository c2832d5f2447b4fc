package redisconn

import (
	"testing"
	"time"
)

// What is published may be anybody's.

func FuzzNews(f *testing.F) {
	for _, s := range []string{"", "1 0", "1790000000000000 30000", "1", " 1", "1 -1", "1 99999999999999999999", "x 1", "1 1 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// 40 bits of milliseconds are 35 years: no sum of times overflows.
		if n := parseNews(s); n != (News{}) && (time.Until(n.Until) > 36*365*24*time.Hour || time.Since(n.Until) > time.Minute) {
			t.Errorf("%q is %+v", s, n)
		}
	})
}
