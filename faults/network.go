package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/Diggs/go-one/internal/freeport"
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

// network makes one of hosts, or of proxies where the machine does not allow them.
func (c *Cluster) network(names ...string) Net {
	n, err := c.hosts(cable{}, names...)
	if err != nil {
		c.remark("no network namespaces here (%v); proxies stand in, which cut a node off from all others", err)
		return newProxies(c, names)
	}
	c.remark("network namespaces; packets are dropped silently")
	return n
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
		p.to[name] = c.proxy(freeport.Addr())
	}
	return p
}

func (p *proxies) place(name string, cfg NodeConfig) (NodeConfig, []string) {
	cfg.Addr, cfg.Bind = "tcp://"+p.to[name].Listen, "tcp://"+p.to[name].Upstream
	return cfg, nil
}

func (p *proxies) cut(_, to string) {
	if slices.Contains(p.off, p.to[to]) {
		return
	}
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
