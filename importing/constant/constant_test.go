// Package constant is a user's that needs no more of gone than a constant.
package constant

import (
	"testing"

	"go.uber.org/goleak"

	gone "github.com/Diggs/go-one"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamingAConstantStartsNothing(t *testing.T) {
	if gone.MaxIDLength < 1 {
		t.Error(gone.MaxIDLength)
	}
}
