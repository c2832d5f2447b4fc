package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonetest"
)

const ms = time.Millisecond

// history builds one from lines "ms node kind token text" for the id "x"; of
// messages, text is "sender number result".
func history(t *testing.T, lines string) (h History) {
	t.Helper()
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		at, err1 := time.ParseDuration(f[0] + "ms")
		e, ok := parseEvent(strings.Join([]string{"0", f[2], "x", f[3], "", "0", strings.Join(f[4:], " ")}, "\t"))
		if err1 != nil || !ok {
			t.Fatalf("line %q", line)
		}
		e.At, e.Node = at, f[1]
		switch e.Kind {
		case Received, Replied, Sent, Asked, LockCall, LockRet, ExtendCall, ExtendRet, UnlockCall, UnlockRet, PassCall, PassRet, Ticket:
			n := int(0)
			for _, d := range f[5] {
				n = n*10 + int(d-'0')
			}
			e.From, e.N, e.Text = f[4], n, strings.Join(f[6:], " ")
			if e.sends() { // the result, and for how many ms
				took, err := time.ParseDuration(f[7] + "ms")
				if err != nil {
					t.Fatalf("line %q", line)
				}
				e.Text = fmt.Sprintf("%s %d %d %s", f[6], at-took, took, strings.Join(f[8:], " "))
			}
		}
		h = append(h, e)
	}
	h.sort()
	return h
}

// A lock that is handed from a to b.
const good = `
	10 a lock> 0 q 1
	11 a lock< 5 q 1 ok
	12 a begin 5
	20 s sent 0 g 1 nil 1
	20 a received 5 g 1
	50 a extend> 5 q 2
	51 a extend< 5 q 2 ok
	60 a received 5 g 2
	61 s sent 0 g 2 nil 1
	70 a exit 5 closed
	71 a returned 5
	72 a unlock> 5 q 3
	73 b lock> 0 r 1
	74 b lock< 6 r 1 ok
	74 a unlock< 5 q 3
	75 b begin 6
	80 b received 6 g 3
	81 s sent 0 g 3 nil 1
`

// A lock that a passes on to b, which has tried before.
const passed = `
	10 a lock> 0 q 1
	11 a lock< 5 q 1 ok
	12 b lock> 0 r 1
	13 b lock< 0 r 1 held
	19 b ticket 0 r 0 key
	20 a pass> 5 q 2 key
	21 a pass< 5 q 2 ok
`

func TestEveryViolationIsFound(t *testing.T) {
	defer func(was time.Duration) { leeway = was }(leeway)
	leeway = 0
	const ttl = 100 * ms
	tenures := func(h History) findings { bad, _, _ := checkTenures(h, ttl, 0); return bad }
	messages := func(h History) findings { _, bad := checkMessages(h, false); return bad }
	planned := func(h History) findings { _, bad := checkMessages(h, true); return bad }
	gaps := func(h History) findings { return checkGaps(h, 50*ms) }
	lock := func(h History) findings { bad, _ := checkLock(h, "x", ttl, false, time.Minute); return bad }
	guarded := func(h History) findings { bad, _ := checkLock(h, "x", ttl, true, time.Minute); return bad }
	paused := func(h History) findings { bad, _ := checkPaused(h); return bad }
	store := func(h History) findings { return checkStore(h) }

	for _, c := range []struct {
		name  string
		check func(History) findings
		lines string
		want  string // "" for nothing
	}{
		{"a clean hand-over", tenures, good, ""},
		{"a clean hand-over", planned, good, ""},
		{"a clean hand-over", gaps, good, ""},
		{"a clean hand-over", lock, good, ""},
		{"a clean hand-over", paused, good, ""},

		{"a token that does not increase", tenures, "10 a lock> 0 q 1\n12 a begin 6\n20 a exit 6\n30 b lock> 0 r 1\n31 b begin 5\n", "token 5"},
		{"a token used twice", tenures, "12 a begin 6\n20 a exit 6\n31 b begin 6\n", "token 6"},
		{"no token", tenures, "12 a begin 0\n", "without a token"},
		{"windows that overlap", tenures, "12 a begin 5\n30 b begin 6\n31 a exit 5\n", "was trusted"},
		{"a window without an end", tenures, "12 a begin 5\n30 b begin 6\n", "was trusted"},
		{"a window that a kill ended", tenures, "12 a begin 5\n25 a killed 0\n30 b begin 6\n", ""},
		{"a window that a return ended", tenures, "12 a begin 5\n25 a returned 5\n30 b begin 6\n31 a exit 5\n", ""},
		{"an overlap that a stopped process can't help", tenures, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a exit 5\n", ""},
		{"an overlap after the process was resumed", tenures, "12 a begin 5\n20 a stopped 0\n25 a resumed 0\n30 b begin 6\n41 a exit 5\n", "was trusted"},
		{"an overlap of a process that was resumed past its deadline", tenures, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n12 a begin 5\n20 a stopped 0\n108 a resumed 0\n111 b begin 6\n117 a exit 5\n", ""},
		{"an overlap of one that was resumed past its deadline and slept on", tenures, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n12 a begin 5\n20 a stopped 0\n108 a resumed 0\n111 b begin 6\n119 a exit 5\n", "was trusted"},
		{"an overlap of one that was resumed before its deadline, which an Extend had moved", tenures, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n12 a begin 5\n30 a extend> 5 q 2\n31 a extend< 5 q 2 ok\n32 a stopped 0\n108 a resumed 0\n111 b begin 6\n117 a exit 5\n", "was trusted"},
		{"an overlap after Redis forgot", tenures, "12 a begin 5\n20 - wiping 0\n21 - wiped 0\n30 b begin 6\n41 a exit 5\n", ""},
		{"an overlap long after Redis forgot", tenures, "12 a begin 5\n20 - wiping 0\n21 - wiped 0\n30 b begin 6\n141 a exit 5\n", "was trusted"},

		{"a message sent while the process was stopped", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n60 a resumed 0\n61 a received 5 g 1\n62 s sent 0 g 1 nil 25\n", "received g 1"},
		{"a message after the process was resumed", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n60 a resumed 0\n61 a received 5 g 1\n62 s sent 0 g 1 nil 1\n", "received g 1"},
		{"a message noted after the process was resumed", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a received 5 g 1\n42 s sent 0 g 1 nil 30\n", ""},
		{"a send that ended before the stop, noted after it", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a received 5 g 1\n42 a sent 0 g 1 nil 25\n", ""},
		{"the message on offer when the process was stopped", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a wrote 5 refused\n41 a received 5 g 1\n42 s sent 0 g 1 nil 30\n", ""},
		{"two messages after the process was resumed", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a wrote 5 refused\n41 a received 5 g 1\n41 a received 5 k 1\n42 s sent 0 g 1 nil 30\n42 s sent 0 k 1 nil 30\n", "received k 1"},
		{"an Extend after the process was resumed", paused, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a extended 5 ok\n", "Extend of 5"},
		{"a short stop", paused, "12 a begin 5\n20 a stopped 0\n40 a resumed 0\n41 a extended 5 ok\n42 a received 5 g 1\n", ""},

		{"a write out of token order", store, "12 store wrote 6 ok\n13 store wrote 5 ok\n", "token 5 after 6"},
		{"writes in token order", store, "12 store wrote 5 ok\n13 store wrote 5 ok\n14 store wrote 6 ok\n", ""},

		{"no holder for too long", gaps, "12 a begin 5\n20 a exit 5\n71 b begin 6\n", "no holder for 51ms"},
		{"no holder while there could be none", gaps, "12 a begin 5\n20 a exit 5\n19 - blocked 0\n50 - free 0\n99 b begin 6\n", ""},
		{"no holder for too long after there could be one", gaps, "12 a begin 5\n20 a exit 5\n19 - blocked 0\n50 - free 0\n101 b begin 6\n", "no holder for 51ms"},

		{"nil but lost", messages, "12 a begin 5\n20 s sent 0 g 1 nil 1\n", "lost: g 1"},
		{"nil, in the hands of a handler that was killed", messages, "12 a begin 5\n20 s sent 0 g 1 nil 1\n21 a killed 0\n", ""},
		{"nil and lost long before the kill", messages, "12 a begin 5\n20 s sent 0 g 1 nil 1\n200 a killed 0\n", "lost: g 1"},
		{"two in one pair of hands", messages, "12 a begin 5\n20 s sent 0 g 1 nil 1\n20 s sent 0 k 1 nil 1\n21 a killed 0\n", "lost: k 1"},
		{"nil after the handler had returned", messages, "12 a begin 5\n13 a returned 5\n20 s sent 0 g 1 nil 1\n21 a killed 0\n", "lost: g 1"},
		{"not delivered but received", messages, "12 a begin 5\n20 a received 5 g 1\n21 s sent 0 g 1 not 1 busy\n", "though not delivered"},
		{"withdrawn but received", messages, "12 a begin 5\n20 a received 5 g 1\n21 s sent 0 g 1 not-withdrawn 1 busy\n", "though not delivered"},
		{"unknown and received", messages, "12 a begin 5\n20 a received 5 g 1\n21 s sent 0 g 1 unknown 1 x\n", ""},
		{"unknown and lost", messages, "21 s sent 0 g 1 unknown 1 x\n", ""},
		{"a duplicate", messages, "12 a begin 5\n20 a received 5 g 1\n21 a received 5 g 1\n21 s sent 0 g 1 nil 1\n", "duplicate: g 1"},
		{"a duplicate in another tenure", messages, "20 a received 5 g 1\n21 b received 6 g 1\n21 s sent 0 g 1 unknown 1\n", "duplicate: g 1"},
		{"a wrong order", messages, "20 a received 5 g 2\n21 a received 5 g 1\n21 s sent 0 g 1 nil 1\n22 s sent 0 g 2 nil 1\n", "order: g 1"},
		{"a wrong order across tenures", messages, "20 a received 5 g 2\n21 b received 6 g 1\n", "order: g 1"},
		{"an order that only looks wrong, as one process was stopped", messages, "21 a received 5 g 1\n20 b received 6 g 2\n", ""},
		{"a result that is none", messages, "21 s sent 0 g 1 neither 1\n", "none"},
		{"a try in a planned case", planned, "21 s sent 0 g 1 not-tried 1 busy\n", ""},
		{"an error in a planned case", planned, "21 s sent 0 g 1 not 1 busy\n", "planned, yet"},

		{"a reply", planned, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n21 s asked 0 g 1 replied 1 g 1 x 5\n", ""},
		{"a failure", planned, "20 a received 5 g 1 whole\n20 a replied 5 g 1 failed\n21 s asked 0 g 1 failed 1 g 1 x 5\n", ""},
		{"an empty reply, as it was received from r.Data", planned, "20 a received 5 g 1\n21 s asked 0 g 1 replied 1\n", ""},
		{"an empty reply of a handler that was killed", messages, "12 a begin 5\n20 s asked 0 g 1 replied 1\n21 a killed 0\n", ""},
		{"an empty reply that the handler has not given", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n21 s asked 0 g 1 replied 1\n", "got an empty one"},
		{"an empty reply to what was not received", messages, "12 a begin 5\n21 s asked 0 g 1 replied 1\n", "got an empty one"},
		{"a reply to another request", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n20 a received 5 k 1 whole\n20 a replied 5 k 1 replied\n21 s asked 0 g 1 replied 1 k 1 x 5\n", "replied with \"k 1 x 5\""},
		{"a reply of another tenure", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n21 s asked 0 g 1 replied 1 g 1 x 4\n", "replied with"},
		{"a reply that nobody gave", messages, "12 a begin 5\n20 a received 5 g 1 whole\n21 a killed 0\n21 s asked 0 g 1 replied 1 g 1 x 5\n", "no handler replied"},
		{"two replies", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n20 a replied 5 g 1 twice\n21 s asked 0 g 1 replied 1 g 1 x 5\n", "two replies"},
		{"a failure for a reply", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 replied\n21 s asked 0 g 1 failed 1 g 1 x 5\n", "failed with"},
		{"a reply for a failure", messages, "20 a received 5 g 1 whole\n20 a replied 5 g 1 failed\n21 s asked 0 g 1 replied 1 g 1 x 5\n", "replied with"},
		{"no reply", messages, "20 a received 5 g 1 whole\n21 s asked 0 g 1 noreply 1 late\n", ""},
		{"no reply of a handler that was killed", messages, "12 a begin 5\n20 a killed 0\n21 s asked 0 g 1 noreply 5 late\n", ""},
		{"no reply though it was not received", messages, "12 a begin 5\n21 s asked 0 g 1 noreply 1 late\n", "no handler received it"},
		{"a request that was not delivered but received", messages, "20 a received 5 g 1 whole\n21 s asked 0 g 1 not-withdrawn 1 busy\n", "though not delivered"},
		{"a request of unknown outcome", messages, "20 a received 5 g 1 whole\n21 s asked 0 g 1 unknown 1 x\n", ""},
		{"a send without a reply", messages, "20 a received 5 g 1 whole\n21 s sent 0 g 1 noreply 1 x\n", "none"},
		{"an end that is none", messages, "21 s asked 0 g 1 neither 1\n", "none"},
		{"no reply in a planned case", planned, "20 a received 5 g 1 whole\n21 s asked 0 g 1 noreply 1 late\n", "planned, yet"},
		{"a request received twice", messages, "20 a received 5 g 1 whole\n21 b received 6 g 1 whole\n21 s asked 0 g 1 unknown 1 x\n", "duplicate: g 1"},

		{"two grants at once", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n20 b lock> 0 r 1\n21 b lock< 6 r 1 ok\n", "can't be those of one lock"},
		{"a grant after the TTL", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n120 b lock> 0 r 1\n121 b lock< 6 r 1 ok\n", ""},
		{"a grant before the TTL of an Extend", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n50 a extend> 5 q 2\n51 a extend< 5 q 2 ok\n120 b lock> 0 r 1\n121 b lock< 6 r 1 ok\n", "can't be those of one lock"},
		{"a token that went back", lock, "10 a lock> 0 q 1\n11 a lock< 6 q 1 ok\n120 b lock> 0 r 1\n121 b lock< 5 r 1 ok\n", "can't be those of one lock"},
		{"held by nobody", lock, "10 a lock> 0 q 1\n11 a lock< 0 q 1 held\n", "can't be those of one lock"},
		{"its own deadlock", lock, "10 a lock> 0 q 1\n11 a lock< 0 q 1 unknown timeout\n20 a lock> 0 q 2\n21 a lock< 0 q 2 held\n", "can't be those of one lock"},
		{"yes, yours", lock, "10 a lock> 0 q 1\n11 a lock< 0 q 1 unknown timeout\n20 a lock> 0 q 2\n21 a lock< 5 q 2 ok\n", ""},
		{"held by one with an unknown outcome", lock, "10 a lock> 0 q 1\n11 a lock< 0 q 1 unknown timeout\n20 b lock> 0 r 1\n21 b lock< 0 r 1 held\n", ""},
		{"a false loss", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n20 a extend> 5 q 2\n21 a extend< 5 q 2 lost x\n", "can't be those of one lock"},
		{"a false loss, where a server may have forgotten", guarded, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n20 a extend> 5 q 2\n21 a extend< 5 q 2 lost x\n", ""},
		{"two grants at once, all the same", guarded, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n20 a extend> 5 q 2\n21 a extend< 5 q 2 lost x\n25 b lock> 0 r 1\n26 b lock< 6 r 1 ok\n", "can't be those of one lock"},
		{"an Extend of what another holds", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n120 b lock> 0 r 1\n121 b lock< 6 r 1 ok\n130 a extend> 5 q 2\n131 a extend< 5 q 2 ok\n", "can't be those of one lock"},
		{"a lock that knows itself that it is given up, before the service does", lock, "10 a lock> 0 p 1\n11 a lock< 5 p 1 ok\n50 a unlock> 5 p 2\n51 a extend> 5 p 3\n52 a extend< 5 p 3 lost x\n55 b lock> 0 r 1\n56 b lock< 0 r 1 held\n60 a unlock< 5 p 2\n", ""},
		{"one that is called as that is obtained", lock, "10 a lock> 0 p 1\n11 a lock< 5 p 1 ok\n60 a unlock> 5 p 3\n61 a unlock< 5 p 3\n70 a lock> 5 q 4\n71 a extend> 5 q 5\n72 a lock< 6 q 4 ok\n73 a extend< 5 q 5 ok\n", ""},
		{"an Unlock of what may have been obtained after another hold", lock, "10 a lock> 0 p 1\n11 a lock< 5 p 1 ok\n150 a extend> 5 p 2\n151 a extend< 5 p 2 lost x\n160 a lock> 5 q 3\n161 a lock< 5 q 3 unknown timeout\n165 b lock> 0 r 1\n166 b lock< 0 r 1 held\n170 a unlock> 5 q 4\n171 a unlock< 5 q 4\n175 b lock> 0 r 2\n176 b lock< 6 r 2 ok\n", ""},
		{"a call of a process that was killed, whose successor counts from 1 as well", lock, "10 a lock> 0 1/1 1\n15 a killed 0\n20 b lock> 0 r 1\n21 b lock< 0 r 1 held\n150 a lock> 0 2/1 1\n151 a lock< 5 2/1 1 ok\n", ""},
		{"what may have been obtained runs out though another try came to nothing", lock, "10 a lock> 0 p 1\n11 a lock< 0 p 1 unknown timeout\n20 b lock> 0 r 1\n21 b lock< 0 r 1 held\n50 a lock> 0 p 2\n51 a lock< 0 p 2 unknown timeout\n115 b lock> 0 r 2\n116 b lock< 5 r 2 ok\n", ""},
		{"what may have been obtained is released where too few replicas know", lock, "10 a lock> 0 p 1\n20 b lock> 0 r 1\n21 b lock< 0 r 1 held\n30 a lock< 0 p 1 unknown too few replicas have confirmed: 0 of 1\n35 b lock> 0 r 2\n36 b lock< 5 r 2 ok\n", ""},
		{"a lock that is passed on", lock, passed + "25 b lock> 0 r 2\n26 b lock< 6 r 2 ok\n27 b extend> 6 r 3\n28 b extend< 6 r 3 ok\n", ""},
		{"one that comes before the heir", lock, passed + "23 c lock> 0 s 1\n24 c lock< 6 s 1 ok\n", "can't be those of one lock"},
		{"one that comes when the heir has not", lock, passed + "23 c lock> 0 s 1\n24 c lock< 0 s 1 held\n2022 c lock> 0 s 2\n2023 c lock< 6 s 2 ok\n", ""},
		{"an heir that comes the second time only", lock, passed + "23 c lock> 0 s 1\n24 c lock< 0 s 1 held\n2022 c lock> 0 s 2\n2023 c lock< 7 s 2 ok\n2030 c pass> 7 s 3 key\n2031 c pass< 7 s 3 ok\n2032 b lock> 0 r 2\n2033 b lock< 8 r 2 ok\n", ""},
		{"a pass without a new token", lock, passed + "25 b lock> 0 r 2\n26 b lock< 5 r 2 ok\n", "can't be those of one lock"},
		{"an Extend of what was passed on", lock, passed + "25 a extend> 5 q 4\n26 a extend< 5 q 4 ok\n", "can't be those of one lock"},
		{"a pass of another's", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n20 b ticket 0 r 0 x\n21 c pass> 4 s 2 x\n22 c pass< 4 s 2 ok\n", "can't be those of one lock"},
		{"a pass of unknown outcome", lock, strings.TrimSuffix(passed, "ok\n") + "unknown timeout\n" + "25 b lock> 0 r 2\n26 b lock< 6 r 2 ok\n", ""},
		{"two grants, as Redis forgot", lock, "10 a lock> 0 q 1\n11 a lock< 5 q 1 ok\n15 - wiping 0\n16 - wiped 0\n20 b lock> 0 r 1\n21 b lock< 6 r 1 ok\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := c.check(history(t, c.lines))
			switch {
			case c.want == "" && len(bad) > 0:
				t.Errorf("found %v in a good history", bad)
			case c.want != "" && len(bad) == 0:
				t.Error("found nothing")
			case c.want != "" && !strings.Contains(bad[0].What, c.want):
				t.Errorf("found %q, want %q", bad[0].What, c.want)
			}
		})
	}
}

// An answer may come when its lease is long over, and the lock held anew.
func TestARecordTellsWhichHoldACallWasOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := gonetest.NewLocks()
		late := make(chan struct{})
		locks.Intercept(func(c gonetest.Call, serve func() error) error {
			err := serve()
			if errors.Is(err, gone.ErrLockLost) {
				<-late
			}
			return err
		})
		var log bytes.Buffer
		n := &node{log: &EventLog{w: &log}, open: func(id, value string) (gone.GoneLock, error) {
			l, err := locks.Factory(time.Second)(id, value)
			return closing{l.(openLock)}, err
		}}
		l, err := n.newLock("x", "a")
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		must(l.Lock())
		locks.Forget("x")
		go l.Extend()
		synctest.Wait()
		l.Unlock()
		must(l.Lock())
		close(late)
		synctest.Wait()
		must(l.Extend())

		var h History
		for line := range strings.Lines(log.String()) {
			e, ok := parseEvent(strings.TrimSuffix(line, "\n"))
			if !ok {
				t.Fatal(line)
			}
			h = append(h, e)
		}
		if bad, _ := checkLock(h, "x", time.Second, false, time.Minute); len(bad) > 0 {
			t.Errorf("%v: %s", bad, log.String())
		}
	})
}

type openLock interface {
	gone.GoneLock
	gone.Expirer
	gone.Fencer
	gone.Waiter
}

type closing struct{ openLock }

func (closing) Close() error { return nil }

func TestOverlapsOutsideAreMeasured(t *testing.T) {
	_, outside, _ := checkTenures(history(t, "12 a begin 5\n20 a stopped 0\n30 b begin 6\n40 a resumed 0\n41 a exit 5\n"), 100*ms, 0)
	if len(outside) != 1 || outside[0] != 11*ms {
		t.Errorf("outside: %v, want 11ms", outside)
	}
	late := "12 a begin 5\n30 b begin 6\n41 a exit 5\n"
	for wait, want := range map[time.Duration]int{10 * ms: 1, 11 * ms: 0} {
		if bad, _, _ := checkTenures(history(t, late), 100*ms, wait); len(bad) != want {
			t.Errorf("an overlap of 11ms where a process may have to wait for %v: %d findings, want %d", wait, len(bad), want)
		}
	}
	_, _, forgotten := checkTenures(history(t, "12 a begin 5\n20 - wiping 0\n21 - wiped 0\n30 b begin 6\n41 a exit 5\n"), 100*ms, 0)
	if len(forgotten) != 1 || forgotten[0] != 11*ms {
		t.Errorf("forgotten: %v, want 11ms", forgotten)
	}
}

func TestEventsSurviveTheLog(t *testing.T) {
	want := Event{At: 5, Kind: Sent, ID: "x", Token: 7, From: "1/2", N: 3, Text: "nil 12 a b"}
	got, ok := parseEvent(strings.TrimSuffix(string(want.append(nil)), "\n"))
	if !ok || got != want {
		t.Errorf("%+v became %+v", want, got)
	}
	if _, ok := parseEvent("12\tsent\tx"); ok {
		t.Error("a line that a kill cut short was taken for an event")
	}
}

func TestQuantilesAreByTheNearestRank(t *testing.T) {
	var ds []time.Duration
	for i := range 100 {
		ds = append(ds, time.Duration(100-i))
	}
	for q, want := range map[float64]time.Duration{0: 1, .5: 50, .99: 99, 1: 100} {
		if got := quantile(ds, q); got != want {
			t.Errorf("quantile %g is %d, want %d", q, got, want)
		}
	}
}
