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
	redis := startRedis(t)
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
		run(t, g, serve, ids[2:]...)
		run(t, g, slow, ids[:2]...)
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
				_ = all[0].SendDataContext(ctx, ids[i%2], []byte("x"))
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
}
