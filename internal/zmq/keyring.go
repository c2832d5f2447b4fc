//go:build cgo

package zmq

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrRefused is wrapped by errors that a key is the reason of: this node must not
// speak to another, or the other not to this one.
var ErrRefused = errors.New("gone: refused")

// A Keyring is a node's own pair and the keys that it allows. A nil Keyring is
// that of a node without.
type Keyring struct {
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

// NewKeyring makes one. The keys are Z85 text.
func NewKeyring(public, secret string, allowed []string, log *slog.Logger) (*Keyring, error) {
	for what, key := range map[string]string{"public": public, "secret": secret} {
		if err := checkKey(key); err != nil {
			return nil, fmt.Errorf("gone: the %s key is malformed: %w", what, err)
		}
	}
	derived, err := publicKey(secret)
	if err != nil {
		return nil, fmt.Errorf("gone: CURVE: %w", err)
	}
	if derived != public {
		return nil, errors.New("gone: the public key does not belong to the secret one")
	}
	k := &Keyring{public: public, secret: secret, log: log, logged: map[string]time.Time{}}
	return k, k.Allow(allowed)
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

// Allow replaces the keys that are allowed besides the own one.
func (k *Keyring) Allow(public []string) error {
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

func (k *Keyring) allows(key string) bool { return (*k.allowed.Load())[key] }

// identity is what others need to reach a node: its address, and its public key
// behind a space where it has one. It is the value of locks, and is in each Hello.
func (k *Keyring) identity(addr string) string {
	if k == nil {
		return addr
	}
	return addr + " " + k.public
}

// admits reports whether frames that came with a key are looked at.
func (k *Keyring) admits(key string) bool {
	if k == nil || k.allows(key) {
		return true
	}
	k.Refuse("", key, "its key is not allowed")
	return false
}

// Vouches reports whether a Hello that claims to come from identity does, as far
// as is known: it came through a connection of that key's owner.
func (k *Keyring) Vouches(identity []byte, key string) bool {
	if k == nil {
		return true
	}
	n := len(identity) - len(key)
	if n > 0 && key != "" && identity[n-1] == ' ' && string(identity[n:]) == key {
		return true
	}
	k.Refuse("", key, "it claims to be one with another key")
	return false
}

// Dialable is why this node must not connect to an identity, nil if it may.
func (k *Keyring) Dialable(identity string) error {
	_, _, err := k.dialable(identity)
	return err
}

// dialable splits an identity that this node may connect to.
func (k *Keyring) dialable(identity string) (addr endpoint, key string, err error) {
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

// Refused is how many have been turned away.
func (k *Keyring) Refused() uint64 {
	if k == nil {
		return 0
	}
	return k.refused.Load()
}

// short is enough of a public key to recognise it.
func short(key string) string {
	if key == "" {
		return ""
	}
	return fmt.Sprintf("%.8q…", key)
}

// Refuse counts one who was turned away, and logs each of them once a minute.
func (k *Keyring) Refuse(address, key, why string) {
	k.refused.Add(1)
	if k.isNews(address, key) {
		// A log that blocks must not keep others out.
		go k.log.Warn("gone: refused a node", "address", address, "key", short(key), "err", why)
	}
}

func (k *Keyring) isNews(address, key string) bool {
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
