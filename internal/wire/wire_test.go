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

// golden is one frame with an item of every kind, for whoever writes a peer in
// another language.
const golden = "" +
	"47" + "01" + "01" + "1122334455667788" + "99aabbccddeeff01" + "0000000000000003" + "0000000000000102" + // "G", version 1, Items, link, from, number 3, ack 258
	"01" + "0e" + "07" + "01" + "8180f9c0c1c48203" + "726f6f6d" + // Open 7, chained, its token, "room"
	"07" + "07" + "07" + "03" + "7472616365" + // Context of Request 3, "trace"
	"03" + "0a" + "07" + "03" + "904e" + "03" + "68656c6c6f" + // Request 3 for 10000 ms, try and wants a reply, "hello"
	"05" + "06" + "07" + "04" + "01" + "00" + "6f6e" + // Void, which was Request 4
	"04" + "09" + "07" + "ac02" + "01" + "02" + "02" + "6869" + "00" + // Batch 300 for 1 ms of 2, "hi" and ""
	"06" + "03" + "07" + "ac02" + // Cancel 300
	"02" + "01" + "07" + // Close 7
	"10" + "05" + "09" + "01" + "02" + "01" + "00" + // Answer 1 and 2: Received, no current tenure
	"10" + "0c" + "09" + "03" + "00" + "04" + "8180f9c0c1c48203" + // Answer to batch 3: none, Ended, the current token
	"11" + "06" + "09" + "04" + "7965732e" + // Reply 4, "yes."
	"12" + "04" + "09" + "05" + "6e6f" // Failure 5, "no"

// goldenItems are those of golden.
var goldenItems = []string{
	"Open 7 flags 1 token 1700000000000001: room",
	"Context 7/3: trace",
	"Request 7/3 for 10000 ms flags 3: hello",
	`Batch 7/300 for 1 ms: ["hi" ""]`,
	"Cancel 7/300",
	"Close 7",
	"Answer 9/1 count 2 status 1 current 0",
	"Answer 9/3 count 0 status 4 current 1700000000000001",
	"Reply 9/4: yes.",
	"Failure 9/5: no",
}

const roomToken = 1700000000000001

func writeGolden() []byte {
	var w Writer
	w.Reset(nil)
	w.Open(7, Chained, roomToken, "room")
	w.Context(7, 3, []byte("trace"))
	w.Request(7, 3, 10_000, Try|WantsReply, []byte("hello"))
	at := w.Request(7, 4, 1, 0, []byte("on"))
	w.Batch(7, 300, 1, [][]byte{[]byte("hi"), nil})
	w.Cancel(7, 300)
	w.Close(7)
	w.Answer(9, 1, 2, Received, 0)
	w.Answer(9, 3, 0, Ended, roomToken)
	w.Reply(9, 4, []byte("yes."))
	w.Failure(9, 5, []byte("no"))
	Withdraw(w.Bytes(), at)
	PutHeader(w.Bytes(), Header{Kind: Items, Link: 0x1122334455667788, From: 0x99aabbccddeeff01, Number: 3, Ack: 258})
	return w.Bytes()
}

// show is all that an item of its kind says.
func show(it *Item) string {
	switch it.Kind {
	case Open:
		return fmt.Sprintf("Open %d flags %d token %d: %s", it.Stream, it.Flags, it.Token, it.ID)
	case Close:
		return fmt.Sprintf("Close %d", it.Stream)
	case Request:
		return fmt.Sprintf("Request %d/%d for %d ms flags %d: %s", it.Stream, it.Number, it.Budget, it.Flags, it.Payload)
	case Batch:
		return fmt.Sprintf("Batch %d/%d for %d ms: %q", it.Stream, it.Number, it.Budget, messages(it))
	case Cancel:
		return fmt.Sprintf("Cancel %d/%d", it.Stream, it.Number)
	case Answer:
		return fmt.Sprintf("Answer %d/%d count %d status %d current %d", it.Stream, it.Number, it.Count, it.Status, it.Current)
	case Context:
		return fmt.Sprintf("Context %d/%d: %s", it.Stream, it.Number, it.Payload)
	case Reply:
		return fmt.Sprintf("Reply %d/%d: %s", it.Stream, it.Number, it.Payload)
	case Failure:
		return fmt.Sprintf("Failure %d/%d: %s", it.Stream, it.Number, it.Payload)
	}
	return fmt.Sprintf("kind %d", it.Kind)
}

// messages are those of a batch.
func messages(it *Item) (all [][]byte) {
	b := it.Payload
	for range it.Count {
		all = append(all, NextOfBatch(&b))
	}
	return all
}

// write is what show shows, the other way round.
func write(w *Writer, it *Item) {
	switch it.Kind {
	case Open:
		w.Open(it.Stream, it.Flags, it.Token, string(it.ID))
	case Close:
		w.Close(it.Stream)
	case Request:
		w.Request(it.Stream, it.Number, it.Budget, it.Flags, it.Payload)
	case Batch:
		w.Batch(it.Stream, it.Number, it.Budget, messages(it))
	case Cancel:
		w.Cancel(it.Stream, it.Number)
	case Answer:
		w.Answer(it.Stream, it.Number, it.Count, it.Status, it.Current)
	case Context:
		w.Context(it.Stream, it.Number, it.Payload)
	case Reply:
		w.Reply(it.Stream, it.Number, it.Payload)
	case Failure:
		w.Failure(it.Stream, it.Number, it.Payload)
	}
}

// read decodes a frame that has no room behind it: to read outside it is to panic.
func read(frame []byte) (h Header, items []string, err error) {
	frame = slices.Clip(bytes.Clone(frame))
	h, body, err := ParseFrame(frame)
	if err != nil || h.Kind == Hello {
		return h, nil, err
	}
	r := NewReader(body)
	for {
		it, err := r.Next()
		if it == nil {
			return h, items, err
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
	h, items, err := read(want)
	if header := (Header{Items, 0x1122334455667788, 0x99aabbccddeeff01, 3, 258}); err != nil || h != header {
		t.Errorf("header %+v: %v", h, err)
	}
	if !slices.Equal(items, goldenItems) {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(items, "\n"), strings.Join(goldenItems, "\n"))
	}
}

func TestTheGoldenHello(t *testing.T) {
	for _, welcome := range []bool{false, true} {
		letter := "48"
		if welcome {
			letter = "57"
		}
		want, err := hex.DecodeString("47" + letter + "01" + "01" + "1122334455667788" + "0102030405060708" + "14" + "7463703a2f2f31302e302e302e373a36333831")
		if err == nil {
			want = append(want, '1')
		}
		got := AppendHello(nil, welcome, 0x1122334455667788, 0x0102030405060708, "tcp://10.0.0.7:63811")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("written\n%x, want\n%x", got, want)
		}
		g, err := ParseHello(want)
		if err != nil || g.Welcome != welcome || g.Link != 0x1122334455667788 || g.Echo != 0x0102030405060708 ||
			g.Lowest != 1 || g.Highest != 1 || string(g.Identity) != "tcp://10.0.0.7:63811" {
			t.Errorf("%+v, %v", g, err)
		}
		if h, _, err := read(want); err != nil || h.Kind != Hello {
			t.Errorf("%+v, %v", h, err)
		}
	}
}

func TestTheNumbersOfTheFormat(t *testing.T) {
	frames := []FrameKind{Hello, Items, Ack, Gap, Bye}
	if want := []FrameKind{0, 1, 2, 3, 4}; !slices.Equal(frames, want) {
		t.Errorf("kinds of frames %v, want %v", frames, want)
	}
	kinds := []Kind{Open, Close, Request, Batch, Void, Cancel, Context, Answer, Reply, Failure}
	if want := []Kind{1, 2, 3, 4, 5, 6, 7, 16, 17, 18}; !slices.Equal(kinds, want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
	statuses := []Status{Received, Busy, Expired, Ended, Absent, Oversized, NoReply}
	if want := []Status{1, 2, 3, 4, 5, 6, 7}; !slices.Equal(statuses, want) {
		t.Errorf("statuses %v, want %v", statuses, want)
	}
	if flags, want := []int{Chained, Try, WantsReply}, []int{1, 1, 2}; !slices.Equal(flags, want) {
		t.Errorf("flags %v, want %v", flags, want)
	}
}

// A later version may speak more versions, and say more, in its Hello, as long
// as one of them is known here.
func TestAHelloOfALaterVersionIsRead(t *testing.T) {
	for _, welcome := range []bool{false, true} {
		frame := append(AppendHello(nil, welcome, 5, 7, "tcp://a:1"), "what a later version adds"...)
		frame[2], frame[3] = 1, 9
		g, err := ParseHello(frame)
		if err != nil || g.Welcome != welcome || g.Lowest != 1 || g.Highest != 9 || g.Link != 5 || g.Echo != 7 || string(g.Identity) != "tcp://a:1" {
			t.Errorf("%+v, %v", g, err)
		}
		frame[2] = 8 // none that is spoken here: it is still a Hello, so that this can be said
		if g, err := ParseHello(frame); err != nil || g.Lowest != 8 {
			t.Errorf("%+v, %v", g, err)
		}
	}
}

func TestMalformedHellosAreRefused(t *testing.T) {
	good := AppendHello(nil, false, 5, 0, "tcp://a:1")
	change := func(at int, b ...byte) []byte {
		frame := bytes.Clone(good)
		copy(frame[at:], b)
		return frame
	}
	for name, bad := range map[string][]byte{
		"nothing but letters":           []byte("GH"),
		"no identity":                   good[:20],
		"an empty identity":             change(20, 0)[:21],
		"an identity that is cut":       good[:len(good)-1],
		"versions in the wrong order":   change(2, 2, 1),
		"link 0":                        change(4, 0, 0, 0, 0, 0, 0, 0, 0),
		"a Welcome of nobody's Hello":   change(1, 'W'),
		"an identity of another length": change(20, 255),
	} {
		if g, err := ParseHello(slices.Clip(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
	for n := range good {
		if _, err := ParseHello(slices.Clip(good[:n])); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
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
	// After the header, and after each of 11 items but the last.
	if complete != 1+10 {
		t.Errorf("%d prefixes are frames", complete)
	}
}

// frame is a frame of the items given as bytes.
func frame(items ...byte) []byte {
	return append(AppendFrame(nil, Header{Items, 1, 1, 1, 0}), items...)
}

// item is one whose length is right.
func item(k Kind, body ...byte) []byte { return append([]byte{byte(k), byte(len(body))}, body...) }

func TestMalformedFramesAreRefused(t *testing.T) {
	overlong := bytes.Repeat([]byte{0xff}, 10) // a number over 64 bits
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}
	header := func(h Header) []byte { return AppendFrame(nil, h) }
	bad := map[string][]byte{
		"nothing":                       {},
		"no header":                     []byte("G\x01\x01"),
		"a header that is cut":          frame()[:headerSize-1],
		"another protocol":              append([]byte{'H'}, frame()[1:]...),
		"another version":               append([]byte{'G', 2}, frame()[2:]...),
		"the version that never was":    append([]byte{'G', 0}, frame()[2:]...),
		"an HTTP request":               []byte("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"),
		"kind 0":                        header(Header{0, 1, 1, 1, 0}),
		"kind 5":                        header(Header{5, 1, 1, 1, 0}),
		"items without number":          header(Header{Items, 1, 1, 0, 0}),
		"Bye without number":            header(Header{Bye, 1, 1, 0, 0}),
		"a numbered Ack":                header(Header{Ack, 1, 1, 1, 0}),
		"a numbered Gap":                header(Header{Gap, 1, 1, 1, 0}),
		"Ack with a body":               append(header(Header{Ack, 1, 1, 0, 0}), 2, 1, 7),
		"Gap with a body":               append(header(Header{Gap, 1, 1, 0, 0}), 2, 1, 7),
		"Bye with a body":               append(header(Header{Bye, 1, 1, 1, 0}), 2, 1, 7),
		"an item without length":        frame(byte(Close)),
		"an item that is cut":           frame(byte(Close), 2, 7),
		"an item of any length":         frame(append([]byte{byte(Close)}, huge...)...),
		"a length over 64 bits":         frame(append([]byte{byte(Close)}, overlong...)...),
		"an unknown item that is cut":   frame(99, 2, 7),
		"an unknown item of any length": frame(append([]byte{99}, huge...)...),
	}
	items := map[string][]byte{
		"an empty id":                 item(Open, 7, 0, 5),
		"an id that is too long":      append([]byte{byte(Open), 0x83, 2, 7, 0, 5}, make([]byte, 256)...),
		"open without token":          item(Open, 7, 0),
		"a token over 64 bits":        item(Open, append([]byte{7, 0}, overlong...)...),
		"close of nothing":            item(Close),
		"request without number":      item(Request, 7),
		"request without budget":      item(Request, 7, 1),
		"request without flags":       item(Request, 7, 1, 1),
		"a request's number cut":      item(Request, 7, 0x80),
		"a number over 64 bits":       item(Request, append([]byte{7}, overlong...)...),
		"batch without count":         item(Batch, 7, 1, 1),
		"an empty batch":              item(Batch, 7, 1, 1, 0),
		"a batch of less":             item(Batch, 7, 1, 1, 2, 1, 'x'),
		"a batch of more":             item(Batch, 7, 1, 1, 1, 1, 'x', 1, 'y'),
		"a batch of any number":       item(Batch, slices.Concat([]byte{7, 1, 1}, huge, []byte{1, 'x'})...),
		"a message that is cut":       item(Batch, 7, 1, 1, 1, 2, 'x'),
		"a message of any length":     item(Batch, slices.Concat([]byte{7, 1, 1, 1}, huge, []byte{'x'})...),
		"cancel of nothing":           item(Cancel, 7),
		"an answer without count":     item(Answer, 9, 1),
		"an answer without status":    item(Answer, 9, 1, 1),
		"an answer without current":   item(Answer, 9, 1, 1, 1),
		"status 0":                    item(Answer, 9, 1, 1, 0, 0),
		"status 9":                    item(Answer, 9, 1, 1, 9, 0),
		"a current token that is cut": item(Answer, 9, 1, 1, 1, 0x80),
		"a context of nothing":        item(Context, 9),
		"a reply to nothing":          item(Reply, 9),
		"a failure of nothing":        item(Failure, 9),
	}
	for _, k := range []Kind{Open, Close, Request, Batch, Cancel, Context, Answer, Reply, Failure} {
		items[fmt.Sprint("nothing of kind ", k)] = item(k)
		items[fmt.Sprint("stream 0 of kind ", k)] = item(k, 0, 1, 1, 1, 1, 'x')
	}
	for name, bytes := range items {
		bad[name] = frame(bytes...)
	}
	for name, bytes := range bad {
		if _, items, err := read(bytes); !errors.Is(err, ErrMalformed) || items != nil {
			t.Errorf("%s: %q, %v", name, items, err)
		}
	}
}

// So a later version can say more in frames that are meant for this one as well.
func TestUnknownItemsAreSkipped(t *testing.T) {
	known := map[Kind]bool{Open: true, Close: true, Request: true, Batch: true, Cancel: true, Context: true, Answer: true, Reply: true, Failure: true}
	for kind := range 256 {
		if known[Kind(kind)] {
			continue
		}
		for _, body := range [][]byte{nil, {1}, bytes.Repeat([]byte{byte(Close)}, 100)} {
			items := slices.Concat(item(Close, 7), item(Kind(kind), body...), item(Close, 8))
			if _, got, err := read(frame(items...)); err != nil || !slices.Equal(got, []string{"Close 7", "Close 8"}) {
				t.Errorf("kind %d of %d bytes: %q, %v", kind, len(body), got, err)
			}
		}
	}
}

func TestWhatPrecedesAMalformedItemIsReadAndNothingAfterIt(t *testing.T) {
	_, body, err := ParseFrame(frame(slices.Concat(item(Close, 7), item(Close), item(Close, 8), item(Close, 9))...))
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(body)
	if it, err := r.Next(); err != nil || it.Stream != 7 {
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
	w.Reset(nil)
	for n := range uint64(3) {
		w.Request(7, n, 1, 0, []byte("payload"))
	}
	w.Batch(7, 3, 1, [][]byte{[]byte("payload"), []byte("payload")})
	r := NewReader(w.Bytes()[headerSize:])
	overflow := func(payload []byte) {
		t.Helper()
		if cap(payload) != len(payload) {
			t.Errorf("%d bytes to spare", cap(payload)-len(payload))
		}
		if _ = append(payload, "overflow"...); string(payload) != "payload" {
			t.Errorf("got %q", payload)
		}
	}
	for range 3 {
		it, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		overflow(it.Payload)
	}
	it, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		overflow(NextOfBatch(&it.Payload))
	}
	if len(it.Payload) != 0 {
		t.Errorf("%q is left", it.Payload)
	}
}

func TestWhatIsWithdrawnIsSkippedAndNothingElse(t *testing.T) {
	const n = 5
	for which := range 1 << n {
		var w Writer
		w.Reset(nil)
		var want []string
		var at [n]int
		for i := range n {
			it := Item{Kind: Request, Stream: 7, Number: uint64(i), Budget: 10, Payload: bytes.Repeat([]byte{2, 1, 7}, i)} // bytes that look like an item
			if i == 3 {
				msgs := [][]byte{{2, 1, 7}, nil}
				at[i] = w.Batch(7, 3, 10, msgs)
				it = Item{Kind: Batch, Stream: 7, Number: 3, Budget: 10, Count: 2, Payload: []byte{3, 2, 1, 7, 0}}
			} else {
				at[i] = w.Request(7, uint64(i), 10, 0, it.Payload)
			}
			if which>>i&1 == 0 {
				want = append(want, show(&it))
			}
		}
		size := w.Len()
		for i := range n {
			if which>>i&1 == 1 {
				Withdraw(w.Bytes(), at[i])
			}
		}
		w.Close(8)
		want = append(want, "Close 8")
		PutHeader(w.Bytes(), Header{Items, 1, 1, 1, 0})
		if _, items, err := read(w.Bytes()); err != nil || !slices.Equal(items, want) || w.Len() != size+3 {
			t.Errorf("withdrawn %05b: %q, %v", which, items, err)
		}
	}
}

func TestAWriterStartsAFrameAnew(t *testing.T) {
	var w Writer
	w.Reset(nil)
	if !w.Empty() || w.Len() != headerSize {
		t.Errorf("%x is not empty", w.Bytes())
	}
	for range 2 { // nothing is inherited from the frame before
		for _, it := range []*Item{
			{Kind: Request, Stream: 7, Number: 2, Payload: []byte("x")},
			{Kind: Answer, Stream: 7, Number: 3, Count: 1, Status: Busy},
			{Kind: Reply, Stream: 7, Number: 3},
			{Kind: Close, Stream: 7},
		} {
			w.Reset(w.Bytes())
			write(&w, it)
			PutHeader(w.Bytes(), Header{Items, 1, 1, 1, 0})
			if _, items, err := read(w.Bytes()); w.Empty() || err != nil || !slices.Equal(items, []string{show(it)}) {
				t.Errorf("%q, %v, want %q", items, err, show(it))
			}
			if w.Requests != (it.Kind == Request) || w.Answers != (it.Kind == Answer || it.Kind == Reply) {
				t.Errorf("%s: requests %v, answers %v", show(it), w.Requests, w.Answers)
			}
		}
	}
}

func TestOverheadBoundsAFrameWithOnePayload(t *testing.T) {
	const most = math.MaxUint64
	payload := make([]byte, 1000)
	for name, last := range map[string]func(*Writer){
		"request": func(w *Writer) { w.Request(most, most, most, most, payload) },
		"batch":   func(w *Writer) { w.Batch(most, most, most, [][]byte{payload}) },
	} {
		var w Writer
		w.Reset(nil)
		w.Open(most, most, most, strings.Repeat("i", MaxID))
		last(&w)
		if w.Len() > Overhead+len(payload) {
			t.Errorf("%s: %d bytes besides the payload, Overhead is %d", name, w.Len()-len(payload), Overhead)
		}
		PutHeader(w.Bytes(), Header{Items, most, 1, most, most})
		if _, items, err := read(w.Bytes()); err != nil || len(items) != 2 {
			t.Errorf("%s: %q, %v", name, items, err)
		}
	}
}

// number is of any length that a varint can have.
func number(r *rand.Rand) uint64 { return r.Uint64() >> r.IntN(64) }

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestWhatWriterWritesReaderReads(t *testing.T) {
	kinds := []Kind{Open, Close, Request, Batch, Cancel, Context, Answer, Reply, Failure}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w Writer
		w.Reset(make([]byte, r.IntN(100)))
		var want []string
		for range r.IntN(50) {
			it := Item{
				Kind: kinds[r.IntN(len(kinds))], Stream: number(r) | 1, Number: number(r), Flags: number(r), Token: number(r), Budget: number(r),
				Count: number(r), Status: Received + Status(r.IntN(7)), Current: number(r),
				ID: random(r, 1+r.IntN(MaxID)), Payload: random(r, r.IntN(200)),
			}
			if it.Kind == Batch {
				it.Count, it.Payload = 1+r.Uint64N(5), nil
				for range it.Count {
					it.Payload = append(it.Payload, item(0, random(r, r.IntN(100))...)[1:]...)
				}
			}
			before := w.Len()
			write(&w, &it)
			if it.Kind == Batch {
				size := 0
				for _, m := range messages(&it) {
					size += SizeInBatch(m)
				}
				if numbers := w.Len() - before - size; numbers < 5 || numbers > 1+5*10 {
					t.Errorf("a batch of %d bytes, of which messages are %d", w.Len()-before, size)
				}
			}
			want = append(want, show(&it))
		}
		h := Header{Items, r.Uint64(), 1, r.Uint64() | 1, r.Uint64()}
		PutHeader(w.Bytes(), h)
		if got, items, err := read(w.Bytes()); err != nil || got != h || !slices.Equal(items, want) {
			t.Fatalf("seed %d: %v\nread\n%s\nwritten\n%s", seed, err, strings.Join(items, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Whatever arrives, neither ParseFrame nor Reader panics or reads outside the
// frame, and what was read can be written and read again.
func FuzzReader(f *testing.F) {
	f.Add(writeGolden())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, body, err := ParseFrame(slices.Clip(bytes.Clone(data)))
		if err != nil || h.Kind == Hello {
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if h.Kind < Items || h.Kind > Bye || len(body) != len(data)-headerSize {
			t.Errorf("%+v of %d bytes", h, len(data))
		}
		r := NewReader(body)
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
			if it.Stream == 0 || cap(it.Payload) != len(it.Payload) || cap(it.ID) != len(it.ID) || it.Kind == Batch && it.Count > uint64(len(it.Payload)) {
				t.Errorf("%s, %d bytes to spare", show(it), cap(it.Payload)-len(it.Payload))
			}
			var w Writer
			w.Reset(nil)
			write(&w, it)
			PutHeader(w.Bytes(), h)
			if h.Kind != Items {
				t.Fatalf("%s in a frame of kind %d", show(it), h.Kind)
			}
			if got, items, err := read(w.Bytes()); err != nil || got != h || !slices.Equal(items, []string{show(it)}) {
				t.Errorf("%q of %+v, %v, want %q", items, got, err, show(it))
			}
		}
	})
}

// Whatever arrives, ParseHello neither panics nor reads outside the frame, and
// what it read is said again by AppendHello, but for the versions and the rest.
func FuzzHello(f *testing.F) {
	f.Add(AppendHello(nil, false, 1, 0, "tcp://10.0.0.7:63811"))
	f.Add(AppendHello(nil, true, 1, 2, "tcp://10.0.0.7:63811 "+strings.Repeat("k", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame := slices.Clip(bytes.Clone(data))
		g, err := ParseHello(frame)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		if g.Link == 0 || g.Welcome && g.Echo == 0 || g.Lowest > g.Highest || len(g.Identity) == 0 || len(g.Identity) > MaxIdentity {
			t.Errorf("%+v", g)
		}
		if h, _, err := ParseFrame(frame); err != nil || h.Kind != Hello {
			t.Errorf("as a frame %+v, %v", h, err)
		}
		again := AppendHello(nil, g.Welcome, g.Link, g.Echo, string(g.Identity))
		again[2], again[3] = g.Lowest, g.Highest
		if !bytes.HasPrefix(data, again) {
			t.Errorf("said again\n%x, read\n%x", again, data)
		}
	})
}

// A full frame of messages of 128 B, as many senders share it.
func BenchmarkFrame(b *testing.B) {
	const items = 400
	payload := make([]byte, 128)
	var w Writer
	write := func() {
		w.Reset(w.Bytes())
		for n := range uint64(items) {
			w.Request(7, 1+n, 10_000, 0, payload)
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
			r := NewReader(w.Bytes()[headerSize:])
			n := 0
			for it, _ := r.Next(); it != nil; it, _ = r.Next() {
				n++
			}
			if n != items {
				b.Fatal(n)
			}
		}
		perItem(b)
	})
}
