package gone

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Bounds that have no test beside what they bound.

func TestEndedTenuresAreForgottenAfterAWhileOrWhenThereAreVeryMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts tenures
		token := uint64(0)
		end := func() uint64 {
			token++
			m := newMailbox(context.Background(), fmt.Sprint("id", token), token, nil, nil)
			ts.begin(m)
			ts.end(m, time.Now())
			return token
		}
		known := func(token uint64) bool {
			m, _ := ts.find(fmt.Append(nil, "id", token), token)
			return m != nil
		}
		first := end()
		for range pastMost - 1 {
			end()
		}
		if !known(first) || !known(token) {
			t.Error("one has been forgotten though there was room")
		}
		end()
		if known(first) || !known(first+1) || len(ts.ids) != pastMost || len(ts.past) != pastMost {
			t.Errorf("%d ids, %d tenures are remembered", len(ts.ids), len(ts.past))
		}
		time.Sleep(pastFor + time.Second)
		if last := end(); !known(last) || len(ts.ids) != 1 || len(ts.past) != 1 {
			t.Errorf("after a while %d ids, %d tenures are remembered", len(ts.ids), len(ts.past))
		}
	})
}

func TestRefusalsOfManyStrangersAreCountedAndDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		k := &keyring{log: slog.New(slog.NewTextHandler(&log, nil)), logged: map[string]time.Time{}}
		const strangers = 10 * logMost
		refuse := func() (lines int) {
			log.Reset()
			for i := range strangers {
				k.refuse("10.0.0.1", fmt.Sprintf("%040d", i))
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
		if n := k.refused.Load(); n != 3*strangers {
			t.Errorf("%d counted, want %d", n, 3*strangers)
		}
	})
}
