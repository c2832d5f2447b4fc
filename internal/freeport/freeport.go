// Package freeport gives TCP ports of loopback to servers of tests that can't choose
// one themselves, or are started again on the one that they had.
//
// A port that was found free can be another's before its server binds it, or while
// that is started again. So each process has ports of its own: a block, which it owns
// by listening to the block's first port for as long as it lives. All ports, and those
// 10,000 above, are below those that the system gives to whoever asks for any.
package freeport

import (
	"fmt"
	"net"
	"sync"
)

const (
	lowest = 10_000
	blocks = 20
	size   = 500 // of a block

	// Bus is how far above its port a node of a Redis Cluster has another one.
	Bus = 10_000
)

var mine struct {
	sync.Mutex
	owner net.Listener // of the block; nil: none yet
	block int          // its first port
	given int          // ports since it was taken
}

// Next returns a port that nobody listens to, nor to the one that is Bus above. It
// comes again after some five hundred others, unless somebody still listens to it.
func Next() int {
	mine.Lock()
	defer mine.Unlock()
	for i := 0; mine.owner == nil; i++ {
		if i == blocks {
			panic("freeport: all blocks are other processes'")
		}
		mine.block = lowest + i*size
		mine.owner = listen(mine.block)
	}
	for {
		mine.given++
		if port := mine.block + 1 + mine.given%(size-1); free(port) && free(port+Bus) {
			return port
		}
	}
}

// Addr returns an address with such a port.
func Addr() string { return fmt.Sprint("127.0.0.1:", Next()) }

func listen(port int) net.Listener {
	l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return nil
	}
	return l
}

func free(port int) bool {
	l := listen(port)
	if l != nil {
		_ = l.Close()
	}
	return l != nil
}
