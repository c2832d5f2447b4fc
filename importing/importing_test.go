// Package importing checks that a program which imports gone keeps its flags, its
// goroutines, its files and its life. It is a module of its own for the sake of
// what is imported beside gone.
package importing

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	gone "github.com/Diggs/go-one"
)

// program is set in a process that is this test started again, as a program of a
// user's.
const program = "GONE_PROGRAM"

var programs = map[string]func() error{
	"own flag": ownFlag,
	"klog":     besideKlog,
	"node":     node,
}

func TestMain(m *testing.M) {
	run, ok := programs[os.Getenv(program)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("the end of the program")
}

// play runs a program to its end, which it must say it has reached, in an empty
// directory, which it must leave so. It is TMPDIR, too, unless tmp says otherwise.
func play(t *testing.T, name, tmp string) (log string) {
	t.Helper()
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), program+"="+name, "TMPDIR="+cmp.Or(tmp, cmd.Dir))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the end of the program") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	return string(out)
}

func TestAProgramHasItsFlagsForItself(t *testing.T) { play(t, "own flag", "") }

func ownFlag() error {
	verbose := flag.Int("v", 0, "verbosity")
	if err := flag.CommandLine.Parse([]string{"-v", "3"}); err != nil {
		return err
	}
	var others []string
	flag.VisitAll(func(f *flag.Flag) {
		if f.Name != "v" && !strings.HasPrefix(f.Name, "test.") {
			others = append(others, f.Name)
		}
	})
	if *verbose != 3 || others != nil {
		return fmt.Errorf("-v is %d, and there are %q", *verbose, others)
	}
	return nil
}

func TestKlogMayRegisterItsFlagsBesideGone(t *testing.T) { play(t, "klog", "") }

func besideKlog() error {
	klog.InitFlags(nil)
	if err := flag.CommandLine.Parse([]string{"-v", "3"}); err != nil {
		return err
	}
	if !klog.V(3).Enabled() {
		return errors.New("-v is not klog's")
	}
	return nil
}

func TestANodeRunsWhereNothingCanBeWritten(t *testing.T) {
	if log := play(t, "node", "/nonexistent"); !strings.Contains(log, "INFO gone: tenure begins id=a") {
		t.Errorf("it did not log:\n%s", log)
	}
}

func TestANodeWritesNoFiles(t *testing.T) { play(t, "node", "") }

// node starts one that logs, sends, receives and ends.
func node() error {
	g, err := gone.NewGone("tcp://127.0.0.1:0", newLock)
	if err != nil {
		return err
	}
	received := make(chan string, 1)
	_, err = g.RunOne("a", func(r *gone.GoneRunner) {
		select {
		case data := <-r.Data:
			received <- string(data)
		case <-r.Exit:
		}
		<-r.Exit
	})
	if err == nil {
		err = g.SendData("a", []byte("hello"))
	}
	if err == nil {
		if s := <-received; s != "hello" {
			err = fmt.Errorf("received %q", s)
		}
	}
	return errors.Join(err, g.Close())
}

// A lock is free, and this process's.
type lock struct{ value string }

func newLock(_, value string) (gone.GoneLock, error) { return lock{value}, nil }

func (lock) Lock() error                 { return nil }
func (lock) Extend() error               { return nil }
func (lock) Unlock()                     {}
func (l lock) GetValue() (string, error) { return l.value, nil }

func TestABuildWithoutCgoSaysWhatIsNeededAndNothingElse(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", t.TempDir(), "./examples/basic")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatal("it can be built")
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; len(lines) != 2 || !strings.Contains(last, `"gone needs cgo and libzmq: see Requirements in github.com/Diggs/go-one"`) {
		t.Errorf("%s", out)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, section, ok := strings.Cut(string(readme), "\n## Requirements\n"); !ok || !strings.Contains(section, "CGO_ENABLED=1") || !strings.Contains(section, "libzmq") {
		t.Error("README.md does not say what it refers to")
	}
}
