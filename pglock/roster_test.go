package pglock_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/pglock"
)

func TestARosterHasNoMoreRowsThanThereWereNodesAtOneTime(t *testing.T) {
	t.Parallel()
	s := sharedServer(t)
	for _, level := range []string{"read committed", "serializable"} {
		schema := s.schema(t)
		locks := pglock.New(s.pool(t, fmt.Sprintf("default_transaction_isolation='%s'", level)), in(schema))
		const n = 8
		for generation := range 4 {
			var nodes sync.WaitGroup
			roster := make([]gone.Roster, n)
			for i := range roster {
				l, err := locks("gone", fmt.Sprint("tcp://", generation, ":", i))
				must(t, err)
				t.Cleanup(func() { _ = l.(*pglock.Lock).Close() })
				roster[i] = l.(gone.Roster)
				nodes.Go(func() {
					eventually(t, 20*time.Second, "it enters", func() bool { return roster[i].Enter("note", time.Minute) == nil })
				})
			}
			nodes.Wait()
			if notes, err := roster[0].Entered(); err != nil || len(notes) != n {
				t.Errorf("%s: %d are listed, %v", level, len(notes), err)
			}
			if rows := s.do(t, fmt.Sprintf("SELECT count(*) FROM %q.gone_locks", schema)); rows != int64(n) {
				t.Errorf("%s: %v rows for %d nodes", level, rows, n)
			}
			for _, l := range roster {
				must(t, l.Leave())
			}
		}
	}
}
