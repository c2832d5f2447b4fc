package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// A Proxy is a toxiproxy in this process.
type Proxy struct {
	*toxiproxy.Proxy
	c *Cluster
}

// proxy starts one that leads to an address.
func (c *Cluster) proxy(upstream string) *Proxy {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{toxiproxy.NewProxy(server, upstream, "127.0.0.1:0", upstream), c}
	c.must(p.Start())
	c.onClose(p.Stop)
	return p
}

// add adds a toxic for what flows upstream or downstream.
func (p *Proxy) add(name, kind, stream string, toxicity float64, attributes string) {
	_, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": %q, "type": %q, "stream": %q, "toxicity": %g, "attributes": %s}`, name, kind, stream, toxicity, attributes)))
	p.c.must(err)
}

func (p *Proxy) remove(name string) {
	p.c.must(p.Toxics.RemoveToxic(context.Background(), name))
}

// swallow drops everything in both directions; connections stay open.
func (p *Proxy) swallow() {
	p.add("swallow-up", "timeout", "upstream", 1, `{"timeout": 0}`)
	p.add("swallow-down", "timeout", "downstream", 1, `{"timeout": 0}`)
}

// spit ends swallow. Toxiproxy closes the connections that were in it.
func (p *Proxy) spit() {
	p.remove("swallow-up")
	p.remove("swallow-down")
}

// A Net is a network of the cluster's own, in which the way from one node to
// another can be cut while both reach Redis.
type Net interface {
	// place says where a node is and how it is started there.
	place(name string, cfg NodeConfig) (_ NodeConfig, wrap []string)
	// cut silently drops what one node sends to another.
	cut(from, to string)
	heal()
}

// network makes one of network namespaces, or of proxies where the machine
// does not allow them. It restarts Redis where the nodes can reach it.
func (c *Cluster) network(names ...string) Net {
	n := &namespaces{c: c, hub: fmt.Sprintf("gone-%d-%d", os.Getpid(), freePort()), ip: map[string]string{}}
	if err := n.make(names); err != nil {
		c.remark("no network namespaces here (%v); proxies stand in, which cut a node off from all others", err)
		return newProxies(c, names)
	}
	c.remark("network namespaces; packets are dropped silently")
	return n
}

// namespaces are one network namespace for each node and one for Redis with a
// bridge, to which all are connected.
type namespaces struct {
	c   *Cluster
	hub string
	ip  map[string]string // by node
	off [][2]string       // ways that are cut
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (n *namespaces) of(name string) string { return n.hub + "-" + name }

func (n *namespaces) make(names []string) error {
	steps := [][]string{
		{"netns", "add", n.hub},
		{"-n", n.hub, "link", "set", "lo", "up"},
		{"-n", n.hub, "link", "add", "br0", "type", "bridge"},
		{"-n", n.hub, "addr", "add", "10.77.0.1/24", "dev", "br0"},
		{"-n", n.hub, "link", "set", "br0", "up"},
	}
	for i, name := range names {
		ns, port := n.of(name), fmt.Sprintf("p%d", i)
		n.ip[name] = fmt.Sprintf("10.77.0.%d", 10+i)
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"-n", ns, "link", "set", "lo", "up"},
			[]string{"-n", ns, "link", "add", "e0", "type", "veth", "peer", "name", port, "netns", n.hub},
			[]string{"-n", n.hub, "link", "set", port, "master", "br0", "up"},
			[]string{"-n", ns, "addr", "add", n.ip[name] + "/24", "dev", "e0"},
			[]string{"-n", ns, "link", "set", "e0", "up"},
		)
	}
	n.c.onClose(func() {
		for name := range n.ip {
			_ = ip("netns", "del", n.of(name))
		}
		_ = ip("netns", "del", n.hub)
	})
	for _, s := range steps {
		if err := ip(s...); err != nil {
			return err
		}
	}
	r := n.c.redis
	r.stop()
	r.host, r.wrap = "10.77.0.1", []string{"ip", "netns", "exec", n.hub}
	return r.start()
}

func (n *namespaces) place(name string, cfg NodeConfig) (NodeConfig, []string) {
	cfg.Addr, cfg.Service = fmt.Sprintf("tcp://%s:7000", n.ip[name]), n.c.redis.addr()
	return cfg, []string{"ip", "netns", "exec", n.of(name)}
}

// cut sends the packets to a hardware address that nobody has.
func (n *namespaces) cut(from, to string) {
	n.c.must(ip("-n", n.of(from), "neigh", "replace", n.ip[to], "lladdr", "02:00:00:00:de:ad", "dev", "e0", "nud", "permanent"))
	n.off = append(n.off, [2]string{from, to})
}

func (n *namespaces) heal() {
	for _, way := range n.off {
		n.c.must(ip("-n", n.of(way[0]), "neigh", "del", n.ip[way[1]], "dev", "e0"))
	}
	n.off = nil
}

// proxies are one proxy in front of each node, which is advertised in its
// place.
type proxies struct {
	c   *Cluster
	to  map[string]*Proxy
	off []*Proxy
}

func newProxies(c *Cluster, names []string) *proxies {
	p := &proxies{c: c, to: map[string]*Proxy{}}
	for _, name := range names {
		p.to[name] = c.proxy(fmt.Sprintf("127.0.0.1:%d", freePort()))
	}
	return p
}

func (p *proxies) place(name string, cfg NodeConfig) (NodeConfig, []string) {
	cfg.Addr, cfg.Bind = "tcp://"+p.to[name].Listen, "tcp://"+p.to[name].Upstream
	return cfg, nil
}

func (p *proxies) cut(_, to string) {
	p.to[to].swallow()
	p.off = append(p.off, p.to[to])
}

func (p *proxies) heal() {
	for _, t := range p.off {
		t.spit()
	}
	p.off = nil
}

// A latePipe is a proxy for connections between nodes. It can break them so
// that the sender notices at once, while what it had sent arrives later.
type latePipe struct {
	ln       net.Listener
	upstream string

	mu    sync.Mutex
	conns map[net.Conn]bool // of the senders
	hold  time.Duration     // how late the rest of a broken connection is
}

func (c *Cluster) latePipe(upstream string) *latePipe {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	p := &latePipe{ln: ln, upstream: upstream, conns: map[net.Conn]bool{}}
	c.onClose(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	return p
}

func (p *latePipe) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.upstream)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	p.conns[client] = true
	p.mu.Unlock()
	go io.Copy(client, server)
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		p.mu.Lock()
		hold := p.hold
		p.mu.Unlock()
		time.Sleep(hold)
		if _, werr := server.Write(buf[:n]); err != nil || werr != nil {
			break
		}
	}
	p.mu.Lock()
	delete(p.conns, client)
	p.mu.Unlock()
}

// stall holds what arrives from now on for so long.
func (p *latePipe) stall(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = d
}

// sever breaks all connections as their senders see them. What the pipe holds
// is still delivered.
func (p *latePipe) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	p.hold = 0
}
