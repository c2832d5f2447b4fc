//go:build cgo

package zmq

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// A Lookup returns the addresses of a name, the best first.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

func system(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolve returns the addresses of a host in the order in which they are to be tried.
// ZeroMQ knows the first one of a name alone, and waits for the name server in the
// thread that serves all connections.
func (l Lookup) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	if l == nil {
		l = system
	}
	ctx, cancel := context.WithTimeout(ctx, lookupMost)
	defer cancel()
	ips, err := l(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	return byTurns(ips), nil
}

// byTurns puts IPv6 and IPv4 by turns (RFC 8305), beginning with the first: all of one
// kind may lead nowhere.
func byTurns(ips []netip.Addr) []netip.Addr {
	var kinds [2][]netip.Addr
	first := ips[0].Unmap().Is4()
	for _, ip := range ips {
		kind := &kinds[0]
		if ip = ip.Unmap(); ip.Is4() != first {
			kind = &kinds[1]
		}
		if !slices.Contains(*kind, ip) {
			*kind = append(*kind, ip)
		}
	}
	var all []netip.Addr
	for i := range max(len(kinds[0]), len(kinds[1])) {
		for _, kind := range kinds {
			if i < len(kind) {
				all = append(all, kind[i])
			}
		}
	}
	return all
}

// interfaces returns where to listen for an address: ZeroMQ binds to interfaces only.
func (l Lookup) interfaces(at endpoint) (hosts []string, err error) {
	if at.host == "*" {
		return []string{at.host}, nil
	}
	ips, err := l.resolve(context.Background(), at.host)
	for _, ip := range ips {
		hosts = append(hosts, ip.String())
	}
	return hosts, err
}

// homebound reports whether a name leads to the machine that it is looked up on, as
// Debian has a machine's own name do (127.0.1.1), though it is not meant to.
func homebound(name string, hosts []string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if numeric(name) || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return false
	}
	return !slices.ContainsFunc(hosts, func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return err != nil || !ip.IsLoopback()
	})
}
