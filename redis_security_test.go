package gone_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/wire"
)

// certify makes a certificate for 127.0.0.1 that signs itself, as files for
// redis-server and as a pool for its clients.
func certify(t *testing.T) (cert, key string, trust *x509.CertPool) {
	t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &pair.PublicKey, pair)
	must(t, err)
	secret, err := x509.MarshalECPrivateKey(pair)
	must(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
	trust = x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	must(t, err)
	trust.AddCert(parsed)
	return cert, key, trust
}

// sharedPool is a pool of whatever dials, for all the locks of some nodes.
func sharedPool(t *testing.T, dial func() (redis.Conn, error)) *redis.Pool {
	pool := &redis.Pool{Dial: dial, MaxActive: 8, MaxIdle: 8, Wait: true}
	t.Cleanup(func() { _ = pool.Close() })
	return pool
}

func TestRedisOverTLS(t *testing.T) {
	t.Parallel()
	cert, key, trust := certify(t)
	port := freePort()
	startRedis(t, "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	over := func(c *tls.Config) *redis.Pool {
		return sharedPool(t, func() (redis.Conn, error) {
			return redis.Dial("tcp", "127.0.0.1:"+port, redis.DialUseTLS(true), redis.DialTLSConfig(c), redis.DialConnectTimeout(5*time.Second))
		})
	}
	locks := poolLocks(over(&tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}))(0)
	a, b := startNode(t, locks), startNode(t, locks)
	var l ledger
	hold(t, a, "id", l.in.run)
	must(t, l.send(context.Background(), b, "id", "data 1"))
	// By a wake-up, which comes over TLS as well.
	began := time.Now()
	r := runOne(t, b, "id", l.in.run)
	must(t, a.Close())
	eventually(t, 10*time.Second, "hand-over", func() bool { return b.Stats().Held == 1 })
	if d := time.Since(began); d > 4*time.Second { // a poll is due every 5
		t.Errorf("the hand-over took %v: by poll or expiry", d)
	}
	must(t, l.send(context.Background(), b, "id", "data 2"))
	must(t, r.Close())
	l.check(t)

	// A certificate that is not trusted is an error at once.
	strange := startNode(t, poolLocks(over(&tls.Config{MinVersion: tls.VersionTLS12}))(0))
	var unknown x509.UnknownAuthorityError
	if err := answered(t, func() error { _, err := strange.RunOne("id", l.in.run); return err }); !errors.As(err, &unknown) {
		t.Errorf("a certificate that nobody has signed: %v", err)
	}
}

// Running, sending, and handing over by a wake-up need no more than the
// documentation of RedisLock says.
func TestAClusterOfAUserWithTheSmallestRights(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">sesame", "~id*", "~{id*}:token", "&gone:id*").AddFlat(smallestRights).
		Add("+info", "~{gone}:nodes", "+hset", "+hdel", "+hgetall")...) // for Check and for the roster, which a node does without
	locks := poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("sesame")))(0)
	a, b := startNode(t, locks), startNode(t, locks)
	var l ledger
	hold(t, a, "id", l.in.run)
	must(t, l.send(context.Background(), b, "id", "data 1"))
	runOne(t, b, "id", l.in.run)
	began := time.Now()
	must(t, a.Close())
	eventually(t, 10*time.Second, "hand-over", func() bool { return b.Stats().Held == 1 })
	if d := time.Since(began); d > 4*time.Second { // a poll is due every 5
		t.Errorf("the hand-over took %v: by poll or expiry", d)
	}
	must(t, l.send(context.Background(), b, "id", "data 2"))
	l.check(t)
	must(t, b.Close())
	if log := s.do("ACL", "LOG").([]any); len(log) > 0 {
		t.Errorf("something was denied: %q", log)
	}
}

// A user's rights end at the ids that the node may run, and so the one that Check asks
// about where there is none is refused.
func TestWithTheSmallestRightsANodeThatRunsNothingIsFit(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">sesame", "~app:*", "~{app:*}:token", "&gone:app:*").AddFlat(smallestRights).
		Add("~{gone}:nodes", "+hset", "+hdel", "+hgetall")...)
	locks := poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("sesame")))(0)
	for name, opts := range map[string][]gone.Option{"plain": nil, "balanced": {gone.WithBalance()}} {
		g := startNode(t, locks, opts...)
		if err := g.Check(deadline(t, 30*time.Second)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if trouble := told(t, g, "lock service"); trouble != nil && !trouble.Minor {
			t.Errorf("%s: %+v", name, trouble)
		}
	}
	// A command that is denied is another matter, and so is a user that there is not.
	s.do("ACL", "SETUSER", "node", "~*", "-psetex")
	if err := startNode(t, locks).Check(deadline(t, 30*time.Second)); !errors.Is(err, gone.ErrLockService) || !strings.Contains(err.Error(), "PSETEX") {
		t.Errorf("without PSETEX: %v", err)
	}
	stranger := startNode(t, poolLocks(s.pool(redis.DialUsername("nobody"), redis.DialPassword("sesame")))(0))
	if err := stranger.Check(deadline(t, 30*time.Second)); !errors.Is(err, gone.ErrLockService) {
		t.Errorf("as nobody: %v", err)
	}
}

// Without the rights for the roster a node runs, and says so where it is to have its share.
func TestWithoutRightsForTheRosterBalanceIsAnError(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">sesame", "~id*", "~{id*}:token", "&gone:id*").AddFlat(smallestRights)...)
	locks := poolLocks(s.pool(redis.DialUsername("node"), redis.DialPassword("sesame")))(0)
	var in inbox
	plain := startNode(t, locks)
	hold(t, plain, "id", in.run)
	if _, err := plain.Nodes(t.Context()); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Nodes: %v", err)
	}
	balanced := startNode(t, locks, gone.WithBalance())
	if _, err := balanced.RunOne("id", in.run); err == nil || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("RunOne: %v", err)
	}
	err := balanced.Check(deadline(t, 30*time.Second))
	if !errors.Is(err, gone.ErrLockService) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Check: %v", err)
	}
}

// The pool dials with whatever password there is now; connections that exist
// stay. So a tenure outlives the change, and the old password.
func TestATenureOutlivesAChangeOfThePassword(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("ACL", redis.Args{}.Add("SETUSER", "node", "on", ">old", "~id*", "~{id*}:token", "&gone:id*").AddFlat(smallestRights)...)
	var password atomic.Value
	password.Store("old")
	pool := sharedPool(t, func() (redis.Conn, error) {
		return redis.Dial("unix", s.addr.Name, redis.DialUsername("node"), redis.DialPassword(password.Load().(string)))
	})
	locks := poolLocks(pool)(20 * time.Second)
	g, other := startNode(t, locks), startNode(t, locks)
	var in inbox
	hold(t, g, "id", func(r *gone.GoneRunner) {
		for {
			select {
			case <-r.Exit:
				return
			case data := <-r.Data:
				in.add(data)
			case <-time.After(20 * time.Millisecond):
			}
			if r.Extend() != nil {
				return
			}
		}
	})
	runOne(t, other, "id", in.run)
	extended := func() {
		t.Helper()
		n := s.info("commandstats", `cmdstat_evalsha:calls`)
		eventually(t, 10*time.Second, "the lock is extended", func() bool { return s.info("commandstats", `cmdstat_evalsha:calls`) > n+20 })
	}
	extended()
	s.do("ACL", "SETUSER", "node", ">new") // side by side
	password.Store("new")
	extended()
	s.do("ACL", "SETUSER", "node", "<old") // and then the old one goes
	s.do("CLIENT", "KILL", "USER", "node") // with the connections that it opened
	extended()
	must(t, other.SendData("id", []byte("data")))
	if s := g.Stats(); s.Tenures != 1 || s.Held != 1 {
		t.Errorf("%+v: the tenure has ended", s)
	}
	if s := other.Stats(); s.Tenures != 0 {
		t.Errorf("%+v: there was another tenure", s)
	}

	// A wrong one names itself.
	password.Store("wrong")
	s.do("CLIENT", "KILL", "USER", "node")
	err := other.SendDataContext(deadline(t, 3*time.Second), "id2", []byte("data"))
	if err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("a wrong password: %v", err)
	}
}

// Whatever stands in a key: what is asked of it says so, in bounded memory.
func TestHostileContentOfAKeyIsAnErrorThatNamesTheKey(t *testing.T) {
	s := startRedis(t)
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and is no node
	must(t, err)
	defer elsewhere.Close()
	const id = "the\nkey"
	hold := func(addr string) func() { return func() { s.do("SET", id, addr+" 1790000000000000 secret") } }
	for name, put := range map[string]func(){
		"foreign":            func() { s.do("SET", id, "somebody's") },
		"control characters": func() { s.do("SET", id, "\x00\r\n\x1b[2J") },
		"64 MiB":             func() { s.do("SETRANGE", id, 64<<20, "end") },
		"64 MiB and a token": func() { s.do("SETRANGE", id, 64<<20, " 17 secret") },
		"a list":             func() { s.do("RPUSH", id, "x") },
		"elsewhere":          hold("tcp://" + elsewhere.Addr().String()),
		"unparseable":        hold("10.0.0.1"),
		"wildcard":           hold("tcp://*:1"),
		"any interface":      hold("tcp://0.0.0.0:1"),
		"port 0":             hold("tcp://127.0.0.1:0"),
		"escape sequence":    hold("tcp://\x1b[2J:1"),
	} {
		t.Run(name, func(t *testing.T) {
			s.do("FLUSHALL")
			put()
			g := startNode(t, s.locks(time.Second))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, held := g.Holder(context.Background(), id)
			sent := g.SendDataContext(deadline(t, 600*time.Millisecond), id, []byte("data"))
			tried := g.TrySendData(id, []byte("data"))
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
				t.Errorf("%d MB were allocated", n>>20)
			}
			for what, err := range map[string]error{"SendData": sent, "TrySendData": tried} {
				if !errors.Is(err, gone.ErrNotDelivered) {
					t.Errorf("%s: %v", what, err)
				}
			}
			errs := map[string]error{"Holder": held, "SendData": sent, "TrySendData": tried}
			if name == "elsewhere" { // which only the connection shows
				must(t, held)
				delete(errs, "Holder")
			}
			for what, err := range errs {
				if err == nil || !strings.Contains(err.Error(), `"the\nkey"`) || len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\x00\n\r\x1b") {
					t.Errorf("%s: %.600q", what, err)
				}
			}
		})
	}
}

// A TTL that no node of the cluster would set binds no waiter.
func TestAWaiterLooksAgainAfterItsOwnTTLWhateverTheKeysIs(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	s.do("SET", "id", "tcp://127.0.0.1:9 1790000000000000 secret", "PX", 24*3600*1000)
	l, err := gone.NewRedisLock(s.addr, "id", "tcp://127.0.0.1:1")
	must(t, err)
	defer l.Close()
	l.Expiry = time.Second
	held := func() {
		if err := l.Lock(); !errors.Is(err, gone.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	held()
	for ctx := deadline(t, 3*time.Second); ctx.Err() == nil; { // until it listens, and does not poll
		_ = l.WaitFree(ctx)
	}
	held()
	s.do("DEL", "id")
	must(t, l.WaitFree(deadline(t, 10*time.Second)))
	must(t, l.Lock())
}

// Whoever could write a key for a while, and answers there as a node does.
func TestAForgedTokenDoesNotBarTheTenuresToCome(t *testing.T) {
	t.Parallel()
	refuse := func(s wire.Status, current uint64) func(*wireEnd) {
		return func(e *wireEnd) {
			for _, it := range e.take(100 * time.Millisecond) {
				if it.Kind == wire.Request {
					e.say(e.frame(func(w *wire.Writer) { w.Answer(it.Stream, it.Number, 1, s, current) }))
				}
			}
		}
	}
	const largest = 9007199254740991 // that Redis can give exactly
	for name, test := range map[string]struct {
		token  uint64
		answer func(*wireEnd) // nil: who has such a token is not asked
	}{
		"2⁶⁴-1":                   {1<<64 - 1, nil},
		"2⁵³":                     {largest + 1, nil},
		"2⁵³-1, absent":           {largest, refuse(wire.Absent, 0)},
		"2⁵³-1, over":             {largest, refuse(wire.Ended, 0)},
		"2⁵³-1, over for another": {largest, refuse(wire.Ended, 1<<64-1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startRedis(t)
			p := startPuppet(t, keypair{})
			s.do("SET", "id", fmt.Sprint(p.identity, " ", test.token, " secret"))
			sender, honest := startNode(t, s.locks(0)), startNode(t, s.locks(0))
			var e *wireEnd
			send := func(ctx context.Context, data string) error { // while the peer answers
				done := make(chan error, 1)
				go func() { done <- sender.SendDataContext(ctx, "id", []byte(data)) }()
				for test.answer != nil && len(done) == 0 {
					if e == nil {
						e = p.accept(sender, keypair{})
					}
					test.answer(e)
				}
				return <-done
			}
			if err := send(deadline(t, 5*time.Second), "x"); !errors.Is(err, gone.ErrNotDelivered) {
				t.Error(err)
			}
			s.do("DEL", "id")
			var in inbox
			hold(t, honest, "id", in.run)
			must(t, send(context.Background(), "y"))
		})
	}
}
