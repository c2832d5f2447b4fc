package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	zmq4 "github.com/pebbe/zmq4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	gone "github.com/Diggs/go-one"
)

// A rival is a way to get a message to a process and to know that it is there.
type rival struct {
	name string
	// start returns what each caller sends with.
	start func(s *server) (send func(caller int) sender, stop func(), err error)
}

const (
	nameNATS     = "NATS request"
	nameStream   = "Redis Stream"
	nameGRPC     = "gRPC unary"
	nameOriginal = "the original's design"
)

var rivals = []rival{
	{nameGone, startGone},
	{nameNATS, startNATS},
	{nameStream, startStream},
	{nameGRPC, startGRPC},
	{nameOriginal, startOriginal},
}

// gone

func factory(redisAddr string, ttl time.Duration) gone.LockFactory {
	return func(id, value string) (gone.GoneLock, error) {
		addr, err := net.ResolveTCPAddr("tcp", redisAddr)
		if err != nil {
			return nil, err
		}
		l, err := gone.NewRedisLock(addr, id, value)
		if err != nil {
			return nil, err
		}
		l.Expiry = ttl
		return l, nil
	}
}

var (
	received atomic.Int64
	tenures  struct {
		sync.Mutex
		begun []begun
	}
)

func begunSoFar() []begun {
	tenures.Lock()
	defer tenures.Unlock()
	return append([]begun(nil), tenures.begun...)
}

// handle counts what it receives, and extends at a third of the TTL.
func handle(ttl time.Duration) gone.RunHandler {
	return func(r *gone.GoneRunner) {
		tenures.Lock()
		tenures.begun = append(tenures.begun, begun{r.ID(), time.Now()})
		tenures.Unlock()
		tick := time.NewTicker(ttl / 3)
		defer tick.Stop()
		for {
			select {
			case <-r.Exit:
				return
			case <-r.Data:
				received.Add(1)
			case <-tick.C:
				if r.Extend() != nil {
					return
				}
			}
		}
	}
}

// serveGone runs nodes that compete for ids: one for all, or several with the
// id of its number each.
func serveGone(r role, ready func(...string)) error {
	ids := func(int) []string { return r.IDs }
	if r.Nodes == 0 {
		r.Nodes = 1
	} else {
		ids = func(node int) []string { return r.IDs[node : node+1] }
	}
	for node := range r.Nodes {
		g, err := gone.NewGone("tcp://127.0.0.1:0", factory(r.Redis, r.TTL))
		if err != nil {
			return err
		}
		for _, id := range ids(node) {
			if _, err := g.RunOne(id, handle(r.TTL)); err != nil {
				return err
			}
		}
	}
	ready()
	return nil
}

// A remote is a node of this process, and a child that holds ids.
type remote struct {
	*gone.Gone
	holder *child
}

func startRemote(s *server, ids ...string) (*remote, error) {
	c, err := startChild(role{Name: "gone", Redis: s.addr, IDs: ids, TTL: longTTL})
	if err != nil {
		return nil, err
	}
	g, err := gone.NewGone("tcp://127.0.0.1:0", factory(s.addr, longTTL))
	if err != nil {
		c.stop()
		return nil, err
	}
	r := &remote{g, c}
	for _, id := range ids {
		if err := g.SendData(id, []byte("ready?")); err != nil {
			r.stop()
			return nil, err
		}
	}
	return r, nil
}

func (r *remote) stop() {
	r.holder.stop()
	_ = r.Close()
}

func (r *remote) sender(id string) sender {
	return func(data []byte) error { return r.SendData(id, data) }
}

func startGone(s *server) (func(int) sender, func(), error) {
	r, err := startRemote(s, "rival")
	if err != nil {
		return nil, nil, err
	}
	return func(int) sender { return r.sender("rival") }, r.stop, nil
}

// NATS: a server, a responder and a requester, a process each.

func serveNATS(_ role, ready func(...string)) error {
	s, err := natsd.NewServer(&natsd.Options{Host: "127.0.0.1", Port: natsd.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("the server does not start")
	}
	ready(s.ClientURL())
	return nil
}

func serveNATSResponder(r role, ready func(...string)) error {
	nc, err := nats.Connect(r.Addrs[0])
	if err != nil {
		return err
	}
	_, err = nc.Subscribe("data", func(m *nats.Msg) { _ = m.Respond(nil) })
	if err == nil {
		err = nc.Flush()
	}
	ready()
	return err
}

func startNATS(*server) (func(int) sender, func(), error) {
	server, err := startChild(role{Name: "nats"})
	if err != nil {
		return nil, nil, err
	}
	responder, err := startChild(role{Name: "nats responder", Addrs: server.addrs})
	if err != nil {
		server.stop()
		return nil, nil, err
	}
	stop := func() {
		responder.stop()
		server.stop()
	}
	nc, err := nats.Connect(server.addrs[0])
	if err != nil {
		stop()
		return nil, nil, err
	}
	send := func(data []byte) error {
		_, err := nc.Request("data", data, 10*time.Second)
		return err
	}
	return func(int) sender { return send }, func() { nc.Close(); stop() }, nil
}

// A Redis Stream with a consumer group; the consumer answers on the list of who
// has sent.

func serveStream(r role, ready func(...string)) error {
	read, err := redis.Dial("tcp", r.Redis)
	if err != nil {
		return err
	}
	if _, err := read.Do("XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"); err != nil {
		return err
	}
	go func() {
		for {
			streams, err := redis.Values(read.Do("XREADGROUP", "GROUP", "group", "one", "COUNT", 256, "BLOCK", 0, "STREAMS", "stream", ">"))
			if err != nil {
				return
			}
			entries, _ := redis.Values(streams[0].([]any)[1], nil)
			// One round trip for all that has come.
			for _, e := range entries {
				e := e.([]any)
				fields, _ := redis.ByteSlices(e[1], nil)
				_ = read.Send("XACK", "stream", "group", e[0])
				_ = read.Send("XDEL", "stream", e[0])
				_ = read.Send("RPUSH", fields[3], "")
			}
			_ = read.Flush()
			for range 3 * len(entries) {
				_, _ = read.Receive()
			}
		}
	}()
	ready()
	return nil
}

func startStream(s *server) (func(int) sender, func(), error) {
	if _, err := s.conn.Do("DEL", "stream"); err != nil {
		return nil, nil, err
	}
	c, err := startChild(role{Name: "redis stream", Redis: s.addr})
	if err != nil {
		return nil, nil, err
	}
	var conns []redis.Conn
	send := func(caller int) sender {
		conn, err := redis.Dial("tcp", s.addr)
		if err != nil {
			return func([]byte) error { return err }
		}
		conns = append(conns, conn)
		reply := fmt.Sprint("reply:", caller)
		return func(data []byte) error {
			_ = conn.Send("XADD", "stream", "*", "data", data, "reply", reply)
			_, err := conn.Do("BLPOP", reply, 10)
			return err
		}
	}
	return send, func() {
		c.stop()
		for _, conn := range conns {
			_ = conn.Close()
		}
	}, nil
}

// gRPC: a unary call to an address that is known.

var echoService = grpc.ServiceDesc{
	ServiceName: "bench", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Send",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.BytesValue
			if err := decode(&in); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, nil
		},
	}},
}

func serveGRPC(_ role, ready func(...string)) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	s.RegisterService(&echoService, nil)
	go func() { _ = s.Serve(ln) }()
	ready(ln.Addr().String())
	return nil
}

func startGRPC(*server) (func(int) sender, func(), error) {
	c, err := startChild(role{Name: "grpc"})
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient(c.addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.stop()
		return nil, nil, err
	}
	send := func(data []byte) error {
		return conn.Invoke(context.Background(), "/bench/Send", wrapperspb.Bytes(data), &emptypb.Empty{})
	}
	return func(int) sender { return send }, func() { _ = conn.Close(); c.stop() }, nil
}

// The original's design: for each message a GET for the holder's address and a
// REQ/REP round trip. Its socket was shared by all goroutines; the mutex is what
// it takes for that not to end the process.

func serveOriginal(_ role, ready func(...string)) error {
	rep, at, err := bound(zmq4.REP)
	if err != nil {
		return err
	}
	go func() {
		for {
			if _, err := rep.RecvBytes(0); err != nil {
				return
			}
			_, _ = rep.Send("", 0)
		}
	}()
	ready(at)
	return nil
}

func startOriginal(s *server) (func(int) sender, func(), error) {
	c, err := startChild(role{Name: "original"})
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.conn.Do("SET", "original", c.addrs[0]); err != nil {
		c.stop()
		return nil, nil, err
	}
	req, err := zmq4.NewSocket(zmq4.REQ)
	if err == nil {
		err = req.Connect(c.addrs[0])
	}
	if err != nil {
		c.stop()
		return nil, nil, err
	}
	pool := (&line{addr: s.addr}).pool()
	var mu sync.Mutex
	send := func(data []byte) error {
		conn := pool.Get()
		_, err := redis.String(conn.Do("GET", "original"))
		_ = conn.Close()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if _, err := req.SendBytes(data, 0); err != nil {
			return err
		}
		_, err = req.RecvBytes(0)
		return err
	}
	return func(int) sender { return send }, func() { c.stop(); _ = req.Close(); _ = pool.Close() }, nil
}
