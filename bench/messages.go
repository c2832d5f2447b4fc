package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	gone "github.com/Diggs/go-one"
)

// How much of each work of messages a round has.
type pace struct {
	each    time.Duration // of each measurement
	sizes   []int
	callers []int // of rivals
	crowd   int   // of the yardsticks
}

// speedOfMessages is the chapter on messages to another process, against what
// ZeroMQ does without acknowledgements, and to the same node.
func speedOfMessages(r *report, s *server, p pace) error {
	remote, err := startRemote(s, "speed")
	if err != nil {
		return err
	}
	defer remote.stop()
	plain, err := startLoop("plain")
	if err != nil {
		return err
	}
	defer plain.stop()
	echo, err := startLoop("echo")
	if err != nil {
		return err
	}
	defer echo.stop()
	send := func(int) sender { return remote.sender("speed") }

	loops, crowds := map[int][]float64{}, map[int][]float64{}
	var batches, lone50, lone99, trip50, trip99, mallocs, mallocsThere, local, localMallocs []float64
	for round := range r.rounds {
		for _, size := range rotate(p.sizes, round) {
			v, err := plain.plain(p.each, size)
			if err != nil {
				return err
			}
			loops[size] = append(loops[size], v)
			here, there, err := allocations(remote.holder, func() (int, error) {
				f, err := load(p.crowd, p.each, size, send)
				crowds[size] = append(crowds[size], f.perSecond)
				return len(f.took), err
			})
			if err != nil {
				return err
			}
			if size == 128 {
				mallocs, mallocsThere = append(mallocs, here), append(mallocsThere, there)
			}
		}
		v, err := batch(remote, p.each)
		if err != nil {
			return err
		}
		batches = append(batches, v)
		for _, one := range rotate([]func() error{
			func() error {
				f, err := load(1, p.each, 128, send)
				lone50, lone99 = append(lone50, f.p50), append(lone99, f.p99)
				return err
			},
			func() error {
				f, err := echo.roundTrip(p.each, 128)
				trip50, trip99 = append(trip50, f.p50), append(trip99, f.p99)
				return err
			},
		}, round) {
			if err := one(); err != nil {
				return err
			}
		}
		ns, allocs, err := sameNode(s, p.each)
		if err != nil {
			return err
		}
		local, localMallocs = append(local, ns), append(localMallocs, allocs)
	}

	r.claim(claim{fmt.Sprintf("SendData, acknowledged, %d goroutines, 128 B, to another process ÷ plain loop", p.crowd), 1, .5, true, "×", ratios(crowds[128], loops[128])})
	r.claim(claim{"SendBatch from one goroutine, acknowledged, 128 B ÷ plain loop", 2, 1, true, "×", ratios(batches, loops[128])})
	r.claim(claim{"SendData, one after the other, p50 ÷ bare PUSH+PUSH round trip", 1.3, 1.8, false, "×", ratios(lone50, trip50)})
	r.claim(claim{"the same, p99", 1.5, 1.5, false, "×", ratios(lone99, trip99)})
	r.claim(claim{"SendData to a handler on the same node", 500, 1000, false, "ns", local})
	r.claim(claim{"its allocations", 0, 1, false, "", localMallocs})
	r.claim(claim{"allocations a remote message, sender", 2, 4, false, "", mallocs})
	r.claim(claim{"allocations a remote message, receiver", 2, 4, false, "", mallocsThere})

	r.printf("## Messages to another process\n\n")
	var sizes []string
	for _, size := range p.sizes {
		sizes = append(sizes, fmt.Sprintf("%d B", size))
	}
	r.head("thousand messages a second", sizes...)
	row := func(name string, v func(size int) []float64) {
		r.printf("\n| %s |", name)
		for _, size := range p.sizes {
			r.printf(" %s |", spread(v(size)))
		}
	}
	row("plain PUSH/PULL loop, nothing acknowledged", func(size int) []float64 { return scaled(loops[size], 1e-3) })
	row(fmt.Sprintf("SendData, %d goroutines", p.crowd), func(size int) []float64 { return scaled(crowds[size], 1e-3) })
	row("ratio", func(size int) []float64 { return ratios(crowds[size], loops[size]) })
	r.printf("\n\nSendBatch from one goroutine, 128 B: %s thousand a second.\n\n", spread(scaled(batches, 1e-3)))
	r.printf("| 128 B, µs | p50 | p99 |\n|---|--:|--:|\n| SendData, one after the other | %s | %s |\n| PUSH there and PUSH back | %s | %s |\n\n",
		spread(lone50), spread(lone99), spread(trip50), spread(trip99))
	r.printf(messageNotes, p.each)
	return nil
}

const messageNotes = `Two processes on the loopback interface; each figure is from %v. The plain loop is pebbe's: one goroutine, a
message a frame, counted when the last has arrived. SendData returns when the handler has received the message.

What limits SendData, by profiles of 256 callers in runs of their own, at 550,000 messages a second: Go takes
1.05 µs of CPU a message in the sender's process and 1.15 µs in the holder's. Of that, most is the Go scheduler's:
each message is handed from one goroutine to another on an unbuffered channel, as nil means that the handler has it
(245 to 290 ns with nothing around it), and each caller is woken by itself (155 ns). A third of the time is the
kernel's: messages share frames, about 64 in each, but a frame and its answer take ten context switches, from a caller
to ZeroMQ's thread, to the other process's, to the receiver, and back. A quarter of the two CPUs is idle, waiting for
these wake-ups. The plain loop has none of this: both of its ends run all the time, and take 0.8 µs a message together.
SendBatch spares the sender's half of the switches; the receiver's half is what is left.

What was tried and did not pay: reporting what was received in frames of 32, 128 or 256 (within 3 %%); waiting 30 to
60 µs for a fuller frame by a timer (within 3 %%, and 16 callers lose 30 to 45 %%) or by yielding (it loses 17 to 60 %%);
a hand-over that blocks instead of yielding (8 %% more with 256 callers, but acknowledgements of a slow handler come a
millisecond late, and batches lose 5 %%). What would have to change for more: a handler that takes several messages at
once, and callers that do not wait for each; both are other libraries than a send on an unbuffered channel.

`

// batch sends with SendBatch for d, and returns how many a second.
func batch(r *remote, d time.Duration) (float64, error) {
	msgs := make([][]byte, 10_000)
	for i := range msgs {
		msgs[i] = make([]byte, 128)
	}
	n := 0
	began := time.Now()
	for time.Since(began) < d {
		delivered, err := r.SendBatch(context.Background(), "speed", msgs)
		if err != nil {
			return 0, err
		}
		n += delivered
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// allocations are those a message of this process and of the holder's.
func allocations(holder *child, work func() (int, error)) (here, there float64, err error) {
	before, err := holder.use(false)
	if err != nil {
		return 0, 0, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	mine := m.Mallocs
	n, err := work()
	if err != nil {
		return 0, 0, err
	}
	runtime.ReadMemStats(&m)
	after, err := holder.use(false)
	return float64(m.Mallocs-mine) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n), err
}

// sameNode sends to a handler on the node itself, for d.
func sameNode(s *server, d time.Duration) (ns, mallocs float64, err error) {
	g, err := gone.NewGone("tcp://127.0.0.1:0", factory(s.addr, longTTL))
	if err != nil {
		return 0, 0, err
	}
	defer g.Close()
	if _, err := g.RunOne("here", handle(longTTL)); err != nil {
		return 0, 0, err
	}
	data := make([]byte, 128)
	if err := g.SendData("here", data); err != nil {
		return 0, 0, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, n, began := m.Mallocs, 0, time.Now()
	for ; n&1023 != 0 || time.Since(began) < d; n++ {
		if err := g.SendData("here", data); err != nil {
			return 0, 0, err
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&m)
	return float64(took.Nanoseconds()) / float64(n), float64(int(100*float64(m.Mallocs-before)/float64(n)+.5)) / 100, nil
}

// againstRivals is the chapter on what a user would pick instead.
func againstRivals(r *report, s *server, p pace) error {
	sends := map[string]func(int) sender{}
	for _, v := range rivals {
		send, stop, err := v.start(s)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		defer stop()
		sends[v.name] = send
	}
	type key struct {
		name    string
		callers int
	}
	rates, p50, p99 := map[key][]float64{}, map[key][]float64{}, map[key][]float64{}
	lone := map[string][]time.Duration{}
	for round := range r.rounds {
		for _, callers := range p.callers {
			for _, v := range rotate(rivals, round) {
				f, err := load(callers, p.each, 128, sends[v.name])
				if err != nil {
					return fmt.Errorf("%s, %d callers: %w", v.name, callers, err)
				}
				k := key{v.name, callers}
				rates[k], p50[k], p99[k] = append(rates[k], f.perSecond), append(p50[k], f.p50), append(p99[k], f.p99)
				if callers == 1 {
					lone[v.name] = f.took
				}
			}
		}
	}
	r.printf("## Against what a user would pick instead\n\nAcknowledged messages of 128 B to another process: thousand a second.\n\n")
	var names []string
	for _, v := range rivals {
		names = append(names, v.name)
	}
	r.head("callers", names...)
	for _, callers := range p.callers {
		r.printf("\n| %d |", callers)
		for _, v := range rivals {
			r.printf(" %s |", spread(scaled(rates[key{v.name, callers}], 1e-3)))
		}
		for _, v := range rivals[1:] {
			c := claim{fmt.Sprintf("throughput ÷ %s, %d callers", v.name, callers), 1, 1, true, "×", ratios(rates[key{nameGone, callers}], rates[key{v.name, callers}])}
			if callers == 1 {
				c.least = 0
			}
			if v.name == nameOriginal && callers == 256 {
				c.goal, c.least = 100, 20
			}
			r.claim(c)
		}
	}
	r.printf("\n\nTime of one message, µs, p50 and p99:\n\n")
	r.head("callers", names...)
	for _, callers := range p.callers {
		r.printf("\n| %d |", callers)
		for _, v := range rivals {
			k := key{v.name, callers}
			r.printf(" %s, %s |", digits(median(p50[k])), digits(median(p99[k])))
		}
	}
	r.printf("\n\n")
	r.printf(rivalNotes)
	byCallers := chart{title: "Acknowledged messages of 128 B", x: "callers", y: "messages a second", logX: true, logY: true}
	latency := chart{title: "One caller: share of messages that took at most so long", x: "µs", y: "%", logX: true}
	for _, v := range rivals {
		var x, y []float64
		for _, callers := range p.callers {
			x, y = append(x, float64(callers)), append(y, median(rates[key{v.name, callers}]))
		}
		byCallers.lines = append(byCallers.lines, curve{v.name, points(x, y), true})
		x, y = nil, nil
		for q := range 1000 {
			took := lone[v.name][q*len(lone[v.name])/1000]
			x, y = append(x, float64(took.Nanoseconds())/1e3), append(y, float64(q)/10)
		}
		latency.lines = append(latency.lines, curve{v.name, points(x, y), false})
	}
	if err := r.picture("callers", "throughput by number of callers", byCallers); err != nil {
		return err
	}
	return r.picture("latency", "distribution of the time of a message", latency)
}

const rivalNotes = `NATS: the server, the responder and the requester are a process each. Redis Stream: XADD, a consumer group that
takes up to 256 entries at a time, acknowledges and deletes them and pushes to the caller's reply list in one round
trip, and BLPOP there; a connection a caller. gRPC: a unary call to an address that is known. The original's design:
a GET of the holder's address from Redis and a REQ/REP round trip for each message, under a mutex.

`
