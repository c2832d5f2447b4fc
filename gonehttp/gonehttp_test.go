package gonehttp_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/internal/redistest"
)

// scheme has a page be light or dark.
func scheme(name string) chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}})
}

// picture writes what a tab shows, where pictures are wanted.
func (p *tab) picture(name string) {
	p.Helper()
	if *screenshots == "" {
		return
	}
	var png []byte
	time.Sleep(time.Second) // until what moves has come to rest
	p.do(chromedp.CaptureScreenshot(&png))
	must(p, os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644))
}

func TestThePageOfAClusterIsReadableOnEveryScreen(t *testing.T) {
	redis := redistest.Start(t)
	opts := []gone.Option{gone.WithBalance(), gone.WithControl(), gone.WithCluster("orders")}
	var all []*gone.Gone
	for i := range 4 {
		all = append(all, startNode(t, redis, append(opts, gone.WithWeight([]float64{1, 1, 1, .5}[i]))...))
	}
	var ids []string
	for i := range 180 {
		ids = append(ids, fmt.Sprintf("%s/%s-%04d", []string{"billing", "feed", "session"}[i%3], []string{"acme", "globex", "initech", "umbrella"}[i%4], 1000+i*37%9000))
	}
	slow := func(r *gone.GoneRunner) {
		for range r.Messages() {
			time.Sleep(4 * time.Second)
		}
	}
	stuck := make(chan struct{})
	defer close(stuck)
	for _, g := range all {
		run(t, g, slow, ids[0], ids[24])
		run(t, g, serve, ids...)
	}
	settled := func() bool {
		for _, g := range all {
			if h := g.Stats().Held; h < 20 || h > 60 {
				return false
			}
		}
		return true
	}
	eventually(t, 2*time.Minute, "ids are spread", settled)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 40 {
		go func() {
			for ctx.Err() == nil {
				_ = all[i%4].SendDataContext(ctx, ids[i%2*24], []byte("x"))
			}
		}()
	}
	url := startPage(t, gonehttp.New(all[1], gonehttp.WithControl()))
	p := open(t, url, chromedp.EmulateViewport(1200, 860), scheme("light"))
	p.shows("#rows tbody", "billing/acme-1000")
	p.shows("#link", "live")
	p.picture("light")
	p.do(scheme("dark"))
	p.picture("dark")

	r, err := all[2].RunOne("report/nightly", func(r *gone.GoneRunner) { <-stuck })
	must(t, err)
	p.search("report")
	p.shows("#rows tbody", "report/nightly")
	p.search("")
	go r.Close()
	p.shows("#trouble-list", "report/nightly")
	p.picture("trouble")
	p.do(scheme("light"), chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateScale(2)))
	p.picture("phone")
	if wide := js[int](p, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("on a phone the page is %d pixels wide", wide)
	}
}

// Low contrast is what Chromium's accessibility audits find first: of text against what
// is behind it, 4.5:1 is the least.
const lowContrast = `(() => {
	const rgb = c => { const x = document.createElement('canvas').getContext('2d'); x.fillStyle = c; x.fillRect(0, 0, 1, 1); return x.getImageData(0, 0, 1, 1).data; };
	const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, k, i) => sum + k * (c[i] / 255 <= .04045 ? c[i] / 255 / 12.92 : ((c[i] / 255 + .055) / 1.055) ** 2.4), 0);
	const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] === 255) return rgb(c); } return [255, 255, 255]; };
	return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).filter(e => !e.disabled).map(e => {
		const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
		return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent];
	}).filter(([ratio]) => ratio < 4.5).map(([ratio, text]) => ratio.toFixed(2) + ' ' + text);
})()`

// unnamed are what a person with a screen reader could not make out.
const unnamed = `[
	...[...document.querySelectorAll('button, a, input, select')].filter(e => e.checkVisibility() && !e.innerText.trim() && !e.labels?.length && !e.ariaLabel).map(e => e.outerHTML),
	...[...document.querySelectorAll('table')].filter(t => [...t.tHead.querySelectorAll('th')].some(h => h.scope !== 'col') || [...t.tBodies[0].rows].some(r => r.cells[0].scope !== 'row')).map(t => t.id),
	...['header', 'main', 'footer', '[role=search]', '[role=status]', 'h1', 'h2'].filter(s => !document.querySelector(s)),
]`

func TestThePageIsForKeyboardsScreenReadersAndTiredEyes(t *testing.T) {
	redis := redistest.Start(t)
	g, other := startNode(t, redis, gone.WithControl()), startNode(t, redis)
	run(t, g, serve, "a", "b", "c", "d", "e")
	settle(t, g, 5)
	run(t, other, serve, "a") // so that one holds all
	page := startPage(t, gonehttp.New(g, gonehttp.WithControl()))
	for _, query := range []string{"", "?id=a"} {
		for _, colours := range []string{"light", "dark"} {
			p := open(t, page+query, chromedp.EmulateViewport(1000, 700), scheme(colours))
			p.shows("#trouble-list", "One node holds all 5 ids")
			p.shows("#link", "live")
			if low := js[[]string](p, lowContrast); len(low) > 0 {
				t.Errorf("%s: hard to read: %q", colours, low)
			}
			if bad := js[[]string](p, unnamed); len(bad) > 0 {
				t.Errorf("without a name: %q", bad)
			}
		}
	}
	p := open(t, page)
	p.shows("#rows tbody", "e")
	reached := map[string]bool{}
	for range 30 {
		p.do(chromedp.KeyEvent("\t"))
		reached[js[string](p, "document.activeElement.innerText || document.activeElement.name || ''")] = true
	}
	for _, name := range []string{"Skip to the ids", "Drain", "q", "a", "e", "JSON"} {
		if !reached[name] {
			t.Errorf("Tab does not reach %q but %v", name, reached)
		}
	}
	p.do(chromedp.Evaluate("document.querySelectorAll('#rows a')[2].focus()", nil))
	must(t, other.Close())
	p.shows("#cluster", "1 node")
	if on := js[string](p, "document.activeElement.innerText"); on != "c" {
		t.Errorf("an update has moved the focus to %q", on)
	}
}
