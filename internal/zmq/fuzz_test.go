//go:build cgo

package zmq

import (
	"strings"
	"testing"
)

func FuzzEndpoint(f *testing.F) {
	for _, s := range []string{
		"", "tcp://", "tcp://127.0.0.1:1", "tcp://[::1]:65535", "tcp://*:*", "tcp://a.b-c_d.:0", "tcp://[fe80::1%eth0]:1", "tcp://[fe80::1%a;b]:1", "tcp://[::%1]:1", "tcp://1.2.3:4", "ipc://x",
		"tcp://127.0.0.1:1 rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
	} {
		f.Add(s)
	}
	keys := &Keyring{}
	const allowed = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
	keys.allowed.Store(&map[string]bool{allowed: true})
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := parseEndpoint(s); err == nil {
			// What ZeroMQ is given says the same.
			again, err := parseEndpoint(e.String())
			if err != nil || again != e {
				t.Errorf("%q is %+v, and that is %+v (%v)", s, e, again, err)
			}
			// And nothing that means more to it than an address does.
			if strings.ContainsAny(e.String()[len("tcp://"):], ";,/ \"\x00\n") {
				t.Errorf("%q is %q", s, e)
			}
		}
		for _, k := range []*Keyring{nil, keys} {
			addr, key, err := k.dialable(s)
			if err != nil {
				if len(err.Error()) > 2000 {
					t.Errorf("an error of %d bytes", len(err.Error()))
				}
				continue
			}
			if _, err := dialable(addr.String()); err != nil || (key != "") != (k != nil) || k != nil && key != allowed {
				t.Errorf("%q: dials %q with key %q", s, addr, key)
			}
		}
	})
}
