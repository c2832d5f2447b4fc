// Package wire is the format in which two processes speak to each other. It is
// pure: bytes in, items out, no I/O and no state beyond one frame.
//
// # Format
//
// A frame is one ZeroMQ message part, sent from a PUSH to a PULL socket. u8 and
// u64 are big-endian; uv is an unsigned varint as in protocol buffers (seven bits
// a byte, least significant first).
//
// A link is what two processes have between them. Each side chooses a random
// number for it, not 0, by which the other addresses its frames; so a frame for
// a link that is over, or for another incarnation of a process, fits nowhere.
//
//	hello   = "G" "H" lowest:u8 highest:u8 link:u64 echo:u64 len:u8 identity:len
//	welcome = "G" "W" and the rest of a hello
//
// Hello opens a link, or asks whether there still is one. Link is the sender's
// number of it, echo the receiver's, or 0 while that is not known. It is answered
// with a Welcome, which is the same with the roles changed: its link is of the
// link that the receiver of the Hello has now. A Welcome is not answered. Lowest
// and highest are the versions that the sender speaks; both sides use the highest
// that both speak. Identity is where the sender can be reached: its address and,
// with CURVE, a space and its public key. Both look the same in all versions; what
// follows the identity is skipped.
//
//	frame = "G" version:u8 kind:u8 link:u64 from:u64 number:u64 ack:u64 body
//
// Link is the receiver's number and from the sender's: a frame is of a link only if
// both say so, as another process at an address can have been told the first. Every
// frame acknowledges all frames up to ack. The frames that are numbered, 1, 2, 3 and
// so on, are taken in that order.
//
//	1 Items  numbered; the body is items to its end
//	2 Ack    no more than the header; number is 0
//	3 Gap    as Ack, and frames behind ack have arrived: send again
//	4 Bye    numbered, the last. The sender takes no frame behind ack any more
//
// An item is kind:u8 len:uv and a body of that length. Kinds that are not known
// are skipped. A stream is the numbered requests from one process to one tenure, in
// the order of their numbers; the sender chooses its number, not 0 and never used
// before on the link.
//
//	1  Open     stream:uv flags:uv token:uv id
//	2  Close    stream:uv
//	3  Request  stream:uv number:uv budget:uv flags:uv payload
//	4  Batch    stream:uv number:uv budget:uv count:uv (len:uv payload) × count
//	5  Void     anything; the sender took it back
//	6  Cancel   stream:uv number:uv
//	7  Context  stream:uv number:uv anything
//	16 Answer   stream:uv number:uv count:uv status:u8 current:uv
//	17 Reply    stream:uv number:uv payload
//	18 Failure  stream:uv number:uv text
//
// Context says what else the sender has to say of the Request or Batch that follows
// at once, as a trace that goes on in the handler. Who does not know it loses no more.
//
// Every Request and Batch that is not taken back gets one answer: an Answer,
// which can be for count requests with adjoining numbers, a Reply, or a Failure.
// Received answers a Request that wants a reply, too: the reply is empty. Before
// its answer there may be an Answer that it was Taken, which is none.
// The answer to a Batch is for it alone, and its count is how many messages of it
// the handler received; status says why not the next one. In a stream that was
// opened with Chained nothing is received behind a Batch that was not received
// whole, or was taken back. The budget is how many milliseconds the receiver may keep the payload
// before it must refuse it as Expired. Current is the fencing token of the id's
// tenure at the receiver, 0 where it has none; it goes with Ended and Absent.
package wire

import (
	"encoding/binary"
	"errors"
)

// Version is the one that this package writes and reads, Lowest the oldest that
// it can also speak.
const (
	Version = 1
	Lowest  = 1
)

// MaxID and MaxIdentity bound strings, in bytes.
const (
	MaxID       = 255
	MaxIdentity = 255
)

// FrameKind says what a frame is. The values are part of the format.
type FrameKind uint8

const (
	Items FrameKind = 1
	Ack   FrameKind = 2
	Gap   FrameKind = 3
	Bye   FrameKind = 4

	// Hello is the kind of what ParseHello reads; it is not on the wire.
	Hello FrameKind = 0
)

// Kind says what an Item is. The values are part of the format.
type Kind uint8

const (
	Open    Kind = 1
	Close   Kind = 2
	Request Kind = 3
	Batch   Kind = 4
	Void    Kind = 5
	Cancel  Kind = 6
	Context Kind = 7
	Answer  Kind = 16
	Reply   Kind = 17
	Failure Kind = 18
)

// Flags of an Open.
const Chained = 1

// Flags of a Request.
const (
	Try        = 1 // it is for a handler that is receiving right now
	WantsReply = 2
)

// Status is the answer to one request. The values are part of the format.
type Status uint8

const (
	Received  Status = 1 // the handler has it
	Busy      Status = 2 // refused: the handler is not receiving, or too much waits for it
	Expired   Status = 3 // refused: its budget ran out, or it was cancelled
	Ended     Status = 4 // refused: the tenure was here and is over
	Absent    Status = 5 // refused: this process has no such tenure
	Oversized Status = 6 // refused: larger than this process takes
	NoReply   Status = 7 // the handler received it, and no reply will come
	Taken     Status = 8 // the handler received it, and the answer is still to come
)

// ErrMalformed is returned for bytes that are not a frame of a version that this
// package reads.
var ErrMalformed = errors.New("wire: malformed frame")

const headerSize = 35

// MaxContext bounds what a Context says, in bytes.
const MaxContext = 4 << 10

// Overhead bounds what a frame with one payload needs besides the payload.
const Overhead = headerSize + 2*(1+binary.MaxVarintLen64) + 8*binary.MaxVarintLen64 + MaxID

// A Header is that of every frame but Hello.
type Header struct {
	Kind   FrameKind
	Link   uint64
	From   uint64
	Number uint64
	Ack    uint64
}

// ParseFrame reads a frame's header and returns the rest. Of a Hello it only
// says that it is one.
func ParseFrame(frame []byte) (h Header, body []byte, err error) {
	if len(frame) >= 2 && frame[0] == 'G' && (frame[1] == 'H' || frame[1] == 'W') {
		return h, frame, nil
	}
	if len(frame) < headerSize || frame[0] != 'G' || frame[1] != Version {
		return h, nil, ErrMalformed
	}
	h = Header{
		Kind:   FrameKind(frame[2]),
		Link:   binary.BigEndian.Uint64(frame[3:]),
		From:   binary.BigEndian.Uint64(frame[11:]),
		Number: binary.BigEndian.Uint64(frame[19:]),
		Ack:    binary.BigEndian.Uint64(frame[27:]),
	}
	numbered := h.Kind == Items || h.Kind == Bye
	if h.Kind < Items || h.Kind > Bye || numbered != (h.Number > 0) || h.Kind != Items && len(frame) != headerSize {
		return h, nil, ErrMalformed
	}
	return h, frame[headerSize:], nil
}

// PutHeader writes the header of a frame of which the rest is there.
func PutHeader(frame []byte, h Header) {
	frame[0], frame[1], frame[2] = 'G', Version, byte(h.Kind)
	binary.BigEndian.PutUint64(frame[3:], h.Link)
	binary.BigEndian.PutUint64(frame[11:], h.From)
	binary.BigEndian.PutUint64(frame[19:], h.Number)
	binary.BigEndian.PutUint64(frame[27:], h.Ack)
}

// AppendFrame appends a frame that has no more than a header.
func AppendFrame(b []byte, h Header) []byte {
	b = append(b, make([]byte, headerSize)...)
	PutHeader(b[len(b)-headerSize:], h)
	return b
}

// A Greeting is what a Hello or Welcome says.
type Greeting struct {
	Welcome         bool
	Lowest, Highest uint8
	Link, Echo      uint64
	Identity        []byte // points into the frame
}

const greetingSize = 21

// ParseHello reads a Hello or Welcome, of this version or any other.
func ParseHello(frame []byte) (g Greeting, err error) {
	if len(frame) < greetingSize || frame[0] != 'G' || frame[1] != 'H' && frame[1] != 'W' {
		return g, ErrMalformed
	}
	end := greetingSize + int(frame[20])
	g = Greeting{
		Welcome: frame[1] == 'W',
		Lowest:  frame[2], Highest: frame[3],
		Link: binary.BigEndian.Uint64(frame[4:]),
		Echo: binary.BigEndian.Uint64(frame[12:]),
	}
	if g.Lowest > g.Highest || g.Link == 0 || g.Welcome && g.Echo == 0 || end == greetingSize || len(frame) < end {
		return g, ErrMalformed
	}
	g.Identity = frame[greetingSize:end]
	return g, nil
}

// AppendHello appends a Hello or Welcome. The length of the identity is 1 to
// MaxIdentity.
func AppendHello(b []byte, welcome bool, link, echo uint64, identity string) []byte {
	b = append(b, 'G', 'H', Lowest, Version)
	if welcome {
		b[len(b)-3] = 'W'
	}
	b = binary.BigEndian.AppendUint64(b, link)
	b = binary.BigEndian.AppendUint64(b, echo)
	return append(append(b, byte(len(identity))), identity...)
}

// An Item is one decoded item. ID and Payload point into the frame.
type Item struct {
	Kind    Kind
	Stream  uint64
	Number  uint64
	Flags   uint64
	Token   uint64 // of Open
	Budget  uint64 // milliseconds
	Count   uint64
	Status  Status
	Current uint64
	ID      []byte
	Payload []byte // of a Batch, for Next
}

// Reader decodes the items of a frame's body.
type Reader struct {
	rest []byte
	item Item
}

// NewReader reads a body that ParseFrame returned.
func NewReader(body []byte) Reader { return Reader{rest: body} }

// Next decodes the next item other than Void. The item is valid until the
// following call. It returns nil, nil at the end.
func (r *Reader) Next() (*Item, error) {
	for len(r.rest) > 0 {
		r.item = Item{Kind: Kind(r.rest[0])}
		r.rest = r.rest[1:]
		n, ok := cut(&r.rest)
		if !ok || n > uint64(len(r.rest)) {
			r.rest = nil // where another item would begin is not known
			return nil, ErrMalformed
		}
		body := r.rest[:n:n] // so that no owner of one payload can write into the next
		r.rest = r.rest[n:]
		known, ok := r.item.parse(body)
		if !ok {
			r.rest = nil
			return nil, ErrMalformed
		}
		if known {
			return &r.item, nil
		}
	}
	return nil, nil
}

// parse reads an item's body, and reports whether the kind is known and the
// body well-formed.
func (it *Item) parse(b []byte) (known, ok bool) {
	uv := func(vs ...*uint64) bool {
		for _, v := range vs {
			var ok bool
			if *v, ok = cut(&b); !ok {
				return false
			}
		}
		return it.Stream != 0
	}
	switch it.Kind {
	case Open:
		ok = uv(&it.Stream, &it.Flags, &it.Token) && len(b) > 0 && len(b) <= MaxID
		it.ID = b
	case Close:
		ok = uv(&it.Stream)
	case Request:
		ok = it.request(&b)
		it.Payload = b
	case Batch:
		ok = uv(&it.Stream, &it.Number, &it.Budget, &it.Count) && it.Count > 0 && isBatch(b, it.Count)
		it.Payload = b
	case Cancel:
		ok = uv(&it.Stream, &it.Number)
	case Answer:
		ok = it.answer(b)
	case Reply, Failure:
		ok = uv(&it.Stream, &it.Number)
		it.Payload = b
	case Context:
		ok = uv(&it.Stream, &it.Number) && len(b) <= MaxContext
		it.Payload = b
	default:
		return false, true
	}
	return true, ok
}

// request and answer are the common items; they do without a closure.
func (it *Item) request(b *[]byte) (ok bool) {
	for _, v := range [...]*uint64{&it.Stream, &it.Number, &it.Budget, &it.Flags} {
		if *v, ok = cut(b); !ok {
			return false
		}
	}
	return it.Stream != 0
}

func (it *Item) answer(b []byte) (ok bool) {
	for _, v := range [...]*uint64{&it.Stream, &it.Number, &it.Count} {
		if *v, ok = cut(&b); !ok {
			return false
		}
	}
	if it.Stream == 0 || len(b) == 0 {
		return false
	}
	it.Status = Status(b[0])
	b = b[1:]
	it.Current, ok = cut(&b)
	return ok && it.Status >= Received && it.Status <= Taken
}

// cut takes a varint from the front of b.
func cut(b *[]byte) (v uint64, ok bool) {
	if len(*b) > 0 && (*b)[0] < 0x80 { // the common case, inlined
		v = uint64((*b)[0])
		*b = (*b)[1:]
		return v, true
	}
	v, n := binary.Uvarint(*b)
	if n <= 0 {
		return 0, false
	}
	*b = (*b)[n:]
	return v, true
}

func isBatch(b []byte, count uint64) bool {
	for ; count > 0; count-- {
		n, ok := cut(&b)
		if !ok || n > uint64(len(b)) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}

// NextOfBatch takes the next message from the Payload of a Batch, which is not
// empty.
func NextOfBatch(b *[]byte) []byte {
	n, _ := cut(b)
	data := (*b)[:n:n]
	*b = (*b)[n:]
	return data
}
