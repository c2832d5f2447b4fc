package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Names that claims compare.
const (
	namePlain   = "plain loop"
	nameTrip    = "bare round trip"
	nameNATS    = "NATS"
	nameGRPC    = "gRPC"
	nameStreams = "Redis Streams"
	nameLists   = "Redis lists"
)

// yardsticks do less than is asked of the others.
var yardsticks = []string{namePlain, nameTrip}

var peers = []courier{courierNATS, courierStreams, courierGRPC}

// Loads that claims are about.
var (
	loadOne     = load{"1 caller", 1, 1, 128}
	loadSome    = load{"16 callers", 16, 1, 128}
	loadMany    = load{"256 callers", 256, 1, 128}
	loadBatches = load{"batches", 0, 1, 128}
	loadLocal   = load{"same node", 0, 1, 128}
	loadOver10  = load{"256 callers over 10 receivers", 256, 10, 128}
	loadIDs     = load{"256 callers to many ids", 256, 1, 128}
	loadOver30  = load{"256 callers over 30 receivers", 256, 30, 128}
)

// sizes are the same with other messages.
var sizes = []load{{"256 callers, 16 B", 256, 1, 16}, {"256 callers, 1 KiB", 256, 1, 1 << 10}, {"256 callers, 64 KiB", 256, 1, 64 << 10}}

// with is a list of couriers and the peers.
func with(list ...courier) []courier { return slices.Concat(list, peers) }

// messages is the contest to one receiver.
func messages(each time.Duration) contest {
	c := contest{receivers: 1, each: each, trials: []trial{
		{loadOne, append(with(courierGone, courierBatches), courierOriginal, courierTrip)},
		{loadSome, append(with(courierGone, courierBatches), courierOriginal)},
		{loadMany, append(with(courierGone, courierBatches), courierOriginal, courierPlain)},
		{loadBatches, append(with(courierGone, courierBatches), courierPlain)},
		{loadLocal, []courier{courierSameNode}},
	}}
	for _, l := range sizes {
		c.trials = append(c.trials, trial{l, []courier{courierGone, courierPlain}})
	}
	return c
}

// receivers is the contest to several.
func receivers(n int, each time.Duration) contest {
	c := contest{receivers: n, each: each}
	for _, l := range []load{loadOver10, loadOver30} {
		l.receivers = min(l.receivers, n)
		c.trials = append(c.trials, trial{l, with(courierGone)})
	}
	return c
}

// manyIDs is the contest to several ids of one receiver.
func manyIDs(n int, each time.Duration) contest {
	c := contest{receivers: 1, each: each, trials: []trial{{loadIDs, []courier{courierGone}}}}
	for _, n := range []int{n / 100, n} {
		c.trials[0].couriers = append(c.trials[0].couriers, courier{fmt.Sprintf("gone, %d ids", n), openRemote("gone", n, sends)})
	}
	return c
}

// ratio is a claim about what gone does under a load, divided by what another
// does.
type ratio struct {
	work        string
	of          func(load) work
	load        load
	who, rival  string
	goal, least float64
}

func (r *report) ratios(t table, list []ratio) {
	for _, c := range list {
		w := c.of(c.load)
		r.claim(claim{c.work, c.load.name, c.goal, c.least, w.moreIsBetter(), "×", t.ratios(w, c.who, w, c.rival)})
	}
}

// speedOfMessages is the chapter on messages to one other process, and to the
// same node.
func speedOfMessages(r *report, _ *server, got results) error {
	r.ratios(got.table, []ratio{
		{"256 blocked callers ÷ plain loop", load.rate, loadMany, nameGone, namePlain, .4, .3},
		{"SendBatch ÷ plain loop", load.rate, loadBatches, nameGone, namePlain, 1, .8},
		{"SendBatch to a Batches handler ÷ plain loop", load.rate, loadBatches, courierBatches.name, namePlain, 2.5, 1.5},
		{"one caller, p50 ÷ bare round trip", load.p50, loadOne, nameGone, nameTrip, 1.1, 1.3},
		{"one caller, p99 ÷ bare round trip", load.p99, loadOne, nameGone, nameTrip, 1.2, 1.5},
	})
	var ns []float64
	for _, v := range got.table[loadLocal.rate()][courierSameNode.name] {
		ns = append(ns, 1e6/v)
	}
	r.claim(claim{"a message to a handler on the same node", loadLocal.name, 500, 729, false, "ns", ns})
	r.claim(claim{"allocations of a message to the same node", loadLocal.name, 0, 1, false, "", rounded(got.table[loadLocal.here()][courierSameNode.name])})
	r.claim(claim{"256 callers: allocations per message, sender", loadMany.name, 2, 4, false, "", got.table[loadMany.here()][nameGone]})
	r.claim(claim{"256 callers: allocations per message, receiver", loadMany.name, 2, 4, false, "", got.table[loadMany.there()][nameGone]})
	for _, l := range []load{loadOne, loadSome, loadMany} {
		least := 1.0
		if l == loadOne {
			least = none
		}
		r.ratios(got.table, []ratio{
			{l.name + " ÷ NATS request", load.rate, l, nameGone, nameNATS, 1, least},
			{l.name + " ÷ gRPC unary", load.rate, l, nameGone, nameGRPC, 1, least},
			{l.name + " ÷ Redis Streams", load.rate, l, nameGone, nameStreams, 1, least},
		})
	}
	r.ratios(got.table, []ratio{
		{"SendBatch ÷ JetStream async publish", load.rate, loadBatches, nameGone, nameNATS, 1, none},
		{"SendBatch ÷ gRPC bidirectional stream", load.rate, loadBatches, nameGone, nameGRPC, 1, none},
		{"SendBatch ÷ pipelined XADD", load.rate, loadBatches, nameGone, nameStreams, 1, none},
		{"256 callers ÷ the original's design", load.rate, loadMany, nameGone, courierOriginal.name, 100, 20},
	})

	r.printf("## Messages to another process\n\n")
	callers := []load{loadOne, loadSome, loadMany}
	var rates, times []work
	for _, l := range append(callers, loadBatches) {
		rates = append(rates, l.rate())
	}
	for _, l := range callers {
		times = append(times, l.p50(), l.p99())
	}
	r.figures(got.table, got.who, rates...)
	r.figures(got.table, got.who, append(times, loadMany.here(), loadMany.there())...)
	r.explain(messageNotes)
	r.figures(got.table, got.who, sizes[0].rate(), sizes[1].rate(), sizes[2].rate())
	return picturesOfMessages(r, got, callers)
}

const messageNotes = `Messages of 128 B on the loopback interface. Callers wait for each of their messages. In *batches* one goroutine sends
10,000 messages per call. gone acknowledges a message when its handler has received it: in a select, or by Batches.
Allocations are those of the programs in Go; redis-server is not counted.

- Plain loop: one goroutine calls pebbe/zmq4, a message per frame. Nothing is acknowledged. It is over when the last
  message has arrived.
- Bare round trip: a PUSH there and a PUSH back.
- NATS: server, responder and requester are a process each. Batches are JetStream's async publish with its default of
  4,000 under way, acknowledged by the server, in memory, with no consumer.
- gRPC: unary calls to a known address. Batches are a bidirectional stream with an acknowledgement per message.
- Redis Streams: callers XADD, and BLPOP from a reply list of their own, with a connection each. A consumer group takes
  up to 256 entries at a time. It acknowledges and deletes them and pushes the replies in one round trip. Batches are
  pipelined XADD, acknowledged by Redis, with no consumer.
- The original's design: for each message a GET of the holder's address from Redis and a REQ/REP round trip, under a
  mutex.
`

func picturesOfMessages(r *report, got results, callers []load) error {
	byCallers := chart{title: "Acknowledged messages of 128 B", x: "callers", y: "thousand a second", logX: true, logY: true}
	latency := chart{title: "One caller: share of messages that took at most so long", x: "µs", y: "%", logX: true}
	for _, name := range got.who {
		took := got.alone[name]
		if len(took) == 0 {
			continue
		}
		var x, y []float64
		for q := range 1000 {
			x, y = append(x, float64(took[q*len(took)/1000].Nanoseconds())/1e3), append(y, float64(q)/10)
		}
		latency.lines = append(latency.lines, curve{name, points(x, y), false})
		if !slices.Contains(yardsticks, name) {
			byCallers.lines = append(byCallers.lines, got.rates(name, callers, func(l load) int { return l.callers }))
		}
	}
	if err := r.picture("callers", "throughput by number of callers", byCallers); err != nil {
		return err
	}
	return r.picture("latency", "distribution of the time of a message", latency)
}

// rates is a line of a chart.
func (t table) rates(name string, loads []load, at func(load) int) curve {
	var x, y []float64
	for _, l := range loads {
		if v := t[l.rate()][name]; len(v) > 0 {
			x, y = append(x, float64(at(l))), append(y, median(v))
		}
	}
	return curve{name, points(x, y), true}
}

// rounded is to hundredths, as a goroutine that wakes by itself may allocate as
// well.
func rounded(v []float64) (r []float64) {
	for _, x := range v {
		r = append(r, math.Round(100*x)/100)
	}
	return r
}

// speedOverReceivers is the chapter on messages to several processes.
func speedOverReceivers(r *report, _ *server, got results) error {
	r.ratios(got.table, []ratio{
		{"256 callers over 10 receivers ÷ NATS request", load.rate, loadOver10, nameGone, nameNATS, 2.4, 1.5},
		{"256 callers over 30 receivers ÷ NATS request", load.rate, loadOver30, nameGone, nameNATS, 1.3, 1},
	})
	for _, l := range []load{loadOver10, loadOver30} {
		r.ratios(got.table, []ratio{
			{l.name + " ÷ gRPC unary", load.rate, l, nameGone, nameGRPC, 1, none},
			{l.name + " ÷ Redis Streams", load.rate, l, nameGone, nameStreams, 1, none},
		})
	}
	r.printf("## Messages to several processes\n\n")
	r.figures(got.table, got.who,
		loadOver10.rate(), loadOver10.p50(), loadOver10.p99(), loadOver30.rate(), loadOver30.p50(), loadOver30.p99())
	r.explain("All callers are in one process, and each receiver is a process. Each message of 128 B goes to a random receiver.\n")
	return nil
}

// speedToManyIDs is the chapter on messages to many ids of one process.
func speedToManyIDs(r *report, _ *server, got results) error {
	most := got.who[len(got.who)-1]
	r.ratios(got.table, []ratio{{loadIDs.name + " of one peer: " + most + " ÷ 1 id", load.rate, loadIDs, most, nameGone, .9, .7}})
	r.printf("## Messages to many ids\n\n")
	r.figures(got.table, got.who, loadIDs.rate(), loadIDs.p50(), loadIDs.p99())
	r.explain("Each column is a process that holds that many ids, and *gone* one that holds a single id. Each message of 128 B goes to a\nrandom id. Each id gets one before: after five seconds without use, a route costs the next message a question to Redis.\n")
	return nil
}
