package gonehttp

import (
	"testing"
	"testing/synctest"
	"time"

	gone "github.com/Diggs/go-one"
)

// said is what a node says now of ids that it has held for a minute, each with so much left
// of its lease.
func said(addr string, left map[string]time.Duration) gone.NodeReport {
	now := time.Now()
	n := gone.NodeReport{Addr: addr, Time: now, Status: &gone.Status{Time: now.Add(-time.Hour)}} // by its own clock
	for id, left := range left {
		n.Status.Tenures = append(n.Status.Tenures, gone.Tenure{
			ID: id, Since: n.Status.Time.Add(-time.Minute), Deadline: n.Status.Time.Add(left), TTL: 30 * time.Second,
		})
	}
	return n
}

func TestALeaseIsCountedFromTheAnswerOfItsOwnNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := gone.Report{Time: time.Now(), Whole: true}
		r.Nodes = append(r.Nodes, said("early", map[string]time.Duration{"a": 12 * time.Second, "b": 2 * time.Second, "c": 0}))
		time.Sleep(3 * time.Second)
		r.Nodes = append(r.Nodes, said("late", map[string]time.Duration{"d": 10 * time.Second}), gone.NodeReport{Addr: "mute", Time: time.Now(), Err: "no answer"})
		s := snap(r, time.Now())
		time.Sleep(time.Second)
		type counted struct {
			id        string
			age, left int64
			stopping  bool
		}
		var got []counted
		for _, row := range s.view(wanted{sort: "lease"}, false).IDs.Rows {
			got = append(got, counted{row.ID, row.Age, row.Left, row.Stopping})
		}
		want := []counted{{"b", 64_000, 0, false}, {"c", 64_000, 0, true}, {"a", 64_000, 8_000, false}, {"d", 61_000, 9_000, false}}
		for i, w := range want {
			if len(got) != len(want) || got[i] != w {
				t.Fatalf("%+v, want %+v", got, want)
			}
		}
		if now := s.view(wanted{id: "a"}, false).Story.Now[0]; now.Age != 64_000 || now.Left != 8_000 {
			t.Errorf("in its story: %+v", now)
		}
	})
}

func TestAViewIsWholeOnlyWhereTheRosterWasRead(t *testing.T) {
	for _, whole := range []bool{true, false} {
		if v := snap(gone.Report{Whole: whole}, time.Now()).view(wanted{}, false); v.Whole != whole {
			t.Errorf("%v has become %v", whole, v.Whole)
		}
	}
}
