package main

import (
	"bytes"
	"fmt"
	"time"
)

// An answer is what a receiver sends back: an acknowledgement or a reply.
type answer func(data []byte) []byte

func nothing([]byte) []byte   { return nil }
func same(data []byte) []byte { return data }

func check(reply, want []byte) error {
	if !bytes.Equal(reply, want) {
		return fmt.Errorf("a reply of %d bytes, want %d", len(reply), len(want))
	}
	return nil
}

var (
	loadRequests1   = load{"1 requester", 1, 1, 128}
	loadRequests16  = load{"16 requesters", 16, 1, 128}
	loadRequests256 = load{"256 requesters", 256, 1, 128}
)

// requests is the contest of those who wait for the receiver's reply.
func requests(each time.Duration) contest {
	c := contest{receivers: 1, each: each}
	for _, l := range []load{loadRequests1, loadRequests16, loadRequests256} {
		c.trials = append(c.trials, trial{l, []courier{courierRequest, courierSendData, courierNATSReplies, courierLists, courierGRPCReplies}})
	}
	return c
}

// speedOfRequests is the chapter on requests and their replies.
func speedOfRequests(r *report, _ *server, got results) error {
	r.ratios(got.table, []ratio{
		{"Request, 1 caller, p50 ÷ SendData", load.p50, loadRequests1, nameGone, courierSendData.name, 1.1, 1.1},
		{"Request, 1 caller, p50 ÷ NATS", load.p50, loadRequests1, nameGone, nameNATS, 1, 1},
		{"Request, 1 caller, p50 ÷ Redis lists", load.p50, loadRequests1, nameGone, nameLists, 1, 1},
	})
	for _, l := range []load{loadRequests16, loadRequests256} {
		for _, peer := range []string{nameNATS, nameGRPC, nameLists} {
			r.ratios(got.table, []ratio{{fmt.Sprintf("Request, %d callers ÷ %s", l.callers, peer), load.rate, l, nameGone, peer, 1, 1}})
		}
	}
	r.printf("## Requests and replies\n\n")
	r.figures(got.table, got.who, loadRequests1.rate(), loadRequests16.rate(), loadRequests256.rate())
	r.figures(got.table, got.who, loadRequests1.p50(), loadRequests1.p99(), loadRequests16.p50(), loadRequests16.p99(), loadRequests256.p50(), loadRequests256.p99(),
		loadRequests256.here(), loadRequests256.there())
	r.explain(requestNotes)
	return nil
}

const requestNotes = `Each requester sends 128 B, which the receiver gives back, and waits for that.

- gone is Request, to a handler that replies in a loop of Messages. SendData goes to the same handler and waits for the
  receipt alone.
- NATS and gRPC are as above, with the data as the reply.
- Redis lists: in one round trip the caller LPUSHes to the receiver's list and BRPOPs from its own, with a connection
  each. In one round trip the receiver LPUSHes all its replies and takes all that waits, by BRPOP and an RPOP of up to
  255.
`
