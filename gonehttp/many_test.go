package gonehttp_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/internal/redistest"
)

func TestTenThousandIDsAreShownAtOnce(t *testing.T) {
	const many = 10_000
	redis := redistest.Start(t)
	g, far := startNode(t, redis), startNode(t, redis)
	ids := make([]string, many)
	for i := range ids {
		ids[i] = fmt.Sprintf("device-%05d", i)
	}
	began := time.Now()
	run(t, far, func(r *gone.GoneRunner) { <-r.Exit }, ids...)
	settle(t, far, many)
	run(t, g, serve, "mine")
	settle(t, g, 1)
	t.Logf("%d ids held after %v", many, time.Since(began))
	page := startPage(t, gonehttp.New(g))

	began = time.Now()
	v := view(t, page, "")
	t.Logf("the first view, for which the nodes are asked: %v", time.Since(began))
	if v.IDs.All != many+1 || len(v.IDs.Rows) != 100 {
		t.Errorf("%d ids, %d rows", v.IDs.All, len(v.IDs.Rows))
	}
	began = time.Now()
	view(t, page, "q="+url.QueryEscape("device-09"))
	searched := time.Since(began)
	p := open(t, "about:blank")
	began = time.Now()
	p.do(chromedp.Navigate(page))
	p.shows("#rows tbody", "device-00000")
	first := time.Since(began)
	began = time.Now()
	p.search("device-0987")
	p.shows("#rows tbody tr:first-child", "device-09870")
	found := time.Since(began)
	p.search("")
	p.shows("#where", "1 of 101")
	update := js[float64](p, `(() => { const began = performance.now(); for (let i = 0; i < 20; i++) show(last); return (performance.now() - began) / 20; })()`)
	t.Logf("a search by JSON %v; in the browser: first row %v, search %v, one update %.1f ms", searched, first, found, update)
	if first > 10*time.Second || found > 10*time.Second || update > 100 {
		t.Error("too long for a person who waits")
	}
}
