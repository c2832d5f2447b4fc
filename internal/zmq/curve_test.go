//go:build cgo

package zmq

import (
	"log/slog"
	"net"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// withKeys starts a context with a pair of keys, and returns the public one.
func withKeys(t *testing.T) (ctx *socketContext, public string) {
	t.Helper()
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := NewKeyring(public, secret, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if ctx, err = newContext(keys); err != nil {
		t.Fatal(err)
	}
	return ctx, public
}

// A node that is paused or cut off has refused nothing; one with another key
// ends the connection.
func TestAHandshakeIsRefusedByItsEndAndNotBySilence(t *testing.T) {
	ctx, public := withKeys(t)
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
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * handshake))
	conn, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if ends {
		conn.Close()
	}
	// What there is to be said is said when ZeroMQ's patience is over, at the latest.
	for end := time.Now().Add(handshake + time.Second); why == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		why = push.refusal()
	}
	return why, nil
}

// What becomes of a handshake is said by the thread that serves all connections: it
// must not wait for who has just closed one.
func TestAConnectionThatIsClosedInItsHandshakeStopsNoOther(t *testing.T) {
	ctx, public := withKeys(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 200 {
		push, err := ctx.dial("tcp://"+ln.Addr().String(), public)
		if err != nil {
			t.Fatal(err)
		}
		_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal("ZeroMQ does not connect any more: ", err) // nor does it end
		}
		go conn.Close()
		_ = push.close()
	}
	_ = ctx.term()
}
