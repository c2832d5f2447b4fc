package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	gone "github.com/Diggs/go-one"
)

func (s *session) nodes([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	nodes, err := s.list()
	if err != nil {
		return err
	}
	type row struct {
		Addr     string    `json:"addr"`
		Since    time.Time `json:"since"`
		Held     int       `json:"held"`
		Weight   float64   `json:"weight"`
		Draining bool      `json:"draining"`
		Version  string    `json:"version"`
	}
	rows := []row{}
	for _, n := range nodes {
		rows = append(rows, row{n.Addr, n.Since, n.Held, n.Weight, n.Draining, n.Version})
	}
	return s.print(rows, func(w io.Writer) {
		fmt.Fprintln(w, "NODE\tHELD\tWEIGHT\tAGE\tVERSION\tSTATE")
		for _, n := range rows {
			state := ""
			if n.Draining {
				state = "draining"
			}
			fmt.Fprintf(w, "%s\t%d\t%g\t%s\t%s\t%s\n",
				printable(n.Addr), n.Held, n.Weight, short(time.Since(n.Since)), printable(cmp.Or(n.Version, "-")), cmp.Or(state, "-"))
		}
	})
}

// An answer is what a node says of itself.
type answer struct {
	node   gone.Node
	status gone.Status
	err    error
}

// survey asks all nodes that are listed.
func (s *session) survey() ([]answer, error) {
	nodes, err := s.list()
	if err != nil {
		return nil, err
	}
	answers := make([]answer, len(nodes))
	var all sync.WaitGroup
	under := make(chan struct{}, 64)
	for i, n := range nodes {
		under <- struct{}{}
		all.Go(func() {
			defer func() { <-under }()
			status, err := s.node.Status(s.ctx, n.Addr)
			answers[i] = answer{n, status, known(err)}
		})
	}
	all.Wait()
	return answers, nil
}

// known leaves out that a question may have been received: nothing comes of it.
func known(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gone.ErrRefused):
		return &finding{"bad", "", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "gone: "), "outcome unknown: "), exitRefused}
	}
	return &finding{"bad", "", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "gone: "), "outcome unknown: "), exitUnreachable}
}

func (s *session) ids([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	answers, err := s.survey()
	if err != nil {
		return err
	}
	type row struct {
		ID       string    `json:"id"`
		Addr     string    `json:"addr"`
		Token    uint64    `json:"token"`
		Since    time.Time `json:"since"`
		Deadline time.Time `json:"deadline"`
		Stopping bool      `json:"stopping"`
		Waiting  int       `json:"waiting"`
		Bytes    int       `json:"waitingBytes"`
		Received uint64    `json:"received"`
	}
	rows := []row{}
	for _, a := range answers {
		err = cmp.Or(err, a.err)
		for _, t := range a.status.Tenures {
			rows = append(rows, row{t.ID, a.node.Addr, t.Token, t.Since, t.Deadline, t.Stopping, t.Waiting, t.WaitingBytes, t.Received})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), cmp.Compare(a.Token, b.Token))
	})
	return errors.Join(s.print(rows, func(w io.Writer) {
		fmt.Fprintln(w, "ID\tNODE\tTOKEN\tAGE\tLEASE LEFT\tWAITING\tRECEIVED\tSTATE")
		for _, r := range rows {
			state := "-"
			if r.Stopping {
				state = "stopping"
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\n", printable(r.ID), printable(r.Addr), r.Token,
				short(time.Since(r.Since)), short(time.Until(r.Deadline)), r.Waiting, r.Received, state)
		}
	}), err)
}

// A sight is who holds an id.
type sight struct {
	Time  *time.Time `json:"time,omitempty"`
	ID    string     `json:"id"`
	Addr  string     `json:"addr,omitempty"`
	Token uint64     `json:"token,omitempty"`
	Error string     `json:"error,omitempty"`
}

func (s *session) holder(args []string) error {
	id := args[0]
	if err := s.join(id); err != nil {
		return err
	}
	h, err := s.node.Holder(s.ctx, id)
	if errors.Is(err, gone.ErrNoHolder) {
		return fmt.Errorf("%w of %q", gone.ErrNoHolder, id)
	}
	if err != nil {
		return s.asked(err)
	}
	return s.print(sight{ID: id, Addr: h.Addr, Token: h.Token}, func(w io.Writer) {
		fmt.Fprintf(w, "%s\ttoken %d\n", printable(h.Addr), h.Token)
	})
}

func (s *session) watch(args []string) error {
	id := args[0]
	if err := s.join(id); err != nil {
		return err
	}
	for h, err := range s.node.Watch(s.ctx, id) {
		now := time.Now()
		v := sight{Time: &now, ID: id, Addr: h.Addr, Token: h.Token}
		text := fmt.Sprintf("%s\ttoken %d", printable(h.Addr), h.Token)
		switch {
		case errors.Is(err, gone.ErrNoHolder):
			text = "nobody"
		case err != nil:
			v.Error = strings.TrimPrefix(err.Error(), "gone: ")
			text = "unknown: " + printable(v.Error)
		}
		if err := s.row(v, now.Format("15:04:05.000")+"\t"+text); err != nil {
			return err
		}
	}
	return nil
}

// bundle prints what the nodes say of themselves. It has neither data nor keys, nor how the
// lock service is reached.
func (s *session) bundle([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	report, err := s.node.Report(s.ctx)
	if err != nil {
		return err
	}
	s.output = "json"
	return s.print(report, nil)
}

// A finding is one thing that check has looked at.
type finding struct {
	State string `json:"state"` // ok, warning or bad
	About string `json:"about"`
	Text  string `json:"text"`
	code  int
}

func (f *finding) Error() string { return f.Text }

func (s *session) check([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	found := []*finding{s.checkService()}
	note := func(state, about string, code int, text string, args ...any) {
		found = append(found, &finding{state, about, fmt.Sprintf(text, args...), code})
	}
	answers, err := s.survey()
	switch {
	case err != nil:
		note("bad", "cluster "+s.cluster, codeOf(err), "%v", err)
	case len(answers) == 0:
		note("bad", "cluster "+s.cluster, exitNobody, "no node is listed")
	default:
		checkSpread(answers, note)
	}
	for _, a := range answers {
		checkNode(a, note)
	}
	bad := slices.IndexFunc(found, func(f *finding) bool { return f.State == "bad" })
	err = s.print(map[string]any{"ok": bad < 0, "findings": found}, func(w io.Writer) {
		for _, f := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, printable(f.About), printable(f.Text))
		}
	})
	if bad >= 0 && err == nil {
		err = found[bad]
	}
	return err
}

// checkService has the lock service say what is wrong with it.
func (s *session) checkService() *finding {
	f := &finding{State: "ok", About: "lock service", Text: "can be used"}
	_, err := within(s.ctx, func() (any, error) { return nil, s.tryService() })
	switch {
	case err == nil:
		return f
	case errors.Is(err, gone.ErrDegraded):
		f.State = "warning"
	default:
		f.State, f.code = "bad", exitUnreachable
	}
	f.Text = strings.TrimPrefix(err.Error(), "gone: ")
	return f
}

func (s *session) tryService() error {
	lock, err := s.backend.locks("gone:check", s.node.Addr())
	if err != nil {
		return err
	}
	defer closeLock(lock)
	if c, ok := lock.(gone.Checker); ok {
		return c.Check(s.ctx)
	}
	if _, err = lock.GetValue(); errors.Is(err, gone.ErrNoHolder) {
		return nil
	}
	return err
}

// checkSpread looks at who holds how many.
func checkSpread(answers []answer, note func(state, about string, code int, text string, args ...any)) {
	const many = 10
	held, able, most := 0, 0, answers[0].node
	for _, a := range answers {
		held += a.node.Held
		if a.node.Weight > 0 && !a.node.Draining {
			able++
		}
		if a.node.Held > most.Held {
			most = a.node
		}
	}
	if able == 0 {
		note("bad", "cluster", exitFailed, "no node may hold anything: all drain or have weight 0")
	}
	if held >= many && able > 1 && most.Held == held {
		note("warning", most.Addr, 0, "holds all %d ids, and %d nodes could (WithBalance spreads them)", held, able)
	}
}

// checkNode looks at what a node says of itself.
func checkNode(a answer, note func(state, about string, code int, text string, args ...any)) {
	about, stats := a.node.Addr, a.status.Stats
	if a.err != nil {
		var f *finding
		errors.As(a.err, &f)
		note("bad", about, f.code, "%s", f.Text)
		return
	}
	note("ok", about, 0, "answers, and holds %d", len(a.status.Tenures))
	if stats.Twins > 0 {
		note("bad", about, exitFailed, "another process has, or had, this address: %d signs", stats.Twins)
	}
	for _, t := range a.status.Tenures {
		if time.Until(t.Deadline) < 0 || t.Stopping {
			note("warning", about, 0, "the handler of %q is to end, and has not", t.ID)
		}
	}
	for _, l := range a.status.Links {
		if l.State == gone.LinkSilent || l.Err != "" {
			note("warning", about, 0, "hears nothing of %s; %s", l.Addr, cmp.Or(strings.TrimPrefix(l.Err, "gone: "), "it does not say why"))
		}
	}
	if a.node.Draining {
		note("warning", about, 0, "drains")
	}
	if stats.Overdue > 0 {
		note("warning", about, 0, "%d handlers did not return in time after Exit", stats.Overdue)
	}
	if stats.Refused > 0 {
		note("warning", about, 0, "has refused %d connections or frames for their keys", stats.Refused)
	}
}
