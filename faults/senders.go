package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	gone "github.com/Diggs/go-one"
)

// A load is what the sending goroutines of a command do.
type load struct {
	pause     time.Duration
	size      int
	impatient int // of a hundred calls, those that may be withdrawn within 3 ms
	asking    int // and those that are requests
	ids       []string
}

// startSenders obeys "send" and "ask", which sends requests only: goroutines, pause,
// bytes, impatient, ids.
func (n *node) startSenders(words []string) {
	l := load{asking: 20, ids: words[5:]}
	if words[0] == "ask" {
		l.asking = 100
	}
	count, _ := strconv.Atoi(words[1])
	l.pause, _ = time.ParseDuration(words[2])
	l.size, _ = strconv.Atoi(words[3])
	l.impatient, _ = strconv.Atoi(words[4])
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
			for {
				select {
				case <-quit:
					return
				default:
				}
				id := pick(l.ids)
				next[id] += n.sendSomehow(from, id, next[id], l)
				if l.pause > 0 {
					time.Sleep(l.pause/2 + rand.N(l.pause))
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

// sendSomehow makes one call and returns how many messages it was for.
func (n *node) sendSomehow(from, id string, number int, l load) int {
	hasty := rand.IntN(100) < l.impatient
	switch d := rand.IntN(100); {
	case d < l.asking:
		n.ask(from, id, number, l.size, hasty)
	case hasty:
		n.send(from, id, number, 1, l.size, impatiently)
	case d >= 90:
		n.send(from, id, number, 1, l.size, trying)
	case d >= 80:
		n.send(from, id, number, 4, l.size, batching)
		return 4
	default:
		n.send(from, id, number, 1, l.size, patiently)
	}
	return 1
}

func payload(from string, number, size int) []byte {
	return padded(fmt.Sprintf("%s %d ", from, number), size)
}

// send sends count messages and logs what became of each.
func (n *node) send(from, id string, number, count, size int, how manner) {
	msgs := make([][]byte, count)
	for i := range msgs {
		msgs[i] = payload(from, number+i, size)
	}
	var delivered int
	var err error
	var manner string
	began := clock()
	switch how {
	case patiently:
		err = n.gone.SendData(id, msgs[0])
	case impatiently:
		ctx, cancel := inNoTime()
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
		scribble(data)
		result := "nil"
		if err != nil && i >= delivered { // of a batch, also what comes after the first that failed
			result = resultOf(err) + manner
		}
		n.log.Add(Event{Kind: Sent, ID: id, From: from, N: number + i, Text: fmt.Sprintf("%s %d %d %v", result, began, took, err)})
	}
}

// ask sends a request and logs its end, with the reply or what the handler failed
// it with.
func (n *node) ask(from, id string, number, size int, hasty bool) {
	ctx, cancel, manner := context.Background(), context.CancelFunc(func() {}), ""
	if hasty {
		ctx, cancel = inNoTime()
		manner = "-withdrawn"
	}
	data := payload(from, number, size)
	began := clock()
	reply, err := n.gone.Request(ctx, id, data)
	took := clock() - began
	cancel()
	scribble(data)
	var result, text string
	failure := (*gone.HandlerError)(nil)
	switch {
	case err == nil:
		result, text = replied, bare(string(reply))
	case errors.As(err, &failure) && resultOf(err) == "neither":
		result, text = failed, bare(failure.Text)
	default:
		result, text = resultOf(err)+manner, err.Error()
	}
	n.log.Add(Event{Kind: Asked, ID: id, From: from, N: number, Text: fmt.Sprintf("%s %d %d %s", result, began, took, text)})
}

func inNoTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), rand.N(3*time.Millisecond))
}

// scribble is what somebody may do to data that is his again.
func scribble(data []byte) {
	for i := range data {
		data[i] = '#'
	}
}

// resultOf is which of the results of a send, or of a request without a reply, it
// was.
func resultOf(err error) string {
	not, unknown, noReply := errors.Is(err, gone.ErrNotDelivered), errors.Is(err, gone.ErrOutcomeUnknown), errors.Is(err, gone.ErrNoReply)
	switch {
	case err == nil:
		return "nil"
	case not && !unknown && !noReply:
		return "not"
	case unknown && !not && noReply:
		return "noreply"
	case unknown && !not:
		return "unknown"
	}
	return "neither"
}
