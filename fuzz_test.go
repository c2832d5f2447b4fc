package gone

import (
	"strings"
	"testing"
)

// What is read from Redis may be anybody's.

func FuzzHold(f *testing.F) {
	for _, s := range []string{
		"", " ", "  ", "tcp://127.0.0.1:1 1 s", "tcp://127.0.0.1:1 key 1790000000000000 secret", "a 18446744073709551616 s", "a -1 s", "a 0 s",
		"a 1 ", " 1 s", "\x00 1 \xff", strings.Repeat("a", maxValue+1) + " 1 s",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value, token, ok := parseHold(s)
		if ok && (value == "" || len(value) > maxValue || token == 0 || !strings.HasPrefix(s, value+" ")) {
			t.Errorf("%q has value %q, token %d", s, value, token)
		}
	})
}
