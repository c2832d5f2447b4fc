package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	gone "github.com/Diggs/go-one"
)

// A command is one of those in doc.go.
type command struct {
	name        string
	least, most int      // arguments
	args        []string // what each is, for completion: id, node, shell
	endless     bool     // the timeout is not for all of it
	run         func(s *session, args []string) error
}

var commands []command

func init() { // complete looks at it
	commands = []command{
		{"nodes", 0, 0, nil, false, (*session).nodes},
		{"ids", 0, 0, nil, false, (*session).ids},
		{"holder", 1, 1, []string{"id"}, false, (*session).holder},
		{"watch", 1, 1, []string{"id"}, true, (*session).watch},
		{"send", 1, 2, []string{"id"}, false, (*session).send},
		{"request", 1, 2, []string{"id"}, false, (*session).request},
		{"drain", 1, 1, []string{"node"}, false, (*session).drain},
		{"resume", 1, 1, []string{"node"}, false, (*session).resume},
		{"move", 1, 2, []string{"id", "node"}, false, (*session).move},
		{"check", 0, 0, nil, false, (*session).check},
		{"bundle", 0, 0, nil, false, (*session).bundle},
		{"bench", 0, 1, []string{"id"}, true, (*session).bench},
		{"completion", 1, 1, []string{"shell"}, false, (*session).completion},
		{"version", 0, 0, nil, false, (*session).version},
		{"help", 0, 1, nil, false, (*session).help},
	}
}

//go:embed doc.go
var doc string

// help is the comment of the package.
func (s *session) help([]string) error {
	_, text, _ := strings.Cut(doc, "/*\n")
	text, _, _ = strings.Cut(text, "*/")
	_, err := io.WriteString(s.out, strings.NewReplacer("\t", "  ", "[gone.Gone.", "", "[gone.", "", "Report]", "Report", "WithCurve]", "WithCurve", "WithControl]", "WithControl", "\n# ", "\n").Replace(text))
	return err
}

func (s *session) version([]string) error {
	version := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return s.print(map[string]string{"version": version}, func(w io.Writer) { fmt.Fprintln(w, version) })
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &session{ctx: ctx, in: os.Stdin, out: os.Stdout, log: os.Stderr}
	if len(os.Args) > 1 && os.Args[1] == completer {
		s.complete(os.Args[2:])
		return
	}
	err := s.main(os.Args[1:])
	s.leave()
	code := codeOf(err)
	if ctx.Err() != nil && err != nil && code != exitUnknown {
		code = exitInterrupted
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, s.sentence(err))
	}
	os.Exit(code)
}

// main understands the arguments and runs the command.
func (s *session) main(args []string) error {
	c, rest, err := s.parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return s.help(nil)
	case err != nil:
		return err
	case len(rest) < c.least:
		return misuse("%s needs more than %d arguments; gone help tells of them", c.name, len(rest))
	case len(rest) > 0 && rest[0] == "":
		return misuse("%s: an empty argument", c.name)
	case len(rest) > c.most:
		return misuse("%s takes no argument %q; gone help tells of those it takes", c.name, rest[c.most])
	}
	if !c.endless {
		var cancel context.CancelFunc
		s.ctx, cancel = context.WithTimeout(s.ctx, s.timeout)
		defer cancel()
	}
	return c.run(s, rest)
}

// parse reads options wherever they stand, up to a --.
func (s *session) parse(args []string) (c command, rest []string, err error) {
	flags := s.flags()
	var verbatim []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, verbatim = args[:i], args[i+1:]
	}
	for {
		if err := flags.Parse(args); err != nil {
			return c, nil, misused(err)
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		if c.name == "" {
			if c, err = find(args[0]); err != nil {
				return c, nil, err
			}
			if c.name == "bench" {
				s.load.define(flags)
			}
		} else {
			rest = append(rest, args[0])
		}
		args = args[1:]
	}
	if c.name == "" {
		return c, nil, misuse("no command; gone help lists them")
	}
	return c, append(rest, verbatim...), s.settle(flags)
}

func find(name string) (command, error) {
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		return command{}, misuse("there is no command %q; gone help lists them", name)
	}
	return commands[i], nil
}

// Exit codes, as doc.go has them.
const (
	exitFailed      = 1
	exitMisused     = 2
	exitNobody      = 3
	exitUnreachable = 4
	exitUnknown     = 5
	exitRefused     = 6
	exitHandler     = 7
	exitInterrupted = 130
)

// A misuseError is the caller's mistake.
type misuseError struct{ error }

func (e misuseError) Unwrap() error { return e.error }

func misuse(text string, args ...any) error { return misused(fmt.Errorf(text, args...)) }

func misused(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	return misuseError{err}
}

// errNoNode: no node has that address.
var errNoNode = errors.New("no such node")

// codeOf is how a command ends. Of several reasons the first here counts.
func codeOf(err error) int {
	var failed *gone.HandlerError
	var found *finding
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(misuseError)):
		return exitMisused
	case errors.As(err, &found):
		return found.code
	case is(gone.ErrOutcomeUnknown):
		return exitUnknown
	case errors.As(err, &failed):
		return exitHandler
	case is(gone.ErrRefused, gone.ErrNoControl):
		return exitRefused
	case is(gone.ErrNoHolder, errNoNode):
		return exitNobody
	case is(gone.ErrBusy, gone.ErrTooLarge):
		return exitFailed
	case is(gone.ErrUnreachable, gone.ErrLockService, gone.ErrNotDelivered, context.DeadlineExceeded):
		return exitUnreachable
	}
	return exitFailed
}

// sentence is an error in one line.
func (s *session) sentence(err error) string {
	text := strings.TrimPrefix(err.Error(), "gone: ")
	if failed := (*gone.HandlerError)(nil); errors.As(err, &failed) {
		text = "the handler failed the request: " + text
	}
	text = printable(strings.Join(strings.Fields(text), " "))
	if s.node != nil && errors.Is(err, gone.ErrUnreachable) {
		text += fmt.Sprintf(" (can nodes connect to this command at %s? see -addr)", s.node.Addr())
	}
	return "gone: " + text
}
