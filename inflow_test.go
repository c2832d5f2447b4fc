package gone

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/Diggs/go-one/internal/wire"
)

// What an inflow remembers is what a map would, less what is settled.
func TestAnInflowRemembersEachFateUntilItIsSettled(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		low := uint64(1)
		if seed%3 == 0 { // close to where numbers end
			low = math.MaxUint64 - inflowSpan - r.Uint64N(100)
		}
		span := 1 + r.Uint64N(200) // of the numbers in use
		if seed%50 == 0 {
			span = inflowSpan
		}
		f := &inflow{low: low}
		model := map[uint64]wire.Status{}
		some := func() uint64 { return low + r.Uint64N(min(span, math.MaxUint64-low)) }
		for range 500 {
			switch r.IntN(10) {
			case 0: // settle forwards, at times far, at times all
				to := low + r.Uint64N(span/4+2)
				if r.IntN(20) == 0 {
					to = low + r.Uint64N(2*span)
				}
				if to < low || to > math.MaxUint64-span {
					continue
				}
				low = to
				f.settle(to)
				for seq := range model {
					if seq < low {
						delete(model, seq)
					}
				}
			case 1: // or backwards, as a frame that was overtaken does
				f.settle(low - r.Uint64N(min(low, 5)))
			case 2: // settled meanwhile
				f.set(low-1-r.Uint64N(min(low, 5)), fate{s: wire.Received})
			case 3, 4, 5, 6:
				seq, s := some(), wire.Received+wire.Status(r.IntN(8))
				f.set(seq, fate{s: s})
				model[seq] = s
			default:
				for range 20 {
					if seq := some(); f.get(seq).s != model[seq] {
						t.Fatalf("seed %d: %d is %d, want %d", seed, seq, f.get(seq).s, model[seq])
					}
				}
				if s := f.get(low - 1).s; s != 0 {
					t.Fatalf("seed %d: %d is settled, and %d", seed, low-1, s)
				}
			}
			if f.low != low {
				t.Fatalf("seed %d: low is %d, want %d", seed, f.low, low)
			}
			if n := uint64(len(f.fates)); n > inflowSpan {
				t.Fatalf("seed %d: remembers %d", seed, n)
			}
		}
		var received []uint64
		for seq, s := range model {
			if f.get(seq).s != s {
				t.Fatalf("seed %d: %d is %d, want %d", seed, seq, f.get(seq).s, s)
			}
			if s == wire.Received {
				received = append(received, seq)
			}
		}
		slices.Sort(received)
		if got := f.received(); !slices.Equal(got, received) {
			t.Fatalf("seed %d: received %v, want %v", seed, got, received)
		}
	}
}
