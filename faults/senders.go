package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	gone "github.com/Diggs/go-one"
)

func (n *node) startSenders(count int, pause time.Duration, size, impatient int, ids []string) {
	if n.quit == nil {
		n.quit = make(chan struct{})
	}
	quit := n.quit
	for range count {
		// Process ids differ, so that a node started anew has other names.
		from := fmt.Sprintf("%d/%d", os.Getpid(), n.sending)
		n.sending++
		n.senders.Go(func() {
			next := map[string]int{} // number of the next message to an id
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				id := ids[i%len(ids)]
				count, how := 1, patiently
				switch d := rand.IntN(100); {
				case d < impatient:
					how = impatiently
				case d >= 90:
					how = trying
				case d >= 80:
					count, how = 4, batching
				}
				n.send(from, id, next[id], count, size, how)
				next[id] += count
				if pause > 0 {
					time.Sleep(pause/2 + rand.N(pause))
				}
			}
		})
	}
}

func (n *node) stopSenders() {
	if n.quit != nil {
		close(n.quit)
		n.senders.Wait()
		n.quit = nil
	}
}

type manner int

const (
	patiently   manner = iota // SendData
	impatiently               // SendDataContext, withdrawn within 3 ms
	trying                    // TrySendData
	batching                  // SendBatch
)

// send sends count messages and logs what became of each.
func (n *node) send(from, id string, number, count, size int, how manner) {
	msgs := make([][]byte, count)
	for i := range msgs {
		msgs[i] = fmt.Appendf(nil, "%s %d ", from, number+i)
		for len(msgs[i]) < size {
			msgs[i] = append(msgs[i], '.')
		}
	}
	var delivered int
	var err error
	var manner string
	began := clock()
	switch how {
	case patiently:
		err = n.gone.SendData(id, msgs[0])
	case impatiently:
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(3*time.Millisecond))
		err = n.gone.SendDataContext(ctx, id, msgs[0])
		cancel()
		manner = "-withdrawn"
	case trying:
		err = n.gone.TrySendData(id, msgs[0])
		manner = "-tried"
	case batching:
		delivered, err = n.gone.SendBatch(context.Background(), id, msgs)
	}
	took := clock() - began
	for i, data := range msgs {
		for j := range data { // it is the caller's again
			data[j] = '#'
		}
		result := "nil"
		if err != nil && i >= delivered { // of a batch, also what comes after the first that failed
			result = resultOf(err) + manner
		}
		n.log.Add(Event{Kind: Sent, ID: id, From: from, N: number + i, Text: fmt.Sprintf("%s %d %d %v", result, began, took, err)})
	}
}

// resultOf is which of the three results a send had.
func resultOf(err error) string {
	not, unknown := errors.Is(err, gone.ErrNotDelivered), errors.Is(err, gone.ErrOutcomeUnknown)
	switch {
	case err == nil:
		return "nil"
	case not && !unknown:
		return "not"
	case unknown && !not:
		return "unknown"
	}
	return "neither"
}

