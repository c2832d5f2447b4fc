package main

import (
	"errors"
	"time"
)

// longTTL is the TTL of locks that are not to expire: the default of gone.
const longTTL = 30 * time.Second

// chunk is how often a contender works before it is the next one's turn: small
// enough for changes of the machine's load to meet all of them.
const chunk = 50

// uncontended takes and releases, and then extends, a lock that nobody else
// wants, n times by each contender in turns. The results are by contender.
// Where a library extends by itself, there is no extension.
func uncontended(addr string, who []contender, n int) (taken, extended [][]time.Duration, err error) {
	locks := make([]lock, len(who))
	for i, c := range who {
		node, err := c.open(&line{addr: addr}, longTTL)
		if err != nil {
			return nil, nil, err
		}
		defer node.close()
		locks[i] = node.lock("uncontended " + c.name)
	}
	takeAndRelease := func(l lock) error {
		if err := l.acquire(); err != nil {
			return err
		}
		return l.release()
	}
	if taken, err = inTurns(locks, n, takeAndRelease); err != nil {
		return nil, nil, err
	}
	for _, l := range locks {
		if err := l.acquire(); err != nil {
			return nil, nil, err
		}
	}
	if extended, err = inTurns(locks, n, lock.extend); err != nil {
		return nil, nil, err
	}
	for _, l := range locks {
		err = errors.Join(err, l.release())
	}
	return taken, extended, err
}

func inTurns(locks []lock, n int, work func(lock) error) ([][]time.Duration, error) {
	took := make([][]time.Duration, len(locks))
	for done := 0; done < n; done += chunk {
		for i, l := range locks {
			for range min(chunk, n-done) {
				began := time.Now()
				err := work(l)
				if errors.Is(err, errors.ErrUnsupported) {
					break
				}
				if err != nil {
					return nil, err
				}
				took[i] = append(took[i], time.Since(began))
			}
		}
	}
	return took, nil
}
