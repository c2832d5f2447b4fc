package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// cluster starts every node as a process of its own, from this same program,
// and does to the processes what operators and bad days do: SIGKILL, SIGSTOP,
// SIGTERM. What it knows of a node is what the node wrote to its stdout.
type cluster struct {
	common  []string // arguments that all nodes get
	logs    string   // directory of what the nodes write
	onReady func(name, http string)

	mu       sync.Mutex
	nodes    []*node
	unknowns int // SendData calls that ended in ErrOutcomeUnknown, on all nodes so far
	refusals int // and in ErrNotDelivered
	claims   int // queue entries that a worker took over from a dead one
}

type node struct {
	name, role string

	// Guarded by cluster.mu.
	state  state
	cmd    *exec.Cmd
	stdin  io.Closer
	exited chan struct{}
	ended  error  // what the last process ended with
	addr   string // gone's
	http   string
	token  uint64 // of the tenure it is in; 0 when it is not the holder, as far as it has said
	nick   string
}

type state string

const (
	down     state = "down"
	starting state = "starting"
	running  state = "running"
	frozen   state = "frozen"
	stopping state = "stopping"
)

// event is one line of a node's stdout.
type event struct {
	Msg   string
	Addr  string
	HTTP  string
	Nick  string
	Token uint64
}

func newCluster(webs, workers int, logs string, onReady func(name, http string), common ...string) *cluster {
	c := &cluster{common: common, logs: logs, onReady: onReady}
	for i := range webs {
		c.nodes = append(c.nodes, &node{name: fmt.Sprintf("web%d", i+1), role: "web", state: down})
	}
	for i := range workers {
		c.nodes = append(c.nodes, &node{name: fmt.Sprintf("worker%d", i+1), role: "worker", state: down})
	}
	return c
}

// start starts a node that is down and returns when it is ready.
func (c *cluster) start(name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}

	c.mu.Lock()
	n := c.node(name)
	if n == nil || n.state != down {
		c.mu.Unlock()
		return fmt.Errorf("%s is not down", name)
	}
	args := append([]string{"node", "-supervised", "-name", n.name, "-role", n.role}, c.common...)
	cmd := exec.Command(self, args...)
	cmd.Stderr = log
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if errIn != nil || errOut != nil {
		c.mu.Unlock()
		return fmt.Errorf("%w%w", errIn, errOut)
	}
	if err := startChild(cmd); err != nil {
		c.mu.Unlock()
		return err
	}
	ready, exited := make(chan struct{}), make(chan struct{})
	n.state, n.cmd, n.stdin, n.exited, n.token, n.nick = starting, cmd, stdin, exited, 0, ""
	c.mu.Unlock()

	go func() {
		defer log.Close()
		for lines := bufio.NewScanner(io.TeeReader(stdout, log)); lines.Scan(); {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue
			}
			c.observe(n, e)
			if e.Msg == "ready" {
				if n.role == "web" {
					c.onReady(n.name, e.HTTP)
				}
				close(ready)
			}
		}
		err := cmd.Wait()
		c.mu.Lock()
		n.state, n.token, n.ended = down, 0, err
		c.mu.Unlock()
		close(exited)
	}()
	select {
	case <-ready:
		return nil
	case <-exited:
		return fmt.Errorf("%s did not start: see %s", name, log.Name())
	case <-time.After(20 * time.Second):
		return fmt.Errorf("%s is not ready after 20 s: see %s", name, log.Name())
	}
}

func (c *cluster) observe(n *node, e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Msg {
	case "ready":
		n.state, n.addr, n.http = running, e.Addr, e.HTTP
	case "holds":
		n.token, n.nick = e.Token, ""
	case "joined":
		n.nick = e.Nick
	case "left":
		n.token = 0
	case "unknown":
		c.unknowns++
	case "not delivered":
		c.refusals++
	case "claimed":
		c.claims++
	}
}

// node finds a node by name. Caller holds c.mu.
func (c *cluster) node(name string) *node {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// snapshot is a copy of the nodes as they are now.
func (c *cluster) snapshot() []node {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]node, len(c.nodes))
	for i, n := range c.nodes {
		all[i] = *n
	}
	return all
}

// page is the address of the page that a running web node serves.
func (c *cluster) page() string {
	for _, n := range c.snapshot() {
		if n.role == "web" && n.state == running {
			return "http://" + n.http + "/gone/"
		}
	}
	return ""
}

// holder is the node with the newest tenure, or none. A frozen node that was
// overtaken may still believe that it holds; its token is the older one.
func (c *cluster) holder() (node, bool) {
	var holder node
	for _, n := range c.snapshot() {
		if n.token > holder.token {
			holder = n
		}
	}
	return holder, holder.token != 0
}

func (c *cluster) counts() (unknowns, refusals, claims int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unknowns, c.refusals, c.claims
}

// signal sends s to a node in one of the given states and puts it into state
// to.
func (c *cluster) signal(name string, s syscall.Signal, to state, from ...state) (exited <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.node(name)
	if n == nil {
		return nil, fmt.Errorf("no node is called %q", name)
	}
	for _, f := range from {
		if n.state == f {
			n.state = to
			return n.exited, n.cmd.Process.Signal(s)
		}
	}
	return nil, fmt.Errorf("%s is %s", name, n.state)
}

func (c *cluster) freeze(name string) error {
	_, err := c.signal(name, syscall.SIGSTOP, frozen, running)
	return err
}

func (c *cluster) thaw(name string) error {
	_, err := c.signal(name, syscall.SIGCONT, running, frozen)
	return err
}

// kill ends a node with SIGKILL, frozen or not, and returns when it is dead.
func (c *cluster) kill(name string) error {
	exited, err := c.signal(name, syscall.SIGKILL, stopping, starting, running, frozen, stopping)
	if err != nil {
		return err
	}
	<-exited
	return nil
}

// stop asks a node to finish and to hand over, and returns when it is gone. One
// that takes too long is killed, which is an error, as is another exit code
// than 0.
func (c *cluster) stop(name string) error {
	exited, err := c.signal(name, syscall.SIGTERM, stopping, starting, running)
	if err != nil {
		return err
	}
	select {
	case <-exited:
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.node(name).ended; err != nil {
			return fmt.Errorf("%s ended with %w", name, err)
		}
		return nil
	case <-time.After(2 * sendWithin):
		_ = c.kill(name)
		return fmt.Errorf("%s did not end within %v of SIGTERM", name, 2*sendWithin)
	}
}

// close stops all nodes, the holder last, so that nobody takes its place on the
// way out.
func (c *cluster) close() error {
	holder, _ := c.holder()
	var (
		stops sync.WaitGroup
		errs  = make(chan error, len(c.nodes))
	)
	stop := func(n node) {
		if n.state == frozen {
			_ = c.thaw(n.name)
		}
		if n.state != down {
			errs <- c.stop(n.name)
		}
	}
	for _, n := range c.snapshot() {
		if n.name != holder.name {
			stops.Go(func() { stop(n) })
		}
	}
	stops.Wait()
	if holder.name != "" {
		stop(holder)
	}
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
