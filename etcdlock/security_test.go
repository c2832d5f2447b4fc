package etcdlock_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/etcdlock"
)

// certificate makes one that is its own authority, for loopback, and returns where it
// and its key are.
func certificate(t testing.TB) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return write("cert", "CERTIFICATE", der), write("key", "PRIVATE KEY", pkcs8), pool
}

func TestAUserWithTheRightsOfThePrefixHoldsLocksOverTLSAndNoOthers(t *testing.T) {
	cert, key, pool := certificate(t)
	c, err := startCluster(1, append(quick, "--cert-file", cert, "--key-file", key)...)
	t.Cleanup(c.stop)
	if err != nil {
		t.Fatal(err)
	}
	c.tls = &tls.Config{RootCAs: pool}
	root := c.dial(t)
	c.answers(t, root)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	prefix := etcdlock.DefaultPrefix
	for _, do := range []func() error{
		func() error { _, err := root.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := root.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := root.UserAdd(ctx, "node", "sesame"); return err },
		func() error { _, err := root.RoleAdd(ctx, "locks"); return err },
		func() error {
			_, err := root.RoleGrantPermission(ctx, "locks", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := root.UserGrantRole(ctx, "node", "locks"); return err },
		func() error { _, err := root.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	client := c.dial(t, func(config *clientv3.Config) { config.Username, config.Password = "node", "sesame" })
	a, b := newLock(t, client, time.Minute, "a"), newLock(t, client, time.Minute, "b")
	gets(t, a)
	if err := b.Lock(); !errors.Is(err, gone.ErrLockHeld) {
		t.Fatal(err)
	}
	if err := a.Extend(); err != nil {
		t.Fatal(err)
	}
	woken := waits(t, b)
	a.Unlock()
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	gets(t, b)

	others := etcdlock.New(client, func(l *etcdlock.Lock) { l.Prefix = "others/" })
	foreign, err := others("id", "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Lock(); err == nil || errors.Is(err, gone.ErrLockHeld) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("Lock without rights returned %v", err)
	}
	// It is an answer nevertheless, where a node runs nothing.
	g, err := gone.NewGone("tcp://127.0.0.1:0", others)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if err := g.Check(ctx); err != nil {
		t.Errorf("Check of a node that runs nothing returned %v", err)
	}
}
