package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// roleEnv makes a process a child: the other side of what is measured. The
// first line of its input is a role.
const roleEnv = "GONE_BENCH_ROLE"

// A role is what a child does, and with what.
type role struct {
	Name  string
	Redis string   // host:port
	Addrs []string // of ZeroMQ, of a server or of a directory, as the role needs them
	IDs   []string // of gone, or what else its messages go to is called
	TTL   time.Duration

	Cluster string  // of a member
	Weight  float64 // its
}

// roles are the mains of children. Each says ready, with the addresses that
// others need, when others may begin, and serves until its input ends.
var roles = map[string]func(role, func(addrs ...string)) error{
	"gone":           serveGone(selects),
	"gone batches":   serveGone(takesBatches),
	"gone messages":  serveGone(takesMessages),
	"gone replies":   serveGone(replies),
	"member":         serveMember,
	"extends":        serveExtends,
	"nothing":        func(_ role, ready func(...string)) error { ready(); return nil },
	"plain":          servePlain,
	"trip":           serveTrip,
	"nats":           serveNATS,
	"nats responder": serveNATSResponder(nothing),
	"nats replies":   serveNATSResponder(same),
	"redis stream":   serveStream,
	"redis list":     serveList,
	"grpc":           serveGRPC,
	"original":       serveOriginal,
}

// childMain never returns.
func childMain() {
	var r role
	in := bufio.NewReader(os.Stdin)
	config, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(config, &r)
	}
	if err == nil {
		err = roles[r.Name](r, func(addrs ...string) { fmt.Println("ready " + strings.Join(addrs, " ")) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, r.Name+":", err)
		os.Exit(1)
	}
	// Each line asks for the process's use of things, until there are no more.
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if member != nil {
				_ = member.Close()
			}
			os.Exit(0)
		}
		_ = json.NewEncoder(os.Stdout).Encode(usage(line == "collect\n"))
	}
}

// A use is what a process has used, or uses.
type use struct {
	Mallocs    uint64
	Goroutines int
	Bytes      uint64 // of live objects and of stacks
	CPU        time.Duration
	Begun      []begun // tenures that have begun
	Tenures    uint64  // of a member
	Lost       uint64  // of these
}

type begun struct {
	ID string
	At time.Time
}

// usage is that of this process. To collect garbage first makes Bytes exact.
func usage(collect bool) use {
	if collect {
		for range 3 { // stacks shrink by half each time
			debug.FreeOSMemory()
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	u := use{
		Mallocs: m.Mallocs, Goroutines: runtime.NumGoroutine(), Bytes: m.HeapAlloc + m.StackInuse,
		CPU: time.Duration(r.Utime.Nano() + r.Stime.Nano()), Begun: begunSoFar(),
	}
	if member != nil {
		u.Tenures, u.Lost = member.Stats().Tenures, member.Stats().Lost
	}
	return u
}

// A child is a process with a role.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	addrs []string
}

func startChild(r role) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), roleEnv+"=1")
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	_, _ = c.in.Write(append(config, '\n'))
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("the process for %s has ended: %w", r.Name, err)
	}
	c.addrs = strings.Fields(line)[1:]
	return c, nil
}

// use asks the child.
func (c *child) use(collect bool) (u use, err error) {
	ask := "use\n"
	if collect {
		ask = "collect\n"
	}
	if _, err = io.WriteString(c.in, ask); err != nil {
		return u, err
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal(line, &u)
}

func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// kill ends the child as a crash would.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}
