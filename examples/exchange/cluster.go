package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A cluster starts every node as a process of its own, from this same program,
// does to the processes what operators and bad days do, and balances the load:
// it knows who can be posted to.
type cluster struct {
	args []string // that all nodes get
	logs string   // directory of what the nodes write

	mu    sync.Mutex
	nodes []*node
	last  int // that was posted to
}

// A node's fields are guarded by cluster.mu.
type node struct {
	view
	cmd    *exec.Cmd
	exited chan struct{} // closed when ended is set
	ended  error
	posts  sync.WaitGroup // under way to it; added to only while it is up
	harm   int            // how often it was killed or frozen
}

// A view is what others see of a node.
type view struct {
	name, http string
	state      state
}

type state string

const (
	down    state = "down"
	up      state = "up"
	frozen  state = "frozen"
	leaving state = "leaving"
)

func newCluster(nodes int, logs string, args ...string) *cluster {
	c := &cluster{args: args, logs: logs}
	for i := range nodes {
		c.nodes = append(c.nodes, &node{view: view{name: fmt.Sprintf("web%d", i+1), state: down}})
	}
	return c
}

// start returns when the node serves. It ends with this process: its stdin is
// closed then, and one that is frozen is woken for that, since its process
// group has lost its parent (SIGHUP, SIGCONT).
func (c *cluster) start(name string) error {
	n, err := c.find(name, down)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{"node", "-supervised", "-name", name}, c.args...)...)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	_, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		return errors.Join(err, log.Close())
	}
	ready, exited := make(chan string, 1), make(chan struct{})
	go func() {
		http, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- strings.TrimSpace(http)
		_, _ = io.Copy(io.Discard, stdout)
		err := errors.Join(cmd.Wait(), log.Close())
		c.mu.Lock()
		n.state, n.ended = down, err
		c.mu.Unlock()
		close(exited)
	}()
	select {
	case http := <-ready:
		if http == "" {
			<-exited
			return fmt.Errorf("%s did not start: see %s", name, log.Name())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		n.state, n.cmd, n.exited, n.http = up, cmd, exited, http
		return nil
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		<-exited
		return fmt.Errorf("%s is not ready after %v: see %s", name, patience, log.Name())
	}
}

// find finds a node in one of the states.
func (c *cluster) find(name string, states ...state) (*node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.name != name {
			continue
		}
		for _, s := range states {
			if n.state == s {
				return n, nil
			}
		}
		return nil, fmt.Errorf("%s is %s", name, n.state)
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// pick chooses the node for a post, in turn. When the post is over, over says
// whether the node was killed or frozen meanwhile. It is nil when no node is up.
func (c *cluster) pick() (http string, over func() (harmed bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range c.nodes {
		c.last++
		n := c.nodes[c.last%len(c.nodes)]
		if n.state != up {
			continue
		}
		n.posts.Add(1)
		before := n.harm
		return n.http, func() bool {
			defer n.posts.Done()
			c.mu.Lock()
			defer c.mu.Unlock()
			return n.harm > before
		}
	}
	return "", nil
}

// views are those of all nodes, as they are now.
func (c *cluster) views() (all []view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		all = append(all, n.view)
	}
	return all
}

// first is the name of the first node in a state.
func (c *cluster) first(s state) string {
	for _, v := range c.views() {
		if v.state == s {
			return v.name
		}
	}
	return ""
}

// signal sends one to a node that is in one of the states from, and puts it
// into another.
func (c *cluster) signal(name string, sig syscall.Signal, to state, from ...state) (*node, error) {
	n, err := c.find(name, from...)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n.state = to
	if to != up {
		n.harm++
	}
	return n, n.cmd.Process.Signal(sig)
}

func (c *cluster) kill(name string) error {
	n, err := c.signal(name, syscall.SIGKILL, leaving, up, frozen, leaving)
	if err == nil {
		<-n.exited
	}
	return err
}

// freeze returns when the process stands still: the kernel wakes an orphan only
// if it did before its parent ended.
func (c *cluster) freeze(name string) error {
	n, err := c.signal(name, syscall.SIGSTOP, frozen, up)
	for again := err == nil; again; again = errors.Is(err, syscall.EINTR) {
		_, err = syscall.Wait4(n.cmd.Process.Pid, nil, syscall.WUNTRACED, nil)
	}
	return err
}

func (c *cluster) thaw(name string) error {
	_, err := c.signal(name, syscall.SIGCONT, up, frozen)
	return err
}

// stop is a planned end: the load balancer is told first, then the node. One
// that takes too long is killed, which is an error, as is another exit code
// than 0.
func (c *cluster) stop(name string) error {
	n, err := c.find(name, up)
	if err != nil {
		return err
	}
	c.mu.Lock()
	n.state = leaving
	c.mu.Unlock()
	n.posts.Wait()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-n.exited:
	case <-time.After(patience):
		_ = c.kill(name)
		return fmt.Errorf("%s did not end within %v of SIGTERM", name, patience)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.ended != nil {
		return fmt.Errorf("%s ended with %w", name, n.ended)
	}
	return nil
}

// close stops all nodes.
func (c *cluster) close() error {
	var errs []error
	for _, v := range c.views() {
		_ = c.thaw(v.name)
		if v.state != down {
			errs = append(errs, c.stop(v.name))
		}
	}
	return errors.Join(errs...)
}
