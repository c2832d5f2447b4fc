package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/freeport"
)

// keysOf are the names in a JSON object.
func keysOf(v any) string {
	m, _ := v.(map[string]any)
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}

func TestNodesAndIDsShowWhoHoldsWhat(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a, b := w.node(), w.node(gone.WithWeight(2))
	w.hold(a, "one", echo)
	w.hold(b, "two\x1b[31m", echo)
	eventually(t, "the roster says so", func() bool {
		nodes, err := a.Nodes(t.Context())
		return err == nil && len(nodes) == 2 && nodes[0].Held+nodes[1].Held == 2
	})
	r := w.gone(0, "nodes")
	for _, want := range []string{"NODE", a.Addr(), b.Addr()} {
		if strings.Count(r.out, want) != 1 {
			t.Errorf("want %s once: %s", want, r.out)
		}
	}
	nodes := w.json("nodes").([]any)
	if len(nodes) != 2 || keysOf(nodes[0]) != "addr draining held since version weight" {
		t.Errorf("%v", nodes)
	}
	r = w.gone(0, "ids")
	if strings.Contains(r.out, "\x1b") || !strings.Contains(r.out, `"two\x1b[31m"`) || strings.Count(r.out, "\n") != 3 {
		t.Errorf("%q", r.out)
	}
	ids := w.json("ids").([]any)
	if len(ids) != 2 || keysOf(ids[0]) != "addr deadline id received since stopping token waiting waitingBytes" {
		t.Fatalf("%v", ids)
	}
	if first := ids[0].(map[string]any); first["id"] != "one" || first["addr"] != a.Addr() || first["token"] == 0. {
		t.Errorf("%v", first)
	}
	columns := strings.Index(r.out, "NODE")
	for _, line := range strings.Split(strings.TrimSpace(r.out), "\n")[1:] {
		if !strings.HasPrefix(line[columns:], "tcp://") {
			t.Errorf("columns are not aligned: %s", r.out)
		}
	}
}

func TestHolderSaysWhoHoldsAnID(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a := w.node()
	w.hold(a, "id", echo)
	if r := w.gone(0, "holder", "id"); !strings.HasPrefix(r.out, a.Addr()) {
		t.Error(r.out)
	}
	if v := w.json("holder", "id"); keysOf(v) != "addr id token" {
		t.Error(v)
	}
	if r := w.gone(exitNobody, "holder", "other"); !strings.Contains(r.err, "other") || r.out != "" {
		t.Errorf("%+v", r)
	}
}

func TestWatchPrintsALineForEachChangeUntilInterrupted(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	p, j := w.call("watch", "id").start(t), w.call("watch", "id", "-o", "json").start(t)
	p.says(t, "nobody")
	j.says(t, "id")
	a := w.node()
	w.hold(a, "id", echo)
	p.says(t, a.Addr())
	j.says(t, a.Addr())
	must(t, a.Close())
	eventually(t, "both have three lines", func() bool {
		return strings.Count(p.out.String(), "\n") == 3 && strings.Count(j.out.String(), "\n") == 3
	})
	if code := p.interrupt(t); code != 0 {
		t.Errorf("code %d: %s", code, p.out)
	}
	if code := j.interrupt(t); code != 0 {
		t.Errorf("code %d: %s", code, j.out)
	}
	if n := strings.Count(p.out.String(), "nobody"); n != 2 {
		t.Errorf("nobody held it %d times: %s", n, p.out)
	}
	var shapes []string
	for lines := bufio.NewScanner(strings.NewReader(j.out.String())); lines.Scan(); {
		var v any
		must(t, json.Unmarshal(lines.Bytes(), &v))
		shapes = append(shapes, keysOf(v))
	}
	if want := []string{"id time", "addr id time token", "id time"}; !slices.Equal(shapes, want) {
		t.Errorf("%q", shapes)
	}
}

func TestSendReturnsWhenTheHandlerHasTheData(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	got := make(chan string, 10)
	w.hold(w.node(), "id", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			got <- fmt.Sprint(len(m.Data), string(m.Data[:min(10, len(m.Data))]))
		}
	})
	long := w.call("send", "id", "-")
	long.stdin = strings.Repeat("x", 500_000)
	dash := w.call("send", "id", "--", "-x")
	for want, c := range map[string]call{
		"4data": w.call("send", "id", "data"), "500000xxxxxxxxxx": long, "0": w.call("send", "id"), "2-x": dash,
	} {
		c.ends(t, 0)
		if s := <-got; s != want {
			t.Errorf("%q sends %q", c.args, s)
		}
	}
	if v := w.json("send", "id", "x"); keysOf(v) != "id seconds" {
		t.Error(v)
	}
	long.stdin = strings.Repeat("x", gone.DefaultMaxMessageSize+1)
	long.ends(t, exitFailed, "-max-size")
	if r := w.gone(exitNobody, "send", "other", "x"); r.took > 20*time.Second {
		t.Errorf("took %v", r.took)
	}
}

func TestASendThatNoHandlerTakesHasFailed(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	w.hold(w.node(), "busy", func(r *gone.GoneRunner) { <-r.Exit })
	w.call("send", "busy", "x", "-timeout", "1s").ends(t, exitFailed, "busy")
}

func TestARequestPrintsItsReply(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a := w.node()
	w.hold(a, "echo", echo)
	w.hold(a, "fails", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_ = m.Fail(errors.New("no such order"))
		}
	})
	w.hold(a, "silent", func(r *gone.GoneRunner) {
		var kept []*gone.Message // one that is forgotten is answered
		for m := range r.Messages() {
			kept = append(kept, m)
		}
		_ = kept
	})
	if r := w.gone(0, "request", "echo", "hello"); r.out != "hello" {
		t.Errorf("%q", r.out)
	}
	c := w.call("request", "echo", "-")
	c.stdin = "from\nthe input\x00"
	if r := c.ends(t, 0); r.out != c.stdin {
		t.Errorf("%q", r.out)
	}
	if v := w.json("request", "echo", "hello"); keysOf(v) != "id reply seconds" || v.(map[string]any)["reply"] != "hello" {
		t.Error(v)
	}
	if v := w.json("request", "echo", "\xff"); keysOf(v) != "base64 id seconds" {
		t.Error(v)
	}
	w.call("request", "fails", "x").ends(t, exitHandler, "no such order")
	w.call("request", "silent", "x", "-timeout", "1s").ends(t, exitUnknown, "no reply")
}

func TestNodesAreSteeredWhereTheyAllowIt(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a, b := w.node(), w.node()
	w.hold(a, "id", echo)
	_, err := b.RunOne("id", echo)
	must(t, err)
	holder := func(g *gone.Gone) {
		t.Helper()
		eventually(t, g.Addr()+" holds it", func() bool {
			h, err := g.Holder(t.Context(), "id")
			return err == nil && h.Addr == g.Addr()
		})
	}
	eventually(t, "both are listed", func() bool { return strings.Contains(w.gone(0, "nodes").out, b.Addr()) })
	if v := w.json("move", "id", b.Addr()); keysOf(v) != "done id node" {
		t.Error(v)
	}
	holder(b)
	w.gone(0, "move", "id")
	holder(a)
	if v := w.json("drain", strings.TrimPrefix(a.Addr(), "tcp://")); keysOf(v) != "done node" {
		t.Error(v)
	}
	holder(b)
	eventually(t, "it is shown", func() bool { return strings.Contains(w.gone(0, "nodes").out, "draining") })
	w.gone(0, "resume", a.Addr())
	w.gone(0, "drain", b.Addr())
	holder(a)
	w.call("drain", "tcp://127.0.0.1:1").ends(t, exitNobody, a.Addr())
	w.call("move", "id", "tcp://127.0.0.1:1").ends(t, exitNobody, a.Addr())
	w.gone(exitNobody, "move", "other")
}

func TestANodeWithoutControlRefuses(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	w.opts = nil
	a := w.node()
	w.hold(a, "id", echo)
	for _, args := range [][]string{{"drain", a.Addr()}, {"resume", a.Addr()}, {"move", "id"}} {
		w.call(args...).ends(t, exitRefused, "WithControl")
	}
	w.gone(0, "holder", "id")
}

func TestWhatMayYetBeDoneIsUnknown(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a := w.node(gone.WithCloseTimeout(0))
	stays := make(chan struct{})
	w.hold(a, "id", func(*gone.GoneRunner) { <-stays })
	t.Cleanup(func() { close(stays) })
	w.call("drain", a.Addr(), "-timeout", "1s").ends(t, exitUnknown, "outcome unknown")
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	if r := w.gone(exitNobody, "check"); !strings.Contains(r.out, "no node") {
		t.Error(r.out)
	}
	a := w.node()
	w.hold(a, "id", echo)
	if v := w.json("check"); keysOf(v) != "findings ok" || v.(map[string]any)["ok"] != true {
		t.Error(v)
	}
	// One that has died is listed still.
	gone1 := "tcp://" + freeport.Addr()
	lock, err := w.locks("gone", gone1)
	must(t, err)
	defer closeLock(lock)
	must(t, lock.(gone.Roster).Enter(`{"w":1,"h":3}`, time.Minute))
	r := w.call("check", "-timeout", "2s").ends(t, exitUnreachable, gone1)
	if !strings.Contains(r.out, "ok") || !strings.Contains(r.out, "bad") {
		t.Error(r.out)
	}
	// What the others hold is told nevertheless.
	r = w.call("ids", "-timeout", "2s").ends(t, exitUnreachable, gone1)
	if !strings.Contains(r.out, a.Addr()) {
		t.Error(r.out)
	}
	must(t, lock.(gone.Roster).Leave())
}

// The nodes' rights, as SECURITY.md has them, suffice for the command.
func TestCheckNeedsNoMoreRightsThanANode(t *testing.T) {
	t.Parallel()
	at := startRedis(t)
	admin := redis.NewClient(&redis.Options{Addr: at})
	defer admin.Close()
	rights := "on >sesame ~app:* ~{app:*}:token &gone:app:* ~{gone}:nodes +evalsha +eval +getrange +exists +time +psetex " +
		"+pexpire +pttl +del +publish +subscribe +unsubscribe +ping +hset +hdel +hgetall"
	args := []any{"ACL", "SETUSER", "node"}
	for _, right := range strings.Fields(rights) {
		args = append(args, right)
	}
	must(t, admin.Do(t.Context(), args...).Err())
	at = "redis://node:sesame@" + at
	w := &world{t: t, locks: gone.RedisLocks(at), env: []string{"GONE_REDIS=" + at}}
	w.hold(w.node(), "app:1", echo)
	if r := w.gone(0, "check"); !strings.Contains(r.out, "can be used") {
		t.Error(r.out)
	}
}

func TestCheckTellsTheTroublesThatNodesTell(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a := w.node()
	release := make(chan struct{})
	defer close(release)
	w.hold(a, "other", echo)
	r, err := a.RunOne("stuck", func(*gone.GoneRunner) { <-release })
	must(t, err)
	eventually(t, "it is held", func() bool { return a.Stats().Held == 2 })
	w.gone(0, "check")
	go r.Close()
	eventually(t, "it is trouble that Exit is ignored", func() bool {
		r := w.call("check").run(t)
		return r.code == exitFailed && strings.Contains(r.out, "bad") && strings.Contains(r.out, `"stuck"`)
	})
}

func TestABundleHasWhatAllNodesSayAndNoData(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	a, b := w.node(), w.node()
	w.hold(a, "id", echo)
	w.call("request", "id", "secret payload").ends(t, 0, "")
	r := w.call("bundle").ends(t, 0, "")
	var report gone.Report
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatal(err)
	}
	held := map[string]int{}
	for _, n := range report.Nodes {
		if n.Status == nil {
			t.Errorf("%s: %s", n.Addr, n.Err)
			continue
		}
		held[n.Addr] = len(n.Status.Tenures)
	}
	if held[a.Addr()] != 1 || held[b.Addr()] != 0 || len(held) < 2 {
		t.Errorf("%v of %s and %s", held, a.Addr(), b.Addr())
	}
	if strings.Contains(r.out, "secret payload") {
		t.Error("it has what was sent")
	}
}

func TestBenchDisturbsNobodyAndEndsInTime(t *testing.T) {
	t.Parallel()
	w := redisWorld(t)
	a := w.node()
	w.hold(a, "id", echo)
	p := w.call("bench", "-for", "20s", "-c", "2").start(t)
	client := redis.NewClient(&redis.Options{Addr: strings.TrimPrefix(w.which[1], "redis://")})
	defer client.Close()
	eventually(t, "its handler runs", func() bool {
		keys, err := client.Keys(t.Context(), "gone-bench-*").Result()
		return err == nil && len(keys) > 0
	})
	if ids, nodes := w.gone(0, "ids").out, w.gone(0, "nodes").out; strings.Contains(ids, "bench") || strings.Count(nodes, "\n") != 2 {
		t.Errorf("%s%s", ids, nodes)
	}
	if code := p.interrupt(t); code != 0 || !strings.Contains(p.out.String(), "request") {
		t.Errorf("code %d: %s", code, p.out)
	}
	r := w.gone(0, "bench", "id", "-for", "500ms", "-o", "json")
	var figures []figure
	must(t, json.Unmarshal([]byte(r.out), &figures))
	if len(figures) != 2 || figures[0].Kind != "send" || figures[1].Kind != "request" {
		t.Fatal(r.out)
	}
	for _, f := range figures {
		if f.Count == 0 || f.Errors != 0 || f.P50 <= 0 || f.P50 > f.P99 || f.P99 > f.Max*1.04 || f.PerSecond <= 0 {
			t.Errorf("%+v", f)
		}
	}
	if r.took > 20*time.Second {
		t.Errorf("took %v", r.took)
	}
	w.gone(exitNobody, "bench", "other")
}

func TestAnInterruptEndsWhatWaits(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	p := w.call("send", "nobody's", "x", "-timeout", "5m", "-v").start(t)
	p.says(t, "the wire is plain") // so it has joined
	if code := p.interrupt(t); code != exitInterrupted {
		t.Errorf("code %d: %s", code, p.out)
	}
}

func TestTheCommandIsNobodysCandidate(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	p := w.call("watch", "id").start(t)
	p.says(t, "nobody")
	a := w.node(gone.WithBalance())
	w.hold(a, "id", echo)
	p.says(t, a.Addr())
	nodes, err := a.Nodes(t.Context())
	if err != nil || len(nodes) != 1 || nodes[0].Addr != a.Addr() {
		t.Errorf("%+v, %v", nodes, err)
	}
	if code := p.interrupt(t); code != 0 {
		t.Error(code)
	}
}

func TestClusterAndPrefixAreThoseOfTheNodes(t *testing.T) {
	t.Parallel()
	w := sharedWorld(t)
	w.opts = append(w.opts, gone.WithCluster("other"))
	a := w.node()
	w.hold(a, "id", echo)
	if r := w.gone(0, "nodes", "-cluster", "other"); !strings.Contains(r.out, a.Addr()) {
		t.Error(r.out)
	}
	if r := w.gone(0, "nodes"); strings.Contains(r.out, a.Addr()) {
		t.Error(r.out)
	}
	w.gone(exitNobody, "holder", "id", "-prefix", "none:")
	c := w.call("nodes")
	c.env = append(c.env, "GONE_CLUSTER=other")
	if r := c.ends(t, 0); !strings.Contains(r.out, a.Addr()) {
		t.Error(r.out)
	}
}

func TestMisuseIsToldBeforeAnythingIsAsked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{},
		{"nodes"},
		{"blub"},
		{"-x", "nodes"},
		{"-redis", "redis://h", "nodes", "x"},
		{"-redis", "redis://h", "holder"},
		{"-redis", "redis://h", "-etcd", "h:1", "nodes"},
		{"-redis", "http://h", "nodes"},
		{"-redis", "redis://h", "-o", "xml", "nodes"},
		{"-redis", "redis://h", "-timeout", "0s", "nodes"},
		{"-redis", "@/nowhere", "nodes"},
		{"-redis-sentinel", "redis://h", "nodes"},
		{"-postgres", "postgres://h:x", "nodes"},
		{"-redis", "redis://h", "-keys", "/nowhere", "nodes"},
		{"completion", "tcsh"},
		{"-redis", "redis://h", "bench", "-c", "0"},
		{"-redis", "redis://h", "holder", ""},
		{"-etcd", "h:1", "-etcd-ca", "/nowhere", "nodes"},
	} {
		if r := (call{args: args}).ends(t, exitMisused); r.took > 20*time.Second {
			t.Errorf("%q took %v", args, r.took)
		}
	}
}

func TestTheHelpNamesEachCommandAndOption(t *testing.T) {
	t.Parallel()
	r := call{args: []string{"help"}}.ends(t, 0)
	for _, c := range commands {
		if !strings.Contains(r.out, "gone "+c.name) {
			t.Errorf("no %s", c.name)
		}
	}
	s := &session{}
	flags := s.flags()
	s.load.define(flags)
	flags.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(r.out, "-"+f.Name) {
			t.Errorf("no -%s", f.Name)
		}
	})
	if again := (call{args: []string{"-h"}}).ends(t, 0); again.out != r.out {
		t.Error("-h is not help")
	}
	if r := (call{args: []string{"version"}}).ends(t, 0); r.out == "" {
		t.Error("no version")
	}
}
