// Package goneprom shows a node of gone to Prometheus.
//
//	c := goneprom.New()
//	g, err := gone.NewGone(addr, newLock, gone.WithObserver(c.Observer()))
//	c.Watch(g)
//	prometheus.MustRegister(c)
//
// Each node has a collector of its own. Where a process has several nodes, each is
// registered with a label:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"node": g.Addr()}, prometheus.DefaultRegisterer).MustRegister(c)
//
// The names of the metrics begin with gone_. The directory has a dashboard for Grafana,
// dashboard.json, and rules for alerts, alerts.yml. Both tell nodes apart by the labels
// instance and node.
package goneprom

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	gone "github.com/Diggs/go-one"
)

// A Collector is the metrics of one node.
type Collector struct {
	node atomic.Pointer[gone.Gone]
	ids  map[string]bool // that have a label of their own

	delivery, queue, extend *prometheus.HistogramVec
	links, ended            *prometheus.CounterVec
}

// An Option changes a default of [New].
type Option func(*Collector)

// WithIDs sets the ids whose times get a label of their own, "id", which is empty for all
// others. Each id costs some 100 series, so name only the few that matter.
func WithIDs(ids ...string) Option {
	return func(c *Collector) {
		for _, id := range ids {
			c.ids[id] = true
		}
	}
}

// New returns the collector of one node.
func New(opts ...Option) *Collector {
	c := &Collector{ids: map[string]bool{}}
	for _, opt := range opts {
		opt(c)
	}
	times := func(name, help string, first float64, n int, labels ...string) *prometheus.HistogramVec {
		if len(c.ids) > 0 {
			labels = append(labels, "id")
		}
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gone_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 4, n),
		}, labels)
	}
	c.delivery = times("delivery_seconds", "Time from a send to its result.", 25e-6, 11, "result")
	c.queue = times("queue_seconds", "Time that a message waited for its handler, on the handler's node.", 25e-6, 11)
	c.extend = times("extend_seconds", "Time that an Extend took, with all its attempts.", 250e-6, 9, "result")
	count := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gone_" + name, Help: help}, []string{label})
	}
	c.links = count("link_changes_total", "Links to other nodes that have come to a state.", "state")
	c.ended = count("tenures_ended_total", "Tenures that have ended, by their cause.", "cause")
	c.begin()
	return c
}

// begin has each series begin with 0: Prometheus sees no increase in one that begins
// with 1.
func (c *Collector) begin() {
	for _, state := range []string{"open", "silent", "refused", "ended"} {
		c.links.WithLabelValues(state)
	}
	for _, cause := range []string{"yielded", "closed", "returned", "lost"} {
		c.ended.WithLabelValues(cause)
	}
	for id := range c.ids {
		c.beginID(id)
	}
	c.beginID("")
}

func (c *Collector) beginID(id string) {
	for _, result := range []string{"received", "failed", "unknown", "not_delivered"} {
		c.of(c.delivery, id, result)
	}
	for _, result := range []string{"extended", "lost", "failed"} {
		c.of(c.extend, id, result)
	}
	c.of(c.queue, id)
}

// Observer returns what [gone.WithObserver] takes.
func (c *Collector) Observer() gone.Observer {
	return gone.Observer{
		Sent:     func(s gone.Sent) { c.of(c.delivery, s.ID, result(s.Err)).Observe(s.Took.Seconds()) },
		Received: func(r gone.Received) { c.of(c.queue, r.ID).Observe(r.Queued.Seconds()) },
		Extended: func(e gone.Extended) { c.of(c.extend, e.ID, extendResult(e.Err)).Observe(e.Took.Seconds()) },
		Ended:    func(t gone.PastTenure) { c.ended.WithLabelValues(cause(t)).Inc() },
		Link:     func(l gone.LinkChange) { c.links.WithLabelValues(linkState(l)).Inc() },
	}
}

// of is the histogram of an id.
func (c *Collector) of(h *prometheus.HistogramVec, id string, labels ...string) prometheus.Observer {
	if len(c.ids) > 0 {
		if !c.ids[id] {
			id = ""
		}
		labels = append(labels, id)
	}
	return h.WithLabelValues(labels...)
}

// Watch adds the counters of a node. Before it is called there are only the times.
func (c *Collector) Watch(g *gone.Gone) { c.node.Store(g) }

// result is what a send has ended in, for a label.
func result(err error) string {
	var failed *gone.HandlerError
	switch {
	case err == nil:
		return "received"
	case errors.As(err, &failed):
		return "failed"
	case errors.Is(err, gone.ErrOutcomeUnknown):
		return "unknown"
	}
	return "not_delivered"
}

func extendResult(err error) string {
	switch {
	case err == nil:
		return "extended"
	case errors.Is(err, gone.ErrLockLost):
		return "lost"
	}
	return "failed"
}

// cause is why a tenure has ended. A handler that panicked counts as returned.
func cause(t gone.PastTenure) string {
	switch t.Cause {
	case gone.ErrYielded.Error():
		return "yielded"
	case gone.ErrClosed.Error():
		return "closed"
	case gone.ErrHandlerReturned.Error():
		return "returned"
	}
	return "lost"
}

func linkState(l gone.LinkChange) string {
	if errors.Is(l.Err, gone.ErrRefused) {
		return "refused"
	}
	return string(l.State)
}

// A metric is one of a node's counters.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(gone.Stats) float64
	label []string // its value
}

func counter(name, help string, value func(gone.Stats) uint64) metric {
	return metric{desc(name, help), prometheus.CounterValue, func(s gone.Stats) float64 { return float64(value(s)) }, nil}
}

func gauge(name, help string, value func(gone.Stats) int) metric {
	return metric{desc(name, help), prometheus.GaugeValue, func(s gone.Stats) float64 { return float64(value(s)) }, nil}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gone_"+name, help, labels, nil)
}

var metrics = append([]metric{
	gauge("tenures", "Tenures that run now.", func(s gone.Stats) int { return s.Held }),
	counter("tenures_begun_total", "Tenures that have begun.", func(s gone.Stats) uint64 { return s.Tenures }),
	counter("tenures_lost_total", "Tenures that have ended as the lock or the lease was lost.", func(s gone.Stats) uint64 { return s.Lost }),
	counter("handler_panics_total", "Handlers that have panicked.", func(s gone.Stats) uint64 { return s.Panics }),
	counter("handlers_overdue_total", "Handlers that have not returned in time after Exit had closed.", func(s gone.Stats) uint64 { return s.Overdue }),
	counter("malformed_frames_total", "Frames received that were not well-formed.", func(s gone.Stats) uint64 { return s.Malformed }),
	counter("refusals_total", "Connections and frames refused for their key.", func(s gone.Stats) uint64 { return s.Refused }),
	counter("address_twins_total", "Signs of another process with this node's address.", func(s gone.Stats) uint64 { return s.Twins }),
	counter("messages_received_total", "Messages that handlers of this node have received.", func(s gone.Stats) uint64 { return s.Received }),
	counter("received_bytes_total", "Bytes of these messages.", func(s gone.Stats) uint64 { return s.ReceivedBytes }),
	gauge("waiting_messages", "Messages of other nodes that wait for handlers here.", func(s gone.Stats) int { return s.Waiting }),
	gauge("waiting_bytes", "Bytes of these messages.", func(s gone.Stats) int { return s.WaitingBytes }),
	gauge("links", "Links to other nodes.", func(s gone.Stats) int { return s.Links }),
	counter("resent_frames_total", "Frames that were sent again.", func(s gone.Stats) uint64 { return s.Resent }),
}, labelled()...)

// labelled are those with a label.
func labelled() (ms []metric) {
	sent := desc("messages_sent_total", "Messages of this node, by their result.", "result")
	for result, value := range map[string]func(gone.Stats) uint64{
		"received":      func(s gone.Stats) uint64 { return s.Sent },
		"not_delivered": func(s gone.Stats) uint64 { return s.NotDelivered },
		"unknown":       func(s gone.Stats) uint64 { return s.Unknown },
	} {
		ms = append(ms, metric{sent, prometheus.CounterValue, func(s gone.Stats) float64 { return float64(value(s)) }, []string{result}})
	}
	calls := desc("lock_calls_total", "Calls of the lock service.", "call")
	failed := desc("lock_call_failures_total", "Calls of the lock service that said neither yes nor no.", "call")
	for call, value := range map[string]func(gone.LockStats) gone.Calls{
		"lock":   func(l gone.LockStats) gone.Calls { return l.Lock },
		"extend": func(l gone.LockStats) gone.Calls { return l.Extend },
		"unlock": func(l gone.LockStats) gone.Calls { return l.Unlock },
		"holder": func(l gone.LockStats) gone.Calls { return l.Holder },
		"roster": func(l gone.LockStats) gone.Calls { return l.Roster },
	} {
		ms = append(ms,
			metric{calls, prometheus.CounterValue, func(s gone.Stats) float64 { return float64(value(s.Lock).Total) }, []string{call}},
			metric{failed, prometheus.CounterValue, func(s gone.Stats) float64 { return float64(value(s.Lock).Failed) }, []string{call}})
	}
	return ms
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, v := range c.vectors() {
		v.Describe(to)
	}
	seen := map[*prometheus.Desc]bool{}
	for _, m := range metrics {
		if !seen[m.desc] {
			seen[m.desc] = true
			to <- m.desc
		}
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(to chan<- prometheus.Metric) {
	for _, v := range c.vectors() {
		v.Collect(to)
	}
	g := c.node.Load()
	if g == nil {
		return
	}
	stats := g.Stats()
	for _, m := range metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(stats), m.label...)
	}
}

func (c *Collector) vectors() []prometheus.Collector {
	return []prometheus.Collector{c.delivery, c.queue, c.extend, c.links, c.ended}
}
