package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var (
	room  = Target{Flow: 7, Token: 1700000000000001, ID: "room"}
	other = Target{Flow: 300, Token: 5, ID: "other"}
	back  = Return{To: 0x0102030405060708, Flow: 9}
)

// golden is one frame with an item of every kind, for whoever writes a peer in
// another language.
const golden = "" +
	"4731" + "1122334455667788" + "14" + "7463703a2f2f31302e302e302e373a363338" + "3131" + // "G1", from, "tcp://10.0.0.7:63811"
	"01" + "07" + "8180f9c0c1c48203" + "03" + "04" + "726f6f6d" + // Tenure 7, its token, low 3, "room"
	"02" + "03" + "904e" + "00" + "05" + "68656c6c6f" + // Data 3 for 10000 ms after none, "hello"
	"02" + "04" + "00" + "01" + "00" + // Data 4 for now or never after 3, empty
	"03" + "05" + "01" + "00" + "02" + "6f6e" + // Void 5
	"04" + "06" + // Ask 6
	"01" + "ac02" + "05" + "01" + "05" + "6f74686572" + // Tenure 300, token 5, low 1, "other"
	"05" + "ac02" + // Cancel 300
	"01" + "ac02" + "05" + "ad02" + "05" + "6f74686572" + "06" + // Tenure 300 with low 301, Settled
	"10" + "0102030405060708" + "09" + "00" + // Flow 9 of that incarnation, no current tenure
	"11" + "01" + "06" + // Reply 1 NotHere
	"12" + "02" + "02" + "8001" // Over, received 2 and 128

// goldenItems are those of golden.
var goldenItems = []string{
	"Data 7/1700000000000001/3/room seq 3 for 10000 ms after 0: hello",
	"Data 7/1700000000000001/3/room seq 4 for 0 ms after 1: ",
	"Ask 7/1700000000000001/3/room seq 6",
	"Cancel 300/5/1/other seq 300",
	"Settled 300/5/301/other",
	"Reply 102030405060708/9/0 seq 1 status 6",
	"Over 102030405060708/9/0 received [2 128]",
}

func writeGolden() []byte {
	var w Writer
	w.Reset(nil, 0x1122334455667788, "tcp://10.0.0.7:63811")
	w.Data(&room, 3, 3, 10_000, 0, []byte("hello"))
	w.Data(&room, 4, 4, 0, 1, nil)
	at := w.Data(&room, 4, 5, 1, 0, []byte("on"))
	w.Ask(&room, 4, 6)
	w.Cancel(&other, 1, 300)
	w.Settled(&other, 301)
	w.Reply(back, 0, 1, NotHere)
	w.Over(back, 0, []uint64{2, 128})
	Withdraw(w.Bytes(), at)
	return w.Bytes()
}

// show is all that an item of its kind says.
func show(it *Item) string {
	asks := fmt.Sprintf("%d/%d/%d/%s", it.Flow, it.Token, it.Low, it.ID)
	says := fmt.Sprintf("%x/%d/%d", it.To, it.Flow, it.Current)
	switch it.Kind {
	case Data:
		return fmt.Sprintf("Data %s seq %d for %d ms after %d: %s", asks, it.Seq, it.Budget, it.After, it.Payload)
	case Ask:
		return fmt.Sprintf("Ask %s seq %d", asks, it.Seq)
	case Cancel:
		return fmt.Sprintf("Cancel %s seq %d", asks, it.Seq)
	case Settled:
		return "Settled " + asks
	case Reply:
		return fmt.Sprintf("Reply %s seq %d status %d", says, it.Seq, it.Status)
	case Over:
		return fmt.Sprintf("Over %s received %v", says, slices.Collect(it.Seqs.All))
	}
	return fmt.Sprintf("kind %d", it.Kind)
}

// read decodes a frame that has no room behind it: to read outside it is to panic.
func read(frame []byte) (r Reader, items []string, err error) {
	frame = slices.Clip(bytes.Clone(frame))
	if r, err = NewReader(frame); err != nil {
		return r, nil, err
	}
	for {
		it, err := r.Next()
		if it == nil {
			return r, items, err
		}
		items = append(items, show(it))
	}
}

func TestTheGoldenFrame(t *testing.T) {
	want, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := writeGolden(); !bytes.Equal(got, want) {
		t.Errorf("written\n%x, want\n%x", got, want)
	}
	r, items, err := read(want)
	if err != nil || r.From != 0x1122334455667788 || string(r.Addr) != "tcp://10.0.0.7:63811" {
		t.Errorf("from %x at %s: %v", r.From, r.Addr, err)
	}
	if !slices.Equal(items, goldenItems) {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(items, "\n"), strings.Join(goldenItems, "\n"))
	}
}

func TestTheNumbersOfTheFormat(t *testing.T) {
	kinds := []Kind{Tenure, Data, Void, Ask, Cancel, Settled, Flow, Reply, Over}
	if want := []Kind{1, 2, 3, 4, 5, 6, 16, 17, 18}; !slices.Equal(kinds, want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
	statuses := []Status{Received, Pending, Missing, Busy, Expired, NotHere, Stranger, Oversized}
	if want := []Status{1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(statuses, want) {
		t.Errorf("statuses %v, want %v", statuses, want)
	}
}

// A cut frame ends between two items, or is malformed. Nothing is made up.
func TestEveryPrefixIsMalformedOrEndsBetweenItems(t *testing.T) {
	whole := writeGolden()
	complete := 0
	for n := range whole {
		_, items, err := read(whole[:n])
		if !slices.Equal(items, goldenItems[:len(items)]) {
			t.Fatalf("%d bytes: %q", n, items)
		}
		switch {
		case err == nil:
			complete++
		case !errors.Is(err, ErrMalformed):
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	// After the header, and after each of 12 items but the last.
	if complete != 1+11 {
		t.Errorf("%d prefixes are frames", complete)
	}
}

// frame is a frame of the items given as bytes.
func frame(items ...byte) []byte {
	var w Writer
	w.Reset(nil, 1, "tcp://a:1")
	return append(w.Bytes(), items...)
}

func TestMalformedFramesAreRefused(t *testing.T) {
	tenure := []byte{1, 7, 5, 1, 2, 'i', 'd'}
	flow := []byte{16, 0, 0, 0, 0, 0, 0, 0, 1, 7, 5}
	overlong := bytes.Repeat([]byte{0xff}, 10) // a number over 64 bits
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}
	all := func(parts ...[]byte) []byte { return frame(slices.Concat(parts...)...) }
	for name, bad := range map[string][]byte{
		"nothing":                  {},
		"no header":                []byte("G1"),
		"another protocol":         append([]byte("H1"), frame()[2:]...),
		"another version":          append([]byte("G2"), frame()[2:]...),
		"an HTTP request":          []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		"no incarnation":           append([]byte("G1\x00\x00\x00\x00\x00\x00\x00\x00"), frame()[10:]...),
		"an address that is cut":   []byte("G1\x00\x00\x00\x00\x00\x00\x00\x01\x09tcp://a:"),
		"flow 0":                   frame(1, 0, 5, 1, 2, 'i', 'd'),
		"an empty id":              frame(1, 7, 5, 1, 0),
		"an id that is cut":        frame(1, 7, 5, 1, 3, 'i', 'd'),
		"a tenure without id":      frame(1, 7, 5, 1),
		"a flow that is too long":  all([]byte{1}, overlong, tenure[2:]),
		"a token that is too long": all(tenure[:2], overlong, tenure[3:]),
		"a low that is too long":   all(tenure[:3], overlong, tenure[4:]),
		"data of no tenure":        frame(2, 1, 1, 0, 1, 'x'),
		"void of no tenure":        frame(3, 1, 1, 0, 1, 'x'),
		"ask of no tenure":         frame(4, 1),
		"cancel of no tenure":      frame(5, 1),
		"settled of no tenure":     frame(6),
		"data after flow":          all(tenure, flow, []byte{2, 1, 1, 0, 1, 'x'}),
		"ask after flow":           all(tenure, flow, []byte{4, 1}),
		"settled after flow":       all(tenure, flow, []byte{6}),
		"data that is cut":         all(tenure, []byte{2, 1, 1, 0, 2, 'x'}),
		"void that is cut":         all(tenure, []byte{3, 1, 1, 0, 2, 'x'}),
		"data of any length":       all(tenure, []byte{2, 1, 1, 0}, huge, []byte{'x'}),
		"data without length":      all(tenure, []byte{2, 1, 1, 0}),
		"a seq that is too long":   all(tenure, []byte{4}, overlong),
		"a seq that is cut":        all(tenure, []byte{4, 0x80}),
		"a reply to nobody":        frame(17, 1, 1),
		"over to nobody":           frame(18, 0),
		"incarnation 0":            frame(16, 0, 0, 0, 0, 0, 0, 0, 0, 7, 5),
		"a reply to flow 0":        frame(16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 5),
		"an incarnation cut":       frame(16, 0, 0, 0, 1),
		"a reply after tenure":     all(flow, tenure, []byte{17, 1, 1}),
		"over after tenure":        all(flow, tenure, []byte{18, 0}),
		"status 0":                 all(flow, []byte{17, 1, 0}),
		"status 9":                 all(flow, []byte{17, 1, 9}),
		"no status":                all(flow, []byte{17, 1}),
		"over that is cut":         all(flow, []byte{18, 2, 1}),
		"over of any length":       all(flow, []byte{18}, huge, []byte{1}),
		"over without length":      all(flow, []byte{18}),
	} {
		if _, items, err := read(bad); !errors.Is(err, ErrMalformed) || items != nil {
			t.Errorf("%s: %q, %v", name, items, err)
		}
	}
	known := map[Kind]bool{Tenure: true, Data: true, Void: true, Ask: true, Cancel: true, Settled: true, Flow: true, Reply: true, Over: true}
	for kind := range 256 {
		if known[Kind(kind)] {
			continue
		}
		for _, context := range [][]byte{nil, tenure, flow} {
			if _, items, err := read(all(context, []byte{byte(kind), 1, 1, 1, 1, 1})); !errors.Is(err, ErrMalformed) || items != nil {
				t.Errorf("kind %d: %q, %v", kind, items, err)
			}
		}
	}
}

func TestWhatPrecedesAMalformedItemIsReadAndNothingAfterIt(t *testing.T) {
	r, err := NewReader(frame(1, 7, 5, 1, 2, 'i', 'd', 4, 1, 99, 4, 2, 4, 3))
	if err != nil {
		t.Fatal(err)
	}
	if it, err := r.Next(); err != nil || it.Seq != 1 {
		t.Fatal(it, err)
	}
	if it, err := r.Next(); it != nil || !errors.Is(err, ErrMalformed) {
		t.Fatal(it, err)
	}
	for range 3 {
		if it, _ := r.Next(); it != nil {
			t.Fatal(show(it))
		}
	}
}

func TestAnOwnerOfOnePayloadCannotWriteIntoTheNext(t *testing.T) {
	var w Writer
	w.Reset(nil, 1, "tcp://a:1")
	for seq := range uint64(3) {
		w.Data(&room, 1, 1+seq, 1, 0, []byte("payload"))
	}
	r, err := NewReader(w.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		it, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if cap(it.Payload) != len(it.Payload) || cap(it.ID) != len(it.ID) {
			t.Errorf("%d bytes to spare", cap(it.Payload)-len(it.Payload))
		}
		if _ = append(it.Payload, "overflow"...); string(it.Payload) != "payload" {
			t.Errorf("got %q", it.Payload)
		}
	}
}

func TestWhatIsWithdrawnIsSkippedAndNothingElse(t *testing.T) {
	const n = 5
	for which := range 1 << n {
		var w Writer
		w.Reset(nil, 1, "tcp://a:1")
		var want []string
		var at [n]int
		for i := range n {
			target := &room
			if i >= 3 {
				target = &other
			}
			at[i] = w.Data(target, 1, uint64(i), 10, 0, bytes.Repeat([]byte{2}, i)) // bytes that look like an item
			if which>>i&1 == 0 {
				want = append(want, show(&Item{
					Kind: Data, Flow: target.Flow, Token: target.Token, Low: 1, ID: []byte(target.ID),
					Seq: uint64(i), Budget: 10, Payload: bytes.Repeat([]byte{2}, i),
				}))
			}
		}
		size := w.Len()
		for i := range n {
			if which>>i&1 == 1 {
				Withdraw(w.Bytes(), at[i])
			}
		}
		w.Ask(&other, 1, 77)
		want = append(want, "Ask 300/5/1/other seq 77")
		if _, items, err := read(w.Bytes()); err != nil || !slices.Equal(items, want) || w.Len() != size+2 {
			t.Errorf("withdrawn %05b: %q, %v", which, items, err)
		}
	}
}

func TestAWriterStartsAFrameAnew(t *testing.T) {
	var w Writer
	w.Reset(nil, 1, "tcp://a:1")
	if !w.Empty() || w.Len() != len(frame()) {
		t.Errorf("%x is not empty", w.Bytes())
	}
	for range 2 { // nothing is inherited from the frame before
		for want, write := range map[string]func(){
			"Ask 7/1700000000000001/1/room seq 2":      func() { w.Ask(&room, 1, 2) },
			"Reply 102030405060708/9/8 seq 3 status 4": func() { w.Reply(back, 8, 3, Busy) },
			"Over 102030405060708/9/8 received [1]":    func() { w.Over(back, 8, []uint64{1}) },
			"Cancel 7/1700000000000001/1/room seq 2":   func() { w.Cancel(&room, 1, 2) },
			"Settled 7/1700000000000001/1/room":        func() { w.Settled(&room, 1) },
		} {
			for range 2 {
				w.Reset(w.Bytes(), 1, "tcp://a:1")
				write()
				if _, items, err := read(w.Bytes()); w.Empty() || err != nil || !slices.Equal(items, []string{want}) {
					t.Errorf("%q, %v, want %q", items, err, want)
				}
			}
		}
	}
}

func TestOverheadBoundsAFrameWithOnePayload(t *testing.T) {
	var w Writer
	w.Reset(nil, math.MaxUint64, strings.Repeat("a", MaxAddr))
	largest := Target{Flow: math.MaxUint64, Token: math.MaxUint64, ID: strings.Repeat("i", MaxID)}
	payload := make([]byte, 1000)
	w.Data(&largest, math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64, payload)
	if w.Len() > Overhead+len(payload) {
		t.Errorf("%d bytes besides the payload, Overhead is %d", w.Len()-len(payload), Overhead)
	}
	if r, items, err := read(w.Bytes()); err != nil || len(items) != 1 || len(r.Addr) != MaxAddr || !strings.Contains(items[0], largest.ID) {
		t.Errorf("%q, %v", items, err)
	}
}

// number is of any length that a varint can have.
func number(r *rand.Rand) uint64 { return r.Uint64() >> r.IntN(64) }

func TestWhatWriterWritesReaderReads(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		targets := make([]Target, 1+r.IntN(4))
		returns := make([]Return, 1+r.IntN(4))
		for i := range targets {
			id := make([]byte, 1+r.IntN(MaxID))
			for j := range id {
				id[j] = byte(r.Uint32())
			}
			targets[i] = Target{Flow: number(r) | 1, Token: number(r), ID: string(id)}
		}
		for i := range returns {
			returns[i] = Return{To: r.Uint64() | 1, Flow: targets[r.IntN(len(targets))].Flow}
		}
		for i := range targets { // a flow has one target
			for j := range targets[:i] {
				if targets[j].Flow == targets[i].Flow {
					targets[i] = targets[j]
				}
			}
		}
		var w Writer
		w.Reset(make([]byte, r.IntN(100)), seed+1, "tcp://a:1")
		var want []string
		low, inherited := uint64(1), uint64(0) // low is that of the Tenure item before
		var before *Target
		for range r.IntN(50) {
			target, to := &targets[r.IntN(len(targets))], returns[r.IntN(len(returns))]
			it := Item{Seq: number(r), Budget: number(r), After: number(r), Status: Received + Status(r.IntN(8)), Payload: make([]byte, r.IntN(200))}
			for i := range it.Payload {
				it.Payload[i] = byte(r.Uint32())
			}
			low += r.Uint64N(3)
			asks := true
			switch r.IntN(6) {
			case 0:
				it.Kind = Data
				w.Data(target, low, it.Seq, it.Budget, it.After, it.Payload)
			case 1:
				it.Kind = Ask
				w.Ask(target, low, it.Seq)
			case 2:
				it.Kind = Cancel
				w.Cancel(target, low, it.Seq)
			case 3:
				it.Kind = Settled
				before = nil
				w.Settled(target, low)
			case 4:
				it.Kind, asks = Reply, false
				it.Current = number(r)
				w.Reply(to, it.Current, it.Seq, it.Status)
			case 5:
				it.Kind, asks = Over, false
				it.Current = number(r)
				seqs := make([]uint64, r.IntN(20))
				for i := range seqs {
					seqs[i] = number(r)
				}
				w.Over(to, it.Current, seqs)
				it.Seqs = encode(seqs)
			}
			if asks {
				if before == nil || before.Flow != target.Flow {
					inherited = low
				}
				before = target
				it.Flow, it.Token, it.Low, it.ID = target.Flow, target.Token, inherited, []byte(target.ID)
			} else {
				before = nil
				it.Flow, it.To = to.Flow, to.To
			}
			want = append(want, show(&it))
		}
		if got, items, err := read(w.Bytes()); err != nil || got.From != seed+1 || !slices.Equal(items, want) {
			t.Fatalf("seed %d: %v\nread\n%s\nwritten\n%s", seed, err, strings.Join(items, "\n"), strings.Join(want, "\n"))
		}
	}
}

func encode(seqs []uint64) Seqs {
	var w Writer
	for _, seq := range seqs {
		w.uv(seq)
	}
	return w.buf
}

func TestSeqsCanBeLeftEarly(t *testing.T) {
	for range encode([]uint64{1, 300, 3}).All {
		return
	}
	t.Error("yields nothing")
}

// Whatever arrives, Reader neither panics nor reads outside the frame, and what
// it read can be written and read again.
func FuzzReader(f *testing.F) {
	f.Add(writeGolden())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(slices.Clip(bytes.Clone(data)))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if r.From == 0 || len(r.Addr) > MaxAddr {
			t.Errorf("from %x at %q", r.From, r.Addr)
		}
		for n := 0; ; n++ {
			it, err := r.Next()
			if it == nil {
				if err != nil && !errors.Is(err, ErrMalformed) {
					t.Error(err)
				}
				return
			}
			if n > len(data) {
				t.Fatal("more items than bytes")
			}
			if it.Flow == 0 || cap(it.Payload) != len(it.Payload) {
				t.Errorf("%s, %d bytes to spare", show(it), cap(it.Payload)-len(it.Payload))
			}
			var w Writer
			w.Reset(nil, r.From, string(r.Addr))
			target, to := Target{it.Flow, it.Token, string(it.ID)}, Return{it.To, it.Flow}
			switch it.Kind {
			case Data:
				w.Data(&target, it.Low, it.Seq, it.Budget, it.After, it.Payload)
			case Ask:
				w.Ask(&target, it.Low, it.Seq)
			case Cancel:
				w.Cancel(&target, it.Low, it.Seq)
			case Settled:
				w.Settled(&target, it.Low)
			case Reply:
				w.Reply(to, it.Current, it.Seq, it.Status)
			case Over:
				w.Over(to, it.Current, slices.Collect(it.Seqs.All))
			default:
				t.Fatalf("kind %d", it.Kind)
			}
			got, items, err := read(w.Bytes())
			if err != nil || got.From != r.From || !bytes.Equal(got.Addr, r.Addr) || !slices.Equal(items, []string{show(it)}) {
				t.Errorf("%q from %x at %q, %v, want %q", items, got.From, got.Addr, err, show(it))
			}
		}
	})
}

// A full frame of messages of 128 B, as many senders share it.
func BenchmarkFrame(b *testing.B) {
	const items = 400
	payload := make([]byte, 128)
	target := Target{Flow: 7, Token: 1700000000000001, ID: "room"}
	var w Writer
	write := func() {
		w.Reset(w.Bytes(), 1, "tcp://10.0.0.7:63811")
		for seq := range uint64(items) {
			w.Data(&target, 1, 1+seq, 10_000, 0, payload)
		}
	}
	perItem := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/items, "ns/item")
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			write()
		}
		perItem(b)
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		write()
		for b.Loop() {
			r, err := NewReader(w.Bytes())
			n := 0
			for it, _ := r.Next(); it != nil; it, _ = r.Next() {
				n++
			}
			if err != nil || n != items {
				b.Fatal(n, err)
			}
		}
		perItem(b)
	})
}
