package gone

import (
	"context"
	"errors"
	"testing"
)

func TestSentinels(t *testing.T) {
	all := map[string]error{
		"ErrNotDelivered": ErrNotDelivered, "ErrOutcomeUnknown": ErrOutcomeUnknown,
		"ErrNoHolder": ErrNoHolder, "ErrBusy": ErrBusy, "ErrUnreachable": ErrUnreachable,
		"ErrTooLarge": ErrTooLarge, "ErrClosed": ErrClosed,
		"ErrLockHeld": ErrLockHeld, "ErrLockLost": ErrLockLost,
		"ErrLeaseExpired": ErrLeaseExpired, "ErrHandlerReturned": ErrHandlerReturned,
	}
	for a, err := range all {
		for b, target := range all {
			// A lapsed lease is a lost one; no other is another.
			want := a == b || a == "ErrLeaseExpired" && b == "ErrLockLost"
			if got := errors.Is(err, target); got != want {
				t.Errorf("errors.Is(%s, %s) = %v", a, b, got)
			}
		}
	}
	err := because(ErrNotDelivered, because(ErrNoHolder, context.Canceled))
	for _, target := range []error{ErrNotDelivered, ErrNoHolder, context.Canceled} {
		if !errors.Is(err, target) {
			t.Errorf("%v is not %v", err, target)
		}
	}
	if got, want := err.Error(), "gone: not delivered: no holder: context canceled"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
