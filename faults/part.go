package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gone "github.com/Diggs/go-one"
)

// partEnv makes the process a part in an attack: the node that is attacked, or
// an honest one that sends to it. Its value is a PartConfig. Unlike a node of
// the fault suite it logs nothing and only counts, so that it is quick.
const partEnv = "GONE_FAULTS_PART"

type PartConfig struct {
	Addr, Bind string
	Redis      string
	Curve      Pair
	IDs        []string // to run; the handler of "stuck" never receives
	Nonce      uint64   // what honest messages begin with
}

// Counts are what a part has seen.
type Counts struct {
	Received, Foreign, Doubled int64 // by the handlers
	Malformed, Refused         uint64
	OK, Failed                 int64  // sends to "load"
	Lies                       int64  // sends to "stuck" that returned nil
	Why                        string // the last that failed, or was foreign
}

// A Cost is what sending costs. It is the answer to "cost".
type Cost struct {
	Rate     float64 // messages a second
	P50, P99 time.Duration
}

type part struct {
	cfg  PartConfig
	gone *gone.Gone

	received, foreign, doubled, ok, failed, lies atomic.Int64
	why                                          atomic.Value
	senders                                      sync.WaitGroup
	quit                                         chan struct{}
}

func (p *part) must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// partMain is main of a part. It never returns.
func partMain(config string) {
	p := &part{quit: make(chan struct{})}
	p.must(json.Unmarshal([]byte(config), &p.cfg))
	opts := []gone.Option{gone.WithLogger(slog.New(slog.DiscardHandler))}
	if p.cfg.Bind != "" {
		opts = append(opts, gone.WithBind(p.cfg.Bind))
	}
	if k := p.cfg.Curve; k != (Pair{}) {
		opts = append(opts, gone.WithCurve(k.Public, k.Secret))
	}
	redis, err := net.ResolveTCPAddr("tcp", p.cfg.Redis)
	p.must(err)
	p.gone, err = gone.NewGone(p.cfg.Addr, func(id, value string) (gone.GoneLock, error) {
		return gone.NewRedisLock(redis, id, value)
	}, opts...)
	p.must(err)
	var begun sync.WaitGroup
	begun.Add(len(p.cfg.IDs))
	for _, id := range p.cfg.IDs {
		_, err := p.gone.RunOne(id, func(r *gone.GoneRunner) {
			begun.Done() // a second tenure is one too many, and panics
			p.handle(r)
		})
		p.must(err)
	}
	begun.Wait()
	fmt.Println(p.gone.Addr())
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch words := strings.Fields(in.Text()); words[0] {
		case "load": // goroutines
			n, _ := strconv.Atoi(words[1])
			p.load(n)
			p.must(out.Encode(nil))
		case "quiet":
			close(p.quit)
			p.senders.Wait()
			p.must(out.Encode(nil))
		case "count":
			s := p.gone.Stats()
			why, _ := p.why.Load().(string)
			p.must(out.Encode(Counts{
				p.received.Load(), p.foreign.Load(), p.doubled.Load(),
				s.Malformed, s.Refused, p.ok.Load(), p.failed.Load(), p.lies.Load(), why,
			}))
		case "cost": // goroutines, messages a call, bytes, how long
			n, _ := strconv.Atoi(words[1])
			batch, _ := strconv.Atoi(words[2])
			size, _ := strconv.Atoi(words[3])
			d, _ := time.ParseDuration(words[4])
			p.must(out.Encode(p.cost(n, batch, size, d)))
		}
	}
	os.Exit(0)
}

// honest makes a message: nonce, sender, number, and padding.
func (p *part) honest(buf []byte, sender, number uint64, size int) []byte {
	buf = binary.BigEndian.AppendUint64(buf[:0], p.cfg.Nonce)
	buf = binary.BigEndian.AppendUint64(buf, sender)
	buf = binary.BigEndian.AppendUint64(buf, number)
	return append(buf, make([]byte, max(size-len(buf), 0))...)
}

// handle counts what is received: Foreign is what no honest node has sent.
func (p *part) handle(r *gone.GoneRunner) {
	extend := time.NewTicker(gone.DefaultExpiry / 6)
	defer extend.Stop()
	data := r.Data
	if r.ID() == "stuck" {
		data = nil
	}
	last := map[uint64]uint64{}
	for {
		select {
		case <-r.Exit:
			return
		case <-extend.C:
			p.must(r.Extend())
		case d := <-data:
			if len(d) < 24 || binary.BigEndian.Uint64(d) != p.cfg.Nonce {
				p.foreign.Add(1)
				p.why.Store(fmt.Sprintf("%s received %.100q", r.ID(), d))
				continue
			}
			sender, number := binary.BigEndian.Uint64(d[8:]), binary.BigEndian.Uint64(d[16:])
			if number <= last[sender] {
				p.doubled.Add(1)
			}
			last[sender] = number
			p.received.Add(1)
		}
	}
}

// load sends to "load" with n goroutines, and to "stuck" with one.
func (p *part) load(n int) {
	for i := range n {
		p.senders.Go(func() {
			var buf []byte
			for number := uint64(1); !p.over(); number++ {
				buf = p.honest(buf, uint64(i), number, 128)
				if err := p.gone.SendData("load", buf); err != nil {
					p.failed.Add(1)
					p.why.Store(err.Error())
				} else {
					p.ok.Add(1)
				}
			}
		})
	}
	p.senders.Go(func() {
		for !p.over() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
			if p.gone.SendDataContext(ctx, "stuck", []byte("nobody will receive it")) == nil {
				p.lies.Add(1)
			}
			cancel()
		}
	})
}

func (p *part) over() bool {
	select {
	case <-p.quit:
		return true
	default:
		return false
	}
}

// cost measures sends by n goroutines.
func (p *part) cost(n, batch, size int, d time.Duration) Cost {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	began := time.Now()
	for i := range n {
		wg.Go(func() {
			var took []time.Duration
			msgs := make([][]byte, batch)
			number := uint64(began.UnixNano())
			for time.Since(began) < d {
				for j := range msgs {
					number++
					msgs[j] = p.honest(msgs[j], uint64(i), number, size)
				}
				t := time.Now()
				_, err := p.gone.SendBatch(context.Background(), "load", msgs)
				p.must(err)
				took = append(took, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	return Cost{float64(len(all)*batch) / time.Since(began).Seconds(), quantile(all, .5), quantile(all, .99)}
}

// A process is a part, as the suite sees it.
type process struct {
	cmd  *exec.Cmd
	in   io.Writer
	out  *bufio.Scanner
	addr string
}

func startPart(cfg PartConfig) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), partEnv+"="+string(config))
	p.cmd.Stderr = os.Stderr
	dieTogether(p.cmd)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if !p.out.Scan() {
		p.stop()
		return nil, fmt.Errorf("a part has not started: %v", p.out.Err())
	}
	p.addr = p.out.Text()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// ask sends a command and waits for the answer.
func (p *process) ask(answer any, format string, args ...any) error {
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		return err
	}
	if !p.out.Scan() {
		return fmt.Errorf("a part has ended: %v", p.out.Err())
	}
	return json.Unmarshal(p.out.Bytes(), answer)
}

func (p *process) counts() (c Counts, err error) {
	err = p.ask(&c, "count")
	return c, err
}

// memory is how much of the process is in RAM, in bytes.
func (p *process) memory() int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n * os.Getpagesize()
}
