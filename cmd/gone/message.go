package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	gone "github.com/Diggs/go-one"
)

// A reply is what comes of a request, or of a send, which has none.
type reply struct {
	ID      string  `json:"id"`
	Seconds float64 `json:"seconds"`
	Reply   *string `json:"reply,omitempty"`
	Base64  []byte  `json:"base64,omitempty"`
}

func (s *session) send(args []string) error {
	data, err := s.data(args)
	if err != nil {
		return err
	}
	if err := s.join(args[0]); err != nil {
		return err
	}
	began := time.Now()
	if err := s.node.SendDataContext(s.ctx, args[0], data); err != nil {
		return err
	}
	return s.print(reply{ID: args[0], Seconds: time.Since(began).Seconds()}, func(io.Writer) {})
}

func (s *session) request(args []string) error {
	data, err := s.data(args)
	if err != nil {
		return err
	}
	if err := s.join(args[0]); err != nil {
		return err
	}
	began := time.Now()
	got, err := s.node.Request(s.ctx, args[0], data)
	if err != nil {
		return err
	}
	if s.output == "json" {
		r := reply{ID: args[0], Seconds: time.Since(began).Seconds()}
		if text := string(got); utf8.Valid(got) {
			r.Reply = &text
		} else {
			r.Base64 = got
		}
		return s.print(r, nil)
	}
	if s.terminal() && !strings.HasSuffix(string(got), "\n") {
		got = append(got, '\n')
	}
	_, err = s.out.Write(got)
	return err
}

// data is what is to be sent.
func (s *session) data(args []string) ([]byte, error) {
	switch {
	case len(args) == 1:
		return nil, nil
	case args[1] != "-":
		return []byte(args[1]), nil
	}
	data, err := within(s.ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(s.in, int64(s.maxSize)+1)) })
	switch {
	case err != nil:
		return nil, fmt.Errorf("the standard input: %w", err)
	case len(data) > s.maxSize:
		return nil, fmt.Errorf("%w: the standard input has more than %d bytes (see -max-size)", gone.ErrTooLarge, s.maxSize)
	}
	return data, nil
}

// terminal reports whether a person reads along.
func (s *session) terminal() bool {
	f, ok := s.out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
