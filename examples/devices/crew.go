package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A crew is the workers, each a process of this same program.
type crew struct {
	args []string // that all get
	log  *os.File // where all write

	mu      sync.Mutex
	workers []*worker
}

type worker struct {
	name, addr string
	state      string // guarded by crew.mu
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
}

const (
	up     = "up"
	drains = "drains"
	down   = "down"
)

const patience = 2 * time.Minute // bounds every single wait; far above what any takes

// are returns the workers in one of some states.
func (c *crew) are(states ...string) []*worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.workers), func(w *worker) bool { return !slices.Contains(states, w.state) })
}

// find returns the worker with a name, or the first, of those in one of some states.
func (c *crew) find(name string, states ...string) (*worker, error) {
	for _, w := range c.are(states...) {
		if name == "" || name == w.name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("no worker %s is %s", name, states[0])
}

func (c *crew) set(w *worker, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.state = state
}

// add starts one more worker.
func (c *crew) add() error {
	c.mu.Lock()
	w := &worker{name: fmt.Sprint("w", len(c.workers)+1), state: down}
	c.workers = append(c.workers, w)
	c.mu.Unlock()
	return c.start(w)
}

// start returns when the worker runs all devices.
func (c *crew) start(w *worker) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w.cmd = exec.Command(self, append([]string{"worker", "-name", w.name}, c.args...)...)
	w.cmd.Stderr = c.log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this process alone
	in, errIn := w.cmd.StdinPipe()
	out, errOut := w.cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, w.cmd.Start()); err != nil {
		return err
	}
	w.in, w.out = in, bufio.NewReader(out)
	if w.addr, err = w.hear(); err == nil {
		c.set(w, up)
	}
	return err
}

// hear returns what the worker says next.
func (w *worker) hear() (word string, err error) {
	defer w.killLate()()
	if _, err := fmt.Fscanln(w.out, &word); err != nil {
		return "", fmt.Errorf("%s has ended or hangs: %w", w.name, errors.Join(err, w.cmd.Wait()))
	}
	return word, nil
}

// killLate ends a worker that hangs, unless stop is called before.
func (w *worker) killLate() (stop func() bool) {
	return time.AfterFunc(patience, func() { _ = w.cmd.Process.Kill() }).Stop
}

// order has a worker in a state do what brings it into another, and returns when it has.
func (c *crew) order(what, name, from, to string) error {
	w, err := c.find(name, from)
	if err != nil {
		return err
	}
	c.set(w, to)
	if _, err := fmt.Fprintln(w.in, what); err != nil {
		return err
	}
	_, err = w.hear()
	return err
}

func (c *crew) drain(name string) error  { return c.order("drain", name, up, drains) }
func (c *crew) resume(name string) error { return c.order("resume", name, drains, up) }

func (c *crew) kill(name string) error {
	w, err := c.find(name, up, drains)
	if err != nil {
		return err
	}
	c.set(w, down)
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	return nil
}

// stop is a planned end.
func (c *crew) stop(w *worker) error {
	c.set(w, down)
	_ = w.in.Close()
	defer w.killLate()()
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("%s ended with %w", w.name, err)
	}
	return nil
}

// roll restarts all workers, one after the other.
func (c *crew) roll() error {
	for _, w := range c.are(up, drains) {
		if err := errors.Join(c.stop(w), c.start(w)); err != nil {
			return err
		}
	}
	return nil
}

func (c *crew) close() (err error) {
	for _, w := range c.are(up, drains) {
		err = errors.Join(err, c.stop(w))
	}
	return errors.Join(err, c.log.Close())
}
