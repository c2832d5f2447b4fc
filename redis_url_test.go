package gone_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	gone "github.com/Diggs/go-one"
)

// both takes an id by a lock of each factory: what the first has is another's
// for the second.
func both(t *testing.T, first, second gone.LockFactory) {
	t.Helper()
	a, b := redisLock(t, first, "id"), redisLock(t, second, "id")
	must(t, a.Lock())
	is(t, b.Lock(), gone.ErrLockHeld)
	must(t, a.Extend())
	locked := competes(t, b)
	a.Unlock()
	must(t, within(t, 10*time.Second, "hand-over", locked))
}

func TestAURLLeadsToRedis(t *testing.T) {
	t.Parallel()
	port := freePort()
	s := startRedis(t, "--port", port, "--bind", "127.0.0.1")
	s.do("ACL", "SETUSER", "node", "on", ">p@ss:w/rd?#%", "allkeys", "allchannels", "+@all")
	secret := url.QueryEscape("p@ss:w/rd?#%")
	for at, database := range map[string]int{
		"redis://localhost:" + port:                            0,
		"redis://127.0.0.1:" + port + "/":                      0,
		"redis://127.0.0.1:" + port + "/3":                     3,
		"redis://node:" + secret + "@127.0.0.1:" + port + "/4": 4,
		"unix://" + s.addr.Name:                                0,
		"unix://" + s.addr.Name + "?db=5":                      5,
		"unix://node:" + secret + "@" + s.addr.Name + "?db=6":  6,
	} {
		s.do("FLUSHALL")
		locks := gone.RedisLocks(at, func(l *gone.RedisLock) { l.Expiry = time.Minute })
		both(t, locks, locks)
		if keys := string(s.do("INFO", "keyspace").([]byte)); !strings.Contains(keys, fmt.Sprintf("db%d:keys=2", database)) {
			t.Errorf("%s: the keys are not in database %d: %s", at, database, keys)
		}
	}
	s.do("FLUSHALL")
	both(t, gone.RedisLocks("redis://127.0.0.1:"+port), s.locks(time.Minute)) // the same lock
}

// The system's trust is read once in a process, so the test runs itself.
func TestAURLLeadsToRedisOverTLS(t *testing.T) {
	const urlOfTest = "GONE_TEST_REDIS_URL"
	if at := os.Getenv(urlOfTest); at != "" {
		both(t, gone.RedisLocks(at), gone.RedisLocks(at))
		return
	}
	cert, key, _ := certify(t)
	port := freePort()
	startRedis(t, "--tls-port", port, "--bind", "127.0.0.1", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	at := "rediss://127.0.0.1:" + port
	for trusted, file := range map[bool]string{true: cert, false: os.DevNull} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), urlOfTest+"="+at, "SSL_CERT_FILE="+file, "SSL_CERT_DIR="+os.DevNull)
		out, err := cmd.CombinedOutput()
		if (err == nil) != trusted || !trusted && !strings.Contains(string(out), "x509: ") {
			t.Errorf("trusted %v: %v\n%s", trusted, err, out)
		}
	}
}

func TestABadURLIsAnErrorThatSaysWhyAndShowsNoPassword(t *testing.T) {
	for at, why := range map[string]string{
		"":                                "scheme",
		"127.0.0.1:6379":                  "malformed",
		"redis:":                          "want redis://",
		"redis://":                        "want redis://",
		"redis://:6379":                   "want redis://",
		"redis://node:sesame@":            "want redis://",
		"redis:host":                      "want redis://",
		"http://node:sesame@host":         `scheme "http"`,
		"redis://node:sesame@host:0":      "port",
		"redis://node:sesame@host:65536":  "port",
		"redis://node:sesame@host:x":      "malformed",
		"redis://node:ses/ame@host":       "malformed",
		"redis://node:1ses/ame@host":      "malformed",
		"redis://node:1/sesame@host":      "an @",
		"redis://node:1?sesame@host":      "an @",
		"redis://node:1#sesame@host":      "an @",
		"redis://node:ses%zzame@host":     "malformed",
		"redis://node@host":               "without a password",
		"redis://node:@host":              "without a password",
		"redis://node:sesame@host/one":    `database "one"`,
		"redis://host/1/2":                `database "1/2"`,
		"redis://host/-1":                 `database "-1"`,
		"redis://host?db=1":               `option "db"`,
		"redis://node:sesame@host?retry=": `option "retry"`,
		"redis://host#1":                  "fragment",
		"unix:":                           "want unix://",
		"unix://host/path":                "want unix://",
		"unix:///path?db=x":               `database "x"`,
		"unix:///path?mode=1":             `option "mode"`,
	} {
		_, err := gone.RedisLocks(at)("id", nodeAddr)
		if err == nil || !strings.HasPrefix(err.Error(), "gone: redis URL: ") || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "ame") {
			t.Errorf("%q: %v, want %q", at, err, why)
		}
	}
	if _, err := gone.RedisLocks("redis://host")("", nodeAddr); err == nil {
		t.Error("an empty id was taken")
	}
}

func TestAWrongPasswordIsAnErrorThatDoesNotShowIt(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	l := redisLock(t, gone.RedisLocks("unix://node:sesame@"+s.addr.Name), "id")
	if err := l.Lock(); err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("Lock: %v", err)
	}
}

func TestAPrefixComesBeforeAllNames(t *testing.T) {
	t.Parallel()
	s := startRedis(t)
	with := func(prefix string) gone.LockFactory {
		return gone.RedisLocks("unix://"+s.addr.Name, func(l *gone.RedisLock) { l.Prefix = prefix })
	}
	// All that is touched begins with the prefix, or Redis denies it.
	s.do("ACL", "SETUSER", "default", "resetkeys", "resetchannels", "~app:*", "~{app:*}:token", "~?app:*", "&gone:app:*")
	both(t, with("app:"), with("app:"))
	l := redisLock(t, with("app:"), "{a}b")
	must(t, l.Lock())
	l.Unlock()
	s.do("ACL", "SETUSER", "default", "allkeys", "allchannels")
	a, b := redisLock(t, with("a:"), "id"), redisLock(t, with("b:"), "id")
	must(t, a.Lock())
	must(t, b.Lock())
	if _, err := redisLock(t, with(""), "id").GetValue(); !errors.Is(err, gone.ErrNoHolder) {
		t.Errorf("without a prefix: %v", err)
	}
	for prefix, id := range map[string]string{"\x00": "id", "{": "id}:token"} {
		if err := redisLock(t, with(prefix), id).Lock(); err == nil || !strings.Contains(err.Error(), "prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}
