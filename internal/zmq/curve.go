//go:build cgo

package zmq

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	zmq4 "github.com/pebbe/zmq4"
)

// publicKey returns the public key that belongs to a secret one.
func publicKey(secret string) (string, error) {
	if !zmq4.HasCurve() {
		return "", errors.New("libzmq was built without CURVE")
	}
	return zmq4.AuthCurvePublic(secret)
}

// Version is that of libzmq.
func Version() string {
	major, minor, patch := zmq4.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// checkVersion refuses libzmq before 4.3.3: with CURVE, strangers could overflow
// the stack of 4.3.1 (CVE-2019-13132) and stop 4.3.2 (CVE-2020-15166).
func checkVersion() error {
	if major, minor, patch := zmq4.Version(); major*10000+minor*100+patch < 40303 {
		return fmt.Errorf("libzmq %d.%d.%d is not safe with CURVE, 4.3.3 is", major, minor, patch)
	}
	return nil
}

// authenticate answers libzmq's questions about who connects (ZAP, RFC 27), on
// this context alone: pebbe's own handler serves the default context. It ends
// with the context, and not before: who is not answered does not get in, but
// where nobody listens libzmq lets everybody in, under any User-Id.
func (c *socketContext) authenticate() error {
	if err := checkVersion(); err != nil {
		return err
	}
	rep, err := c.ctx.NewSocket(zmq4.REP)
	if err != nil {
		return err
	}
	if err := errors.Join(rep.SetLinger(0), rep.Bind("inproc://zeromq.zap.01")); err != nil {
		_ = rep.Close()
		return err
	}
	c.zap = make(chan struct{})
	go func() {
		defer close(c.zap)
		defer rep.Close()
		for {
			// version, request, domain, address, identity, mechanism, credentials
			ask, err := rep.RecvMessageBytes(0)
			if zmq4.AsErrno(err) == zmq4.ETERM {
				return
			}
			if err != nil {
				time.Sleep(handshake)
				continue
			}
			if len(ask) < 6 {
				_, _ = rep.SendMessage("1.0", "", "500", "malformed", "", "")
				continue
			}
			key := ""
			if string(ask[5]) == "CURVE" && len(ask) == 7 && len(ask[6]) == 32 {
				key = zmq4.Z85encode(string(ask[6]))
			}
			code, user := "400", ""
			if string(ask[2]) == domain && key != "" && c.keys.allows(key) {
				code, user = "200", key
			} else {
				c.keys.Refuse(string(ask[3]), key, "its key is not allowed")
			}
			_, _ = rep.SendMessage(ask[0], ask[1], code, "", user, "")
		}
	}()
	return nil
}

// serve makes a socket one that only those who are allowed can connect to, and
// has those counted who fail before they can be asked for their key: they know
// another key of this node, or none.
func (c *socketContext) serve(soc *zmq4.Socket) error {
	if c.keys == nil {
		return nil
	}
	err := errors.Join(
		soc.SetCurveServer(1),
		soc.SetCurvePublickey(c.keys.public),
		soc.SetCurveSecretkey(c.keys.secret),
	)
	if err != nil {
		return err
	}
	events, err := c.monitor(soc, zmq4.EVENT_HANDSHAKE_FAILED_PROTOCOL)
	if err != nil {
		return err
	}
	c.watched = make(chan struct{})
	go func() {
		defer close(c.watched)
		defer events.Close()
		for {
			event, _, _, err := events.RecvEvent(0)
			switch {
			case zmq4.AsErrno(err) == zmq4.ETERM, err == nil && event == zmq4.EVENT_MONITOR_STOPPED:
				return
			case err == nil:
				c.keys.Refuse("", "", "it has no key, or does not know this node's")
			}
		}
	}()
	return nil
}

// monitor returns a socket that receives events of another. It has to be read:
// its queue has no bound, as a full one would block the I/O thread.
func (c *socketContext) monitor(soc *zmq4.Socket, events zmq4.Event) (*zmq4.Socket, error) {
	at := fmt.Sprintf("inproc://gone.events.%d", c.monitors.Add(1))
	pair, err := c.ctx.NewSocket(zmq4.PAIR)
	if err != nil {
		return nil, err
	}
	err = errors.Join(soc.Monitor(at, events), pair.SetLinger(0), pair.SetRcvhwm(0), pair.Connect(at))
	if err != nil {
		_ = pair.Close()
		return nil, err
	}
	return pair, nil
}

// introduce has a socket connect with this node's key to that of another, and
// watched for refusals. Closing idle peers bounds how many wait to be read.
func (c *socketContext) introduce(p *pushSocket, server string) (err error) {
	if c.keys == nil {
		return nil
	}
	err = errors.Join(
		p.soc.SetCurvePublickey(c.keys.public),
		p.soc.SetCurveSecretkey(c.keys.secret),
		p.soc.SetCurveServerkey(server),
	)
	if err != nil {
		return err
	}
	p.events, err = c.monitor(p.soc, zmq4.EVENT_HANDSHAKE_FAILED_AUTH|zmq4.EVENT_HANDSHAKE_FAILED_PROTOCOL|zmq4.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
	return err
}

// refusal returns why the other side has turned this one away since the last
// call, nil if it has not. It does not wait: a goroutine that did would cost a
// thread for each peer.
func (p *pushSocket) refusal() (why error) {
	for p.events != nil {
		event, _, value, err := p.events.RecvEvent(zmq4.DONTWAIT)
		if err != nil {
			break
		}
		switch {
		case event == zmq4.EVENT_HANDSHAKE_FAILED_AUTH:
			why = errors.New("the other node does not allow this node's key")
		case event == zmq4.EVENT_HANDSHAKE_FAILED_PROTOCOL:
			why = errors.New("the other node speaks another protocol, or has no key")
		case value == int(syscall.EPIPE) || value == int(syscall.ECONNRESET): // silence is no refusal
			why = errors.New("the other node ends the handshake, as one with another key does")
		}
	}
	return why
}
