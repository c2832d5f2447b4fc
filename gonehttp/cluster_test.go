package gonehttp_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
)

var screenshots = flag.String("screenshots", "", "directory to write pictures of the page to")

// browser is a headless Chromium, for all tests.
var browser context.Context

func TestMain(m *testing.M) {
	flag.Parse()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("font-render-hinting", "none"))
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	allocated, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	var end context.CancelFunc
	// It logs events of newer browsers that it does not know.
	browser, end = chromedp.NewContext(allocated, chromedp.WithErrorf(func(string, ...any) {}))
	code := m.Run()
	end()
	cancel()
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// startNode starts a node on loopback, which is closed with the test.
func startNode(t testing.TB, redis string, opts ...gone.Option) *gone.Gone {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	g, err := gone.NewGone("tcp://127.0.0.1:0", gone.RedisLocks(redis), append([]gone.Option{gone.WithLogger(quiet)}, opts...)...)
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// run runs ids on a node.
func run(t testing.TB, g *gone.Gone, handler gone.RunHandler, ids ...string) {
	t.Helper()
	for _, id := range ids {
		_, err := g.RunOne(id, handler)
		must(t, err)
	}
}

func serve(r *gone.GoneRunner) {
	for m := range r.Messages() {
		_ = m.Reply(nil)
	}
}

// settle waits until so many ids are held on a node.
func settle(t testing.TB, g *gone.Gone, held int) {
	t.Helper()
	eventually(t, time.Minute, "ids are held", func() bool { return g.Stats().Held == held })
}

// startPage serves the page of a node.
func startPage(t testing.TB, h *gonehttp.Handler) (url string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		s.Close()
	})
	return s.URL + "/"
}

// A tab is one of the browser's.
type tab struct {
	testing.TB
	ctx context.Context
}

// open opens a page in a new tab. Whatever the page complains of fails the test.
func open(t testing.TB, url string, before ...chromedp.Action) *tab {
	t.Helper()
	must(t, chromedp.Run(browser)) // the browser itself
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	chromedp.ListenTarget(ctx, func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page: %s", ev.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if ev.Type == runtime.APITypeError {
				t.Errorf("the page: %s", ev.Args[0].Value)
			}
		}
	})
	must(t, chromedp.Run(ctx)) // the tab, which must outlive any deadline
	p := &tab{t, ctx}
	p.do(append(before, chromedp.Navigate(url))...)
	return p
}

func (p *tab) do(actions ...chromedp.Action) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	must(p, chromedp.Run(ctx, actions...))
}

// js evaluates an expression.
func js[V any](p *tab, expression string) (v V) {
	p.Helper()
	p.do(chromedp.Evaluate(expression, &v))
	return v
}

// text is what a person sees in an element.
func (p *tab) text(selector string) string {
	p.Helper()
	return js[string](p, "[...document.querySelectorAll('"+selector+"')].map(e => e.innerText).join('\\n')")
}

// shows waits until an element has a text.
func (p *tab) shows(selector, text string) {
	p.Helper()
	last := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if last = p.text(selector); strings.Contains(last, text) {
			return
		}
	}
	p.Fatalf("%s has not %q but %q", selector, text, last)
}

func get(t testing.TB, url string, header ...string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// search types into the search field.
func (p *tab) search(text string) {
	p.Helper()
	p.do(chromedp.Evaluate(fmt.Sprintf("form.q.value = %q; form.oninput()", text), nil))
}
