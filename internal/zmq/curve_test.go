//go:build cgo

package zmq

import (
	"log/slog"
	"net"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// A node that is paused or cut off has refused nothing; one with another key
// ends the connection.
func TestAHandshakeIsRefusedByItsEndAndNotBySilence(t *testing.T) {
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeyring(public, secret, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := newContext(keys)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ctx.term() }()
	for name, ends := range map[string]bool{"silence": false, "end": true} {
		why, err := refusalOf(ctx, public, ends)
		if err != nil {
			t.Fatal(err)
		}
		if (why != nil) != ends {
			t.Errorf("%s: %v", name, why)
		}
	}
}

// refusalOf is what a socket says of somebody who takes its connections and says
// nothing, or ends them.
func refusalOf(ctx *socketContext, public string, ends bool) (why, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	push, err := ctx.dial("tcp://"+ln.Addr().String(), public)
	if err != nil {
		return nil, err
	}
	defer push.close()
	for range 2 { // when ZeroMQ tries again, it has said what became of the first
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * handshake))
		conn, err := ln.Accept()
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		if ends {
			conn.Close()
		}
	}
	return push.refusal(), nil
}
