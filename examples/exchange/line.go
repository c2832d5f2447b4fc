package main

import (
	"bufio"
	"encoding/json"
	"io"
	"time"
)

// A line is one message of the exchange's protocol: JSON, and a newline.
//
//	→ login     Account, Node, Token; a token that is not above all before it is refused
//	← welcome
//	← refused   Reason; the connection ends
//	→ order     Seq, Order, Quantity; Seq counts the session's orders from 1
//	← executed  Seq, Order, Quantity, Execution, Price
//	← rejected  Seq, Order, Reason
//	← price     Tick, Price; all the time
//	→ logout    the exchange answers what is open and ends the connection
//
// The body of a POST is an order without a Seq, and the exchange's line is its
// answer. The journal consists of lines as well: login, executed and logout, each
// with the session's Token and the time.
type line struct {
	Type      string    `json:"type,omitempty"`
	Account   string    `json:"account,omitempty"`
	Node      string    `json:"node,omitempty"`
	Token     uint64    `json:"token,omitempty"`
	Seq       int       `json:"seq,omitempty"`
	Order     string    `json:"order,omitempty"`
	Quantity  int       `json:"quantity,omitempty"`
	Execution int       `json:"execution,omitempty"`
	Tick      int       `json:"tick,omitempty"`
	Price     int       `json:"price,omitempty"` // in cents
	Reason    string    `json:"reason,omitempty"`
	At        time.Time `json:"at,omitzero"`
}

// writeLine makes one Write of it, so that a Write which failed has not sent
// all of it.
func writeLine(w io.Writer, l line) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// readLine reads a line that fits into r's buffer. One whose newline is missing
// has not been sent.
func readLine(r *bufio.Reader) (l line, err error) {
	data, err := r.ReadSlice('\n')
	if err != nil {
		return line{}, err
	}
	return l, json.Unmarshal(data, &l)
}
