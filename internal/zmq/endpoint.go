//go:build cgo

package zmq

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// maxAddress bounds what of an address an error shows.
const maxAddress = 255

// An endpoint is an address of ZeroMQ's form. libzmq reports a bad one late or
// never, so it is checked here.
type endpoint struct {
	host string // "*" for all interfaces
	port uint16 // 0 for any
}

func parseEndpoint(addr string) (endpoint, error) {
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("gone: address %.*q: %s", maxAddress, addr, why)
	}
	hostport, ok := strings.CutPrefix(addr, "tcp://")
	switch {
	case !ok:
		return bad("want tcp://host:port")
	case len(addr) > maxAddress:
		return bad("too long")
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return bad("want tcp://host:port")
	}
	ip, err := netip.ParseAddr(host)
	if host != "*" && (err != nil && !isHostName(host) || strings.ContainsFunc(ip.Zone(), notInName)) {
		return bad("malformed host")
	}
	if port == "*" {
		port = "0"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return bad("port is not in 0 … 65535")
	}
	return endpoint{host, uint16(n)}, nil
}

// isHostName reports whether host can be a name: labels of letters, digits and
// hyphens (and underscores, which some networks use), the last not a number,
// which would be a mistyped IPv4 address.
func isHostName(host string) bool {
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, notInName) {
			return false
		}
	}
	_, err := strconv.ParseUint(labels[len(labels)-1], 10, 64)
	return err != nil
}

func notInName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// nobody reports whether the host is none that another could connect to: it
// stands for all interfaces of a machine, or for many machines.
func (e endpoint) nobody() bool {
	if e.host == "*" {
		return true
	}
	ip, err := netip.ParseAddr(e.host)
	ip = ip.WithZone("").Unmap()
	return err == nil && (ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}

// CheckAddress is why nobody could connect to an address, nil if somebody could.
func CheckAddress(addr string) error {
	_, err := dialable(addr)
	return err
}

// dialable parses the address of a holder.
func dialable(addr string) (endpoint, error) {
	e, err := parseEndpoint(addr)
	if err == nil && (e.nobody() || e.port == 0) {
		err = fmt.Errorf("gone: address %q: nobody can connect to it", addr)
	}
	return e, err
}

func (e endpoint) String() string {
	return "tcp://" + net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

func numeric(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
