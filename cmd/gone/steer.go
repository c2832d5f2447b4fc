package main

import (
	"context"
	"fmt"
	"io"
)

func (s *session) drain(args []string) error {
	return s.order(args[0], "drained", func(ctx context.Context, addr string) error { return s.node.DrainNode(ctx, addr) })
}

func (s *session) resume(args []string) error {
	return s.order(args[0], "resumed", func(ctx context.Context, addr string) error { return s.node.ResumeNode(ctx, addr) })
}

// A deed is what has been done.
type deed struct {
	ID   string `json:"id,omitempty"`
	Node string `json:"node,omitempty"`
	Done string `json:"done"`
}

// order has a node do something.
func (s *session) order(addr, done string, do func(ctx context.Context, addr string) error) error {
	if err := s.join(""); err != nil {
		return err
	}
	addr, err := s.find(addr)
	if err != nil {
		return err
	}
	if err := do(s.ctx, addr); err != nil {
		return err
	}
	return s.print(deed{Node: addr, Done: done}, func(w io.Writer) { fmt.Fprintf(w, "%s %s\n", printable(addr), done) })
}

// move says where the id went only where it was told.
func (s *session) move(args []string) (err error) {
	id, to := args[0], ""
	if err := s.join(id); err != nil {
		return err
	}
	if len(args) > 1 {
		if to, err = s.find(args[1]); err != nil {
			return err
		}
	}
	if err := s.node.Move(s.ctx, id, to); err != nil {
		return err
	}
	return s.print(deed{ID: id, Node: to, Done: "moved"}, func(w io.Writer) {
		fmt.Fprintf(w, "%s moved", printable(id))
		if to != "" {
			fmt.Fprintf(w, " to %s", printable(to))
		}
		fmt.Fprintln(w)
	})
}
