package wire

import (
	"encoding/binary"
	"math/bits"
)

// Writer encodes the items of one frame after the other into a buffer that it
// owns.
type Writer struct {
	buf []byte
	// Requests is whether the frame has any, Answers whether it has answers.
	Requests, Answers bool
}

// Reset starts a frame in buf, whose content is discarded.
func (w *Writer) Reset(buf []byte) {
	if cap(buf) < headerSize {
		buf = make([]byte, 0, 512)
	}
	*w = Writer{buf: buf[:headerSize]}
}

// Bytes returns the frame so far, without a header; it is valid until the next
// call that writes.
func (w *Writer) Bytes() []byte { return w.buf }

// Len is the length of the frame so far.
func (w *Writer) Len() int { return len(w.buf) }

// Empty reports whether the frame has no items yet.
func (w *Writer) Empty() bool { return len(w.buf) <= headerSize }

// Withdraw turns the Request or Batch at an offset of a frame into a Void.
func Withdraw(frame []byte, at int) { frame[at] = byte(Void) }

// size is the length of an unsigned varint.
func size(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func (w *Writer) uv(v uint64) {
	if v < 0x80 {
		w.buf = append(w.buf, byte(v))
		return
	}
	w.buf = binary.AppendUvarint(w.buf, v)
}

// begin writes the kind and the length of an item whose body has these numbers
// and n bytes more, and the numbers.
func (w *Writer) begin(k Kind, n int, numbers ...uint64) {
	for _, v := range numbers {
		n += size(v)
	}
	w.buf = append(w.buf, byte(k))
	w.uv(uint64(n))
	for _, v := range numbers {
		w.uv(v)
	}
}

// Open appends the opening of a stream.
func (w *Writer) Open(stream, flags, token uint64, id string) {
	w.begin(Open, len(id), stream, flags, token)
	w.buf = append(w.buf, id...)
}

// Close appends the end of a stream.
func (w *Writer) Close(stream uint64) { w.begin(Close, 0, stream) }

// Context appends what is to be said of the Request or Batch that follows.
func (w *Writer) Context(stream, number uint64, said []byte) {
	w.begin(Context, len(said), stream, number)
	w.buf = append(w.buf, said...)
}

// Request appends a request and returns its offset for Withdraw.
func (w *Writer) Request(stream, number, budget, flags uint64, payload []byte) (at int) {
	at = len(w.buf)
	w.begin(Request, len(payload), stream, number, budget, flags)
	w.buf = append(w.buf, payload...)
	w.Requests = true
	return at
}

// Batch appends a batch of at least one message and returns its offset for
// Withdraw.
func (w *Writer) Batch(stream, number, budget uint64, msgs [][]byte) (at int) {
	at = len(w.buf)
	n := 0
	for _, m := range msgs {
		n += SizeInBatch(m)
	}
	w.begin(Batch, n, stream, number, budget, uint64(len(msgs)))
	for _, m := range msgs {
		w.uv(uint64(len(m)))
		w.buf = append(w.buf, m...)
	}
	w.Requests = true
	return at
}

// SizeInBatch is how many bytes a message takes in a Batch.
func SizeInBatch(m []byte) int { return size(uint64(len(m))) + len(m) }

// Cancel appends a withdrawal.
func (w *Writer) Cancel(stream, number uint64) { w.begin(Cancel, 0, stream, number) }

// Answer appends the answer to count requests from number on.
func (w *Writer) Answer(stream, number, count uint64, s Status, current uint64) {
	w.begin(Answer, 1+size(current), stream, number, count)
	w.buf = append(w.buf, byte(s))
	w.uv(current)
	w.Answers = true
}

// Reply appends the handler's reply to a request.
func (w *Writer) Reply(stream, number uint64, payload []byte) {
	w.reply(Reply, stream, number, payload)
}

// Failure appends the handler's error in place of a reply.
func (w *Writer) Failure(stream, number uint64, text []byte) {
	w.reply(Failure, stream, number, text)
}

func (w *Writer) reply(k Kind, stream, number uint64, payload []byte) {
	w.begin(k, len(payload), stream, number)
	w.buf = append(w.buf, payload...)
	w.Answers = true
}
