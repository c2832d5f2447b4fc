package goneotel_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goneotel"
	"github.com/Diggs/go-one/gonetest"
	"github.com/Diggs/go-one/internal/redistest"
)

// Variables of the other process: which lock service, and whether it traces.
const (
	otherRedis  = "GONEOTEL_TEST_REDIS"
	otherTraces = "GONEOTEL_TEST_TRACES"
)

func TestMain(m *testing.M) {
	if redis := os.Getenv(otherRedis); redis != "" {
		other(redis, os.Getenv(otherTraces) != "")
		return
	}
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A record is a node's spans, in memory.
type record struct {
	*tracetest.InMemoryExporter
	provider *sdk.TracerProvider
}

func newRecord() record {
	r := record{InMemoryExporter: tracetest.NewInMemoryExporter()}
	r.provider = sdk.NewTracerProvider(sdk.WithSyncer(r))
	return r
}

func (r record) tracer() trace.Tracer { return r.provider.Tracer("test") }

func (r record) options() []gone.Option {
	fields := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	return goneotel.Options(goneotel.WithTracerProvider(r.provider), goneotel.WithPropagator(fields))
}

// one returns the only span of a name.
func (r record) one(t *testing.T, name string) tracetest.SpanStub {
	t.Helper()
	var found []tracetest.SpanStub
	for _, s := range r.GetSpans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %q in %+v", len(found), name, r.GetSpans())
	}
	return found[0]
}

func has(t *testing.T, s tracetest.SpanStub, want ...attribute.KeyValue) {
	t.Helper()
	for _, a := range want {
		if !slices.Contains(s.Attributes, a) {
			t.Errorf("span %q has not %s=%v but %v", s.Name, a.Key, a.Value.String(), s.Attributes)
		}
	}
}

func startNode(redis string, opts ...gone.Option) (*gone.Gone, error) {
	quiet := gone.WithLogger(slog.New(slog.DiscardHandler))
	patient := gone.WithSendTimeout(time.Minute) // the other process may take its time to start
	return gone.NewGone("tcp://127.0.0.1:0", gone.RedisLocks(redis), append(opts, quiet, patient)...)
}

// node starts a node that is closed with the test.
func node(t *testing.T, redis string, opts ...gone.Option) *gone.Gone {
	t.Helper()
	g, err := startNode(redis, opts...)
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// A seen is what the other process tells of a message, and of the span that it has made
// for it. The baggage is of the handler's context.
type seen struct {
	Data, Trace, Span, Parent, Kind, Baggage, Sender string
}

// other is the other process. It holds the id "there", and prints what it sees. A
// request it answers with the same, but for "fail", which it fails.
func other(redis string, traces bool) {
	var opts []gone.Option
	spans := newRecord()
	if traces {
		opts = spans.options()
	}
	g, err := startNode(redis, opts...)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	_, err = g.RunOne("there", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			ctx, span := spans.tracer().Start(m.Context(), "process", goneotel.Process(r, m)...)
			if string(m.Data) == "fail" {
				_ = m.Fail(errors.New("no such thing"))
			}
			_ = m.Reply(m.Data)
			span.End()
			s := spans.GetSpans()[0]
			spans.Reset()
			_ = out.Encode(seen{
				string(m.Data), s.SpanContext.TraceID().String(), s.SpanContext.SpanID().String(), s.Parent.SpanID().String(),
				s.SpanKind.String(), baggage.FromContext(ctx).Member("user").Value(), m.From(),
			})
		}
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	_ = g.Close()
}

// startOther starts the other process, and returns what it sees.
func startOther(t *testing.T, redis string, traces bool) (next func() seen) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherRedis+"="+redis)
	if traces {
		cmd.Env = append(cmd.Env, otherTraces+"=yes")
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return func() (s seen) {
		t.Helper()
		must(t, out.(*os.File).SetReadDeadline(time.Now().Add(time.Minute)))
		if !lines.Scan() {
			t.Fatalf("the other process has ended or sees nothing: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		return s
	}
}

func TestATraceGoesFromTheCallerThroughTheSendToTheHandler(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	there := startOther(t, redis, true)
	spans := newRecord()
	g := node(t, redis, spans.options()...)
	ctx, caller := spans.tracer().Start(t.Context(), "caller")
	member, err := baggage.NewMember("user", "eve")
	must(t, err)
	bag, err := baggage.New(member)
	must(t, err)
	must(t, g.SendDataContext(baggage.ContextWithBaggage(ctx, bag), "there", []byte("hello")))

	got, send := there(), spans.one(t, "send")
	if send.Parent.SpanID() != caller.SpanContext().SpanID() || send.SpanKind != trace.SpanKindProducer {
		t.Errorf("the send's span is a %s, child of %s", send.SpanKind, send.Parent.SpanID())
	}
	if got.Trace != caller.SpanContext().TraceID().String() || got.Parent != send.SpanContext.SpanID().String() {
		t.Errorf("the handler's span: %+v, the send's: %+v", got, send.SpanContext)
	}
	if got.Data != "hello" || got.Baggage != "eve" || got.Kind != "consumer" || got.Sender != g.Addr() {
		t.Errorf("%+v", got)
	}
	if send.Status.Code != codes.Unset {
		t.Errorf("%+v", send.Status)
	}
	has(t, send, attribute.String("messaging.system", "gone"), attribute.String("messaging.operation.name", "send"),
		attribute.String("messaging.operation.type", "send"), attribute.String("messaging.destination.name", "there"),
		attribute.Int("messaging.message.body.size", 5))

	if n, err := g.SendBatch(ctx, "there", [][]byte{{'1'}, {'2'}}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	batch := spans.GetSpans()[1]
	has(t, batch, attribute.Int("messaging.batch.message_count", 2))
	for range 2 {
		if got := there(); got.Parent != batch.SpanContext.SpanID().String() {
			t.Errorf("%+v", got)
		}
	}
}

func TestTheSpanOfARequestEndsWithItsReply(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	there := startOther(t, redis, true)
	spans := newRecord()
	g := node(t, redis, spans.options()...)
	for _, c := range []struct {
		ask, errorType string
		code           codes.Code
	}{{"yes", "", codes.Unset}, {"fail", "handler", codes.Error}} {
		spans.Reset()
		before := time.Now()
		_, err := g.Request(t.Context(), "there", []byte(c.ask))
		span, got := spans.one(t, "request"), there()
		if span.Status.Code != c.code || span.SpanKind != trace.SpanKindClient || got.Kind != "server" || span.EndTime.Before(before) {
			t.Errorf("%+v, and there %+v", span, got)
		}
		if got.Trace != span.SpanContext.TraceID().String() || got.Parent != span.SpanContext.SpanID().String() {
			t.Errorf("the handler's span: %+v, the request's: %+v", got, span.SpanContext)
		}
		if err != nil {
			has(t, span, attribute.String("error.type", c.errorType))
			if span.Status.Description != "no such thing" {
				t.Errorf("%+v", span.Status)
			}
		}
	}
}

func TestASpanSaysHowASendHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := gonetest.Cluster(t, 0)
		spans := newRecord()
		there, g := c.Start(), c.Start(spans.options()...)
		_, err := there.RunOne("there", func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				if m.WantsReply() {
					return
				}
			}
		})
		must(t, err)
		must(t, g.SendData("there", nil))
		for _, end := range []struct {
			name, errorType string
			err             error
			send            func() error
		}{
			{"send", "not_delivered", gone.ErrNotDelivered, func() error { return g.TrySendData("nobody", nil) }},
			{"request", "no_reply", gone.ErrNoReply, func() error {
				_, err := g.Request(t.Context(), "there", nil)
				return err
			}},
			{"send", "unknown", gone.ErrOutcomeUnknown, func() error {
				must(t, g.SendData("there", nil))
				spans.Reset()
				c.Cut(there)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return g.SendDataContext(ctx, "there", nil)
			}},
		} {
			spans.Reset()
			if err := end.send(); !errors.Is(err, end.err) {
				t.Errorf("%v, not %v", err, end.err)
			}
			s := spans.one(t, end.name)
			has(t, s, attribute.String("error.type", end.errorType))
			if s.Status.Code != codes.Error || s.Status.Description == "" {
				t.Errorf("%s: %+v", end.errorType, s.Status)
			}
		}
	})
}

func TestASpanSaysHowMuchOfABatchWasReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := newRecord()
		g := gonetest.Cluster(t, 0).Start(append(spans.options(), gone.WithMaxMessageSize(10))...)
		_, err := g.RunOne("here", func(r *gone.GoneRunner) {
			for range r.Messages() {
			}
		})
		must(t, err)
		n, err := g.SendBatch(t.Context(), "here", [][]byte{{1}, {2}, make([]byte, 11)})
		if n != 2 || !errors.Is(err, gone.ErrTooLarge) {
			t.Fatal(n, err)
		}
		has(t, spans.one(t, "send"), attribute.Int("messaging.gone.received", 2), attribute.Int("messaging.batch.message_count", 3))
	})
}

func TestSpansGoBesideAnotherObserver(t *testing.T) {
	for _, first := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			spans := newRecord()
			var told []string
			another := gone.WithObserver(gone.Observer{
				Sending: func(s gone.Sent) context.Context {
					ctx, _ := spans.tracer().Start(s.Context, "another") // which Sent must not take for its own
					return ctx
				},
				Sent: func(s gone.Sent) { told = append(told, s.ID) },
			})
			opts := append(spans.options(), another)
			if first {
				opts = append([]gone.Option{another}, spans.options()...)
			}
			g := gonetest.Cluster(t, 0).Start(opts...)
			_, err := g.RunOne("here", func(r *gone.GoneRunner) {
				for range r.Messages() {
				}
			})
			must(t, err)
			must(t, g.SendData("here", nil))
			if spans.one(t, "send"); !slices.Equal(told, []string{"here"}) {
				t.Errorf("the other observer is told of %v", told)
			}
		})
	}
}

// What has no room in the message is left here, the longest first: the trace goes on.
func TestBaggageOfMoreThan4KiBStaysHere(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	there := startOther(t, redis, true)
	spans := newRecord()
	g := node(t, redis, spans.options()...)
	member, err := baggage.NewMember("user", strings.Repeat("x", 5000))
	must(t, err)
	bag, err := baggage.New(member)
	must(t, err)
	must(t, g.SendDataContext(baggage.ContextWithBaggage(t.Context(), bag), "there", []byte("hello")))
	got := there()
	if got.Data != "hello" || got.Baggage != "" || got.Parent != spans.one(t, "send").SpanContext.SpanID().String() {
		t.Errorf("%+v", got)
	}
}

func TestNodesWithAndWithoutTracesSpeakToEachOther(t *testing.T) {
	t.Parallel()
	const none = "0000000000000000"
	t.Run("only the holder", func(t *testing.T) {
		redis := redistest.Start(t)
		there := startOther(t, redis, true)
		g := node(t, redis)
		must(t, g.SendData("there", []byte("hello")))
		if got := there(); got.Data != "hello" || got.Parent != none {
			t.Errorf("%+v", got)
		}
	})
	t.Run("only the sender", func(t *testing.T) {
		redis := redistest.Start(t)
		there := startOther(t, redis, false)
		spans := newRecord()
		g := node(t, redis, spans.options()...)
		reply, err := g.Request(t.Context(), "there", []byte("hello"))
		if got := there(); err != nil || string(reply) != "hello" || got.Data != "hello" || got.Parent != none {
			t.Errorf("%q, %v, %+v", reply, err, got)
		}
		spans.one(t, "request")
	})
	t.Run("not the one in the middle", func(t *testing.T) {
		redis := redistest.Start(t)
		there := startOther(t, redis, true)
		spans := newRecord()
		g, middle := node(t, redis, spans.options()...), node(t, redis)
		_, err := middle.RunOne("middle", func(r *gone.GoneRunner) {
			for m := range r.Messages() {
				reply, err := middle.Request(m.Context(), "there", m.Data)
				if err != nil {
					_ = m.Fail(err)
				}
				_ = m.Reply(reply)
			}
		})
		must(t, err)
		for i := range 100 {
			want := fmt.Sprint(i)
			reply, err := g.Request(t.Context(), "middle", []byte(want))
			if got := there(); err != nil || string(reply) != want || got.Data != want || got.Parent != none {
				t.Fatalf("%q, %v, %+v", reply, err, got)
			}
		}
	})
}
