// Package goneotel passes OpenTelemetry traces through nodes of gone.
//
//	g, err := gone.NewGone(addr, locks, goneotel.Options()...)
//
// Each call that sends has a span, a child of the one in the caller's context. It ends with
// the result of the send, or with the reply to a Request. The span's context, and whatever
// else the propagator takes along, such as baggage, is in the handler's
// [gone.Message.Context]. From there a handler starts a span of its own with [Process].
//
// Other observers can be used beside it, such as that of goneprom:
//
//	gone.NewGone(addr, locks, append(goneotel.Options(), gone.WithObserver(c.Observer()))...)
//
// If only one of two nodes has these options, or one has a version without traces, messages
// arrive all the same, and the trace ends there.
//
// Spans follow the semantic conventions for messaging of version 1.43.0, which are not
// stable yet. Spans are named without the id, as there may be thousands; it is in
// messaging.destination.name.
package goneotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	gone "github.com/Diggs/go-one"
)

// An Option changes a default of [Options].
type Option func(*tracing)

// WithTracerProvider sets what makes the spans, instead of [otel.GetTracerProvider].
func WithTracerProvider(p trace.TracerProvider) Option { return func(t *tracing) { t.provider = p } }

// WithPropagator sets what is taken along with messages, instead of
// [otel.GetTextMapPropagator], which takes nothing until it has been set.
func WithPropagator(p propagation.TextMapPropagator) Option { return func(t *tracing) { t.fields = p } }

// Options returns what a node needs for traces: an observer and a propagator. A message has
// room for 4 KiB of what is taken along. If there is more, the longest values, which are
// those of baggage, are left out.
func Options(opts ...Option) []gone.Option {
	t := &tracing{provider: otel.GetTracerProvider(), fields: otel.GetTextMapPropagator()}
	for _, opt := range opts {
		opt(t)
	}
	t.tracer = t.provider.Tracer("github.com/Diggs/go-one/goneotel", trace.WithSchemaURL(semconv.SchemaURL))
	return []gone.Option{
		gone.WithObserver(gone.Observer{Sending: t.sending, Sent: sent}),
		gone.WithPropagator(t),
	}
}

// Process returns options for the span of what a handler does with a message.
//
//	ctx, span := tracer.Start(m.Context(), "process", goneotel.Process(r, m)...)
//
// They say which tenure received it, and from where. The kind of a request's span is server,
// that of others consumer.
func Process(r *gone.GoneRunner, m *gone.Message) []trace.SpanStartOption {
	kind := trace.SpanKindConsumer
	if m.WantsReply() {
		kind = trace.SpanKindServer
	}
	return []trace.SpanStartOption{trace.WithSpanKind(kind), trace.WithAttributes(
		system,
		semconv.MessagingOperationName("process"),
		semconv.MessagingOperationTypeProcess,
		semconv.MessagingDestinationName(r.ID()),
		semconv.MessagingMessageBodySize(len(m.Data)),
		attribute.String("messaging.gone.sender", m.From()),
		attribute.Int64("messaging.gone.token", int64(r.FencingToken())),
	)}
}

var system = semconv.MessagingSystemKey.String("gone")

// tracing is a node's part in traces.
type tracing struct {
	provider trace.TracerProvider
	tracer   trace.Tracer
	fields   propagation.TextMapPropagator
}

// Inject and Extract are [gone.Propagator]'s.
func (t *tracing) Inject(ctx context.Context, carrier map[string]string) {
	t.fields.Inject(ctx, propagation.MapCarrier(carrier))
}

func (t *tracing) Extract(ctx context.Context, carrier map[string]string) context.Context {
	return t.fields.Extract(ctx, propagation.MapCarrier(carrier))
}

// spanKey is of the span of a send. In its context a later observer may have put another.
type spanKey struct{}

// sending starts the span of a send. Whoever requests waits for the handler, so its span
// is a client's.
func (t *tracing) sending(s gone.Sent) context.Context {
	name, kind := "send", trace.SpanKindProducer
	if s.Request {
		name, kind = "request", trace.SpanKindClient
	}
	about := []attribute.KeyValue{
		system,
		semconv.MessagingOperationName(name),
		semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(s.ID),
	}
	if s.Messages == 1 {
		about = append(about, semconv.MessagingMessageBodySize(s.Bytes))
	} else {
		about = append(about, semconv.MessagingBatchMessageCount(s.Messages))
	}
	ctx, span := t.tracer.Start(s.Context, name, trace.WithSpanKind(kind), trace.WithAttributes(about...))
	return context.WithValue(ctx, spanKey{}, span)
}

// sent ends the span of a send.
func sent(s gone.Sent) {
	span, _ := s.Context.Value(spanKey{}).(trace.Span)
	if span == nil { // a later observer has made a context of its own
		return
	}
	defer span.End()
	if s.Err == nil {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(s.Err)))
	span.SetStatus(codes.Error, s.Err.Error())
	if s.Messages > 1 {
		span.SetAttributes(attribute.Int("messaging.gone.received", s.Received))
	}
}

// errorType is one of few.
func errorType(err error) string {
	var failed *gone.HandlerError
	switch {
	case errors.As(err, &failed):
		return "handler"
	case errors.Is(err, gone.ErrNoReply):
		return "no_reply"
	case errors.Is(err, gone.ErrOutcomeUnknown):
		return "unknown"
	}
	return "not_delivered"
}
