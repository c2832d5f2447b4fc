package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
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

// report is what all nodes that are listed say of themselves, without this command and
// what is wrong with it alone.
func (s *session) report() (gone.Report, error) {
	r, err := s.node.Report(s.ctx)
	r.Nodes = slices.DeleteFunc(r.Nodes, func(n gone.NodeReport) bool { return n.Addr == r.By })
	r.Troubles = slices.DeleteFunc(r.Troubles, func(t gone.Trouble) bool { return len(t.Nodes) == 1 && t.Nodes[0] == r.By })
	if err == nil && !r.Whole {
		err = &serviceError{s.backend.host, errors.New("the list of nodes can't be read")}
	}
	return r, err
}

// mute is why a node has not answered.
func mute(n gone.NodeReport) *finding {
	f := &finding{"bad", n.Addr, n.Err, exitUnreachable}
	if errors.Is(n.Cause, gone.ErrRefused) {
		f.code = exitRefused
	}
	return f
}

func (s *session) ids([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	report, err := s.report()
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

		now time.Time // by the node's clock, as all times here
	}
	rows := []row{}
	for _, n := range report.Nodes {
		if n.Status == nil {
			err = cmp.Or[error](err, mute(n))
			continue
		}
		for _, t := range n.Status.Tenures {
			rows = append(rows, row{t.ID, n.Addr, t.Token, t.Since, t.Deadline, t.Stopping, t.Waiting, t.WaitingBytes, t.Received, n.Status.Time})
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
				short(r.now.Sub(r.Since)), short(r.Deadline.Sub(r.now)), r.Waiting, r.Received, state)
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

// bundle prints what the nodes say of themselves, and this command of itself.
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

// check tells of the nodes and the troubles of a report. What is minor there is a warning
// here. The first that is bad decides with which code the command exits.
func (s *session) check([]string) error {
	if err := s.join(""); err != nil {
		return err
	}
	found := []*finding{s.checkService()}
	report, err := s.report()
	switch {
	case err != nil:
		found = append(found, &finding{"bad", "cluster " + s.cluster, err.Error(), codeOf(err)})
	case len(report.Nodes) == 0:
		found = append(found, &finding{"bad", "cluster " + s.cluster, "no node is listed", exitNobody})
	}
	for _, n := range report.Nodes {
		switch {
		case n.Status == nil:
			found = append(found, mute(n))
		case n.Status.Node.Draining:
			found = append(found, &finding{State: "warning", About: n.Addr, Text: "drains"})
		default:
			found = append(found, &finding{State: "ok", About: n.Addr, Text: fmt.Sprintf("answers, and holds %d", len(n.Status.Tenures))})
		}
	}
	for _, t := range report.Troubles {
		f := &finding{"bad", cmp.Or(strings.Join(t.Nodes, ", "), "cluster "+s.cluster), t.What + " " + t.Do, exitFailed}
		if t.Minor {
			f.State = "warning"
		}
		found = append(found, f)
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
		f.State, f.code = "bad", exitFailed
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
		err = c.Check(s.ctx)
	} else if _, err = lock.GetValue(); errors.Is(err, gone.ErrNoHolder) {
		err = nil
	}
	if err == nil || errors.Is(err, gone.ErrDegraded) {
		return err
	}
	// A node knows what is no more than a refusal of that one id.
	if said := s.node.Check(s.ctx); !errors.Is(said, gone.ErrLockService) {
		return nil
	}
	return err
}
