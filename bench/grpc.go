package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// gRPC: unary calls to addresses that are known. What streams is a
// bidirectional stream with an acknowledgement a message.
var (
	courierGRPC        = courier{nameGRPC, openGRPC("Send", nothing)}
	courierGRPCReplies = courier{nameGRPC, openGRPC("Reply", same)}
)

var bothWays = grpc.StreamDesc{
	StreamName: "Stream", ClientStreams: true, ServerStreams: true,
	Handler: func(_ any, stream grpc.ServerStream) error {
		for {
			var in wrapperspb.BytesValue
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
				return err
			}
		}
	},
}

var grpcService = grpc.ServiceDesc{
	ServiceName: "bench", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{unary("Send", nothing), unary("Reply", same)},
	Streams: []grpc.StreamDesc{bothWays},
}

func unary(method string, reply answer) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: method,
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var in wrapperspb.BytesValue
			err := decode(&in)
			return wrapperspb.Bytes(reply(in.Value)), err
		},
	}
}

func serveGRPC(_ role, ready func(...string)) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	s.RegisterService(&grpcService, nil)
	go func() { _ = s.Serve(ln) }()
	ready(ln.Addr().String())
	return nil
}

func openGRPC(method string, want answer) func(*way, *server, int) error {
	return func(w *way, _ *server, receivers int) error {
		conns := make([]*grpc.ClientConn, receivers)
		for i := range conns {
			c, err := w.child(role{Name: "grpc"})
			if err != nil {
				return err
			}
			conn, err := grpc.NewClient(c.addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			w.onStop(func() { _ = conn.Close() })
			conns[i] = conn
		}
		send := func(to int, data []byte) error {
			var reply wrapperspb.BytesValue
			if err := conns[to].Invoke(context.Background(), "/bench/"+method, wrapperspb.Bytes(data), &reply); err != nil {
				return err
			}
			return check(reply.Value, want(data))
		}
		w.sender = func(int) (sender, error) { return send, nil }
		return streamToGRPC(w, conns[0])
	}
}

func streamToGRPC(w *way, conn *grpc.ClientConn) error {
	stream, err := conn.NewStream(context.Background(), &bothWays, "/bench/Stream")
	if err != nil {
		return err
	}
	acks := countAcks(func() error { return stream.RecvMsg(&emptypb.Empty{}) })
	w.stream = func(msgs [][]byte) error {
		for _, data := range msgs {
			if err := stream.SendMsg(wrapperspb.Bytes(data)); err != nil {
				return err
			}
		}
		acks.expect(len(msgs))
		return nil
	}
	w.settle = acks.wait
	return nil
}
