package gonehttp

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	gone "github.com/Diggs/go-one"
)

// A View is what the page shows. Times are by the clock of their node; durations, in
// milliseconds, need no clock to be compared with. Unless it is Whole and no node has an
// Err, an id that it does not show may be held all the same.
type View struct {
	Time     time.Time
	By       string // address of the node that serves the page
	Cluster  string
	Control  bool // the page may steer
	Whole    bool // Nodes are all of the cluster, as the roster could be read
	Held     int  // ids, at the nodes that have answered
	Troubles []gone.Trouble
	Nodes    []Node // by address
	IDs      *IDs   `json:",omitempty"`
	Story    *Story `json:",omitempty"` // in their place, where one was asked for
}

// A Node is one of the cluster.
type Node struct {
	Addr     string
	Err      string `json:",omitempty"` // why it does not answer; then the rest is unknown
	Held     int
	Share    float64 // of the ids that are held, 0 to 1
	Fair     float64 // of them, by its weight
	Standby  int     // ids that it runs and does not hold
	Waiting  int     // messages
	Since    time.Time
	Up       int64 // ms
	Weight   float64
	Draining bool
	Control  bool   // it may be steered from here
	Version  string `json:",omitempty"`
}

// IDs are a page of those that are held and were asked for.
type IDs struct {
	All   int // ids that are held
	Found int // that were asked for
	Page  int // from 1
	Pages int
	Rows  []Row
}

// A Row is a tenure that runs.
type Row struct {
	ID           string // to be read: what can't be is escaped as in Go
	Key          string // the id for a query, percent-encoded
	Node         string
	Token        uint64 `json:",string"`
	Since        time.Time
	Age          int64 // ms
	Left         int64 // ms until its lease ends; 0 is unknown unless it is Stopping: it may have been extended since
	TTL          int64 // ms
	Stopping     bool  `json:",omitempty"` // its node has said that Exit has closed, or that the lease is over
	Waiting      int
	WaitingBytes int
	Received     uint64

	id string
}

// A Story is that of one id, as far as the nodes that have answered remember: each its last
// thousand tenures since it was started. So nobody need have known of a tenure between two.
type Story struct {
	ID   string
	Key  string
	Now  []Row  // tenures that run: one, or none, or more when something is wrong
	Past []Past // the latest first
}

// A Past is a tenure that has ended.
type Past struct {
	Node  string
	Token uint64 `json:",string"`
	Since time.Time
	Ended time.Time
	Cause string
}

const pageSize = 100

// A wanted says what a View is to have.
type wanted struct {
	text, node, sort, id string
	page                 int
}

func query(r *http.Request) wanted {
	q := r.URL.Query()
	page, _ := strconv.Atoi(q.Get("page"))
	return wanted{strings.ToLower(q.Get("q")), q.Get("node"), q.Get("sort"), q.Get("id"), page}
}

// A snapshot is what the nodes have said, ready to be shown to many.
type snapshot struct {
	gone.Report
	until time.Time // new enough
	at    time.Time // what rows are counted to, whenever their nodes have answered
	nodes []Node
	rows  []Row // by id
}

func snap(r gone.Report, until time.Time) *snapshot {
	s := &snapshot{Report: r, until: until, at: time.Now()}
	held, weights := 0, 0.0
	for _, n := range r.Nodes {
		if n.Status != nil {
			held += len(n.Status.Tenures)
			weights += share(n.Status.Node)
		}
	}
	for _, n := range r.Nodes {
		if n.Status == nil {
			s.nodes = append(s.nodes, Node{Addr: n.Addr, Err: n.Err})
			continue
		}
		st := n.Status
		s.nodes = append(s.nodes, Node{
			Addr: n.Addr, Held: len(st.Tenures), Standby: st.Standby, Waiting: st.Stats.Waiting,
			Share: float64(len(st.Tenures)) / max(1, float64(held)), Fair: share(st.Node) / max(weights, 1e-9),
			Since: st.Node.Since, Up: ms(st.Time.Sub(st.Node.Since)), Weight: st.Node.Weight, Draining: st.Node.Draining,
			Control: st.Setup.Control || n.Addr == r.By, Version: st.Node.Version,
		})
		for _, t := range st.Tenures {
			s.rows = append(s.rows, row(n.Addr, t, st.Time).later(s.at.Sub(n.Time)))
		}
	}
	slices.SortFunc(s.rows, func(a, b Row) int { return cmp.Or(strings.Compare(a.id, b.id), cmp.Compare(b.Token, a.Token)) })
	return s
}

// share is a node's weight in what is to be spread.
func share(n gone.Node) float64 {
	if n.Draining {
		return 0
	}
	return n.Weight
}

func row(addr string, t gone.Tenure, now time.Time) Row {
	return Row{
		ID: readable(t.ID), Key: url.QueryEscape(t.ID), Node: addr, Token: t.Token, Since: t.Since,
		Age: ms(now.Sub(t.Since)), Left: ms(t.Deadline.Sub(now)), TTL: ms(t.TTL), Stopping: t.Stopping || !t.Deadline.After(now),
		Waiting: t.Waiting, WaitingBytes: t.WaitingBytes, Received: t.Received, id: t.ID,
	}
}

// later is a row when some time has passed.
func (r Row) later(passed time.Duration) Row {
	r.Age, r.Left = r.Age+ms(passed), max(0, r.Left-ms(passed))
	return r
}

func ms(d time.Duration) int64 { return d.Milliseconds() }

// view is what is shown of a snapshot.
func (s *snapshot) view(want wanted, control bool) View {
	v := View{Time: s.Time, By: s.By, Control: control, Whole: s.Whole, Held: len(s.rows), Troubles: append([]gone.Trouble{}, s.Troubles...), Nodes: s.nodes}
	for _, n := range s.Report.Nodes {
		if n.Status != nil {
			v.Cluster = n.Status.Setup.Cluster
		}
	}
	if want.id != "" {
		v.Story = s.story(want.id)
		return v
	}
	rows := s.search(want)
	pages := max(1, (len(rows)+pageSize-1)/pageSize)
	page := min(max(want.page, 1), pages)
	v.IDs = &IDs{All: len(s.rows), Found: len(rows), Page: page, Pages: pages, Rows: []Row{}}
	since := time.Since(s.at)
	for _, r := range rows[(page-1)*pageSize : min(page*pageSize, len(rows))] {
		v.IDs.Rows = append(v.IDs.Rows, r.later(since))
	}
	return v
}

// search returns the rows that are wanted, in the order that is.
func (s *snapshot) search(want wanted) []Row {
	rows := s.rows
	if want.text != "" || want.node != "" {
		rows = nil
		for _, r := range s.rows {
			if (want.node == "" || r.Node == want.node) && (strings.Contains(strings.ToLower(r.ID), want.text) || strings.Contains(r.Node, want.text)) {
				rows = append(rows, r)
			}
		}
	}
	orders := map[string]func(a, b Row) int{
		"node":    func(a, b Row) int { return strings.Compare(a.Node, b.Node) },
		"newest":  func(a, b Row) int { return cmp.Compare(a.Age, b.Age) },
		"waiting": func(a, b Row) int { return cmp.Compare(b.Waiting, a.Waiting) },
		"lease":   func(a, b Row) int { return cmp.Compare(a.Left, b.Left) },
	}
	if order := orders[want.sort]; order != nil {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, order)
	}
	return rows
}

// story is what the nodes that have answered know of an id.
func (s *snapshot) story(id string) *Story {
	st := &Story{ID: readable(id), Key: url.QueryEscape(id), Now: []Row{}, Past: []Past{}}
	since := time.Since(s.at)
	at, _ := slices.BinarySearchFunc(s.rows, id, func(r Row, id string) int { return strings.Compare(r.id, id) })
	for ; at < len(s.rows) && s.rows[at].id == id; at++ {
		st.Now = append(st.Now, s.rows[at].later(since))
	}
	for _, n := range s.Report.Nodes {
		if n.Status == nil {
			continue
		}
		for _, p := range n.Status.Past {
			if p.ID == id {
				st.Past = append(st.Past, Past{n.Addr, p.Token, p.Since, p.Ended, p.Cause})
			}
		}
	}
	slices.SortFunc(st.Past, func(a, b Past) int { return cmp.Or(cmp.Compare(b.Token, a.Token), b.Since.Compare(a.Since)) })
	return st
}

// readable is an id as a person can read it, on one line and without what would change the
// direction of what stands behind it.
func readable(id string) string {
	plain := utf8.ValidString(id)
	for _, r := range id {
		plain = plain && unicode.IsPrint(r)
	}
	if plain {
		return id
	}
	q := strconv.Quote(id)
	return q[1 : len(q)-1]
}
