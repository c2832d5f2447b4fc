package goneprom_test

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goneprom"
	"github.com/Diggs/go-one/gonetest"
)

func Example() {
	locks := gonetest.NewLocks().Factory(0) // gone.RedisLocks("redis://…") in a program
	quiet := gone.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	metrics := goneprom.New()
	g, err := gone.NewGone("tcp://127.0.0.1:0", locks, quiet, gone.WithObserver(metrics.Observer()))
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()
	metrics.Watch(g)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()

	started := make(chan struct{})
	_, err = g.RunOne("billing", func(r *gone.GoneRunner) {
		close(started)
		<-r.Exit
	})
	if err != nil {
		log.Fatal(err)
	}
	<-started

	resp, err := http.Get(server.URL)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "gone_tenures") {
			fmt.Print(line)
		}
	}
	// Output:
	// gone_tenures 1
	// gone_tenures_begun_total 1
	// gone_tenures_ended_total{cause="closed"} 0
	// gone_tenures_ended_total{cause="lost"} 0
	// gone_tenures_ended_total{cause="returned"} 0
	// gone_tenures_ended_total{cause="yielded"} 0
	// gone_tenures_lost_total 0
}
