//go:build unix

package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	gone "github.com/Diggs/go-one"
)

// Locks returns a factory of locks in a directory that all nodes share. It must be
// there: a mount point without its disk must not look like one where all is free.
// Nobody compares clocks. Whoever competes takes a hold for over when it has seen
// it unchanged for its TTL, on its own clock. Each Extend changes it.
func Locks(dir string, ttl time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) {
		path := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(id))))
		return &fileLock{path: path, value: value, ttl: ttl, secret: rand.Text()}, nil
	}
}

// A record is what a file has. It stays when the lock is free: tokens only grow.
type record struct {
	Value       []byte
	Secret      string // the holder's; "" when it has released
	TTL         time.Duration
	Token, Beat uint64 // another Beat after each change
}

type fileLock struct {
	path, value string
	ttl         time.Duration
	secret      string // of all its holds, to recognise them; tokens tell them apart
	mu          sync.Mutex
	token       uint64 // of the hold that Lock obtained last
	seen        record // what the file had last, since when
	since       time.Time
}

func (l *fileLock) TTL() time.Duration { return l.ttl }

func (l *fileLock) Lock() error {
	return l.change(func(r *record, held bool) error {
		if held && r.Secret != l.secret {
			return gone.ErrLockHeld
		}
		if !held { // the token is also above those of a file that was deleted
			r.Token = max(r.Token+1, uint64(time.Now().UnixMicro()))
		}
		r.Value, r.Secret, r.TTL = []byte(l.value), l.secret, l.ttl
		l.token = r.Token
		return nil
	})
}

func (l *fileLock) Extend() error {
	return l.change(func(r *record, held bool) error {
		if !held || r.Secret != l.secret || r.Token != l.token {
			return gone.ErrLockLost
		}
		return nil
	})
}

func (l *fileLock) Unlock() {
	_ = l.change(func(r *record, _ bool) error {
		if r.Secret != l.secret {
			return gone.ErrLockLost // and nothing is written
		}
		r.Secret = ""
		return nil
	})
}

func (l *fileLock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

func (l *fileLock) FencingToken() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

func (l *fileLock) Holder() (value string, token uint64, err error) {
	err = l.guarded(func(r *record, held bool) error {
		if !held {
			return gone.ErrNoHolder
		}
		value, token = string(r.Value), r.Token
		return nil
	})
	return value, token, err
}

// change writes what f makes of the record, unless that is an error.
func (l *fileLock) change(f func(r *record, held bool) error) error {
	return l.guarded(func(r *record, held bool) error {
		if err := f(r, held); err != nil {
			return err
		}
		r.Beat++
		l.seen, l.since = *r, time.Now()
		b, _ := json.Marshal(r)
		if err := os.WriteFile(l.path+".new", b, 0o600); err != nil {
			return err
		}
		return os.Rename(l.path+".new", l.path) // all of it or nothing
	})
}

// guarded calls f under the id's flock, if that is to be had in bounded time: whoever
// has it may have been stopped.
func (l *fileLock) guarded(f func(r *record, held bool) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	guard, err := os.OpenFile(l.path+".flock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer guard.Close() // releases it
	for end := time.Now().Add(l.ttl / 4); syscall.Flock(int(guard.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; {
		if time.Now().After(end) {
			return fmt.Errorf("somebody else has the flock of %s", l.path)
		}
		time.Sleep(time.Millisecond)
	}
	var r record
	b, err := os.ReadFile(l.path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if r.Beat != l.seen.Beat || r.Token != l.seen.Token {
		l.seen, l.since = r, time.Now()
	}
	return f(&r, r.Secret != "" && time.Since(l.since) < r.TTL)
}
