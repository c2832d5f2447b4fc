//go:build !cgo

package zmq

// This is all of the package where there is no cgo. It does not compile, so that
// a build says what is needed instead of what zmq4 lacks. Longer sentences are
// shown twice by the compiler.
const _ int = "gone needs cgo and libzmq: see Requirements in github.com/Diggs/go-one"
