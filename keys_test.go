package gone_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	zmq4 "github.com/pebbe/zmq4"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/internal/wire"
)

// A keypair is that of one node, or of a whole cluster.
type keypair struct{ public, secret string }

func newKeypair(t testing.TB) keypair {
	t.Helper()
	public, secret, err := zmq4.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	return keypair{public, secret}
}

func (k keypair) option() gone.Option { return gone.WithCurve(k.public, k.secret) }

func TestKeysThatCannotBeAreRefusedAtOnce(t *testing.T) {
	a, b := newKeypair(t), newKeypair(t)
	for name, opts := range map[string][]gone.Option{
		"neither":              {gone.WithCurve("", "")}, // as of variables that are not set
		"no key":               {gone.WithCurve("", a.secret)},
		"no secret":            {gone.WithCurve(a.public, "")},
		"malformed key":        {gone.WithCurve("x"+a.public[1:]+"y", a.secret)},
		"characters":           {gone.WithCurve(strings.Repeat(" ", 40), a.secret)},
		"malformed secret":     {gone.WithCurve(a.public, a.secret[1:])},
		"another's secret":     {gone.WithCurve(a.public, b.secret)},
		"reversed":             {gone.WithCurve(a.secret, a.public)},
		"malformed allowed":    {a.option(), gone.WithAllowedKeys(b.public, "b")},
		"more than 32 bytes":   {a.option(), gone.WithAllowedKeys(strings.Repeat("#", 40))},
		"secret allowed":       {a.option(), gone.WithAllowedKeys(a.secret)},
		"allowed without pair": {gone.WithAllowedKeys(b.public)},
	} {
		g, err := gone.NewGone("tcp://127.0.0.1:*", noLocks, opts...)
		if err == nil {
			_ = g.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		for _, secret := range []string{a.secret, b.secret, a.secret[1:]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows the secret", name)
			}
		}
	}
	plain := startNode(t, noLocks)
	if err := plain.AllowKeys(a.public); err == nil {
		t.Error("AllowKeys without a pair: no error")
	}
	strict := startNode(t, noLocks, a.option())
	if err := strict.AllowKeys("b"); err == nil {
		t.Error("AllowKeys of a malformed key: no error")
	}
}

func noLocks(string, string) (gone.GoneLock, error) { return nil, errors.New("no lock service") }

// Whatever the cluster's way, its members talk and the rest of the API shows
// addresses.
func TestMembersTalkEncrypted(t *testing.T) {
	t.Parallel()
	one, a, b := newKeypair(t), newKeypair(t), newKeypair(t)
	for name, opts := range map[string][2][]gone.Option{
		"one pair for all": {{one.option()}, {one.option()}},
		"a pair each": {
			{a.option(), gone.WithAllowedKeys(b.public)},
			{b.option(), gone.WithAllowedKeys(a.public)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			redis := startRedis(t)
			holder, sender := startNode(t, redis.locks(0), opts[0]...), startNode(t, redis.locks(0), opts[1]...)
			var l ledger
			hold(t, holder, "a", l.in.run)
			for i := range 100 {
				if err := l.send(context.Background(), sender, "a", fmt.Sprint("s ", i)); err != nil {
					t.Fatal(err)
				}
			}
			if h, err := sender.Holder(context.Background(), "a"); err != nil || h.Addr != holder.Addr() || h.Here {
				t.Errorf("Holder: %+v, %v", h, err)
			}
			if h, err := holder.Holder(context.Background(), "a"); err != nil || !h.Here {
				t.Errorf("Holder: %+v, %v", h, err)
			}
			l.check(t)
			if n := holder.Stats().Refused + sender.Stats().Refused; n != 0 {
				t.Errorf("%d refusals", n)
			}
		})
	}
}

// Whoever has no key, a wrong one, or one that is not allowed.
func TestAStrangerGetsNothingIn(t *testing.T) {
	t.Parallel()
	pair, strange := newKeypair(t), newKeypair(t)
	redis := startRedis(t)
	ctx, err := zmq4.NewContext()
	must(t, err)
	defer func() { _ = ctx.Term() }()
	for name, keys := range map[string][3]string{ // server, public, secret
		"plain":             {},
		"another server":    {strange.public, pair.public, pair.secret},
		"a key not allowed": {pair.public, strange.public, strange.secret},
	} {
		// Each meets a node of its own: a refusal may be counted late, and would pass for the next one's.
		t.Run(name, func(t *testing.T) {
			var log logged
			g := startNode(t, redis.locks(0), pair.option(), gone.WithLogger(log.logger()))
			var l ledger
			hold(t, g, name, l.in.run)
			h, err := g.Holder(context.Background(), name)
			must(t, err)
			push := func() {
				push, err := ctx.NewSocket(zmq4.PUSH)
				must(t, err)
				defer push.Close()
				must(t, errors.Join(push.SetLinger(0), push.SetSndtimeo(time.Second)))
				if keys[0] != "" {
					must(t, errors.Join(push.SetCurveServerkey(keys[0]), push.SetCurvePublickey(keys[1]), push.SetCurveSecretkey(keys[2])))
				}
				must(t, push.Connect(h.Addr))
				// Well-formed, to the tenure that there is, as an insider would send it.
				e := &wireEnd{puppet: &puppet{t: t, identity: h.Addr + " " + pair.public}, mine: 1, theirs: 1}
				for range 50 {
					_, _ = push.SendBytes(e.hello(false), 0)
					_, _ = push.SendBytes(e.frame(message(1, h.Token, name, "forged")), 0)
				}
				if keys[0] == "" {
					greetWithoutKeys(t, h.Addr)
				}
				for end := time.Now().Add(time.Second); g.Stats().Refused == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
				}
			}
			eventually(t, 30*time.Second, "a refusal is counted", func() bool {
				push()
				return g.Stats().Refused > 0
			})
			must(t, l.send(context.Background(), g, name, "honest"))
			l.check(t) // of all that was received, somebody was told
			key := `key=""`
			if keys[0] == pair.public {
				key = fmt.Sprintf("%.8s", strange.public)
			}
			eventually(t, 5*time.Second, "it is logged with the key that it showed", func() bool {
				return strings.Count(log.String(), "refused a node") == 1 && strings.Contains(log.String(), key)
			})
		})
	}
}

// greetWithoutKeys greets as a node without keys does, and waits for the end of the
// connection. Libzmq's own socket may see the other's mechanism first and give up
// before it has named its own: that is a connection that ends, as any may.
func greetWithoutKeys(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(addr, "tcp://"))
	must(t, err)
	defer c.Close()
	_, err = c.Write(append([]byte("\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL"), make([]byte, 48)...))
	must(t, errors.Join(err, c.SetReadDeadline(time.Now().Add(10*time.Second))))
	_, _ = io.Copy(io.Discard, c)
}

// Two pairs where there should be one: each side alone knows that it is wrong.
func TestAWrongKeyInTheSimpleWayNamesItselfLongBeforeTheDeadline(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	holder, sender := startNode(t, redis.locks(0), newKeypair(t).option()), startNode(t, redis.locks(0), newKeypair(t).option())
	plain := startNode(t, redis.locks(0))
	var in inbox
	hold(t, holder, "a", in.run)
	hold(t, plain, "b", in.run)
	var all sync.WaitGroup
	for from, id := range map[*gone.Gone]string{sender: "a", holder: "b", plain: "a"} {
		ctx := deadline(t, 10*time.Minute)
		all.Go(func() {
			err := from.SendDataContext(ctx, id, []byte("x"))
			if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) || ctx.Err() != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			n, err := from.SendBatch(ctx, id, [][]byte{{1}, {2}})
			if n != 0 || !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) || ctx.Err() != nil {
				t.Error(n, err)
			}
		})
	}
	all.Wait()
}

// A wrong key names itself on the sender, is counted and logged on the
// receiver, and heals when it is allowed.
func TestAWrongKeyNamesItselfAndHealsWhenItIsAllowed(t *testing.T) {
	t.Parallel()
	a, b := newKeypair(t), newKeypair(t)
	redis := startRedis(t)
	var logA, logB logged
	holder := startNode(t, redis.locks(0), a.option(), gone.WithLogger(logA.logger()))
	sender := startNode(t, redis.locks(0), b.option(), gone.WithAllowedKeys(a.public), gone.WithLogger(logB.logger()), gone.WithSendTimeout(20*time.Second))
	var l ledger
	hold(t, holder, "a", l.in.run)

	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	err := l.send(ctx, sender, "a", "s 1")
	if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("not allowed by the holder: %v", err)
	}
	// Each side learns of it by itself, in any order.
	eventually(t, 10*time.Second, "the holder has counted it", func() bool { return holder.Stats().Refused > 0 })
	eventually(t, 10*time.Second, "the holder has logged it", func() bool { return logA.has("refused a node") })
	eventually(t, 10*time.Second, "the sender has logged it", func() bool { return logB.has("can't connect") })
	if n := strings.Count(logA.String(), "refused a node"); n != 1 || !logA.has("level=WARN", "refused a node", "its key is not allowed") {
		t.Errorf("the holder logged %d times:\n%s", n, logA.String())
	}
	if n := strings.Count(logB.String(), "can't connect"); n != 1 {
		t.Errorf("the sender logged %d times:\n%s", n, logB.String())
	}
	if err := holder.AllowKeys(b.public); err != nil {
		t.Fatal(err)
	}
	if err := l.send(context.Background(), sender, "a", "s 2"); err != nil {
		t.Errorf("allowed by now: %v", err)
	}

	// Withdrawn and allowed again while there is a connection.
	if err := holder.AllowKeys(); err != nil {
		t.Fatal(err)
	}
	if err := l.send(deadline(t, 4*time.Second), sender, "a", "s 2, withdrawn"); !errors.Is(err, gone.ErrOutcomeUnknown) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("withdrawn: %v", err)
	}
	if err := l.send(deadline(t, 4*time.Second), sender, "a", "s 2, still withdrawn"); !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("still withdrawn: %v", err)
	}
	if err := holder.AllowKeys(b.public); err != nil {
		t.Fatal(err)
	}
	if err := l.send(context.Background(), sender, "a", "s 2, again"); err != nil {
		t.Errorf("allowed again: %v", err)
	}

	// The other way round: the holder's key is not allowed here.
	if err := sender.AllowKeys(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	err = l.send(ctx, sender, "a", "s 3")
	if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("not allowed by the sender: %v", err)
	}
	plain := startNode(t, redis.locks(0))
	ctx, cancel = context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := l.send(ctx, plain, "a", "s 4"); !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("a plain sender: %v", err)
	}
	l.check(t)
	for _, log := range []string{logA.String(), logB.String()} {
		for _, k := range []keypair{a, b} {
			if strings.Contains(log, k.secret) || strings.Contains(log, k.public) {
				t.Errorf("a key was logged:\n%s", log)
			}
		}
	}
}

func TestPrintingANodeShowsNoKey(t *testing.T) {
	a, b := newKeypair(t), newKeypair(t)
	g := startNode(t, noLocks, a.option(), gone.WithAllowedKeys(b.public))
	if err := g.Close(); err != nil { // nothing writes any more
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v"} {
		text := fmt.Sprintf(format, g)
		for _, key := range []string{a.secret, a.public, b.public} {
			if strings.Contains(text, key) {
				t.Errorf("%s shows a key: %s", format, text)
			}
		}
	}
}

// Who has another key than the lock service says, or none, is not spoken to.
func TestOnlyTheHoldersKeyOpensAHandshake(t *testing.T) {
	a, b, c := newKeypair(t), newKeypair(t), newKeypair(t)
	curve, plain := startNode(t, noLocks, a.option(), gone.WithAllowedKeys(c.public)), startNode(t, noLocks)
	for name, addr := range map[string]string{"another key": curve.Addr(), "no key": plain.Addr()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logged
			held := func(string, string) (gone.GoneLock, error) { return heldBy(addr + " " + b.public), nil }
			var refused atomic.Bool
			observe := gone.WithObserver(gone.Observer{Link: func(c gone.LinkChange) {
				if c.State == gone.LinkRefused {
					refused.Store(true)
				}
			}})
			g := startNode(t, held, c.option(), gone.WithAllowedKeys(a.public, b.public), gone.WithLogger(log.logger()), observe)
			err := g.SendDataContext(deadline(t, 4*time.Second), "a", []byte("data"))
			if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrUnreachable) || !errors.Is(err, gone.ErrRefused) {
				t.Error(err)
			}
			eventually(t, 10*time.Second, "it is logged", func() bool { return log.has("can't connect") })
			if n := strings.Count(log.String(), "can't connect"); n != 1 {
				t.Errorf("logged %d times:\n%s", n, log.String())
			}
			if told(t, g, "The link to "+addr+" is refused") == nil {
				t.Error("it is no trouble")
			}
			if s, err := g.Status(t.Context(), g.Addr()); err != nil || len(s.Links) != 1 || s.Links[0].State != gone.LinkRefused {
				t.Errorf("%+v, %v", s.Links, err)
			}
			eventually(t, 10*time.Second, "an observer is told", refused.Load)
		})
	}
	t.Cleanup(func() {
		if n := plain.Stats().Malformed + curve.Stats().Malformed; n != 0 {
			t.Errorf("%d frames came through", n)
		}
	})
}

// In the strict way a member can't open a link in the name of another.
func TestNoNodePosesAsAnother(t *testing.T) {
	t.Parallel()
	a, b, c := newKeypair(t), newKeypair(t), newKeypair(t)
	redis := startRedis(t)
	g := startNode(t, redis.locks(0), a.option(), gone.WithAllowedKeys(b.public, c.public))
	var l ledger
	hold(t, g, "a", l.in.run)
	h, err := g.Holder(context.Background(), "a")
	must(t, err)
	p, third := startPuppet(t, b), startPuppet(t, c)
	e := p.dial(g, a)
	honest := p.identity
	addr, _, _ := strings.Cut(honest, " ")
	for _, identity := range []string{third.identity, addr + " " + c.public, h.Addr + " " + a.public, addr} {
		for _, welcome := range []bool{false, true} {
			e.theirs = 4711
			p.identity = identity
			e.say(e.hello(welcome))
		}
	}
	p.identity = honest
	e = p.open(g, a) // so that it is known that the others have arrived
	eventually(t, 10*time.Second, "all are refused", func() bool { return g.Stats().Refused == 8 })
	if frame := third.next(300*time.Millisecond, func([]byte) bool { return true }); frame != nil {
		t.Errorf("%q to one who has said nothing", frame)
	}
	e.say(e.frame(message(1, h.Token, "a", "as b")))
	e.answers(1)

	// What is withdrawn is refused on the connection that there is.
	must(t, g.AllowKeys(c.public))
	e.say(e.frame(message(2, h.Token, "a", "withdrawn")), e.hello(false))
	eventually(t, 10*time.Second, "the frames are refused", func() bool { return g.Stats().Refused >= 10 })
	// Allowed again it has to begin anew: its link is over.
	must(t, g.AllowKeys(b.public, c.public))
	e.say(e.frame(message(3, h.Token, "a", "of a link that is over")))
	e = p.open(g, a)
	e.say(e.frame(message(1, h.Token, "a", "as b again")))
	e.answers(1)
	l.in.is(t, []string{"as b", "as b again"})
	// The acknowledgement of the first answer may have come late, too.
	if s := g.Stats(); s.Refused > 11 || s.Malformed != 0 {
		t.Errorf("%+v", s)
	}
}

// Who knows the number of another's link, and what is said over it, can neither
// send, take, acknowledge, answer nor end anything there.
func TestNoNodeActsOnAnothersMessages(t *testing.T) {
	t.Parallel()
	a, b, c := newKeypair(t), newKeypair(t), newKeypair(t)
	holder := startPuppet(t, b)
	locks := startRedis(t).locks(0)
	g := startNode(t, func(id, value string) (gone.GoneLock, error) {
		if id == "of b" {
			return heldBy(holder.identity), nil
		}
		return locks(id, value)
	}, a.option(), gone.WithAllowedKeys(b.public, c.public))
	var in inbox
	hold(t, g, "a", in.run)
	h, err := g.Holder(context.Background(), "a")
	must(t, err)
	sent := make(chan error, 1)
	send := func() { sent <- g.SendDataContext(deadline(t, 20*time.Second), "of b", []byte("data")) }
	go send()
	e := holder.accept(g, a)
	request := e.item(wire.Request)

	other := startPuppet(t, c).open(g, a)
	forged := *other
	refused := uint64(0)
	attack := func() {
		t.Helper()
		forged.mine, forged.theirs, forged.sent, forged.taken = e.mine, e.theirs, e.sent, e.taken
		frames := [][]byte{
			forged.frame(func(w *wire.Writer) {
				w.Answer(request.Stream, 0, 1<<64-1, wire.Received, 0)
				w.Cancel(1, 1)
				w.Open(9, 0, h.Token, "a")
				w.Request(9, 1, 1000, 0, []byte("of c"))
			}),
			forged.control(wire.Ack), forged.control(wire.Gap), forged.control(wire.Bye),
		}
		other.say(frames...)
		refused += uint64(len(frames))
		// In its own name, but with the numbers of the other's link.
		other.say(forged.hello(false), forged.hello(true))
		eventually(t, 10*time.Second, "all are refused", func() bool { return g.Stats().Refused == refused })
	}
	attack()
	select {
	case err := <-sent:
		t.Fatalf("ended by another: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	e.say(e.frame(message(1, h.Token, "a", "of b")))
	e.answers(1)
	e.say(e.frame(func(w *wire.Writer) { w.Answer(request.Stream, 1, 1, wire.Received, 0) }))
	must(t, within(t, 10*time.Second, "the answer", sent))
	attack()
	e.say(e.frame(func(w *wire.Writer) { w.Request(1, 2, 1000, 0, []byte("of b, 2")) }))
	e.answers(1)
	other.say(other.frame(message(1, h.Token, "a", "of c")))
	other.answers(1)
	in.is(t, []string{"of b", "of b, 2", "of c"})
}

// Old and new side by side, node after node, then the old ones are withdrawn,
// while every node holds its turn and sends.
func TestKeysAreChangedWithoutAnErrorOfAnySend(t *testing.T) {
	t.Parallel()
	const nodes = 3
	old, young := make([]keypair, nodes), make([]keypair, nodes)
	for i := range nodes {
		old[i], young[i] = newKeypair(t), newKeypair(t)
	}
	t.Run("a pair each", func(t *testing.T) { changeKeys(t, old, young) })
	t.Run("one pair for all", func(t *testing.T) {
		changeKeys(t, slices.Repeat(old[:1], nodes), slices.Repeat(young[:1], nodes))
	})
}

func changeKeys(t *testing.T, old, young []keypair) {
	locks := startRedis(t).locks(0)
	var l ledger
	public := func(pairs ...[]keypair) (keys []string) {
		for _, k := range slices.Concat(pairs...) {
			keys = append(keys, k.public)
		}
		return keys
	}
	type node struct {
		g     *gone.Gone
		sent  atomic.Int64
		close func()
	}
	start := func(name string, pair keypair, allowed []string) *node {
		n := &node{g: startNode(t, locks, pair.option(), gone.WithAllowedKeys(allowed...))}
		runOne(t, n.g, "a", l.in.run)
		stop := make(chan struct{})
		var sender sync.WaitGroup
		sender.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.send(context.Background(), n.g, "a", fmt.Sprint(name, " ", i)); err != nil {
					t.Errorf("%s %d: %v", name, i, err)
					return
				}
				n.sent.Add(1)
			}
		})
		n.close = sync.OnceFunc(func() {
			close(stop)
			sender.Wait()
			if err := n.g.Close(); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(n.close)
		return n
	}
	all := make([]*node, len(old))
	flows := func() {
		t.Helper()
		for _, n := range all {
			before := n.sent.Load()
			eventually(t, 10*time.Second, "messages flow", func() bool { return n.sent.Load() > before+50 })
		}
	}
	allow := func(keys []string) {
		t.Helper()
		for _, n := range all {
			if err := n.g.AllowKeys(keys...); err != nil {
				t.Fatal(err)
			}
			flows()
		}
	}
	for i := range all {
		all[i] = start(fmt.Sprint("old", i), old[i], public(old))
	}
	flows()
	allow(public(old, young))
	for i := range all {
		all[i].close()
		all[i] = start(fmt.Sprint("young", i), young[i], public(old, young))
		flows()
	}
	allow(public(young))

	late := startNode(t, locks, old[0].option(), gone.WithAllowedKeys(public(young)...))
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	refused := func() (sum uint64) {
		for _, n := range all {
			sum += n.g.Stats().Refused
		}
		return sum
	}
	if n := refused(); n != 0 {
		t.Errorf("%d refused", n)
	}
	if err := l.send(ctx, late, "a", "late 1"); !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
		t.Errorf("with the old key: %v", err)
	}
	eventually(t, 10*time.Second, "somebody has counted the old key", func() bool { return refused() > 0 })
	_ = late.Close()
	for _, n := range all {
		n.close()
	}
	l.check(t)
	inOrder(t, l.in.all())
}

func TestCloseLeavesNothingBehindWithKeys(t *testing.T) {
	redis := startRedis(t)
	pair, strange := newKeypair(t), newKeypair(t)
	talk := func() {
		a, b := startNode(t, redis.locks(0), pair.option()), startNode(t, redis.locks(0), pair.option())
		refused := startNode(t, redis.locks(0), strange.option(), gone.WithAllowedKeys(pair.public))
		hold(t, a, "a", new(inbox).run)
		if err := b.SendData("a", []byte("data")); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if err := refused.SendDataContext(ctx, "a", []byte("data")); err == nil {
			t.Error("no error of one that is refused")
		}
		for _, g := range []*gone.Gone{refused, a, b} {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	talk() // whatever libzmq sets up once for a process
	before := quiet(t)
	talk()
	nothingLeft(t, before)
}

func TestPlainIsSaidOnce(t *testing.T) {
	var log logged
	startNode(t, noLocks, gone.WithLogger(log.logger()))
	if n := strings.Count(log.String(), "the wire is plain"); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	log = logged{}
	startNode(t, noLocks, gone.WithLogger(log.logger()), newKeypair(t).option())
	if strings.Contains(log.String(), "plain") {
		t.Errorf("said with keys: %s", log.String())
	}
}

// Messages that are taken back, as the holder's node refuses this one, are their
// senders' at once.
func TestWhatIsTakenBackIsTheSenders(t *testing.T) {
	t.Parallel()
	a, b := newKeypair(t), newKeypair(t)
	redis := startRedis(t)
	holder := startNode(t, redis.locks(0), a.option(), gone.WithAllowedKeys(b.public))
	sender := startNode(t, redis.locks(0), b.option(), gone.WithAllowedKeys(a.public))
	var in inbox
	hold(t, holder, "a", in.run)
	must(t, sender.SendData("a", []byte("first")))
	must(t, holder.AllowKeys())
	// This one leaves on the connection that there is; so it is known that it
	// leads nowhere.
	if err := sender.SendDataContext(deadline(t, 3*time.Second), "a", []byte("second")); !errors.Is(err, gone.ErrOutcomeUnknown) {
		t.Error(err)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			err := sender.SendDataContext(deadline(t, 6*time.Second), "a", fmt.Append(nil, i))
			if !errors.Is(err, gone.ErrNotDelivered) || !errors.Is(err, gone.ErrRefused) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := in.all(); len(got) != 1 {
		t.Errorf("received: %q", got)
	}
}
