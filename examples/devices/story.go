package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	gone "github.com/Diggs/go-one"
)

// play is the demo without a person: it does to the crew what happens to crews, and
// judges what the devices answered meanwhile.
func (d *demo) play(ctx context.Context, tell func(format string, args ...any)) error {
	all := float64(d.devices)
	for _, s := range []struct {
		title string
		do    func() error
		moves float64 // that it takes
		crash bool
	}{
		{"Three workers start", func() error { return nil }, 3 * all, false},
		{"A fourth joins, and is given a quarter", d.crew.add, all / 4, false},
		{"One drains, and the others take what it had", func() error { return d.crew.drain("w2") }, all / 4, false},
		{"One is killed with kill -9, and the others take what it had when the locks expire", func() error { return d.crew.kill("w3") }, all / 3, true},
		{"All are restarted, one after the other; one that drained is as new", d.crew.roll, 2 * all, false},
	} {
		tell("== %s", s.title)
		if err := s.do(); err != nil {
			return err
		}
		if err := d.settle(ctx); err != nil {
			return err
		}
		a := d.field.begin()
		tell("%s%v; even after %v", d.picture("\n"), a, a.moved.Sub(a.began).Round(100*time.Millisecond))
		if err := a.judge(s.moves, s.crash); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return nil
}

// settle waits until all devices answer, each worker has its share of them, and nothing
// moves any more.
func (d *demo) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for began := time.Now(); !d.even(began) || time.Since(d.field.now().moved) < 3*time.Second; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the devices are not spread evenly: %w\n%s", ctx.Err(), d.picture("\n"))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// even reports whether each worker has its share, ± 5 % or 2, and together they have
// all devices, each of which has answered since then.
func (d *demo) even(since time.Time) bool {
	held, sum, workers := d.field.held(since), 0, d.crew.are(up)
	share := float64(d.devices) / float64(len(workers))
	for _, w := range workers {
		if math.Abs(float64(held[w.name])-share) > max(2, share/20) {
			return false
		}
		sum += held[w.name]
	}
	return sum == d.devices
}

// judge says what was wrong: more moves than it takes, a fifth more allowed; or a request
// that failed. After a crash nobody can tell what became of those that were under way.
func (a act) judge(moves float64, crash bool) (err error) {
	if float64(a.moves) > 1.2*moves+5 {
		err = fmt.Errorf("%d moves, %.0f are enough", a.moves, moves)
	}
	for _, f := range a.failed {
		if !crash || !errors.Is(f, gone.ErrOutcomeUnknown) {
			err = errors.Join(err, f)
		}
	}
	return err
}
