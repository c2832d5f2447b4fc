package gone

import (
	"errors"
	"log/slog"

	"github.com/Diggs/go-one/internal/zmq"
)

// WithCurve encrypts everything between nodes, and lets in only nodes whose keys are
// allowed. The keys are Z85 text, as zmq4.NewCurveKeypair returns them. The value of a
// lock is then the node's address, a space, and its public key: a node dials only
// whoever has that key, and only if the key is allowed.
//
// The simple way is one pair for the whole cluster: whoever has it is a member, and
// could pose as any other. The strict way is a pair for each node, and
// [WithAllowedKeys] with the public keys of all; then no node can pose as another. All
// nodes of a cluster must use CURVE, or none: a send between one that does and one that
// does not fails with ErrRefused.
//
// To change pairs without downtime, first call [Gone.AllowKeys] on every node with the
// old and the new public keys. Then restart the nodes one by one with their new pairs,
// and with old and new keys in WithAllowedKeys, in the simple way too. At last call
// AllowKeys on every node with the new keys alone.
func WithCurve(public, secret string) Option {
	return func(o *options) { o.keys.curve, o.keys.public, o.keys.secret = true, public, secret }
}

// WithAllowedKeys sets, for [WithCurve], the public keys of the nodes that this one
// talks to, besides its own.
func WithAllowedKeys(public ...string) Option {
	return func(o *options) { o.keys.allowed = public }
}

// AllowKeys replaces the keys of [WithAllowedKeys] while the node runs; its own is
// always allowed. A key that is missing is refused from now on, on live connections as
// well. The outcome of what is under way to such a node is unknown.
func (g *Gone) AllowKeys(public ...string) error {
	keys := g.end.keys
	if keys == nil {
		return errors.New("gone: AllowKeys needs WithCurve")
	}
	if err := keys.Allow(public); err != nil {
		return err
	}
	g.mesh.Drop(func(identity string) bool { return keys.Dialable(identity) == nil })
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

// keyring returns the keys of a node, nil for one without.
func (o *keyOptions) keyring(log *slog.Logger) (*zmq.Keyring, error) {
	switch {
	case o.curve:
		return zmq.NewKeyring(o.public, o.secret, o.allowed, log)
	case o.allowed != nil:
		return nil, errors.New("gone: WithAllowedKeys needs WithCurve")
	}
	return nil, nil
}
