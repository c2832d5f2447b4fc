package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

func (r *Row) summary() string {
	s := fmt.Sprintf("%-34s %4d rounds  %3d violations  %5d tenures  %6.1fs", r.Name, r.Played, len(r.Findings), r.Tenures, r.Took.Seconds())
	if len(r.Times) > 0 {
		s += fmt.Sprintf("  %s: p50 %s p99 %s max %s", r.Measure, short(quantile(r.Times, .5)), short(quantile(r.Times, .99)), short(quantile(r.Times, 1)))
	}
	if len(r.Outside) > 0 {
		s += fmt.Sprintf("  outside overlap max %s", short(quantile(r.Outside, 1)))
	}
	if r.Waking > 0 {
		s += fmt.Sprintf("  %d messages taken while waking", r.Waking)
	}
	if len(r.Forgotten) > 0 {
		s += fmt.Sprintf("  %d overlaps after Redis forgot, max %s", len(r.Forgotten), short(quantile(r.Forgotten, 1)))
	}
	if m := r.Messages; m.Sent > 0 {
		s += fmt.Sprintf("  sent %d nil %d not %d unknown %d in hand %d longest %s", m.Sent, m.Nil, m.Not, m.Unknown, m.NotNoted, short(m.Longest))
	}
	if q := r.Messages.Requests; q.Asked > 0 {
		s += fmt.Sprintf("  asked %d replied %d failed %d noreply %d not %d unknown %d wrong %d", q.Asked, q.Replied, q.Failed, q.NoReply, q.Not, q.Unknown, q.Wrong)
	}
	if r.Undecided > 0 {
		s += fmt.Sprintf("  %d lock histories undecided", r.Undecided)
	}
	return s
}

// short is a duration with three digits.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	}
}

// report is docs/faults.md.
func report(rows []*Row, rounds int, took time.Duration) string {
	var b page
	p := b.line
	total, tenures, calls, bad, undecided := Messages{}, 0, 0, 0, 0
	played := 0
	for _, r := range rows {
		total.add(r.Messages)
		tenures += r.Tenures
		calls += r.Calls
		bad += len(r.Findings)
		undecided += r.Undecided
		played += r.Played
	}
	p("# Under faults")
	p("")
	p("Written by `make faults`. It plays every fault %d times, unless its row says otherwise, on real node processes", rounds)
	p("and real servers, which each row has to itself. Faults come from outside the processes. Every process logs what")
	p("happens to it, all by one clock, and a checker then reads all logs. `faults/main.go` says how.")
	p("")
	p("%s. %d rounds, %d tenures, %d lock calls, %d messages, %d requests, in %s: **%d violations**.",
		time.Now().UTC().Format("2006-01-02"), played, tenures, calls, total.Sent, total.Requests.Asked, took.Round(time.Second), bad)
	p("")
	p("%s etcd %s, PostgreSQL %s.", machine(), version("etcd"), version(serverBinary("postgres")))
	if len(pairs) > 0 {
		p("")
		p("Messages between nodes were encrypted (CURVE, with a key pair for each node).")
	}
	b.checked(undecided)
	b.tenures(rows)
	b.messages(rows, total)
	b.requests(rows, total.Requests)
	b.notes(rows)
	if bad > 0 {
		b.violations(rows)
	}
	return b.String()
}

// A page is what is being written of a report.
type page struct{ strings.Builder }

func (b *page) line(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }

func (b *page) checked(undecided int) {
	p := b.line
	p("")
	p("## What is checked in every history")
	p("")
	p("- Fencing tokens increase strictly. The fenced store accepts writes in token order only.")
	p("- A window is the time from a handler's first line to Exit. The windows of one id do not overlap. A stopped process")
	p("  can't close its window. Once resumed past its deadline it has a tenth of the TTL to do so. That overlap is measured")
	p("  and shown as \"outside\".")
	p("- A process that is resumed past its deadline receives nothing more in that tenure, except one message that was on")
	p("  offer when it was stopped (\"waking\"). Its Extend fails.")
	p("- No id is without a holder for longer than the row's bound while a healthy node competes.")
	p("- The calls of each lock are linearizable as those of one lock, unknown outcomes and expiry included (porcupine).")
	if undecided > 0 {
		p("  %d histories were too long to decide.", undecided)
	}
	p("- Every result of a send agrees with the logs of all handlers: nil was received once, not delivered never, and")
	p("  nothing twice. What one goroutine sends arrives in order. In planned rows every send returns nil, except a")
	p("  TrySendData that found nobody receiving.")
	p("- Every result of a request agrees with them, too. A handler logs each reply, with its request and tenure, before")
	p("  it gives it. A caller gets what the handler gave to that request, a reply or a failure. A second reply gets")
	p("  nowhere. ErrNoReply was received once, not delivered never. In planned rows every request gets its reply.")
}

func (b *page) tenures(rows []*Row) {
	p := b.line
	p("")
	p("## Exactly one")
	var all []string
	of := map[string][]*Row{}
	for _, r := range rows {
		on := cmp.Or(r.On, "Redis")
		if of[on] == nil {
			all = append(all, on)
		}
		of[on] = append(of[on], r)
	}
	for _, on := range all {
		p("")
		p("### On %s", on)
		p("")
		b.table(of[on])
	}
	p("")
	p("\"Outside\" counts overlaps that a stopped process could not help, and gives the longest. \"Forgotten\" counts those")
	p("after Redis had lost its memory, or while an old server went on beside the new one. They end with the old holder's")
	p("next Extend that reaches the new one. \"Waking\" counts messages that were on offer on r.Data when a process was")
	p("stopped, and that it took in the instant in which it woke: at most one per stop. etcd and PostgreSQL write to disk")
	p("before they answer, Redis does not.")
}

// table is that of one lock service.
func (b *page) table(rows []*Row) {
	p := b.line
	p("| fault | must hold | rounds | violations | tenures | time measured | p50 | p99 | max | outside |")
	p("|---|---|--:|--:|--:|---|--:|--:|--:|--:|")
	for _, r := range rows {
		times := "– | – | –"
		if len(r.Times) > 0 {
			times = short(quantile(r.Times, .5)) + " | " + short(quantile(r.Times, .99)) + " | " + short(quantile(r.Times, 1))
		}
		outside := "0"
		if len(r.Outside) > 0 {
			outside = fmt.Sprintf("%d × ≤ %s", len(r.Outside), short(quantile(r.Outside, 1)))
		}
		if r.Waking > 0 {
			outside += fmt.Sprintf("; waking %d", r.Waking)
		}
		if len(r.Forgotten) > 0 {
			outside += fmt.Sprintf("; forgotten %d × ≤ %s", len(r.Forgotten), short(quantile(r.Forgotten, 1)))
		}
		measure := r.Measure
		if measure == "" {
			measure = "–"
		}
		p("| %s | %s | %d | %d | %d | %s | %s | %s |", r.Fault, r.Holds, r.Played, len(r.Findings), r.Tenures, measure, times, outside)
	}
}

func (b *page) messages(rows []*Row, total Messages) {
	p := b.line
	p("")
	p("## Every message accounted for")
	p("")
	p("| fault | messages | nil | not delivered | unknown | in hand | longest wait | violations |")
	p("|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, r := range rows {
		m := r.Messages
		if m.Sent == 0 {
			continue
		}
		p("| %s | %d | %d | %d | %d | %d | %s | %d |", r.Fault, m.Sent, m.Nil, m.Not, m.Unknown, m.NotNoted, short(m.Longest), len(r.Findings))
	}
	p("| all | %d | %d | %d | %d | %d | %s | |", total.Sent, total.Nil, total.Not, total.Unknown, total.NotNoted, short(total.Longest))
	p("")
	p("\"In hand\": the result is nil, and the handler was killed before it could log the message; at most one per kill.")
	p("A send waits up to 10 s. Of those not delivered or unknown, %d were withdrawn earlier by their callers, and %d were", total.Withdrawn, total.Tried)
	p("TrySendData, which does not wait. A tenth of the calls are SendBatch, a tenth TrySendData, and a fifth are")
	p("requests, which are counted below.")
}

func (b *page) requests(rows []*Row, total Requests) {
	p := b.line
	p("")
	p("## Every request answered")
	p("")
	p("| fault | requests | replies | failed by the handler | no reply | unknown | not delivered | longest wait | violations |")
	p("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	line := func(name string, q Requests) {
		p("| %s | %d | %d | %d | %d | %d | %d | %s | %d |", name, q.Asked, q.Replied, q.Failed, q.NoReply, q.Unknown, q.Not, short(q.Longest), q.Wrong)
	}
	for _, r := range rows {
		if q := r.Messages.Requests; q.Asked > 0 {
			line(r.Fault, q)
		}
	}
	line("all", total)
	p("")
	p("Half of the requests are answered at once, half up to 20 ms later and out of order. The handler fails an eighth.")
	p("A request that a handler receives from r.Data gets an empty reply.")
	p("\"No reply\" is ErrNoReply: the handler received the request. Of those without a reply, %d were withdrawn within 3 ms by", total.Withdrawn)
	p("their callers. \"Violations\" counts those of requests alone.")
}

func (b *page) notes(rows []*Row) {
	p := b.line
	var notes []string
	for _, r := range rows {
		for _, n := range r.Notes {
			notes = append(notes, "- "+r.Name+": "+n)
		}
	}
	if len(notes) > 0 {
		p("")
		p("## Notes")
		p("")
		p("Each begins with the name of its row. With many ids, a move is a tenure that begins, and shares are even when every node has its own.")
		p("")
		p("%s", strings.Join(notes, "\n"))
	}
}

func (b *page) violations(rows []*Row) {
	p := b.line
	p("")
	p("## Violations")
	p("")
	for _, r := range rows {
		for i, f := range r.Findings {
			if i == 10 {
				p("- %s: … and %d more", r.Name, len(r.Findings)-i)
				break
			}
			p("- %s: %s", r.Name, f.What)
		}
	}
}

// machine says where the figures are from.
func machine() string {
	cpu := runtime.GOARCH
	if s, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(s)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	one := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return name + " (version unknown)"
		}
		return strings.TrimSpace(string(out))
	}
	kernel, _, _ := strings.Cut(one("uname", "-sr"), "-") // what follows is its builder's
	return fmt.Sprintf("Machine: %s, %d CPUs, %s; %s, Redis %s.", cpu, runtime.NumCPU(), kernel, runtime.Version(), version("redis-server"))
}

// version is the first word that begins with a digit of what a program says.
func version(name string) string {
	out, _ := exec.Command(name, "--version").Output()
	for _, word := range strings.Fields(string(out)) {
		if word = strings.TrimPrefix(word, "v="); word != "" && word[0] >= '0' && word[0] <= '9' {
			return word
		}
	}
	return "(version unknown)"
}
