package gone

import (
	"errors"
	"fmt"
	"strings"

	"github.com/Diggs/go-one/internal/lease"
	"github.com/Diggs/go-one/internal/link"
	"github.com/Diggs/go-one/internal/stream"
	"github.com/Diggs/go-one/internal/zmq"
)

// Results of a send. Every send that does not return nil returns an error that
// wraps exactly one of these two and the reason.
var (
	// ErrNotDelivered is returned when no handler received the data and none ever
	// will. Sending it again is safe.
	ErrNotDelivered = errors.New("gone: not delivered")
	// ErrOutcomeUnknown is returned when the data may have been received, once, and
	// nobody can tell.
	ErrOutcomeUnknown = errors.New("gone: outcome unknown")
)

// ErrNoReply is returned with ErrOutcomeUnknown when the handler received the request
// and its reply did not come.
var ErrNoReply = errors.New("gone: no reply")

// A HandlerError is returned by [Gone.Request] when the handler called [Message.Fail].
type HandlerError struct {
	Text string // of the handler's error
}

func (e *HandlerError) Error() string { return e.Text }

// Reasons.
var (
	// ErrNoHolder is returned when nobody holds the lock of the id, as far as is known.
	ErrNoHolder = errors.New("gone: no holder")
	// ErrBusy is returned when the handler did not receive the data in time, or too
	// much data waits for it already.
	ErrBusy = errors.New("gone: handler busy")
	// ErrUnreachable is returned when the holder did not answer in time.
	ErrUnreachable = errors.New("gone: holder unreachable")
	// ErrRefused is returned when the keys of [WithCurve] do not let this node speak to
	// the holder, or the holder to this node.
	ErrRefused = zmq.ErrRefused
	// ErrTooLarge is returned when the data is larger than [WithMaxMessageSize] allows.
	// The limit should be the same on all nodes.
	ErrTooLarge = errors.New("gone: data too large")
	// ErrDuplicateAddress is returned by [Gone.Check] when another process has this
	// node's address.
	ErrDuplicateAddress = errors.New("gone: another process has this node's address")
	// ErrLockService is returned by [Gone.Check] when the lock service can't be used.
	ErrLockService = errors.New("gone: the lock service")
	// ErrNoControl is returned when a node was not started with [WithControl].
	ErrNoControl = errors.New("gone: not started with WithControl")
	// ErrClosed is returned when the Gone, or the runner, has been closed.
	ErrClosed = errors.New("gone: closed")
)

// State of a lock.
var (
	// ErrLockHeld is returned when another holds the lock.
	ErrLockHeld = errors.New("gone: lock held by another")
	// ErrLockLost is returned when the lock is another's, or gone.
	ErrLockLost = lease.ErrLost
	// ErrLeaseExpired is returned when the local deadline passed before an Extend was
	// confirmed. It wraps ErrLockLost: the holder must act as if the lock were lost.
	ErrLeaseExpired = lease.ErrExpired
	// ErrDegraded is returned by a [Checker] when the lock service works, but slower
	// than it could, or may forget a lock. [Gone.Check] logs it once.
	ErrDegraded = errors.New("gone: lock service degraded")
	// ErrHandlerReturned is the cause of a tenure's end when its handler returned or
	// panicked before Exit closed.
	ErrHandlerReturned = errors.New("gone: handler returned")
	// ErrYielded is the cause of a tenure's end when its id moves to another node:
	// by [GoneRunner.Yield], [Gone.Move], [Gone.Drain] or [WithBalance].
	ErrYielded = errors.New("gone: yielded to another node")
)

// because joins what happened and why under one prefix.
func because(what, why error) error { return &reasoned{what, why} }

type reasoned struct{ what, why error }

func (e *reasoned) Error() string {
	return e.what.Error() + ": " + strings.TrimPrefix(e.why.Error(), "gone: ")
}

func (e *reasoned) Unwrap() []error { return []error{e.what, e.why} }

// unreachable says that a holder does not answer, and why as far as is known.
func unreachable(s *stream.Stream) error {
	err := fmt.Errorf("%w: %q at %s", ErrUnreachable, s.ID, addrOf(s.Link().Identity))
	if why := s.Link().Trouble(); why != nil {
		return because(err, why)
	}
	return err
}

// ofHolder says whose address it is that no node can have.
func ofHolder(id string, err error) error {
	switch {
	case errors.Is(err, link.ErrCrowded):
		err = because(ErrUnreachable, err)
	case errors.Is(err, link.ErrClosed):
		err = ErrClosed
	}
	return because(fmt.Errorf("gone: holder of %q", id), err)
}
