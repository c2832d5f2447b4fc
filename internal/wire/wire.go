// Package wire is the format in which nodes speak to each other. It is pure:
// bytes in, items out, no I/O and no state beyond one frame.
//
// # Format, version 1
//
// A frame is one ZeroMQ message part, sent from a PUSH to a PULL socket. Every
// frame can be read by itself. u8 and u64 are big-endian; uv is an unsigned
// varint as in protocol buffers (seven bits a byte, least significant first).
//
//	frame  = "G" "1" from:u64 len:u8 addr:len header, then items to the end
//	from   = random number, not 0, of the sending node's incarnation; a
//	         restarted process has another one
//	addr   = address of the sending node's PULL socket, for replies; with CURVE
//	         followed by a space and the node's public key
//
// An item is a kind:u8 and its fields. Tenure and Flow set the context of the
// items that follow them in the same frame.
//
//	1 Tenure  flow:uv token:uv low:uv len:u8 id:len
//	2 Data    seq:uv budget:uv after:uv len:uv payload:len
//	3 Void    as Data; the sender withdrew it, skip it
//	4 Ask     seq:uv
//	5 Cancel  seq:uv
//	6 Settled
//	16 Flow   to:u64 flow:uv current:uv
//	17 Reply  seq:uv status:u8
//	18 Over   n:uv seq:uv × n
//
// A sender numbers what it sends to one tenure of one id. That numbering is a
// flow; the sender chooses the flow's number, not 0, the receiver echoes it.
// Sequence numbers start at 1. Everything below low is settled for the sender:
// it will neither repeat it nor ask for it, so the receiver can forget it.
//
// Data offers a payload to the tenure with that fencing token, and to no
// other. Ask with a token of 0 is always answered with a refusal, which names
// the current one. The budget is how many milliseconds the receiver may keep
// the payload before it must refuse it as Expired; 0 means that it must be handed
// to a handler that is receiving right now. Unless after is 0, the payload belongs
// behind that of seq-after and must not be received without it: the receiver
// refuses it as Busy or Expired when that one has not arrived or was refused.
// The receiver answers each Data once, when its fate is known. Copies of one
// (flow, seq) have one fate.
//
// Ask requests the status of a sequence number, also of one that was not sent.
// A sender that has heard nothing of the tenure for five seconds sends Ask in
// place of Data, and the Data when the answer is Missing: so the receiver knows
// whom to tell of its end before there is anything whose outcome could become
// unknown. Cancel withdraws a number where that is still possible and is
// answered with its fate. Settled only carries the low of its Tenure: it
// acknowledges Over.
//
// Replies go to addr in a frame of the same form. To repeats the incarnation
// that the payload came from; a node ignores replies to another one. Current
// is the token of the id's tenure on the replying node, 0 when it has none.
// Over says that the tenure has ended: the n sequence numbers listed, at or
// above low, were received; no other one of that flow was or ever will be.
package wire

import (
	"encoding/binary"
	"errors"
)

// MaxID and MaxAddr bound the strings that carry an 8-bit length, in bytes.
const (
	MaxID   = 255
	MaxAddr = 255
)

// Overhead bounds what a frame with one payload needs besides the payload.
const Overhead = 2 + 8 + 1 + MaxAddr + // frame
	1 + 3*binary.MaxVarintLen64 + 1 + MaxID + // tenure
	1 + 4*binary.MaxVarintLen64 // data

// Kind says what an Item is. The values are part of the format.
type Kind uint8

const (
	Tenure  Kind = 1
	Data    Kind = 2
	Void    Kind = 3
	Ask     Kind = 4
	Cancel  Kind = 5
	Settled Kind = 6
	Flow    Kind = 16
	Reply   Kind = 17
	Over    Kind = 18
)

// Status is the fate of one sequence number, as its receiver knows it. The
// values are part of the format.
type Status uint8

const (
	Received  Status = 1 // the handler has it
	Pending   Status = 2 // it waits for the handler; only in answer to Ask
	Missing   Status = 3 // it never arrived, send it again; only in answer to Ask
	Busy      Status = 4 // refused: the handler is not receiving, or too much waits for it
	Expired   Status = 5 // refused: its budget ran out, or it was cancelled
	NotHere   Status = 6 // refused: the tenure was here and is over
	Stranger  Status = 7 // refused: this incarnation does not know the tenure; says nothing of other copies
	Oversized Status = 8 // refused: larger than this node takes
)

// ErrMalformed is returned for bytes that are not a frame of this version.
var ErrMalformed = errors.New("wire: malformed frame")

// Item is one decoded item together with its context. ID, Payload and Seqs
// point into the frame.
type Item struct {
	Kind    Kind
	Flow    uint64 // context
	Token   uint64 // context of sender's items
	Low     uint64 // context of sender's items
	ID      []byte // context of sender's items
	To      uint64 // context of replies
	Current uint64 // context of replies
	Seq     uint64
	Budget  uint64 // milliseconds
	After   uint64 // how far back the payload is that this one follows; 0: none
	Payload []byte
	Status  Status
	Seqs    Seqs
}

// Seqs is the encoded list of an Over item, checked when it was decoded.
type Seqs []byte

// All yields the sequence numbers.
func (s Seqs) All(yield func(uint64) bool) {
	for len(s) > 0 {
		v, n := binary.Uvarint(s)
		if !yield(v) {
			return
		}
		s = s[n:]
	}
}

// Reader decodes one frame.
type Reader struct {
	From uint64
	Addr []byte // points into the frame
	rest []byte
	item Item
}

// NewReader decodes the header of a frame.
func NewReader(frame []byte) (Reader, error) {
	if len(frame) < 11 || frame[0] != 'G' || frame[1] != '1' {
		return Reader{}, ErrMalformed
	}
	end := 11 + int(frame[10])
	if len(frame) < end {
		return Reader{}, ErrMalformed
	}
	r := Reader{From: binary.BigEndian.Uint64(frame[2:]), Addr: frame[11:end], rest: frame[end:]}
	if r.From == 0 {
		return Reader{}, ErrMalformed
	}
	return r, nil
}

// From returns the address that a frame claims to come from, nil where it is
// malformed.
func From(frame []byte) []byte {
	r, _ := NewReader(frame)
	return r.Addr
}

// Next decodes the next item other than Tenure, Flow and Void, which it
// consumes. The item is valid until the following call. It returns nil, nil
// at the end of the frame.
func (r *Reader) Next() (*Item, error) {
	it := &r.item
	for len(r.rest) > 0 {
		it.Kind = Kind(r.rest[0])
		r.rest = r.rest[1:]
		var ok bool
		switch it.Kind {
		case Tenure:
			ok = r.uv(&it.Flow) && it.Flow != 0 && r.uv(&it.Token) && r.uv(&it.Low) && r.short(&it.ID)
			it.To, it.Current = 0, 0
		case Flow:
			ok = r.u64(&it.To) && it.To != 0 && r.uv(&it.Flow) && it.Flow != 0 && r.uv(&it.Current)
			it.Token, it.Low, it.ID = 0, 0, nil
		case Data, Void:
			ok = it.ID != nil && r.uv(&it.Seq) && r.uv(&it.Budget) && r.uv(&it.After) && r.long(&it.Payload)
		case Ask, Cancel:
			ok = it.ID != nil && r.uv(&it.Seq)
		case Settled:
			ok = it.ID != nil
		case Reply:
			ok = it.To != 0 && r.uv(&it.Seq) && r.status(&it.Status)
		case Over:
			ok = it.To != 0 && r.seqs(&it.Seqs)
		}
		if !ok {
			r.rest = nil // where another item would begin is not known
			return nil, ErrMalformed
		}
		if it.Kind != Tenure && it.Kind != Flow && it.Kind != Void {
			return it, nil
		}
	}
	return nil, nil
}

func (r *Reader) uv(v *uint64) bool {
	x, n := binary.Uvarint(r.rest)
	if n <= 0 {
		return false
	}
	*v, r.rest = x, r.rest[n:]
	return true
}

func (r *Reader) u64(v *uint64) bool {
	if len(r.rest) < 8 {
		return false
	}
	*v, r.rest = binary.BigEndian.Uint64(r.rest), r.rest[8:]
	return true
}

func (r *Reader) status(s *Status) bool {
	if len(r.rest) < 1 {
		return false
	}
	*s, r.rest = Status(r.rest[0]), r.rest[1:]
	return *s >= Received && *s <= Oversized
}

// bytes takes n bytes without room to append, so that no owner of one payload
// can write into the next.
func (r *Reader) bytes(b *[]byte, n uint64) bool {
	if n > uint64(len(r.rest)) {
		return false
	}
	*b, r.rest = r.rest[:n:n], r.rest[n:]
	return true
}

func (r *Reader) short(b *[]byte) bool {
	if len(r.rest) < 1 || r.rest[0] == 0 {
		return false
	}
	n := uint64(r.rest[0])
	r.rest = r.rest[1:]
	return r.bytes(b, n)
}

func (r *Reader) long(b *[]byte) bool {
	var n uint64
	return r.uv(&n) && r.bytes(b, n)
}

func (r *Reader) seqs(s *Seqs) bool {
	var n, v uint64
	if !r.uv(&n) {
		return false
	}
	start := r.rest
	for ; n > 0; n-- {
		if !r.uv(&v) {
			return false
		}
	}
	*s = Seqs(start[:len(start)-len(r.rest)])
	return true
}

// Writer encodes one frame after the other into a buffer that it owns.
type Writer struct {
	buf    []byte
	header int // length of the header, where an empty frame ends

	// The context that the next item would inherit.
	flow        uint64 // 0 for none
	ask         bool   // which of the two kinds of context it is
	to, current uint64 // of replies
}

// Reset starts a frame in buf, whose content is discarded. The length of addr
// is at most MaxAddr.
func (w *Writer) Reset(buf []byte, from uint64, addr string) {
	buf = append(buf[:0], 'G', '1')
	buf = binary.BigEndian.AppendUint64(buf, from)
	buf = append(buf, byte(len(addr)))
	w.buf = append(buf, addr...)
	w.header, w.flow = len(w.buf), 0
}

// Bytes returns the frame so far; it is valid until the next call that writes.
func (w *Writer) Bytes() []byte { return w.buf }

// Len is the length of the frame so far.
func (w *Writer) Len() int { return len(w.buf) }

// Empty reports whether the frame has no items yet.
func (w *Writer) Empty() bool { return len(w.buf) == w.header }

// Target is the tenure that a sender's items are addressed to. Flow is not 0.
type Target struct {
	Flow, Token uint64
	ID          string
}

func (w *Writer) tenure(t *Target, low uint64) {
	if w.ask && w.flow == t.Flow {
		return
	}
	w.ask, w.flow = true, t.Flow
	w.buf = append(w.buf, byte(Tenure))
	w.uv(t.Flow)
	w.uv(t.Token)
	w.uv(low)
	w.buf = append(w.buf, byte(len(t.ID)))
	w.buf = append(w.buf, t.ID...)
}

// Data appends a payload and returns the offset of its item for Withdraw.
func (w *Writer) Data(t *Target, low, seq, budget, after uint64, payload []byte) int {
	w.tenure(t, low)
	at := len(w.buf)
	w.buf = append(w.buf, byte(Data))
	w.uv(seq)
	w.uv(budget)
	w.uv(after)
	w.uv(uint64(len(payload)))
	w.buf = append(w.buf, payload...)
	return at
}

// Withdraw turns the Data item at an offset that Data returned into a Void.
func Withdraw(frame []byte, at int) { frame[at] = byte(Void) }

// Ask appends a question about seq.
func (w *Writer) Ask(t *Target, low, seq uint64) { w.about(Ask, t, low, seq) }

// Cancel appends a withdrawal of seq.
func (w *Writer) Cancel(t *Target, low, seq uint64) { w.about(Cancel, t, low, seq) }

func (w *Writer) about(k Kind, t *Target, low, seq uint64) {
	w.tenure(t, low)
	w.buf = append(w.buf, byte(k))
	w.uv(seq)
}

// Settled appends the sender's new low.
func (w *Writer) Settled(t *Target, low uint64) {
	w.flow = 0 // low is in the context, so it cannot be inherited
	w.tenure(t, low)
	w.buf = append(w.buf, byte(Settled))
}

// Return is where a reply goes: the incarnation that asked and its flow.
type Return struct{ To, Flow uint64 }

func (w *Writer) back(r Return, current uint64) {
	if !w.ask && w.flow == r.Flow && w.to == r.To && w.current == current {
		return
	}
	w.ask, w.flow, w.to, w.current = false, r.Flow, r.To, current
	w.buf = append(w.buf, byte(Flow))
	w.buf = binary.BigEndian.AppendUint64(w.buf, r.To)
	w.uv(r.Flow)
	w.uv(current)
}

// Reply appends the status of seq.
func (w *Writer) Reply(r Return, current, seq uint64, s Status) {
	w.back(r, current)
	w.buf = append(w.buf, byte(Reply))
	w.uv(seq)
	w.buf = append(w.buf, byte(s))
}

// Over appends the end of a tenure and what was received in it.
func (w *Writer) Over(r Return, current uint64, received []uint64) {
	w.back(r, current)
	w.buf = append(w.buf, byte(Over))
	w.uv(uint64(len(received)))
	for _, seq := range received {
		w.uv(seq)
	}
}

func (w *Writer) uv(v uint64) { w.buf = binary.AppendUvarint(w.buf, v) }
