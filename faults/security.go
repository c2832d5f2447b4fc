package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
	zmq4 "github.com/pebbe/zmq4"

	"github.com/Diggs/go-one/internal/freeport"
)

// A Siege is what became of one attack.
type Siege struct {
	Attack
	Curve    bool
	Tried    int64
	Through  int64 // received though nobody honest had sent it, twice, or confirmed by nobody
	Failed   int64 // honest sends
	Memory   int   // growth of the attacked process at its peak, in MB
	Share    float64
	Findings []string
}

func (r *Siege) add(format string, args ...any) {
	r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
}

func (r *Siege) summary() string {
	wire := "plain"
	if r.Curve {
		wire = "CURVE"
	}
	s := fmt.Sprintf("%-5s %-92s %8d tried  %d through  %4d MB  honest %3.0f %%  %d failed", wire, r.Name, r.Tried, r.Through, r.Memory, 100*r.Share, r.Failed)
	for _, f := range r.Findings {
		s += "\n    " + f
	}
	return s
}

// Pace is how long an attack is played, and how much of it.
type Pace struct {
	Quiet, Attack time.Duration
	Part          int  // one in so many of what an attack tries
	Judge         bool // the throughput of honest senders, too
}

var (
	thorough = Pace{Quiet: time.Second, Attack: 4 * time.Second, Part: 1, Judge: true}
	hasty    = Pace{Quiet: 100 * time.Millisecond, Attack: 400 * time.Millisecond, Part: 25}
)

// besieged starts the nodes of one attack, plays it, and judges.
func besieged(a Attack, curve bool, pace Pace) (r *Siege, err error) {
	r = &Siege{Attack: a, Curve: curve}
	dir, err := os.MkdirTemp("", "siege")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s := &siege{}
	if s.redis, err = startRedis(filepath.Join(dir, "redis")); err != nil {
		return nil, err
	}
	defer s.redis.stop()
	if s.zmq, err = zmq4.NewContext(); err != nil {
		return nil, err
	}
	defer func() { _ = s.zmq.Term() }()
	if s.strange.Public, s.strange.Secret, err = zmq4.NewCurveKeypair(); err != nil {
		return nil, err
	}
	if curve {
		if s.curve.Public, s.curve.Secret, err = zmq4.NewCurveKeypair(); err != nil {
			return nil, err
		}
	}
	s.at = freeport.Addr()
	if s.tape, err = newTape(s.at); err != nil {
		return nil, err
	}
	defer s.tape.ln.Close()
	cfg := PartConfig{
		Addr: "tcp://" + s.tape.ln.Addr().String(), Bind: "tcp://" + s.at, Redis: s.redis.addr(),
		Curve: s.curve, IDs: []string{"load", "stuck"}, Nonce: rand.Uint64(),
	}
	if s.target, err = startPart(cfg); err != nil {
		return nil, err
	}
	defer s.target.stop()
	cfg.Addr, cfg.Bind, cfg.IDs = "tcp://127.0.0.1:0", "", nil
	if s.honest, err = startPart(cfg); err != nil {
		return nil, err
	}
	defer s.honest.stop()
	held, err := redis.String(s.redis.try("GET", "load"))
	if err != nil {
		return nil, err
	}
	words := strings.Fields(held) // address, key if any, token, secret
	s.holder = strings.Join(words[:len(words)-2], " ")
	if _, err := fmt.Sscan(words[len(words)-2], &s.token); err != nil {
		return nil, err
	}
	return r, s.play(r, pace)
}

func (s *siege) play(r *Siege, pace Pace) error {
	if err := s.warmUp(); err != nil {
		return err
	}
	time.Sleep(pace.Quiet / 3) // connections, and what memory all of it takes
	before, err := s.rate(pace.Quiet)
	if err != nil {
		return err
	}
	growth := s.target.growth()
	defer growth()
	during, err := s.attack(r, pace)
	if err != nil {
		return fmt.Errorf("the attacked node: %w", err)
	}
	after, err := s.rate(pace.Quiet)
	r.Memory = growth() >> 20
	r.Share = during / ((before + after) / 2)
	if err == nil {
		err = s.honest.ask(new(any), "quiet")
	}
	if err != nil {
		return err
	}
	at, err := s.target.counts()
	if err != nil {
		return err
	}
	from, err := s.honest.counts()
	if err != nil {
		return err
	}
	r.judge(at, from, pace)
	return nil
}

// warmUp has honest senders begin. Until something arrives there is nothing on the tape
// to replay.
func (s *siege) warmUp() error {
	if err := s.honest.ask(new(any), "load 16"); err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := s.target.counts()
		if err != nil || c.Received > 0 {
			return err
		}
		if time.Now().After(end) {
			return errors.New("nothing of the honest senders has arrived")
		}
	}
}

// attack plays one, and returns how many messages a second honest senders got through.
func (s *siege) attack(r *Siege, pace Pace) (rate float64, err error) {
	ctx, cancel := s.lasting(pace.Attack)
	defer cancel()
	began := time.Now()
	before, err := s.target.counts()
	if err != nil {
		return 0, err
	}
	// What is over in no time, again, and what has not come to try anything.
	for ctx.Err() == nil && (time.Since(began) < pace.Attack/3 || s.tried.Load() == 0) {
		r.Do(ctx, s, max(r.N/pace.Part, 8))
	}
	took := time.Since(began)
	r.Tried = s.tried.Load()
	after, err := s.target.counts()
	return float64(after.Received-before.Received) / took.Seconds(), err
}

// growth watches the memory of a process. The function returns by how much it has grown
// at its peak, and ends that.
func (p *process) growth() (grown func() int) {
	base, peak := p.memory(), 0
	var watching sync.WaitGroup
	over := make(chan struct{})
	watching.Go(func() {
		for {
			peak = max(peak, p.memory())
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return sync.OnceValue(func() int {
		close(over)
		watching.Wait()
		return max(peak-base, 0)
	})
}

// judge compares what the attacked node and the honest one have counted.
func (r *Siege) judge(at, from Counts, pace Pace) {
	r.Failed = from.Failed
	r.Through = at.Foreign + at.Doubled + from.Lies
	switch {
	case r.Tried == 0:
		r.add("nothing was tried")
	case at.Received == 0 || at.Received < from.OK:
		r.add("%d received of the %d that were confirmed", at.Received, from.OK)
	}
	if r.Through > 0 {
		r.add("received though not sent: %d, twice: %d, confirmed by nobody: %d %s", at.Foreign, at.Doubled, from.Lies, at.Why)
	}
	if r.Failed > 0 {
		r.add("%d honest sends failed: %s", r.Failed, from.Why)
	}
	if bounded := !r.Gap || r.Curve; bounded && r.Memory > r.Attack.Memory {
		r.add("it grew by %d MB, more than %d", r.Memory, r.Attack.Memory)
	}
	if pace.Judge && r.Stalls && r.Share < .8 {
		r.add("honest senders kept %.0f %% of their throughput", 100*r.Share)
	}
}

// lasting ends a time after the first attempt. A busy machine may need longer
// than that to get so far.
func (s *siege) lasting(d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	go func() {
		for s.tried.Load() == 0 && !sleep(ctx, time.Millisecond) {
		}
		if !sleep(ctx, d) {
			cancel()
		}
	}()
	return ctx, cancel
}

// rate is how many messages a second honest senders get through.
func (s *siege) rate(d time.Duration) (float64, error) {
	a, err := s.target.counts()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(d)
	b, err := s.target.counts()
	return float64(b.Received-a.Received) / time.Since(began).Seconds(), err
}

// A Load is one way of sending whose cost is measured.
type Load struct {
	Name                 string
	Senders, Batch, Size int
}

var loads = []Load{
	{"one goroutine, one message of 128 B after the other", 1, 1, 128},
	{"16 goroutines, 128 B", 16, 1, 128},
	{"256 goroutines, 128 B", 256, 1, 128},
	{"256 goroutines, 1 KB", 256, 1, 1 << 10},
	{"one goroutine, SendBatch of 1,000 × 128 B", 1, 1000, 128},
	{"8 goroutines, 64 KB", 8, 1, 64 << 10},
}

// costs measures each load without and with CURVE in turn, and returns medians.
func costs(rounds int, d time.Duration) (plain, curve []Cost, err error) {
	var keys Pair
	if keys.Public, keys.Secret, err = zmq4.NewCurveKeypair(); err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "costs")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	var senders []*process
	for i, keys := range []Pair{{}, keys} {
		r, err := startRedis(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return nil, nil, err
		}
		defer r.stop()
		cfg := PartConfig{Addr: "tcp://127.0.0.1:0", Redis: r.addr(), Curve: keys, IDs: []string{"load"}}
		holder, err := startPart(cfg)
		if err != nil {
			return nil, nil, err
		}
		defer holder.stop()
		cfg.IDs = nil
		sender, err := startPart(cfg)
		if err != nil {
			return nil, nil, err
		}
		defer sender.stop()
		senders = append(senders, sender)
	}
	for _, l := range loads {
		var all [2][]Cost
		for range rounds {
			for i, sender := range senders {
				var c Cost
				if err := sender.ask(&c, "cost %d %d %d %v", l.Senders, l.Batch, l.Size, d); err != nil {
					return nil, nil, err
				}
				all[i] = append(all[i], c)
			}
		}
		plain, curve = append(plain, middle(all[0])), append(curve, middle(all[1]))
	}
	return plain, curve, nil
}

func middle(cs []Cost) (m Cost) {
	slices.SortFunc(cs, func(a, b Cost) int { return int(a.Rate - b.Rate) })
	m.Rate = cs[len(cs)/2].Rate
	slices.SortFunc(cs, func(a, b Cost) int { return int(a.P50 - b.P50) })
	m.P50 = cs[len(cs)/2].P50
	slices.SortFunc(cs, func(a, b Cost) int { return int(a.P99 - b.P99) })
	m.P99 = cs[len(cs)/2].P99
	return m
}

// attackAll plays all attacks on both kinds of wire, one at a time.
func attackAll(only *regexp.Regexp, pace Pace) (rs []*Siege, err error) {
	for _, a := range attacks() {
		if !only.MatchString(a.Name) {
			continue
		}
		for _, curve := range []bool{false, true} {
			r, err := besieged(a, curve, pace)
			if err != nil {
				return rs, fmt.Errorf("%s: %w", a.Name, err)
			}
			fmt.Println(r.summary())
			rs = append(rs, r)
		}
	}
	return rs, nil
}

// attackMain is main with -attacks. It returns how many did not hold.
func attackMain(only *regexp.Regexp, out string) (bad int, err error) {
	began := time.Now()
	rs, err := attackAll(only, thorough)
	if err != nil {
		return 0, err
	}
	for _, r := range rs {
		if len(r.Findings) > 0 {
			bad++
		}
	}
	if out == "" {
		return bad, nil
	}
	plain, curve, err := costs(5, time.Second/2)
	if err != nil {
		return bad, err
	}
	return bad, os.WriteFile(out, []byte(securityReport(rs, plain, curve, time.Since(began))), 0o644)
}

// securityReport is docs/security.md.
func securityReport(rs []*Siege, plain, curve []Cost, took time.Duration) string {
	var b page
	b.sieges(rs, took)
	b.attacks(rs)
	b.costs(plain, curve)
	b.breaches(rs)
	return b.String()
}

func (b *page) sieges(rs []*Siege, took time.Duration) {
	p := b.line
	var tried, through, failed int64
	bad := 0
	for _, r := range rs {
		tried, through, failed = tried+r.Tried, through+r.Through, failed+r.Failed
		bad += len(r.Findings)
	}
	p("# Under attack")
	p("")
	p("Written by `make attacks`. Each row is played on a plain wire and with CURVE, ZeroMQ's encryption. It starts three")
	p("processes: a redis-server, a node that is attacked, and an honest node whose 16 goroutines send to it all the time. The")
	p("attacker knows the protocol, the addresses, the tenure's token and the public keys, but is no member.")
	p("`faults/attacks.go` says what each attack does, and [SECURITY.md](../SECURITY.md) what follows from it.")
	p("")
	p("%s. %s attempts in %s: **%d got through**, %d honest sends failed, %d findings.",
		time.Now().UTC().Format("2006-01-02"), thousands(tried), took.Round(time.Second), through, failed, bad)
	p("")
	p("%s libzmq %s.", machine(), libzmq())
	p("")
	p("- through: messages that a handler received though no honest node had sent them, or received twice; and sends that")
	p("  returned nil though their handler receives nothing.")
	p("- memory: how much the attacked process grew at its peak, in MB.")
	p("- honest: the throughput of the honest senders during the attack, in percent of that before and after it. The")
	p("  attacker shares their %d CPUs. Where connections only stall (*), it has to be 80 or more.", runtime.NumCPU())
	p("")
}

func (b *page) attacks(rs []*Siege) {
	p := b.line
	p("| attack | plain: tried | through | memory | honest | CURVE: tried | through | memory | honest |")
	p("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for i := 0; i+1 < len(rs); i += 2 {
		name := rs[i].Name
		if rs[i].Stalls {
			name += " *"
		}
		if rs[i].Gap {
			name += " †"
		}
		row := "| " + name
		for _, r := range rs[i : i+2] {
			row += fmt.Sprintf(" | %s | %d | %d | %.0f %%", thousands(r.Tried), r.Through, r.Memory, 100*r.Share)
		}
		p("%s |", row)
	}
	p("")
	p("† Not bounded on a plain wire. For each open connection libzmq keeps the parts of a message, however many they are,")
	p("until the last one has come. What is shown is what the attacker sent. Only a port that is closed to strangers, or")
	p("CURVE, bounds it. With CURVE it is what all strangers can send within the three seconds that a handshake may take.")
	p("")
	p("ZeroMQ takes a frame of each connection in turn. So a stranger with valid frames takes most of the time of a plain")
	p("node. Connections that come and go by the thousand cost time on either wire. With CURVE a frame counts as tried even")
	p("if no connection was ever ready to take it.")
	p("")
	p("On a plain wire, whoever knows a tenure's token can open a link and send to its handler like any node. That is no")
	p("attempt here. Nor is an acknowledgement that is right in everything, down to the numbers of link and frame: it is")
	p("believed, and what it takes can be read on the wire. With CURVE neither can be written without an allowed key.")
}

func (b *page) costs(plain, curve []Cost) {
	p := b.line
	p("")
	p("## What CURVE costs")
	p("")
	p("Two processes, plain and CURVE in turn, medians of five rounds of half a second. The times are those of one call.")
	p("")
	p("| | plain: messages/s | p50 | p99 | CURVE: messages/s | p50 | p99 | throughput |")
	p("|---|--:|--:|--:|--:|--:|--:|--:|")
	for i, l := range loads {
		a, c := plain[i], curve[i]
		p("| %s | %s | %s | %s | %s | %s | %s | × %.2f |", l.Name, thousands(int64(a.Rate)), micro(a.P50), micro(a.P99),
			thousands(int64(c.Rate)), micro(c.P50), micro(c.P99), c.Rate/a.Rate)
	}
}

func (b *page) breaches(rs []*Siege) {
	p := b.line
	titled := false
	for _, r := range rs {
		for _, f := range r.Findings {
			if !titled {
				p("")
				p("## Findings")
				p("")
				titled = true
			}
			p("- %s (CURVE: %v): %s", r.Name, r.Curve, f)
		}
	}
}

func micro(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return short(d)
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func libzmq() string {
	major, minor, patch := zmq4.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}
