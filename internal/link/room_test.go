package link_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/link/linktest"
	"github.com/Diggs/go-one/internal/pulse"
)

// Who holds an id is what somebody wrote into the lock service.
func TestAddressesThatNobodyAnswersAtMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 8
		net := linktest.New()
		var mesh *link.Mesh
		tick := pulse.New(func(now time.Time) time.Time { return mesh.Tick(now) })
		mesh = link.NewMesh(link.Config{
			Identity: "self", Carrier: net.Host("self"), Limits: link.Limits{Links: most},
			Vouches: func([]byte, string) bool { return true },
		}, tick)
		defer func() {
			tick.Stop()
			mesh.Close()
		}()
		var dead []*link.Link
		var at []link.Position
		for i := range most {
			time.Sleep(time.Millisecond) // not too many at once
			l, err := mesh.To(fmt.Sprint("nobody ", i))
			if err != nil {
				t.Fatal(err)
			}
			w := l.Begin()
			at = append(at, l.Position(w.Request(1, 1, 1000, 0, []byte("x"))))
			l.End()
			l.Flush()
			dead = append(dead, l)
		}
		time.Sleep(time.Millisecond)
		if _, err := mesh.To("another"); !errors.Is(err, link.ErrCrowded) {
			t.Errorf("beside %d that may answer yet: %v", most, err)
		}
		time.Sleep(2 * time.Second)
		if _, err := mesh.To("another"); err != nil {
			t.Errorf("beside %d that do not answer: %v", most, err)
		}
		over := 0
		for i, l := range dead {
			if !l.Over() {
				continue
			}
			over++
			if !l.Recall(at[i]) {
				t.Error("what never left may have arrived")
			}
		}
		if over != 1 || mesh.Count() != most {
			t.Errorf("%d made room, %d links", over, mesh.Count())
		}
	})
}
