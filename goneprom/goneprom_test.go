package goneprom_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/goneprom"
	"github.com/Diggs/go-one/internal/redistest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A watched is a node and its metrics.
type watched struct {
	*gone.Gone
	*prometheus.Registry // pedantic: it checks each scrape against what was described
}

func start(t testing.TB, redis string, opts ...goneprom.Option) watched {
	t.Helper()
	c := goneprom.New(opts...)
	quiet := gone.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	g, err := gone.NewGone("tcp://127.0.0.1:0", gone.RedisLocks(redis), quiet, gone.WithObserver(c.Observer()),
		gone.WithSendTimeout(5*time.Second))
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	w := watched{g, prometheus.NewPedanticRegistry()}
	must(t, w.Register(c))
	w.scrape(t) // there is no node yet
	c.Watch(g)
	return w
}

func (w watched) scrape(t testing.TB) []*dto.MetricFamily {
	t.Helper()
	fs, err := w.Gather()
	must(t, err)
	return fs
}

// value is that of a series, as `name{label="value"}`; of a histogram, how much it has
// counted. -1: there is none.
func (w watched) value(t testing.TB, series string) float64 {
	t.Helper()
	for _, f := range w.scrape(t) {
		for _, m := range f.Metric {
			if series != shown(f.GetName(), m) {
				continue
			}
			switch {
			case m.Counter != nil:
				return m.Counter.GetValue()
			case m.Histogram != nil:
				return float64(m.Histogram.GetSampleCount())
			}
			return m.Gauge.GetValue()
		}
	}
	return -1
}

func shown(name string, m *dto.Metric) string {
	var labels []string
	for _, l := range m.Label {
		labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	if labels == nil {
		return name
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}

// has waits for values: what a handler receives is told a little later.
func (w watched) has(t testing.TB, want map[string]float64) {
	t.Helper()
	for _, series := range slices.Sorted(maps.Keys(want)) {
		var got float64
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if got = w.value(t, series); got == want[series] {
				break
			}
		}
		if got != want[series] {
			t.Errorf("%s is %v, not %v", series, got, want[series])
		}
	}
}

// serve answers a request, but for one with "fail", which it fails, and one with
// "return", which ends the tenure.
func serve(r *gone.GoneRunner) {
	for m := range r.Messages() {
		switch string(m.Data) {
		case "fail":
			_ = m.Fail(errors.New("no"))
		case "extend":
			_ = r.Extend()
		case "return":
			return
		}
		_ = m.Reply(nil)
	}
}

func TestWhatHappensIsCounted(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	holder, sender := start(t, redis), start(t, redis)
	_, err := holder.RunOne("a", serve)
	must(t, err)
	must(t, sender.SendData("a", []byte("1234")))
	_, err = sender.SendBatch(t.Context(), "a", [][]byte{{1}, {2}})
	must(t, err)
	if _, err := sender.Request(t.Context(), "a", []byte("fail")); err == nil {
		t.Error("the handler has not failed it")
	}
	if err := sender.TrySendData("nobody", nil); !errors.Is(err, gone.ErrNotDelivered) {
		t.Error(err)
	}
	if _, err := sender.Request(t.Context(), "a", []byte("return")); !errors.Is(err, gone.ErrOutcomeUnknown) {
		t.Error(err)
	}
	_, err = sender.Request(t.Context(), "a", []byte("extend")) // of its next tenure
	must(t, err)
	sender.has(t, map[string]float64{
		`gone_messages_sent_total{result="received"}`:      5,
		`gone_messages_sent_total{result="not_delivered"}`: 1,
		`gone_messages_sent_total{result="unknown"}`:       1,
		`gone_delivery_seconds{result="received"}`:         3,
		`gone_delivery_seconds{result="failed"}`:           1,
		`gone_delivery_seconds{result="unknown"}`:          1,
		`gone_delivery_seconds{result="not_delivered"}`:    1,
		`gone_link_changes_total{state="open"}`:            1,
		`gone_link_changes_total{state="silent"}`:          0,
		`gone_lock_call_failures_total{call="holder"}`:     0,
		`gone_links`:                   1,
		`gone_tenures`:                 0,
		`gone_messages_received_total`: 0,
	})
	holder.has(t, map[string]float64{
		`gone_tenures`:                               1,
		`gone_tenures_begun_total`:                   2,
		`gone_tenures_lost_total`:                    0,
		`gone_tenures_ended_total{cause="returned"}`: 1,
		`gone_tenures_ended_total{cause="lost"}`:     0,
		`gone_messages_received_total`:               6,
		`gone_received_bytes_total`:                  4 + 2 + 4 + 6 + 6,
		`gone_queue_seconds`:                         6,
		`gone_extend_seconds{result="extended"}`:     1,
		`gone_waiting_messages`:                      0,
	})
	must(t, holder.Close())
	holder.has(t, map[string]float64{`gone_tenures`: 0, `gone_tenures_ended_total{cause="closed"}`: 1})
}

func TestOnlyTheIDsThatAreAskedForHaveLabels(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	g := start(t, redis, goneprom.WithIDs("a"))
	for _, id := range []string{"a", "b", "c"} {
		_, err := g.RunOne(id, serve)
		must(t, err)
		must(t, g.SendData(id, nil))
	}
	g.has(t, map[string]float64{
		`gone_delivery_seconds{id="a",result="received"}`: 1,
		`gone_delivery_seconds{id="",result="received"}`:  2,
		`gone_delivery_seconds{id="b",result="received"}`: -1,
		`gone_queue_seconds{id="a"}`:                      1,
		`gone_queue_seconds{id=""}`:                       2,
	})
}

func TestSeveralNodesOfAProcessHaveALabelEach(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	all := prometheus.NewPedanticRegistry()
	quiet := gone.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	var addrs []string
	for range 2 {
		c := goneprom.New()
		g, err := gone.NewGone("tcp://127.0.0.1:0", gone.RedisLocks(redis), quiet, gone.WithObserver(c.Observer()))
		must(t, err)
		defer g.Close()
		c.Watch(g)
		must(t, prometheus.WrapRegistererWith(prometheus.Labels{"node": g.Addr()}, all).Register(c))
		addrs = append(addrs, g.Addr())
	}
	w := watched{nil, all}
	for _, addr := range addrs {
		w.has(t, map[string]float64{
			fmt.Sprintf("gone_tenures{node=%q}", addr):                              0,
			fmt.Sprintf("gone_delivery_seconds{node=%q,result=\"received\"}", addr): 0,
		})
	}
}
