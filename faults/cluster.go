package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Cluster is one run of a scenario: a lock service, a fenced store and node
// processes of its own, what was done to them, and what they logged.
type Cluster struct {
	*Row
	ttl     time.Duration
	dir     string
	service Service
	redis   *Redis // the service, where it is one
	store   *Store
	nodes   map[string]*Node // that run, by name
	past    []*Node
	closer  []func()

	history History
	live    map[string][]*Tenure // by id, in the order in which they began
	counts  map[Kind]int
	last    map[string]map[Kind]Event // of each process, the last of each kind
	logs    []Event                   // what gone logged
}

// gaveUp is the panic of a run that cannot go on. What was found so far counts.
type gaveUp string

// failed ends the run with a finding.
func (c *Cluster) failed(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	c.Findings.add(clock(), "gave up: %s", what)
	panic(gaveUp(what))
}

func (c *Cluster) must(err error) {
	if err != nil {
		c.failed("%v", err)
	}
}

// A Node is a node process.
type Node struct {
	Name   string // of this process; a node started anew has another
	Addr   string
	Config NodeConfig
	wrap   []string // the command that it is run with
	cmd    *exec.Cmd
	stdin  io.Writer
	log    logReader
	stderr bytes.Buffer
	exited chan error
	ended  bool // by the suite, or as the suite asked
}

func newCluster(row *Row) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Row: row, ttl: row.TTL, dir: dir, nodes: map[string]*Node{},
		live: map[string][]*Tenure{}, counts: map[Kind]int{}, last: map[string]map[Kind]Event{},
	}
	if c.store, err = newStore(filepath.Join(dir, "store")); err == nil {
		if row.Service != nil {
			c.service, err = row.Service(filepath.Join(dir, "service"))
		} else {
			c.redis, err = startRedis(filepath.Join(dir, "redis"), row.Redis...)
			c.service = c.redis
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) close() {
	for _, n := range c.nodes {
		_ = n.cmd.Process.Signal(syscall.SIGKILL)
		<-n.exited
	}
	for i := len(c.closer) - 1; i >= 0; i-- {
		c.closer[i]()
	}
	if c.service != nil {
		c.service.stop()
	}
	if c.store != nil {
		c.store.close()
	}
	_ = os.RemoveAll(c.dir)
}

func (c *Cluster) onClose(f func()) { c.closer = append(c.closer, f) }

// config is what nodes are started with, unless a scenario wants otherwise.
func (c *Cluster) config(ids ...string) NodeConfig {
	kind, addr := c.service.place()
	return NodeConfig{
		Addr: "tcp://127.0.0.1:0", Kind: kind, Service: addr, IDs: ids, TTL: c.ttl,
		SendTimeout: 10 * time.Second, Store: c.store.ln.Addr().String(),
	}
}

// start starts a node and waits until it runs. Wrap is the command to run it
// with, if any.
func (c *Cluster) start(name string, cfg NodeConfig, wrap ...string) *Node {
	n := c.launch(name, cfg, wrap...)
	c.await(n)
	return n
}

// launch starts a node and does not wait.
func (c *Cluster) launch(name string, cfg NodeConfig, wrap ...string) *Node {
	if c.nodes[name] != nil {
		c.failed("node %s runs already", name)
	}
	self, err := os.Executable()
	c.must(err)
	if len(pairs) > 0 {
		// A node that is started anew has the pair that it had.
		cfg.Curve, cfg.Allowed = pairs[crc32.ChecksumIEEE([]byte(name))%uint32(len(pairs))], nil
		for _, p := range pairs {
			cfg.Allowed = append(cfg.Allowed, p.Public)
		}
	}
	config, err := json.Marshal(cfg)
	c.must(err)
	n := &Node{Name: fmt.Sprintf("%s.%d", name, len(c.past)), Config: cfg, wrap: wrap, exited: make(chan error, 1)}
	c.past = append(c.past, n)
	path := filepath.Join(c.dir, n.Name)
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	c.must(err)
	defer out.Close()
	n.log = logReader{node: n.Name}
	n.log.file, err = os.Open(path)
	c.must(err)
	args := append(wrap[:len(wrap):len(wrap)], self)
	n.cmd = exec.Command(args[0], args[1:]...)
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+string(config))
	n.cmd.Stdout, n.cmd.Stderr = out, &n.stderr
	n.stdin, err = n.cmd.StdinPipe()
	c.must(err)
	dieTogether(n.cmd)
	c.must(n.cmd.Start())
	go func() { n.exited <- n.cmd.Wait() }()
	c.nodes[name] = n
	return n
}

// await waits until a launched node runs.
func (c *Cluster) await(n *Node) {
	c.wait(20*time.Second, "node "+n.Name+" runs", func() bool {
		e, ok := c.last[n.Name][Ready]
		n.Addr = e.Text
		return ok
	})
}

// poll reads what is new in the logs.
func (c *Cluster) poll() {
	for name, n := range c.nodes {
		select {
		case err := <-n.exited:
			n.exited <- err
			if !n.ended {
				delete(c.nodes, name)
				c.read(n)
				c.failed("node %s ended by itself: %v %s %s", n.Name, err, c.last[n.Name][Failed].Text, tail(n.stderr.String()))
			}
		default:
		}
		c.read(n)
	}
}

func tail(s string) string {
	if len(s) > 2000 {
		return s[:1000] + " … " + s[len(s)-1000:]
	}
	return s
}

func (c *Cluster) read(n *Node) {
	events, err := n.log.next()
	c.must(err)
	for _, e := range events {
		c.take(e)
	}
}

// take adds an event to the history and keeps the view of who holds what.
func (c *Cluster) take(e Event) {
	c.history = append(c.history, e)
	c.counts[e.Kind]++
	if c.last[e.Node] == nil {
		c.last[e.Node] = map[Kind]Event{}
	}
	c.last[e.Node][e.Kind] = e
	if e.Kind == Log {
		c.logs = append(c.logs, e)
	}
	switch e.Kind {
	case Begin:
		c.live[e.ID] = append(c.live[e.ID], &Tenure{
			ID: e.ID, Node: e.Node, Token: e.Token, Begin: e.At,
			Exit: never, Returned: never, Unlock: never, Killed: never,
		})
		// The logs of two nodes may be read in the other order.
		slices.SortStableFunc(c.live[e.ID], func(a, b *Tenure) int { return cmp.Compare(a.Begin, b.Begin) })
	case Exit, Returned, UnlockCall:
		for _, t := range c.live[e.ID] {
			if t.Node != e.Node || t.Token != e.Token {
				continue
			}
			switch e.Kind {
			case Exit:
				t.Exit, t.Cause = e.At, e.Text
			case Returned:
				t.Returned = e.At
			case UnlockCall:
				t.Unlock = e.At
			}
		}
	case Killed:
		for _, ts := range c.live {
			for _, t := range ts {
				if t.Node == e.Node {
					t.Killed = min(t.Killed, e.At)
				}
			}
		}
	}
}

// note adds an event of the suite.
func (c *Cluster) note(k Kind, node string) time.Duration {
	e := Event{At: clock(), Kind: k, Node: node}
	c.take(e)
	return e.At
}

// wait polls for a condition, and gives up when it does not come true.
func (c *Cluster) wait(bound time.Duration, what string, ok func() bool) {
	if !c.within(bound+4*slack(), ok) {
		c.failed("not within %v: %s", bound, what)
	}
}

func (c *Cluster) within(bound time.Duration, ok func() bool) bool {
	for end := clock() + bound; ; nap(2 * time.Millisecond) {
		c.poll()
		if ok() {
			return true
		}
		if clock() > end {
			return false
		}
	}
}

// pause lets a part of a scenario last.
func (c *Cluster) pause(d time.Duration) {
	for end := clock() + d; clock() < end; nap(min(10*time.Millisecond, max(end-clock(), 0))) {
		c.poll()
	}
}

// current is the newest tenure of an id, nil when there was none.
func (c *Cluster) current(id string) *Tenure {
	ts := c.live[id]
	if len(ts) == 0 {
		return nil
	}
	return ts[len(ts)-1]
}

// holder waits for a tenure that runs.
func (c *Cluster) holder(id string) *Tenure {
	c.wait(20*time.Second+2*c.ttl, "a holder of "+id, func() bool {
		t := c.current(id)
		return t != nil && t.End() == never && t.Returned == never
	})
	return c.current(id)
}

// successor waits for the tenure after t. Nil: none within the bound, which is
// a finding.
func (c *Cluster) successor(t *Tenure, bound time.Duration) *Tenure {
	if !c.within(bound, func() bool { return c.current(t.ID) != t }) {
		c.Findings.add(clock(), "%s: no successor of %d on %s within %v", t.ID, t.Token, t.Node, bound)
		c.wait(time.Minute, "a successor at all", func() bool { return c.current(t.ID) != t })
	}
	for _, s := range c.live[t.ID] {
		if s.Begin > t.Begin {
			return s
		}
	}
	return nil
}

// nameOf is the name under which a process was started.
func nameOf(process string) string {
	name, _, _ := strings.Cut(process, ".")
	return name
}

// on is the running node of a tenure.
func (c *Cluster) on(t *Tenure) *Node {
	n := c.nodes[nameOf(t.Node)]
	if n == nil || n.Name != t.Node {
		c.failed("node %s of tenure %d does not run", t.Node, t.Token)
	}
	return n
}

// kill ends nodes with SIGKILL, all at once. It is noted for the moment before
// the signals: the suite itself may have to wait for its turn after them.
func (c *Cluster) kill(nodes ...*Node) {
	at := clock()
	for _, n := range nodes {
		n.ended = true
		c.must(n.cmd.Process.Signal(syscall.SIGKILL))
	}
	for _, n := range nodes {
		<-n.exited
		n.exited <- nil
		c.read(n)
		c.take(Event{At: at, Kind: Killed, Node: n.Name})
		delete(c.nodes, nameOf(n.Name))
	}
}

// freeze and thaw are SIGSTOP and SIGCONT, noted for the moment before them.
func (c *Cluster) freeze(n *Node) {
	c.note(Stopped, n.Name)
	c.must(n.cmd.Process.Signal(syscall.SIGSTOP))
	c.must(waitState(n.cmd.Process.Pid, 'T'))
	c.note(Halted, n.Name)
}

func (c *Cluster) thaw(n *Node) (at time.Duration) {
	at = c.note(Resumed, n.Name)
	c.must(n.cmd.Process.Signal(syscall.SIGCONT))
	return at
}

// waitState waits until all threads of a process are in a state.
func waitState(pid int, state byte) error {
	for end := clock() + 5*time.Second; clock() < end; time.Sleep(time.Millisecond) {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		all := len(stats) > 0
		for _, path := range stats {
			s, err := os.ReadFile(path)
			i := bytes.LastIndexByte(s, ')')
			if err != nil || i < 0 || len(s) < i+3 || s[i+2] != state {
				all = false
			}
		}
		if all {
			return nil
		}
	}
	return errors.New("the process does not stop")
}

// tell gives a node a command.
func (c *Cluster) tell(n *Node, format string, args ...any) {
	_, err := fmt.Fprintf(n.stdin, format+"\n", args...)
	c.must(err)
}

// let tells the handler of a tenure, and no other, how to behave.
func (c *Cluster) let(t *Tenure, how string) {
	c.tell(c.on(t), "behave %s %s %d", t.ID, how, t.Token)
}

// end waits for a node that was told to close, or sent SIGTERM.
func (c *Cluster) end(n *Node, bound time.Duration) {
	n.ended = true
	select {
	case err := <-n.exited:
		n.exited <- err
		c.read(n)
		delete(c.nodes, nameOf(n.Name))
		if err != nil {
			c.failed("node %s ended with %v %s", n.Name, err, tail(n.stderr.String()))
		}
	case <-time.After(bound):
		c.failed("node %s did not end within %v", n.Name, bound)
	}
}

// term asks nodes to close, one after the other or all at once, and waits.
func (c *Cluster) term(nodes ...*Node) {
	for _, n := range nodes {
		n.ended = true
		c.must(n.cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, n := range nodes {
		c.end(n, 30*time.Second)
	}
}

// logged counts what gone logged on a node and begins so; "" is any node.
func (c *Cluster) logged(node, prefix string) (n int) {
	for _, e := range c.logs {
		if (node == "" || e.Node == node) && strings.Contains(e.Text, prefix) {
			n++
		}
	}
	return n
}

// quiet ends all senders.
func (c *Cluster) quiet() {
	for _, n := range c.nodes {
		delete(c.last[n.Name], Quiet)
		c.tell(n, "quiet")
	}
	for _, n := range c.nodes {
		c.wait(40*time.Second, "senders of "+n.Name+" end", func() bool {
			_, ok := c.last[n.Name][Quiet]
			return ok
		})
	}
}

// finish ends all senders, then all nodes, and reads the rest of the logs.
func (c *Cluster) finish() {
	c.quiet()
	var all []*Node
	for _, n := range c.nodes {
		all = append(all, n)
	}
	c.term(all...)
}
