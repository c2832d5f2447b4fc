package redisconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/gomodule/redigo/redis"
)

// An Address is where a Redis is and how to enter. Those that are equal share
// connections.
type Address struct {
	Network, Address string // as for net.Dial; a host is looked up at every connect
	TLS              bool
	User, Password   string
	Database         int
}

// ParseURL understands redis://[user:password@]host[:6379][/db], rediss:// for
// TLS, and unix://[user:password@]/path[?db=n]. Its errors show only what can't
// be part of a password.
func ParseURL(s string) (a Address, err error) {
	fail := func(why string, args ...any) (Address, error) {
		return Address{}, fmt.Errorf("gone: redis URL: "+why, args...)
	}
	u, err := url.Parse(s)
	if err != nil {
		return fail("malformed; special characters of a password have to be percent-encoded")
	}
	database := strings.TrimPrefix(u.Path, "/")
	query := u.Query()
	a = Address{Network: "tcp", TLS: u.Scheme == "rediss"}
	switch u.Scheme {
	case "redis", "rediss":
		port := u.Port()
		if port == "" {
			port = "6379"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fail("the port is not in 1 … 65535")
		}
		a.Address = net.JoinHostPort(u.Hostname(), port)
	case "unix":
		a.Network, a.Address = "unix", u.Path
		database = query.Get("db")
		query.Del("db")
	default:
		return fail("scheme %q, want redis, rediss or unix", u.Scheme)
	}
	if a.User, a.Password, err = account(u.User); err != nil {
		return fail("%w", err)
	}
	switch unix := a.Network == "unix"; {
	case u.Opaque != "" || unix && (u.Host != "" || u.Path == "") || !unix && u.Hostname() == "":
		return fail("want %s", map[bool]string{false: u.Scheme + "://[user:password@]host[:port][/db]", true: "unix://[user:password@]/path[?db=n]"}[unix])
	case strings.Contains(u.RawQuery+u.Fragment, "@") || !unix && strings.Contains(u.Path, "@"):
		return fail("an @ behind the host; special characters of a password have to be percent-encoded")
	case u.Fragment != "":
		return fail("it has a fragment, #%s", u.Fragment)
	}
	for option := range query {
		return fail("unknown option %q", option)
	}
	if database != "" {
		n, err := strconv.ParseUint(database, 10, 31)
		if err != nil {
			return fail("database %q is not a number", database)
		}
		a.Database = int(n)
	}
	return a, nil
}

func account(u *url.Userinfo) (user, password string, err error) {
	if u == nil {
		return "", "", nil
	}
	password, ok := u.Password()
	if !ok || password == "" {
		return "", "", errors.New("a user without a password")
	}
	return u.Username(), password, nil
}

func (a Address) connect(ctx context.Context) (redis.Conn, error) {
	return redis.DialContext(ctx, a.Network, a.Address,
		redis.DialConnectTimeout(timeout), redis.DialReadTimeout(timeout), redis.DialWriteTimeout(timeout),
		redis.DialUseTLS(a.TLS), redis.DialUsername(a.User), redis.DialPassword(a.Password), redis.DialDatabase(a.Database))
}
