package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Hosts are network namespaces, each with an address of its own, at one bridge, where
// Redis is. They have no names: each lives as long as a process of the suite's that
// does nothing, so nothing of them is left, however the suite ends.
type Hosts struct {
	c   *Cluster
	hub *host
	all map[string]*host
	off [][2]string // ways that are cut
}

// A host has the file /etc/hosts to itself, too.
type host struct {
	pid   int
	ip    string // where others find it
	names string // its /etc/hosts
}

// A cable is how hosts are connected to the bridge.
type cable struct {
	mtu  int           // 0: that of Ethernet
	late time.Duration // every frame, each way
	loss float64       // how many of them get lost, each way
}

const (
	port   = 7000 // of nodes
	bridge = "10.77.0.1"
)

// hosts makes them, and starts Redis anew at the bridge. An error says why this machine
// can't have them; what there is by then goes with the cluster.
func (c *Cluster) hosts(wire cable, names ...string) (*Hosts, error) {
	n := &Hosts{c: c, all: map[string]*host{}}
	var err error
	if n.hub, err = n.host(); err != nil {
		return nil, err
	}
	n.hub.ip = bridge
	if err := n.hub.do("ip link add br0 type bridge"); err != nil {
		return nil, err
	}
	if err := n.hub.settle("br0", bridge+"/24", "fd77::1/64"); err != nil {
		return nil, err
	}
	for i, name := range names {
		h, err := n.host()
		if err != nil {
			return nil, err
		}
		n.all[name] = h
		h.ip = fmt.Sprintf("10.77.0.%d", 10+i)
		if err := n.connect(h, fmt.Sprintf("p%d", i), wire); err != nil {
			return nil, err
		}
		if err := h.settle("e0", h.ip+"/24"); err != nil {
			return nil, err
		}
	}
	r := c.redis
	r.stop()
	r.host, r.wrap = bridge, n.hub.wrap()
	return n, r.start()
}

// host starts the process that a namespace lives by.
func (n *Hosts) host() (*host, error) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	apart(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("a network namespace: %w", err)
	}
	n.c.onClose(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	h := &host{pid: cmd.Process.Pid, names: filepath.Join(n.c.dir, fmt.Sprint("hosts", cmd.Process.Pid))}
	if err := os.WriteFile(h.names, nil, 0o644); err != nil {
		return nil, err
	}
	return h, h.do(
		"mount --make-rprivate /",
		"mount --bind "+h.names+" /etc/hosts",
		"ip link set lo up",
	)
}

// wrap is how a command is run there.
func (h *host) wrap() []string {
	return []string{"nsenter", "--net", "--mount", "--target", strconv.Itoa(h.pid), "--"}
}

func (h *host) run(stdin io.Reader, args ...string) error {
	args = append(h.wrap(), args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w %s", strings.Join(args[len(h.wrap()):], " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// do runs commands without blanks in their words.
func (h *host) do(commands ...string) error {
	for _, command := range commands {
		if err := h.run(nil, strings.Fields(command)...); err != nil {
			return err
		}
	}
	return nil
}

// settle gives an interface its addresses and turns it on.
func (h *host) settle(link string, addresses ...string) error {
	for _, a := range addresses {
		command := "ip addr add " + a + " dev " + link
		if strings.Contains(a, ":") {
			command += " nodad" // or it can't be used at once
		}
		if err := h.do(command); err != nil {
			return err
		}
	}
	return h.do("ip link set " + link + " up")
}

// connect lays a cable from the interface e0 of a host to the bridge.
func (n *Hosts) connect(h *host, port string, wire cable) error {
	var err error
	if wire.late == 0 && wire.loss == 0 {
		err = h.do(fmt.Sprintf("ip link add e0 type veth peer name %s netns %d", port, n.hub.pid))
	} else {
		err = wire.lay(h.pid, "e0", n.hub.pid, port, n.c.onClose)
	}
	if err == nil && wire.mtu > 0 {
		err = errors.Join(h.do(fmt.Sprintf("ip link set e0 mtu %d", wire.mtu)), n.hub.do(fmt.Sprintf("ip link set %s mtu %d", port, wire.mtu)))
	}
	return errors.Join(err, n.hub.do("ip link set "+port+" master br0 up"))
}

// inside is the address of a host behind a router.
const inside = "10.88.0.2"

// behind puts a host behind a router (NAT), which is all that others see of it: it
// passes on what comes to the node's port, and signs what leaves.
func (n *Hosts) behind(name string) error {
	h := n.all[name]
	r, err := n.host()
	if err != nil {
		return err
	}
	return errors.Join(
		h.do("ip link del e0", fmt.Sprintf("ip link add e0 type veth peer name i0 netns %d", r.pid)),
		n.connect(r, "q-"+name, cable{}),
		r.settle("i0", "10.88.0.1/24"),
		r.settle("e0", h.ip+"/24"),
		h.settle("e0", inside+"/24"),
		h.do("ip route add default via 10.88.0.1"),
		r.do("sysctl -qw net.ipv4.ip_forward=1"),
		r.run(strings.NewReader(fmt.Sprintf(`table ip nat {
			chain in { type nat hook prerouting priority -100; iifname "e0" tcp dport %d dnat to %s; }
			chain out { type nat hook postrouting priority 100; oifname "e0" masquerade; }
		}`, port, inside)), "nft", "-f", "-"),
	)
}

// name has all hosts know the addresses of a name.
func (n *Hosts) name(name string, addresses ...string) error {
	for _, h := range n.all {
		if err := h.name(name, addresses...); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) name(name string, addresses ...string) error {
	var lines strings.Builder
	for _, a := range addresses {
		fmt.Fprintln(&lines, a, name)
	}
	return os.WriteFile(h.names, []byte(lines.String()), 0o644)
}

func (n *Hosts) place(name string, cfg NodeConfig) (NodeConfig, []string) {
	cfg.Addr, cfg.Service = fmt.Sprintf("tcp://%s:%d", n.all[name].ip, port), n.c.redis.addr()
	return cfg, n.all[name].wrap()
}

// cut sends the packets to a hardware address that nobody has.
func (n *Hosts) cut(from, to string) {
	n.c.must(n.all[from].do("ip neigh replace " + n.all[to].ip + " lladdr 02:00:00:00:de:ad dev e0 nud permanent"))
	n.off = append(n.off, [2]string{from, to})
}

func (n *Hosts) heal() {
	for _, way := range n.off {
		n.c.must(n.all[way[0]].do("ip neigh del " + n.all[way[1]].ip + " dev e0"))
	}
	n.off = nil
}

// hostScenarios are about the networks that people have.
func hostScenarios() []Scenario {
	return []Scenario{
		hostsScenario(),
		hostsFarScenario(),
		hostsMtuScenario(),
		hostsMovedScenario(),
	}
}

func hostsScenario() Scenario {
	return Scenario{
		Name: "hosts", Fault: "three hosts: an IPv4 address; a name for IPv6 and IPv4, of which others reach one; NAT. Crashes, hand-overs, cut ways",
		Holds: reached, TTL: 2 * ttl, Measure: measured,
		Play: func(c *Cluster, rounds int) {
			n := c.networked(cable{}, func(n *Hosts) error {
				b, u := n.all["b"], n.all["u"]
				return errors.Join(n.behind("c"), b.settle("e0", "fd77::b/64"), u.settle("e0", "fd77::c/64"),
					n.name("b.gone", "fd77::b", b.ip),
					u.name("b.gone", "10.77.0.99", "fd77::b")) // nobody has the first
			}, func(name string, cfg *NodeConfig) {
				switch name {
				case "b":
					cfg.Addr, cfg.Bind = fmt.Sprintf("tcp://b.gone:%d", port), fmt.Sprintf("tcp://*:%d", port)
				case "c":
					cfg.Bind = fmt.Sprintf("tcp://%s:%d", inside, port)
				}
			})
			if n == nil {
				return
			}
			for i := range rounds {
				c.round()
				c.shake(n, i)
			}
		},
	}
}

func hostsFarScenario() Scenario {
	return Scenario{
		Name: "hosts-far", Fault: "50 ms and 2 % loss each way between hosts, half of that to Redis. Crashes, hand-overs, cut ways",
		Holds: reached, TTL: 8 * ttl, Measure: measured, Rounds: 30, Long: 2,
		Play: func(c *Cluster, rounds int) {
			n := c.networked(cable{late: 25 * time.Millisecond, loss: .01}, nil, nil)
			for i := range rounds {
				if n == nil {
					return
				}
				c.round()
				c.shake(n, i)
			}
		},
	}
}

func hostsMtuScenario() Scenario {
	return Scenario{
		Name: "hosts-mtu", Fault: "an MTU of 1280 and messages of 100,000 bytes. Crashes, hand-overs, cut ways",
		Holds: reached, TTL: 2 * ttl, Measure: measured, Rounds: 30, Long: 2,
		Play: func(c *Cluster, rounds int) {
			n := c.networked(cable{mtu: 1280}, nil, nil)
			for i := range rounds {
				if n == nil {
					return
				}
				c.round()
				c.tell(c.nodes["s"], "send 1 20ms 100000 0 %s", strings.Join(three, " "))
				c.shake(n, i)
			}
		},
	}
}

func hostsMovedScenario() Scenario {
	return Scenario{
		Name: "hosts-moved", Fault: "a host that its node advertises by name changes its address",
		Holds: reached, TTL: 4 * ttl, Measure: measured, Rounds: 30, Long: 1,
		Play: func(c *Cluster, rounds int) {
			n := c.networked(cable{}, func(n *Hosts) error { return n.name("b.gone", n.all["b"].ip) }, func(name string, cfg *NodeConfig) {
				if name == "b" {
					cfg.Addr, cfg.Bind = fmt.Sprintf("tcp://b.gone:%d", port), fmt.Sprintf("tcp://*:%d", port)
				}
			})
			if n == nil {
				return
			}
			for _, name := range []string{"a", "c"} { // leave all to b
				other := c.nodes[name]
				c.term(other)
				c.resume(name, other.Config, other.wrap...)
			}
			for i := range rounds {
				c.round()
				b := n.all["b"]
				was := b.ip
				b.ip = fmt.Sprintf("10.77.0.%d", 100+i%100)
				c.must(errors.Join(b.do("ip addr del "+was+"/24 dev e0", "ip addr add "+b.ip+"/24 dev e0"), n.name("b.gone", b.ip)))
				c.reach()
				c.pause(anytime(c.ttl))
			}
		},
	}
}

const (
	reached  = "every result is true; every node reaches every holder ≤ 20 s later"
	measured = "change to a message from each node to each id"
)

// networked is busy on hosts of its own, which dress has prepared. Nil: this machine
// can't have them, and the row says why.
func (c *Cluster) networked(wire cable, prepare func(*Hosts) error, dress func(name string, cfg *NodeConfig)) *Hosts {
	n, err := c.hosts(wire, "a", "b", "c", "s", "u")
	if err == nil && prepare != nil {
		err = prepare(n)
	}
	if err != nil {
		c.remark("not played: %v", err)
		return nil
	}
	c.busy(func(name string, cfg NodeConfig) (NodeConfig, []string) {
		cfg, wrap := n.place(name, cfg)
		if dress != nil {
			dress(name, &cfg)
		}
		return cfg, wrap
	})
	c.reach()
	c.Times = nil // those were of the start
	return n
}

// shake is one round of what happens anywhere.
func (c *Cluster) shake(n *Hosts, i int) {
	id := pick(three)
	t := c.holder(id)
	c.pause(anytime(c.ttl / 3))
	switch i % 3 {
	case 0:
		c.handOver(id)
	case 1:
		victim := c.on(t)
		c.kill(victim)
		c.resume(nameOf(victim.Name), victim.Config, victim.wrap...)
		c.successor(t, c.ttl+5*time.Second)
	case 2:
		from := pick([]string{"s", "u"})
		n.cut(from, nameOf(t.Node))
		c.pause(anytime(800 * time.Millisecond))
		n.heal()
	}
	c.reach()
}

// reach measures how long it takes until a message that each node has sent since to
// each id was received.
func (c *Cluster) reach() {
	since := clock()
	c.wait(20*time.Second, "every node reaches every holder", func() bool {
		done := map[string]bool{}
		for _, e := range c.history {
			result, began, _, _ := e.sent()
			if e.sends() && began > since && (result == "nil" || result == replied || result == failed) {
				done[nameOf(e.Node)+" "+e.ID] = true
			}
		}
		return len(done) == len(c.nodes)*len(three)
	})
	c.measure(clock() - since)
}
