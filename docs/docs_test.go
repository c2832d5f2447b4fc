// Package docs checks what the pages of this repository show.
package docs

import (
	"bytes"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var block = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// pages calls f with each page that has code, below the root.
func pages(t *testing.T, f func(path, text string)) {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	for _, pattern := range []string{"../*.md", "decisions/*.md"} {
		more, mistake := filepath.Glob(pattern)
		paths, err = append(paths, more...), errors.Join(err, mistake)
	}
	if err != nil || len(paths) < 10 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f(path, string(text))
	}
}

// A program compiles as it stands. A fragment may use what prelude_test.go declares and
// imports, and may leave variables unused.
func TestEveryGoBlockCompiles(t *testing.T) {
	c := newChecker(t)
	blocks := 0
	pages(t, func(path, text string) {
		for _, m := range block.FindAllStringSubmatchIndex(text, -1) {
			if text[m[2]:m[3]] != "go" {
				continue
			}
			blocks++
			line := strings.Count(text[:m[4]], "\n") + 1
			if err := c.check(text[m[4]:m[5]]); err != nil {
				t.Errorf("%s:%d: %v", path, line, err)
			}
		}
	})
	if blocks < 10 {
		t.Errorf("only %d blocks were found", blocks)
	}
	if c.check("func _() { g.NoSuchMethod() }\n") == nil || c.check("package main\nfunc main() { x := 1 }\n") == nil {
		t.Error("a block that does not compile is let pass")
	}
}

type checker struct {
	fset    *token.FileSet
	imports types.Importer
	clauses string // the prelude's imports
}

func newChecker(t *testing.T) *checker {
	const prelude = "prelude_test.go"
	c := &checker{fset: token.NewFileSet()}
	file, err := parser.ParseFile(c.fset, prelude, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(prelude)
	if err != nil {
		t.Fatal(err)
	}
	c.clauses = string(source[c.fset.Position(file.Name.End()).Offset:c.fset.Position(file.Decls[0].End()).Offset])

	exports := exportData(t)
	c.imports = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	p, err := (&types.Config{Importer: c.imports}).Check("docs", c.fset, []*ast.File{file}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range p.Scope().Names() {
		types.Universe.Insert(p.Scope().Lookup(name)) // so that a fragment may declare it itself
	}
	return c
}

// exportData is where the compiler has left what each package exports, by its path.
func exportData(t *testing.T) map[string]string {
	cmd := exec.Command("go", "list", "-test", "-deps", "-export", "-f", "{{.ImportPath}} {{.Export}}", ".", "os/signal", "syscall", "net/http")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	for l := range strings.Lines(string(out)) {
		if path, file, found := strings.Cut(strings.TrimSpace(l), " "); found && !strings.HasPrefix(file, "[") {
			exports[path] = file
		}
	}
	return exports
}

func (c *checker) check(code string) error {
	if strings.HasPrefix(code, "package ") || strings.Contains(code, "\npackage ") {
		return c.compile(code, false)
	}
	head := "package fragment\n" + c.clauses + "\n"
	if _, err := parser.ParseFile(token.NewFileSet(), "", head+code, 0); err == nil {
		return c.compile(head+code, true) // declarations
	}
	return c.compile(head+"func _() {\n"+code+"\n}\n", true)
}

func (c *checker) compile(code string, fragment bool) error {
	file, err := parser.ParseFile(c.fset, "", code, 0)
	if err != nil {
		return err
	}
	var errs []error
	conf := types.Config{Importer: c.imports, Error: func(err error) {
		if e := (types.Error{}); !fragment || !errors.As(err, &e) || !e.Soft {
			errs = append(errs, err)
		}
	}}
	_, _ = conf.Check("block", c.fset, []*ast.File{file}, nil)
	return errors.Join(errs...)
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)

func TestEveryLinkLeadsToAFile(t *testing.T) {
	pages(t, func(path, text string) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

func TestThePictureIsTheOneThatIsDrawn(t *testing.T) {
	drawn, err := exec.Command("go", "run", "./draw").Output()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile("path.svg")
	if err != nil || !bytes.Equal(drawn, kept) {
		t.Errorf("make pictures draws another one: %v", err)
	}
}
