package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	gone "github.com/Diggs/go-one"
)

// options are those that all commands have.
type options struct {
	service
	member
	output  string
	timeout time.Duration
	verbose bool
}

// member is how this command is a node.
type member struct {
	cluster, addr, bind string
	keys, allowed       string // files
	maxSize             int
}

// usual is the timeout unless told otherwise.
const usual = 5 * time.Second

func (s *session) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("gone", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	s.options.service.define(flags)
	s.member.define(flags)
	flags.StringVar(&s.output, "o", "table", "table or json")
	flags.DurationVar(&s.timeout, "timeout", usual, "for the command")
	flags.BoolVar(&s.verbose, "v", false, "log what the library logs")
	return flags
}

func (m *member) define(flags *flag.FlagSet) {
	flags.StringVar(&m.cluster, "cluster", "gone", "name of the cluster")
	flags.StringVar(&m.addr, "addr", "", "where nodes reach this command")
	flags.StringVar(&m.bind, "bind", "", "where it listens instead")
	flags.StringVar(&m.keys, "keys", "", "file of a public and a secret key")
	flags.StringVar(&m.allowed, "allowed", "", "file of public keys")
	flags.IntVar(&m.maxSize, "max-size", gone.DefaultMaxMessageSize, "bytes of one message")
}

// settle adds the environment to the command line.
func (s *session) settle(flags *flag.FlagSet) error {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := s.options.service.exposed(); err != nil {
		return err
	}
	chosen := s.options.service.chosen() > 0
	var err error
	flags.VisitAll(func(f *flag.Flag) {
		name := "GONE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(name)
		if value == "" || given[f.Name] || chosen && isService(f.Name) || err != nil {
			return
		}
		if e := f.Value.Set(value); e != nil {
			err = misuse("%s: %w", name, e)
		}
	})
	switch {
	case err != nil:
		return err
	case s.output != "table" && s.output != "json":
		return misuse("-o %s: want table or json", s.output)
	case s.timeout <= 0:
		return misuse("-timeout %v is not positive", s.timeout)
	}
	return nil
}

// options of the node that this command is.
func (s *session) nodeOptions() ([]gone.Option, error) {
	log := slog.New(slog.DiscardHandler)
	if s.verbose {
		log = slog.New(slog.NewTextHandler(s.log, nil))
	}
	opts := []gone.Option{
		gone.WithLogger(log), gone.WithMaxMessageSize(s.maxSize),
		gone.WithSendTimeout(s.timeout), gone.WithCloseTimeout(time.Second),
	}
	public, secret := os.Getenv("GONE_PUBLIC_KEY"), os.Getenv("GONE_SECRET_KEY")
	if s.keys != "" {
		words, err := wordsOf(s.keys)
		if err != nil {
			return nil, misuse("-keys: %w", err)
		}
		if len(words) != 2 {
			return nil, misuse("-keys: %s has %d words, want a public and a secret key", s.keys, len(words))
		}
		public, secret = words[0], words[1]
	}
	if public != "" || secret != "" {
		opts = append(opts, gone.WithCurve(public, secret))
	}
	if s.allowed != "" {
		words, err := wordsOf(s.allowed)
		if err != nil {
			return nil, misuse("-allowed: %w", err)
		}
		opts = append(opts, gone.WithAllowedKeys(words...))
	}
	return opts, nil
}

func wordsOf(file string) ([]string, error) {
	b, err := os.ReadFile(file)
	return strings.Fields(string(b)), err
}

// line is the only one of a file.
func line(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" || strings.Contains(text, "\n") {
		return "", fmt.Errorf("%s: want one line", file)
	}
	return text, nil
}
