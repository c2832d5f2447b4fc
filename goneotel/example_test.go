package goneotel_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goneotel"
	"github.com/Diggs/go-one/gonetest"
)

func Example() {
	spans := tracetest.NewInMemoryExporter() // one to your collector in a program
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{}) // without it nothing goes along
	tracer := otel.Tracer("billing")

	locks := gonetest.NewLocks().Factory(0) // gone.RedisLocks("redis://…") in a program
	quiet := gone.WithLogger(slog.New(slog.DiscardHandler))
	g, err := gone.NewGone("tcp://127.0.0.1:0", locks, append(goneotel.Options(), quiet)...)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	_, err = g.RunOne("billing", func(r *gone.GoneRunner) {
		for m := range r.Messages() {
			_, span := tracer.Start(m.Context(), "process", goneotel.Process(r, m)...)
			span.End()
			_ = m.Reply([]byte("paid"))
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, span := tracer.Start(context.Background(), "order")
	reply, err := g.Request(ctx, "billing", []byte("invoice 7"))
	span.End()
	fmt.Printf("%s, %v\n", reply, err)
	for _, s := range spans.GetSpans() { // in the order in which they ended
		fmt.Println(s.Name, s.SpanKind, s.SpanContext.TraceID() == span.SpanContext().TraceID())
	}
	// Output:
	// paid, <nil>
	// process server true
	// request client true
	// order internal true
}
