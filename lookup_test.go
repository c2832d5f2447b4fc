package gone

import (
	"context"
	"net/netip"
)

// WithLookup has names looked up by a test's function.
func WithLookup(l func(ctx context.Context, host string) ([]netip.Addr, error)) Option {
	return func(o *options) { o.lookup = l }
}
