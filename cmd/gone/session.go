package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	gone "github.com/Diggs/go-one"
)

// A session is one run of the command.
type session struct {
	options
	load    load
	ctx     context.Context
	in      io.Reader
	out     io.Writer
	log     io.Writer
	backend *lockService // of the lock service; like node, nil before join
	node    *gone.Gone
}

// join becomes a node of the cluster, to talk to the holder of an id, or to any node if
// that is "". What the lock service says is known before there is a node.
func (s *session) join(id string) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	opts, err := s.nodeOptions()
	if err != nil {
		return err
	}
	if s.backend, err = s.options.service.open(ctx); err != nil {
		return err
	}
	peers, err := within(ctx, func() ([]string, error) { return s.backend.ask(s.cluster, id) })
	if err == context.DeadlineExceeded {
		err = &serviceError{s.backend.host, err}
	}
	if err != nil {
		return err
	}
	addr := s.addr
	if addr == "" {
		addr = "tcp://" + net.JoinHostPort(towards(ctx, append(peers, s.backend.host)), "0")
	}
	if s.bind != "" {
		opts = append(opts, gone.WithBind(s.bind))
	}
	opts = append(opts, gone.WithCluster(s.cluster), gone.WithWeight(0))
	if s.node, err = gone.NewGone(addr, s.backend.locks, opts...); err != nil {
		return misused(err)
	}
	return nil
}

// leave ends what join has begun.
func (s *session) leave() {
	if s.node != nil {
		_ = s.node.Close()
		s.backend.close()
	}
}

// within calls f, which can't be interrupted. What it comes to after ctx has ended is lost.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// ask returns the addresses of nodes that may be spoken to: the holder of an id, or else
// those that are listed.
func (v *lockService) ask(cluster, id string) (peers []string, err error) {
	const nobody = "tcp://127.0.0.1:1" // enters nothing, locks nothing
	if id != "" {
		lock, err := v.locks(id, nobody)
		if err != nil {
			return nil, misused(err)
		}
		defer closeLock(lock)
		switch holder, err := lock.GetValue(); {
		case err == nil:
			return []string{hostOf(cut(holder), "")}, nil
		case !errors.Is(err, gone.ErrNoHolder):
			return nil, &serviceError{v.host, err}
		}
	}
	lock, err := v.locks(cluster, nobody)
	if err != nil {
		return nil, misused(err)
	}
	defer closeLock(lock)
	notes, err := lock.(gone.Roster).Entered()
	if err != nil && id == "" { // it may not be allowed, and an id can do without
		return nil, &serviceError{v.host, err}
	}
	for _, identity := range slices.Sorted(maps.Keys(notes)) {
		peers = append(peers, hostOf(cut(identity), ""))
	}
	return peers, nil
}

// cut cuts the key off an identity.
func cut(identity string) string {
	addr, _, _ := strings.Cut(identity, " ")
	return addr
}

func closeLock(l gone.GoneLock) {
	if c, ok := l.(io.Closer); ok {
		_ = c.Close()
	}
}

// towards is the address of this machine from which the first of some servers is
// reached that is not on this machine; else loopback. No packet is sent.
func towards(ctx context.Context, servers []string) string {
	const most = 8 // names may take long to look up
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, server := range servers[:min(most, len(servers))] {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
		if err != nil {
			continue
		}
		ip := conn.LocalAddr().(*net.UDPAddr)
		_ = conn.Close()
		if !ip.IP.IsLoopback() && ip.Zone == "" {
			return ip.IP.String()
		}
	}
	return "127.0.0.1"
}

// asked is what came of a question to the lock service.
func (s *session) asked(err error) error {
	if err == nil || errors.Is(err, gone.ErrNoHolder) || errors.Is(err, context.Canceled) {
		return err
	}
	return &serviceError{s.backend.host, err}
}

// list returns the nodes of the cluster.
func (s *session) list() ([]gone.Node, error) {
	nodes, err := s.node.Nodes(s.ctx)
	return nodes, s.asked(err)
}

// find returns the address of a node that is listed.
func (s *session) find(addr string) (string, error) {
	nodes, err := s.list()
	if err != nil {
		return "", err
	}
	var all []string
	for _, n := range nodes {
		if n.Addr == addr || n.Addr == "tcp://"+addr {
			return n.Addr, nil
		}
		all = append(all, n.Addr)
	}
	switch len(all) {
	case 0:
		return "", fmt.Errorf("%w: no node at all is listed in cluster %q", errNoNode, s.cluster)
	default:
		return "", fmt.Errorf("%w: %s; cluster %q has %s", errNoNode, addr, s.cluster, strings.Join(all, ", "))
	}
}

// print prints a document, or a table whose cells end with tabs.
func (s *session) print(v any, table func(io.Writer)) error {
	if s.output == "json" {
		e := json.NewEncoder(s.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// row prints one of many documents, or one of many lines.
func (s *session) row(v any, text string) error {
	if s.output == "json" {
		return json.NewEncoder(s.out).Encode(v)
	}
	_, err := fmt.Fprintln(s.out, text)
	return err
}

// printable keeps what others have chosen, such as ids, from steering a terminal.
func printable(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	return strconv.Quote(s)
}

// short is a duration as a person wants it.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
