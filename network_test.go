package gone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Diggs/go-one/internal/wire"
)

// A cluster is the delivery half of whole nodes in a bubble of its own time.
// Only the lock service and ZeroMQ are played: the cluster has the role of
// every peer's flusher and carries the frames, well or badly.
type cluster struct {
	t *testing.T

	mu      sync.Mutex
	rand    *rand.Rand
	nodes   map[string]*clusterNode // by address
	all     []*clusterNode          // those that died, too
	holders map[string]clusterHolder
	token   uint64
	net     func(from, to string) carriage
	ended   bool
	log     []string // what handlers received
	results map[string]error
	batches []clusterBatch
	senders sync.WaitGroup
}

type clusterHolder struct {
	addr  string
	token uint64
}

type clusterBatch struct {
	msgs []string
	n    int
	err  error
}

// A carriage is what becomes of one frame.
type carriage struct {
	wait  bool // there is no connection: it stays where it is
	lost  bool
	delay time.Duration
}

type clusterNode struct {
	*Gone
	in chan []byte
}

var clusterAddrs = []string{"tcp://10.0.0.1:1", "tcp://10.0.0.2:1", "tcp://10.0.0.3:1"}

// inCluster runs a test in a bubble, and checks what senders were told against
// what handlers received.
func inCluster(t *testing.T, seed uint64, test func(*cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{
			t: t, rand: rand.New(rand.NewPCG(seed, seed)),
			nodes:   map[string]*clusterNode{},
			holders: map[string]clusterHolder{},
			results: map[string]error{},
		}
		c.setNet(func(_, _ string) carriage { return carriage{delay: c.upTo(time.Millisecond)} })
		for _, addr := range clusterAddrs {
			c.start(addr)
		}
		carried := make(chan struct{})
		go func() {
			defer close(carried)
			for c.carry() {
				time.Sleep(500 * time.Microsecond)
			}
		}()
		test(c)
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
		<-carried
		time.Sleep(time.Hour) // timers and frames under way
		c.check()
		for _, n := range c.all {
			n.cancel()
		}
	})
}

func (c *cluster) setNet(net func(from, to string) carriage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.net = net
}

// upTo is some duration, or number, in [0, d).
func (c *cluster) upTo(d time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rand.N(d)
}

func (c *cluster) oneIn(n int) bool { return c.upTo(time.Duration(n)) == 0 }

// start starts a node, another one than before, on an address.
func (c *cluster) start(addr string) *clusterNode {
	g := &Gone{
		opts:    options{sendTimeout: 10 * time.Second, maxMessageSize: DefaultMaxMessageSize},
		log:     slog.New(slog.DiscardHandler),
		newLock: func(id, _ string) (GoneLock, error) { return clusterLock{c, id}, nil },
		drained: make(chan struct{}, 1),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.transport = &transport{addr: addr, identity: addr, incarnation: rand.Uint64() | 1, waitAtMost: peersBytes, peers: map[string]*peer{}}
	for _, to := range clusterAddrs {
		p := &peer{t: g.transport, addr: to, flushing: true}
		p.w.Reset(nil, g.transport.incarnation, addr)
		g.transport.peers[to] = p
	}
	g.delivery = &delivery{transport: g.transport, flows: map[uint64]*flow{}}
	g.routes = &routes{self: addr, here: g.tenures.open, newLock: g.newLock, delivery: g.delivery, ctx: g.ctx, ids: map[string]*route{}}

	n := &clusterNode{g, make(chan []byte, 1<<16)}
	go func() {
		for {
			select {
			case frame := <-n.in:
				g.receive(frame)
			case <-g.ctx.Done():
				return
			}
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[addr] = n
	c.all = append(c.all, n)
	return n
}

func (c *cluster) node(addr string) *clusterNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[addr]
}

// carry takes what every node has to send. A frame reaches only the process
// that it was sent to, as a connection does not outlive either end.
func (c *cluster) carry() bool {
	c.mu.Lock()
	ended, net := c.ended, c.net
	nodes := make([]*clusterNode, 0, len(c.nodes))
	for _, n := range c.nodes {
		nodes = append(nodes, n)
	}
	c.mu.Unlock()
	for _, from := range nodes {
		for _, addr := range clusterAddrs {
			p := from.transport.peers[addr]
			p.mu.Lock()
			if !p.w.Empty() {
				p.seal()
			}
			for len(p.queue) > 0 {
				how := net(from.Addr(), addr)
				if how.wait {
					break
				}
				frame := p.queue[0]
				p.queue = p.queue[1:]
				p.grow(-len(frame))
				if to := c.node(addr); !how.lost {
					time.AfterFunc(how.delay, func() {
						if c.node(from.Addr()) == from && c.node(addr) == to {
							to.in <- frame
						}
					})
				}
			}
			p.mu.Unlock()
		}
	}
	return !ended
}

// A clusterLock is asked only.
type clusterLock struct {
	c  *cluster
	id string
}

func (clusterLock) Lock() error          { return ErrLockHeld }
func (clusterLock) Extend() error        { return ErrLockLost }
func (clusterLock) Unlock()              {}
func (clusterLock) FencingToken() uint64 { return 0 }

func (l clusterLock) GetValue() (string, error) {
	value, _, err := l.Holder()
	return value, err
}

func (l clusterLock) Holder() (string, uint64, error) {
	time.Sleep(l.c.upTo(2 * time.Millisecond))
	l.c.mu.Lock()
	h := l.c.holders[l.id]
	l.c.mu.Unlock()
	time.Sleep(l.c.upTo(2 * time.Millisecond))
	if h.token == 0 {
		return "", 0, ErrNoHolder
	}
	return h.addr, h.token, nil
}

// A clusterTenure is one tenure, of which the handler takes messages as fast
// as pace lets it.
type clusterTenure struct {
	c    *cluster
	id   string
	n    *clusterNode
	exit context.CancelFunc
	done chan struct{}
}

// acquire makes a node the holder, and begins its tenure a little later.
func (c *cluster) acquire(id, addr string, pace func()) *clusterTenure {
	ctx, exit := context.WithCancel(context.Background())
	ct := &clusterTenure{c, id, c.node(addr), exit, make(chan struct{})}
	c.mu.Lock()
	c.token++
	token := c.token
	c.holders[id] = clusterHolder{addr, token}
	c.mu.Unlock()
	time.Sleep(c.upTo(5 * time.Millisecond))
	data, end := ct.n.begin(ctx, id, token, func() time.Duration {
		if ctx.Err() != nil {
			return 0
		}
		return time.Hour
	})
	go func() {
		defer close(ct.done)
		for ctx.Err() == nil {
			pace()
			select {
			case <-ctx.Done():
			case msg := <-data:
				c.mu.Lock()
				c.log = append(c.log, string(msg))
				c.mu.Unlock()
			}
		}
		end()
	}()
	return ct
}

// end is what closing Exit leads to, before the lock is released.
func (ct *clusterTenure) end() {
	ct.exit()
	<-ct.done
}

func (c *cluster) release(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.holders, id)
}

// route is what a node knows of an id's holder.
func (c *cluster) route(n *clusterNode, id string) *route {
	r, err := n.routes.get(id)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// send sends in one of the ways there are.
func (c *cluster) send(ctx context.Context, n *clusterNode, id, msg string, try bool) error {
	var err error
	if try {
		err = n.TrySendData(id, []byte(msg))
	} else {
		err = n.SendDataContext(ctx, id, []byte(msg))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[msg] = err
	return err
}

func (c *cluster) sendBatch(ctx context.Context, n *clusterNode, id string, msgs []string) error {
	var data [][]byte
	for _, msg := range msgs {
		data = append(data, []byte(msg))
	}
	delivered, err := n.SendBatch(ctx, id, data)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches = append(c.batches, clusterBatch{msgs, delivered, err})
	for i, msg := range msgs {
		switch {
		case i < delivered:
			c.results[msg] = nil
		case i > delivered && errors.Is(err, ErrOutcomeUnknown):
			c.results[msg] = err
		case i > delivered:
			c.results[msg] = ErrNotDelivered
		default:
			c.results[msg] = err
		}
	}
	if delivered == len(msgs) != (err == nil) {
		c.t.Errorf("%d of %d delivered, %v", delivered, len(msgs), err)
	}
	return err
}

// check compares all results with what was received.
func (c *cluster) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := map[string]int{}
	last := map[string]int{}
	for i, msg := range c.log {
		if _, twice := at[msg]; twice {
			c.t.Errorf("%q was received twice", msg)
		}
		at[msg] = i
		err, sent := c.results[msg]
		switch {
		case !sent:
			c.t.Errorf("%q was received, but not sent", msg)
		case errors.Is(err, ErrNotDelivered):
			c.t.Errorf("%q was received, but: %v", msg, err)
		}
		// What had an unknown outcome may come late.
		sender, number, _ := strings.Cut(msg, " ")
		var n int
		if _, err := fmt.Sscan(number, &n); err != nil {
			c.t.Fatal(err)
		}
		if err == nil {
			if n <= last[sender] {
				c.t.Errorf("%q was received after %d", msg, last[sender])
			}
			last[sender] = n
		}
	}
	for msg, err := range c.results {
		if _, ok := at[msg]; err == nil && !ok {
			c.t.Errorf("%q: nil, but it was not received", msg)
		}
		if err != nil && errors.Is(err, ErrNotDelivered) == errors.Is(err, ErrOutcomeUnknown) {
			c.t.Errorf("%q: %v is not one result", msg, err)
		}
	}
	for _, b := range c.batches {
		// Unknown or not, none is received without the one before it.
		last, missing := -1, ""
		for _, msg := range b.msgs {
			i, ok := at[msg]
			switch {
			case !ok:
				missing = msg
			case missing != "":
				c.t.Errorf("%q was received, but not %q before it in its batch", msg, missing)
			case i < last:
				c.t.Errorf("%q was received before its predecessor", msg)
			}
			last = max(last, i)
		}
	}
}

// count returns how many results wrap an error.
func (c *cluster) count(target error) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.results {
		if errors.Is(err, target) {
			n++
		}
	}
	return n
}

// traffic lets senders on all nodes send to the ids in all ways until stop is
// closed, with results that fit what they want.
func (c *cluster) traffic(ids []string, hasty bool, stop <-chan struct{}) {
	for i := range 4 * len(clusterAddrs) {
		sender := fmt.Sprint("s", i)
		c.senders.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				node := c.node(clusterAddrs[i%len(clusterAddrs)])
				id := ids[c.upTo(time.Duration(len(ids)))]
				ctx, cancel := context.Background(), func() {}
				switch {
				case !hasty:
				case c.oneIn(4):
					ctx, cancel = context.WithTimeout(ctx, c.upTo(500*time.Millisecond))
				case c.oneIn(4):
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(c.upTo(20*time.Millisecond), cancel)
				}
				if c.oneIn(3) {
					var msgs []string
					for range 1 + c.upTo(20) {
						msgs = append(msgs, fmt.Sprint(sender, " ", n))
						n++
					}
					_ = c.sendBatch(ctx, node, id, msgs)
				} else {
					_ = c.send(ctx, node, id, fmt.Sprint(sender, " ", n), hasty && c.oneIn(10))
				}
				cancel()
				time.Sleep(c.upTo(3 * time.Millisecond))
			}
		})
	}
}

func TestPlannedHandOversAreSeenByNoSenderWhateverTheTiming(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inCluster(t, seed, func(c *cluster) {
				ids := []string{"a", "b"}
				stop := make(chan struct{})
				c.traffic(ids, false, stop)
				var hands sync.WaitGroup
				for _, id := range ids {
					hands.Go(func() {
						for range 15 {
							addr := clusterAddrs[c.upTo(time.Duration(len(clusterAddrs)))]
							ct := c.acquire(id, addr, func() { time.Sleep(c.upTo(2 * time.Millisecond)) })
							time.Sleep(c.upTo(200 * time.Millisecond))
							ct.end()
							c.release(id)
							time.Sleep(c.upTo(100 * time.Millisecond))
						}
					})
				}
				hands.Wait()
				close(stop)
				var last []*clusterTenure
				for _, id := range ids {
					last = append(last, c.acquire(id, clusterAddrs[0], func() {}))
				}
				c.senders.Wait()
				for _, ct := range last {
					ct.end()
				}
				c.allReceived(1000)
			})
		})
	}
}

// A network that delays, overtakes and loses, nodes that die, come back on
// their address, are cut off or stuck, senders that give up.
func TestNoResultIsALieWhateverTheNetworkDoes(t *testing.T) {
	var all, not, unk int
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inCluster(t, seed, func(c *cluster) {
				var mu sync.Mutex
				cut := map[[2]string]carriage{}
				calm := false
				c.setNet(func(from, to string) carriage {
					mu.Lock()
					defer mu.Unlock()
					if calm {
						return carriage{delay: c.upTo(time.Millisecond)}
					}
					if how, ok := cut[[2]string{from, to}]; ok {
						return how
					}
					how := carriage{delay: c.upTo(2 * time.Millisecond)}
					switch {
					case c.oneIn(30):
						how.lost = true
					case c.oneIn(30):
						how.delay = c.upTo(time.Second)
					case c.oneIn(500):
						how.delay = c.upTo(10 * time.Second)
					}
					return how
				})
				ids := []string{"a", "b"}
				stop := make(chan struct{})
				c.traffic(ids, true, stop)
				var hands sync.WaitGroup
				for _, id := range ids {
					hands.Go(func() {
						for range 12 {
							addr := clusterAddrs[c.upTo(time.Duration(len(clusterAddrs)))]
							ct := c.acquire(id, addr, func() {
								switch {
								case c.oneIn(100):
									time.Sleep(c.upTo(2 * time.Second))
								case c.oneIn(3):
									time.Sleep(c.upTo(3 * time.Millisecond))
								}
							})
							time.Sleep(c.upTo(time.Second))
							switch {
							case c.oneIn(3): // it dies; another process may take its address
								if c.node(addr) == ct.n {
									c.start(addr)
								}
								time.Sleep(c.upTo(2 * time.Second))
								ct.end()
							case c.oneIn(2): // cut off, in one direction or both
								other := clusterAddrs[c.upTo(time.Duration(len(clusterAddrs)))]
								mu.Lock()
								how := carriage{lost: c.oneIn(2), wait: true}
								how.wait = !how.lost
								cut[[2]string{addr, other}] = how
								if c.oneIn(2) {
									cut[[2]string{other, addr}] = how
								}
								mu.Unlock()
								time.Sleep(c.upTo(4 * time.Second))
								ct.end()
								mu.Lock()
								clear(cut)
								mu.Unlock()
							default:
								ct.end()
							}
							c.release(id)
							time.Sleep(c.upTo(100 * time.Millisecond))
						}
					})
				}
				hands.Wait()

				// When it is over, everything works again.
				mu.Lock()
				calm = true
				mu.Unlock()
				close(stop)
				var last []*clusterTenure
				for _, id := range ids {
					last = append(last, c.acquire(id, clusterAddrs[0], func() {}))
					for _, addr := range clusterAddrs {
						ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
						if err := c.send(ctx, c.node(addr), id, fmt.Sprint("last-", id, addr, " 1"), false); err != nil {
							c.t.Errorf("after all, from %s to %s: %v", addr, id, err)
						}
						cancel()
					}
				}
				c.senders.Wait()
				for _, ct := range last {
					ct.end()
				}
				all += len(c.results)
				not += c.count(ErrNotDelivered)
				unk += c.count(ErrOutcomeUnknown)
			})
		})
	}
	t.Logf("%d messages: %d not delivered, %d unknown", all, not, unk)
	if unk == 0 || not == 0 || unk > all/5 {
		t.Error("the network was too kind, or too cruel")
	}
}

// What is lost or late is asked for. Nobody has to know.
func TestALossyNetworkCostsTimeAndNoMessage(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inCluster(t, seed, func(c *cluster) {
				c.setNet(func(_, _ string) carriage {
					return carriage{lost: c.oneIn(10), delay: c.upTo(20 * time.Millisecond)}
				})
				ct := c.acquire("a", clusterAddrs[0], func() {})
				stop := make(chan struct{})
				began := time.Now()
				c.traffic([]string{"a"}, false, stop)
				time.Sleep(3 * time.Second)
				close(stop)
				c.senders.Wait()
				if d := time.Since(began); d > 13*time.Second {
					t.Errorf("the last sender waited for %v", d)
				}
				ct.end()
				c.allReceived(300)
			})
		})
	}
}

// allReceived fails where a result is not nil.
func (c *cluster) allReceived(atLeast int) {
	for msg, err := range c.results {
		if err != nil {
			c.t.Errorf("%q: %v", msg, err)
		}
	}
	if len(c.results) < atLeast {
		c.t.Errorf("only %d messages", len(c.results))
	}
}

func TestASenderNoticesATenureThatBeginsHereWhileItLooks(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		addr := clusterAddrs[0]
		n := c.node(addr)
		var ct *clusterTenure
		n.routes.newLock = func(id, _ string) (GoneLock, error) {
			ct = c.acquire(id, addr, func() {})
			return clusterLock{c, id}, nil
		}
		began := time.Now()
		if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		ct.end()
	})
}

// tokenless hides the tokens of a lock.
type tokenless struct{ GoneLock }

func TestWithoutTokensOfTheLockClocksMayDiffer(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[2])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return tokenless{clusterLock{c, id}}, nil }
		// Tokens are those of the nodes' clocks then.
		for i, token := range []uint64{1000, 10, 2000, 5} {
			c.token = token
			ct := c.acquire("a", clusterAddrs[i%2], func() {})
			began := time.Now()
			if err := c.send(context.Background(), n, "a", fmt.Sprint("s ", i+1), false); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("it took %v", d)
			}
			ct.end()
			c.release("a")
		}
	})
}

func TestWhatWaitsForAnUnreachableHolderIsBoundedHoweverHastyTheSenders(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		c.setNet(func(_, _ string) carriage { return carriage{wait: true} })
		c.holders["a"] = clusterHolder{clusterAddrs[0], 1}
		n := c.node(clusterAddrs[1])
		p := n.transport.peers[clusterAddrs[0]]
		most := 0
		for range 3000 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			err := n.SendDataContext(ctx, "a", make([]byte, 10_000))
			cancel()
			if !errors.Is(err, ErrNotDelivered) {
				t.Fatal(err)
			}
			p.mu.Lock()
			most = max(most, p.size+p.w.Len())
			p.mu.Unlock()
		}
		// 30 MB have been sent in half a minute.
		if most > 3<<20 {
			t.Errorf("%d bytes waited", most)
		}
	})
}

// counting counts what the lock service is asked.
type counting struct {
	clusterLock
	n *atomic.Int32
}

func (l counting) Holder() (string, uint64, error) {
	l.n.Add(1)
	return l.clusterLock.Holder()
}

func TestASlowHandlerAndASlowNetworkCostNoCallToTheLockService(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		c.setNet(func(_, _ string) carriage { return carriage{delay: 150 * time.Millisecond} })
		var asked atomic.Int32
		n := c.node(clusterAddrs[1])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return counting{clusterLock{c, id}, &asked}, nil }
		ct := c.acquire("a", clusterAddrs[0], func() { time.Sleep(4 * time.Second) })
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for i := range 10 {
			time.Sleep(7 * time.Millisecond)
			c.senders.Go(func() {
				if err := c.send(ctx, n, "a", fmt.Sprint("s", i, " 1"), false); err != nil {
					t.Error(err)
				}
			})
		}
		c.senders.Wait()
		ct.end()
		if n := asked.Load(); n != 1 {
			t.Errorf("the lock service was asked %d times", n)
		}
	})
}

// A message that was taken back before it left says nothing of the holder.
func TestAHastySenderCostsNoCallToTheLockService(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		var connected atomic.Bool
		c.setNet(func(_, _ string) carriage { return carriage{wait: !connected.Load()} })
		var asked atomic.Int32
		n := c.node(clusterAddrs[1])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return counting{clusterLock{c, id}, &asked}, nil }
		ct := c.acquire("a", clusterAddrs[0], func() {})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if err := c.send(ctx, n, "a", "s 1", false); !errors.Is(err, ErrNotDelivered) {
			t.Error(err)
		}
		connected.Store(true)
		time.Sleep(3 * time.Second)
		if err := c.send(context.Background(), n, "a", "s 2", false); err != nil {
			t.Error(err)
		}
		ct.end()
		if n := asked.Load(); n != 1 {
			t.Errorf("the lock service was asked %d times", n)
		}
	})
}

// Those behind it are refused then, and have to be sent again as well.
func TestABatchGoesOnWhenAFrameOfItIsLost(t *testing.T) {
	for lost := range 3 {
		inCluster(t, 0, func(c *cluster) {
			ct := c.acquire("a", clusterAddrs[0], func() {})
			n := c.node(clusterAddrs[1])
			if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
				t.Error(err)
			}
			var frames atomic.Int32
			c.setNet(func(_, to string) carriage {
				return carriage{lost: to == clusterAddrs[0] && frames.Add(1) == int32(1+lost)}
			})
			began := time.Now()
			msgs := [][]byte{make([]byte, frameSize), make([]byte, frameSize), make([]byte, frameSize)}
			for i, msg := range msgs {
				copy(msg, fmt.Sprint("s ", i+2, " "))
				c.results[string(msg)] = nil
			}
			if delivered, err := n.SendBatch(context.Background(), "a", msgs); delivered != len(msgs) || err != nil {
				t.Errorf("%d, %v", delivered, err)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("it took %v", d)
			}
			ct.end()
		})
	}
}

// The end of a tenure is confirmed by those, too, that were cut off for a while
// and asked for any sign of life.
func TestTheEndOfATenureIsConfirmedByAllWhoCan(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		holder, n := c.node(clusterAddrs[0]), c.node(clusterAddrs[1])
		var cut atomic.Bool
		c.setNet(func(_, _ string) carriage { return carriage{lost: cut.Load(), delay: 20 * time.Millisecond} })
		ct := c.acquire("a", clusterAddrs[0], func() {})
		if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
			t.Error(err)
		}
		cut.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := c.send(ctx, n, "a", "s 2", false); !errors.Is(err, ErrOutcomeUnknown) {
			t.Error(err)
		}
		cut.Store(false)
		ctx, cancel = context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		if err := c.send(ctx, n, "a", "s 3", false); !errors.Is(err, ErrNotDelivered) {
			t.Error(err)
		}
		time.Sleep(time.Second)
		ct.end()
		time.Sleep(100 * time.Millisecond)
		if open := holder.tenures.tell(); open != 0 {
			t.Errorf("%d senders have not confirmed", open)
		}
	})
}

// dataTo counts the payloads that leave for a node.
func (c *cluster) dataTo(addr string) *atomic.Int32 { return c.itemsTo(addr, wire.Data) }

// itemsTo counts the items of some kinds that are sent to an address from now on.
func (c *cluster) itemsTo(addr string, kinds ...wire.Kind) *atomic.Int32 {
	var n atomic.Int32
	net := c.net
	c.setNet(func(from, to string) carriage {
		how := net(from, to)
		if to == addr && !how.wait {
			p := c.node(from).transport.peers[to]
			r, err := wire.NewReader(p.queue[0])
			for it, _ := r.Next(); err == nil && it != nil; it, _ = r.Next() {
				if slices.Contains(kinds, it.Kind) {
					n.Add(1)
				}
			}
		}
		return how
	})
	return &n
}

// A process that took the address of one that died is named by the lock service
// until the lock expires.
func TestAnAddressWithoutTheTenureIsNotTriedAgainAndAgain(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		c.holders["a"] = clusterHolder{clusterAddrs[0], 1}
		tries := c.itemsTo(clusterAddrs[0], wire.Data, wire.Ask)
		n := c.node(clusterAddrs[1])
		for i := range 100 {
			c.senders.Go(func() {
				if err := c.send(context.Background(), n, "a", fmt.Sprint("s", i, " 1"), false); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(8 * time.Second)
		if n := tries.Load(); n > 200 { // of which some only ask whether it is there
			t.Errorf("%d tries for 100 messages", n)
		}
		// The one that is asked may be a holder that does not know it yet.
		c.token = 0
		ct := c.acquire("a", clusterAddrs[0], func() {})
		c.senders.Wait()
		ct.end()
		c.allReceived(100)
	})
}

func TestAMessageWithoutTimeIsNotSentAgainAndAgain(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		ct := c.acquire("a", clusterAddrs[0], func() { time.Sleep(15 * time.Second) })
		data := c.dataTo(clusterAddrs[0])
		began := time.Now()
		err := c.send(context.Background(), c.node(clusterAddrs[1]), "a", "s 1", false)
		if !errors.Is(err, ErrNotDelivered) || !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		if d := time.Since(began); d < 9*time.Second || d >= 10*time.Second {
			t.Errorf("it took %v: the refusal has to be back before the deadline", d)
		}
		if n := data.Load(); n != 1 {
			t.Errorf("sent %d times", n)
		}
		ct.end()
	})
}

// While it waits for a connection, a message is known not to have been received.
func TestTheOutcomeOfWhatHasNotLeftIsNeverUnknown(t *testing.T) {
	for shift := range 8 { // against the flow's own rhythm
		inCluster(t, 0, func(c *cluster) {
			ct := c.acquire("a", clusterAddrs[0], func() {})
			n := c.node(clusterAddrs[1])
			if err := c.send(context.Background(), n, "a", "s 1", false); err != nil {
				t.Error(err)
			}
			var connected atomic.Bool
			c.setNet(func(_, _ string) carriage {
				return carriage{wait: !connected.Load(), delay: time.Millisecond}
			})
			ct.exit()
			c.start(clusterAddrs[0])
			for i, timeout := range []time.Duration{100 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second} {
				c.senders.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), timeout)
					defer cancel()
					if err := c.send(ctx, n, "a", fmt.Sprint("s", i, " 1"), false); !errors.Is(err, ErrNotDelivered) {
						t.Errorf("%v: %v", timeout, err)
					}
				})
			}
			// Then it turns out that there is another process.
			time.Sleep(800*time.Millisecond + time.Duration(shift)*500*time.Microsecond)
			connected.Store(true)
			c.senders.Wait()
		})
	}
}

// While ZeroMQ is asked to take a frame, nobody can say whether it has left.
func TestWhatIsBeingTriedWhenTheTenureEndsDoesNotWaitForItsDeadline(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		c.setNet(func(_, _ string) carriage { return carriage{wait: true} })
		n := c.node(clusterAddrs[0])
		f, err := n.delivery.newFlow("a", clusterAddrs[1], 1, func(*flow, bool) {})
		if err != nil {
			t.Fatal(err)
		}
		f.heard = time.Now()
		m := n.delivery.message([]byte("data"), time.Now().Add(time.Minute), false)
		fate := make(chan wire.Status, 1)
		go func() { fate <- f.send(context.Background(), m, time.Now()) }()
		synctest.Wait()
		p := n.transport.peers[clusterAddrs[1]]
		p.mu.Lock()
		if !p.w.Empty() {
			p.seal()
		}
		frame := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		f.retire()
		p.mu.Lock()
		p.queue = [][]byte{frame}
		p.mu.Unlock()
		select {
		case s := <-fate:
			if s != stale || !m.unsent {
				t.Errorf("fate %d, unsent: %v", s, m.unsent)
			}
		case <-time.After(time.Second):
			t.Error("it waits, though it has not left and never will")
			<-fate
		}
	})
}

// Its holder may have died meanwhile, and then the outcome would be unknown.
func TestARouteThatWasNotUsedForLongIsConfirmedFirst(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		var asked atomic.Int32
		n := c.node(clusterAddrs[2])
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return counting{clusterLock{c, id}, &asked}, nil }
		send := func(number int) {
			began := time.Now()
			if err := c.send(context.Background(), n, "a", fmt.Sprint("s ", number), false); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > 100*time.Millisecond {
				t.Errorf("message %d took %v", number, d)
			}
		}
		ct := c.acquire("a", clusterAddrs[0], func() {})
		for i := range 10 {
			send(i + 1)
			time.Sleep(time.Second)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("the lock service was asked %d times for 10 messages", n)
		}
		time.Sleep(time.Minute)
		net := c.net // the holder dies
		c.setNet(func(from, to string) carriage {
			if from == clusterAddrs[0] || to == clusterAddrs[0] {
				return carriage{lost: true}
			}
			return net(from, to)
		})
		ct.end()
		ct = c.acquire("a", clusterAddrs[1], func() {})
		send(11)
		ct.end()
	})
}

func TestRoutesAndFlowsOfManyIDsAreBounded(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[1])
		closed := 0
		n.routes.newLock = func(id, _ string) (GoneLock, error) { return closing{clusterLock{c, id}, &closed}, nil }
		const ids = routesMost + routesMost/16
		for i := range ids {
			id := fmt.Sprint("id", i)
			c.holders[id] = clusterHolder{clusterAddrs[0], 1}
			r, err := n.routes.get(id)
			if err != nil {
				t.Fatal(err)
			}
			r.mu.Lock()
			r.learn(clusterAddrs[0], 1, nil)
			if i%2 == 0 { // the holder has fallen silent
				r.flow, r.last = nil, r.flow
			}
			r.mu.Unlock()
		}
		if len(n.routes.ids) > routesMost || closed != ids-len(n.routes.ids) {
			t.Errorf("%d routes of %d ids, %d locks closed", len(n.routes.ids), ids, closed)
		}
		time.Sleep(2 * flowAfterlife)
		if len(n.delivery.flows) > routesMost {
			t.Errorf("%d flows of %d routes", len(n.delivery.flows), len(n.routes.ids))
		}
	})
}

type closing struct {
	clusterLock
	n *int
}

func (l closing) Close() error {
	*l.n++
	return nil
}

// A sender may have got its route just before it was forgotten.
func TestASenderDoesNotWaitForARouteThatWasForgotten(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[1])
		ct := c.acquire("a", clusterAddrs[0], func() {})
		for i, between := range []func(r *route){
			func(*route) {},
			func(r *route) { _, _ = r.next(context.Background(), time.Now().Add(time.Second)) },
		} {
			r := c.route(n, "a")
			between(r)
			synctest.Wait()
			n.routes.mu.Lock()
			n.routes.evict()
			n.routes.mu.Unlock()
			began := time.Now()
			if f, err := r.next(context.Background(), time.Now().Add(time.Hour)); f != nil || err != nil {
				t.Errorf("got %v, %v", f, err)
			}
			if f, err := r.lookOnce(context.Background()); f != nil || err != nil {
				t.Errorf("got %v, %v", f, err)
			}
			if d := time.Since(began); d > 0 {
				t.Errorf("it took %v", d)
			}
			if err := c.send(context.Background(), n, "a", fmt.Sprint("s ", i+1), false); err != nil {
				t.Error(err)
			}
		}
		ct.end()
	})
}

func TestAfterCloseOfTheDeliveryNothingNewBegins(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		n := c.node(clusterAddrs[1])
		n.delivery.close()
		if f, err := n.delivery.newFlow("a", clusterAddrs[0], 1, nil); f != nil || !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, %v", f, err)
		}
	})
}

// Nothing comes from a frame that was not asked for.
func TestForgedAnswersAreIgnored(t *testing.T) {
	inCluster(t, 0, func(c *cluster) {
		ct := c.acquire("a", clusterAddrs[0], func() { time.Sleep(15 * time.Second) })
		n := c.node(clusterAddrs[1])
		c.senders.Go(func() {
			if err := c.send(context.Background(), n, "a", "s 1", false); !errors.Is(err, ErrNotDelivered) || !errors.Is(err, ErrBusy) {
				t.Errorf("got %v", err)
			}
		})
		time.Sleep(time.Second)
		me := n.transport.incarnation
		for _, s := range []wire.Status{wire.Received, wire.NotHere, wire.Stranger, wire.Missing, wire.Busy} {
			for _, forged := range []struct {
				from string
				to   wire.Return
				seq  uint64
			}{
				{clusterAddrs[0], wire.Return{To: me + 2, Flow: 1}, 1},
				{clusterAddrs[0], wire.Return{To: me, Flow: 2}, 1},
				{clusterAddrs[0], wire.Return{To: me, Flow: 1}, 2}, // it has not been sent
				{"tcp://10.0.0.9:1", wire.Return{To: me, Flow: 1}, 1},
			} {
				var w wire.Writer
				w.Reset(nil, 4711, forged.from)
				w.Reply(forged.to, 0, forged.seq, s)
				if forged.seq == 1 {
					w.Over(forged.to, 0, []uint64{1})
				}
				n.in <- slices.Clone(w.Bytes())
			}
		}
		c.senders.Wait()
		ct.end()
	})
}

// heldElsewhere is a lock of which another node has the holder.
type heldElsewhere struct{ GoneLock }

func (heldElsewhere) GetValue() (string, error) { return "tcp://127.0.0.1:1", nil }

// What a message to another node costs before it is written: to find the flow
// to the tenure that holds its id.
func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint("ids=", n), func(b *testing.B) {
			b.ReportAllocs()
			g, err := NewGone("tcp://127.0.0.1:0", func(string, string) (GoneLock, error) { return heldElsewhere{}, nil })
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			ids := make([]string, n)
			find := func(id string) *flow {
				r, err := g.routes.get(id)
				if err != nil {
					b.Fatal(err)
				}
				f, err := r.next(b.Context(), time.Now().Add(time.Second))
				if f == nil {
					b.Fatal(err)
				}
				return f
			}
			for i := range ids {
				ids[i] = fmt.Sprint("id", i)
				find(ids[i])
			}
			for i := 0; b.Loop(); i++ {
				find(ids[i%n])
			}
		})
	}
}
