package main

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
)

// A tape is a proxy before the attacked port, for honest senders, that keeps
// the beginning of what each connection carried.
type tape struct {
	ln  net.Listener
	mu  sync.Mutex
	got []*[]byte
}

const tapeLength = 256 << 10

func newTape(at string) (*tape, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tape{ln: ln}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up := dial(at)
			if up == nil {
				_ = c.Close()
				continue
			}
			end := sync.OnceFunc(func() { _, _ = c.Close(), up.Close() })
			kept := &[]byte{}
			t.mu.Lock()
			t.got = append(t.got, kept)
			t.mu.Unlock()
			go func() {
				defer end()
				_, _ = io.Copy(c, up)
			}()
			go func() {
				defer end()
				b := make([]byte, 64<<10)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					t.mu.Lock()
					if room := tapeLength - len(*kept); room > 0 {
						*kept = append(*kept, b[:min(n, room)]...)
					}
					t.mu.Unlock()
					if _, err := up.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return t, nil
}

func (t *tape) all() (got [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.got {
		got = append(got, slices.Clone(*b))
	}
	return got
}

// frames are those that a plain connection has carried.
func frames(tape []byte) (all [][]byte) {
	if len(tape) < len(greeting) {
		return nil
	}
	for tape = tape[len(greeting):]; len(tape) > 1; {
		flags, n, head := tape[0], int(tape[1]), 2
		if flags&2 != 0 {
			if len(tape) < 9 {
				break
			}
			n, head = int(binary.BigEndian.Uint64(tape[1:])), 9
		}
		if n < 0 || len(tape)-head < n {
			break
		}
		if flags&4 == 0 {
			all = append(all, tape[head:head+n])
		}
		tape = tape[head+n:]
	}
	return all
}
