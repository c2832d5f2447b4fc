//go:build cgo

package zmq

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRefusalsOfManyStrangersAreCountedAndDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		k := &Keyring{log: slog.New(slog.NewTextHandler(&log, nil)), logged: map[string]time.Time{}}
		const strangers = 10 * logMost
		refuse := func() (lines int) {
			log.Reset()
			for i := range strangers {
				k.Refuse("10.0.0.1", fmt.Sprintf("%040d", i), "it is a stranger")
			}
			synctest.Wait()
			return strings.Count(log.String(), "\n")
		}
		if n := refuse(); n != logMost {
			t.Errorf("%d lines", n)
		}
		if n := refuse(); n != 0 {
			t.Errorf("%d lines more", n)
		}
		time.Sleep(logRefusals + time.Second)
		if n := refuse(); n != logMost || len(k.logged) != logMost {
			t.Errorf("a minute later %d lines, %d remembered", n, len(k.logged))
		}
		if n := k.Refused(); n != 3*strangers {
			t.Errorf("%d counted, want %d", n, 3*strangers)
		}
	})
}
