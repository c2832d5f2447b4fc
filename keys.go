package gone

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Diggs/go-one/internal/zmq"
)

// WithCurve encrypts all that goes from node to node, and lets only nodes in
// that are known by their keys. The keys are Z85 text, as zmq4.NewCurveKeypair
// returns them. The value of a lock is then the node's address and, behind a
// space, its public key: a node dials only who has that key, and only if the key
// is allowed.
//
// The simple way is one pair for the whole cluster: who has it is a member, and
// could pose as any other. The strict way is a pair for each node, and
// [WithAllowedKeys] with the public keys of all; then no node can pose as
// another. All nodes of a cluster must use CURVE, or none: a send from one to
// another that does not fails with ErrRefused.
//
// Pairs are changed without downtime in three steps. With [Gone.AllowKeys] every
// node is told to allow the new public keys beside the old ones. Then the nodes
// are restarted one by one with their new pairs, and with old and new keys in
// WithAllowedKeys, in the simple way too. When all are, every node is told to
// allow the new ones alone.
func WithCurve(public, secret string) Option {
	return func(o *options) { o.keys.curve, o.keys.public, o.keys.secret = true, public, secret }
}

// WithAllowedKeys is for [WithCurve]: the public keys of the nodes that this one
// talks to, besides its own.
func WithAllowedKeys(public ...string) Option {
	return func(o *options) { o.keys.allowed = public }
}

// AllowKeys replaces the keys of [WithAllowedKeys] while the node runs; its own is
// always allowed. What is withdrawn is refused from now on, on connections that
// exist as well. The outcome of what is under way to such a node is unknown.
func (g *Gone) AllowKeys(public ...string) error {
	if g.transport.keys == nil {
		return errors.New("gone: AllowKeys needs WithCurve")
	}
	if err := g.transport.keys.allow(public); err != nil {
		return err
	}
	g.mesh.Drop(func(identity string) bool {
		_, _, err := g.transport.keys.dialable(identity)
		return err == nil
	})
	g.changes()
	return nil
}

// keyOptions are behind a pointer, so that a Gone that is printed doesn't show
// them.
type keyOptions struct {
	curve          bool
	public, secret string
	allowed        []string
}

// A keyring is a node's own pair and the keys that it allows. A nil keyring is
// that of a node without.
type keyring struct {
	public, secret string
	allowed        atomic.Pointer[map[string]bool]
	log            *slog.Logger
	refused        atomic.Uint64

	mu     sync.Mutex
	logged map[string]time.Time // by address and key
}

const (
	keyLength   = 40 // Z85 of 32 bytes
	logRefusals = time.Minute
	logMost     = 64 // different ones a minute
)

func newKeyring(o *keyOptions, log *slog.Logger) (*keyring, error) {
	if !o.curve {
		if o.allowed != nil {
			return nil, errors.New("gone: WithAllowedKeys needs WithCurve")
		}
		return nil, nil
	}
	for what, key := range map[string]string{"public": o.public, "secret": o.secret} {
		if err := checkKey(key); err != nil {
			return nil, fmt.Errorf("gone: the %s key is malformed: %w", what, err)
		}
	}
	public, err := zmq.PublicKey(o.secret)
	if err != nil {
		return nil, fmt.Errorf("gone: CURVE: %w", err)
	}
	if public != o.public {
		return nil, errors.New("gone: the public key does not belong to the secret one")
	}
	k := &keyring{public: o.public, secret: o.secret, log: log, logged: map[string]time.Time{}}
	return k, k.allow(o.allowed)
}

// checkKey tells whether a key can be one. It never shows it: it may be the
// secret one, in the wrong place.
func checkKey(key string) error {
	const z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
	if len(key) != keyLength {
		return fmt.Errorf("%d characters, want %d of Z85", len(key), keyLength)
	}
	for i := 0; i < keyLength; i += 5 { // five digits are four bytes
		n := 0
		for _, c := range []byte(key[i : i+5]) {
			digit := strings.IndexByte(z85, c)
			if digit < 0 {
				return errors.New("not Z85")
			}
			n = n*85 + digit
		}
		if n >= 1<<32 {
			return errors.New("not Z85")
		}
	}
	return nil
}

func (k *keyring) allow(public []string) error {
	all := map[string]bool{k.public: true}
	for i, key := range public {
		if err := checkKey(key); err != nil {
			return fmt.Errorf("gone: key %d of %d to be allowed is malformed: %w", i+1, len(public), err)
		}
		if key == k.secret {
			return errors.New("gone: a secret key is among those to be allowed")
		}
		all[key] = true
	}
	k.allowed.Store(&all)
	return nil
}

func (k *keyring) allows(key string) bool { return (*k.allowed.Load())[key] }

// identity is what others need to reach a node: its address, and its public key
// behind a space where it has one. It is the value of locks, and goes with each
// frame.
func (k *keyring) identity(addr string) string {
	if k == nil {
		return addr
	}
	return addr + " " + k.public
}

// admits reports whether frames that came with a key are looked at.
func (k *keyring) admits(key string) bool {
	if k == nil || k.allows(key) {
		return true
	}
	k.refuse("", key)
	return false
}

// vouches reports whether a Hello that claims to come from identity does, as far
// as is known: it came through a connection of that key's owner.
func (k *keyring) vouches(identity []byte, key string) bool {
	if k == nil {
		return true
	}
	n := len(identity) - len(key)
	if n > 0 && key != "" && identity[n-1] == ' ' && string(identity[n:]) == key {
		return true
	}
	k.refuse("", key)
	return false
}

// dialable splits an identity that this node may connect to.
func (k *keyring) dialable(identity string) (addr endpoint, key string, err error) {
	at, key, _ := strings.Cut(identity, " ")
	if addr, err = dialable(at); err != nil {
		return endpoint{}, "", err
	}
	switch {
	case k == nil && key != "":
		err = fmt.Errorf("%w: %s has a key, this node has none", ErrRefused, addr)
	case k != nil && key == "":
		err = fmt.Errorf("%w: %s has no key", ErrRefused, addr)
	case k != nil && !k.allows(key):
		err = fmt.Errorf("%w: %s has key %s, which is not allowed here", ErrRefused, addr, short(key))
	}
	return addr, key, err
}

// short is enough of a public key to recognise it.
func short(key string) string {
	if key == "" {
		return ""
	}
	return fmt.Sprintf("%.8q…", key)
}

// refuse counts one who was turned away, and logs each of them once a minute.
func (k *keyring) refuse(address, key string) {
	k.refused.Add(1)
	if k.isNews(address, key) {
		// A log that blocks must not keep others out.
		go k.log.Warn("gone: refused a node", "address", address, "key", short(key))
	}
}

func (k *keyring) isNews(address, key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for who, when := range k.logged {
		if now.Sub(when) > logRefusals {
			delete(k.logged, who)
		}
	}
	who := address + " " + key
	if _, known := k.logged[who]; known || len(k.logged) >= logMost {
		return false
	}
	k.logged[who] = now
	return true
}

// zmq is the keyring for ZeroMQ.
func (k *keyring) zmq() *zmq.Keys {
	if k == nil {
		return nil
	}
	return &zmq.Keys{Public: k.public, Secret: k.secret, Allows: k.allows, Refused: k.refuse}
}
