package gonehttp_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	gone "github.com/Diggs/go-one"
	"github.com/Diggs/go-one/gonehttp"
	"github.com/Diggs/go-one/internal/redistest"
)

func view(t testing.TB, page, query string) (v gonehttp.View) {
	t.Helper()
	status, body := get(t, page+"?format=json&"+query)
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v: %s", status, err, body)
	}
	return v
}

// strange are ids that would do harm as HTML, in a path, or in a line of text.
var strange = []string{
	`<img src=x onerror="window.hacked=1">`, `"'><script>window.hacked=1</script>`, "\xff\xfe\x80", "../..//a?b=c&d#e%41+ ", "\u202etxt.exe", "line\nline", "Grüße, 世界",
}

func TestAnIDIsShownAsTextAndLeadsToItsStoryWhateverItsBytes(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	run(t, g, serve, strange...)
	settle(t, g, len(strange))
	page := startPage(t, gonehttp.New(g))
	p := open(t, page)
	for _, text := range []string{strange[0], strange[1], `\xff\xfe\x80`, `\u202etxt.exe`, `line\nline`, strange[6]} {
		p.shows("#rows tbody", text)
	}
	for _, id := range strange {
		row := view(t, page, "id="+url.QueryEscape(id)).Story.Now[0]
		if key, err := url.QueryUnescape(row.Key); key != id || err != nil {
			t.Errorf("%q has become %q, %v", id, key, err)
		}
		p.do(chromedp.Navigate(page))
		p.shows("#rows tbody", row.ID)
		p.do(chromedp.Evaluate(fmt.Sprintf("[...document.querySelectorAll('#rows a')].find(a => a.textContent === %s).click()", quoted(row.ID)), nil))
		p.shows("#story-title", row.ID)
		p.shows("#holder", "with token "+fmt.Sprint(row.Token))
	}
	if js[bool](p, "!!window.hacked || document.querySelector('main img, main script') !== null") {
		t.Error("an id was taken for HTML")
	}
}

// quoted is a string in JavaScript.
func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestThePageFollowsWhatHappens(t *testing.T) {
	redis := redistest.Start(t)
	a, b := startNode(t, redis, gone.WithControl()), startNode(t, redis)
	run(t, a, serve, "one", "two")
	settle(t, a, 2)
	run(t, b, serve, "one", "two")
	p := open(t, startPage(t, gonehttp.New(b)))
	short := func(g *gone.Gone) string { return strings.TrimPrefix(g.Addr(), "tcp://") }
	p.shows("#rows tbody tr:first-child", short(a))
	left := func() float64 { return js[float64](p, "parseFloat(document.querySelector('#rows .left').innerText)") }
	first := left()
	eventually(t, 10*time.Second, "the lease runs down", func() bool { now := left(); return now < first-1 && now > 0 })
	must(t, b.Move(t.Context(), "one", b.Addr()))
	p.shows("#rows tbody tr:first-child", short(b))
	must(t, a.Close())
	p.shows("#nodes tbody tr:only-child", "100 %")
	p.shows("#cluster", "1 node, 2 ids")
}

func TestTheStoryOfAnIDHasEveryTenureAndWhyItEnded(t *testing.T) {
	redis := redistest.Start(t)
	a, b := startNode(t, redis, gone.WithControl()), startNode(t, redis, gone.WithControl())
	run(t, a, serve, "a")
	settle(t, a, 1)
	run(t, b, serve, "a")
	for _, to := range []*gone.Gone{b, a} { // one that is just trying to get it takes nothing
		eventually(t, 10*time.Second, "it moves", func() bool { return to.Move(t.Context(), "a", to.Addr()) == nil })
		settle(t, to, 1)
	}
	page := startPage(t, gonehttp.New(b))
	s := view(t, page, "id=a").Story
	if len(s.Now) != 1 || s.Now[0].Node != a.Addr() || len(s.Past) != 2 || s.Past[0].Node != b.Addr() || s.Past[1].Node != a.Addr() ||
		s.Past[0].Cause != gone.ErrYielded.Error() || s.Past[0].Token <= s.Past[1].Token || s.Now[0].Token <= s.Past[0].Token {
		t.Errorf("%+v", s)
	}
	p := open(t, page+"?id=a", chromedp.EmulateViewport(1000, 560), scheme("light"))
	p.shows("#tenures li:nth-child(3)", "Ended: yielded to another node")
	p.shows("#tenures li.now", "until now")
	p.picture("story")
}

// enterMute enters a node that does not answer into the roster, until leave.
func enterMute(t testing.TB, redis string) (addr string, leave func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	lock, err := gone.RedisLocks(redis)("gone", "tcp://"+l.Addr().String())
	must(t, err)
	t.Cleanup(func() { _ = lock.(*gone.RedisLock).Close() })
	must(t, lock.(gone.Roster).Enter("{}", time.Hour))
	return l.Addr().String(), func() { must(t, lock.(gone.Roster).Leave()) }
}

func TestThePageSaysThatNobodyHoldsAnIDOnlyWhenEveryNodeHasSaidSo(t *testing.T) {
	redis := redistest.Start(t)
	g := startNode(t, redis, gone.WithControl())
	page := startPage(t, gonehttp.New(g, gonehttp.WithControl()))
	mute, leave := enterMute(t, redis)
	p := open(t, page+"?id=a", chromedp.EmulateViewport(1000, 560), scheme("light"))
	p.shows("#holder", "No node that answers holds it. No answer from "+mute+".")
	p.do(chromedp.Navigate(page))
	p.shows("#none", "No node that answers holds an id. No answer from "+mute+".")
	p.shows("#cluster", "2 nodes, at least 0 ids")
	p.picture("mute")
	title := fmt.Sprintf(`document.querySelector('button[aria-label="Drain %s"]').title`, mute)
	if got := js[string](p, title); got != "This node does not answer." {
		t.Errorf("its button says: %s", got)
	}
	leave()
	p.shows("#none", "Nobody holds an id.")
	p.shows("#cluster", "1 node, 0 ids")
	p.do(chromedp.Navigate(page + "?id=a"))
	p.shows("#holder", "Nobody holds it now.")
}

func TestWithoutARosterThePageSaysThatThereMayBeOtherNodes(t *testing.T) {
	locks := gone.RedisLocks(redistest.Start(t))
	bare := func(id, value string) (gone.GoneLock, error) {
		l, err := locks(id, value)
		return struct{ gone.GoneLock }{l}, err
	}
	g, err := gone.NewGone("tcp://127.0.0.1:0", bare, gone.WithLogger(slog.New(slog.DiscardHandler)))
	must(t, err)
	t.Cleanup(func() { _ = g.Close() })
	p := open(t, startPage(t, gonehttp.New(g))+"?id=a")
	p.shows("#holder", "No node that answers holds it. There may be nodes that are not shown.")
}

func TestAGapInAStoryDoesNotSayThatNobodyHeldTheID(t *testing.T) {
	redis := redistest.Start(t)
	g := startNode(t, redis)
	r, err := g.RunOne("a", serve)
	must(t, err)
	settle(t, g, 1)
	must(t, r.Close())
	time.Sleep(1100 * time.Millisecond) // the gap: the page shows those of more than a second
	run(t, g, serve, "a")
	settle(t, g, 1)
	p := open(t, startPage(t, gonehttp.New(g))+"?id=a")
	p.shows("#tenures .gap", "No node remembers who held it for ")
	mute, _ := enterMute(t, redis)
	p.shows("#trouble-list", mute)
	p.shows("#tenures .gap", "No node that answers remembers who held it for ")
}

func TestALeaseThatHasRunDownInTheBrowserAloneIsNotKnown(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	run(t, g, serve, "a")
	settle(t, g, 1)
	p := open(t, startPage(t, gonehttp.New(g)))
	p.shows("#rows .left", " s")
	p.do(chromedp.Evaluate("stream.close(); last.IDs.Rows[0].Left = 300; show(last)", nil)) // and no answer comes
	p.shows("#rows .left", "…")
	if said := js[string](p, "document.querySelector('#rows .left .hidden').textContent"); said != "not known" {
		t.Errorf("a screen reader says %q", said)
	}
	if js[bool](p, "document.querySelector('#rows tr.over, #rows tr.low') !== null") {
		t.Error("it looks as if it were over")
	}
	p.do(chromedp.Evaluate("last.IDs.Rows[0].Stopping = true; show(last)", nil))
	p.shows("#rows .left", "stops")
	p.do(chromedp.Evaluate("listen()", nil))
	p.shows("#rows .left", " s")
}

func TestWhatIsWrongIsOnTopInWordsAndAnnounced(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	lets := make(chan struct{})
	r, err := g.RunOne("stuck", func(*gone.GoneRunner) { <-lets })
	must(t, err)
	settle(t, g, 1)
	p := open(t, startPage(t, gonehttp.New(g)))
	p.shows("#troubles", "Nothing is wrong")
	go r.Close()
	p.shows("#trouble-list", `Trouble: Exit has closed, and the handler of "stuck" goes on.`)
	p.shows("#trouble-list .do", "Have it return")
	if live := js[string](p, "document.querySelector('#news[role=status]').textContent"); !strings.Contains(live, `"stuck"`) {
		t.Errorf("announced: %q", live)
	}
	close(lets)
	p.shows("#troubles", "Nothing is wrong")
}

func TestTheJSONHasWhatIsAskedFor(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	var ids []string
	for i := range 250 {
		ids = append(ids, fmt.Sprintf("id%03d", i))
	}
	run(t, g, serve, ids[:249]...)
	settle(t, g, 249)
	run(t, g, serve, ids[249])
	settle(t, g, 250)
	page := startPage(t, gonehttp.New(g))
	for query, want := range map[string]string{
		"":                                     "250 250 1/3 id000 100",
		"page=3":                               "250 250 3/3 id200 50",
		"page=9":                               "250 250 3/3 id200 50",
		"page=-1":                              "250 250 1/3 id000 100",
		"q=ID24":                               "250 10 1/1 id240 10",
		"q=127.0.0.1":                          "250 250 1/3 id000 100",
		"node=" + url.QueryEscape("tcp://x:1"): "250 0 1/1  0",
		"sort=newest":                          "250 250 1/3 id249 100",
		"sort=waiting&page=2":                  "250 250 2/3 id100 100",
	} {
		v := view(t, page, query)
		first := ""
		if len(v.IDs.Rows) > 0 {
			first = v.IDs.Rows[0].ID
		}
		if got := fmt.Sprintf("%d %d %d/%d %s %d", v.IDs.All, v.IDs.Found, v.IDs.Page, v.IDs.Pages, first, len(v.IDs.Rows)); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
	for accept, isJSON := range map[string]bool{
		"application/json": true, "text/html,application/xhtml+xml,*/*;q=0.8": false, "application/json, text/html": true, "*/*": false,
	} {
		if _, body := get(t, page, "Accept", accept); strings.HasPrefix(body, "{") != isJSON {
			t.Errorf("%s: %.20s", accept, body)
		}
	}
	var report gone.Report
	_, body := get(t, page+"debug")
	must(t, json.Unmarshal([]byte(body), &report))
	if s := report.Nodes[0].Status; len(s.Tenures) != 250 || s.Setup.Go == "" || s.Setup.ZeroMQ == "" {
		t.Errorf("%.1000s", body)
	}
	must(t, g.Close())
	time.Sleep(3 * time.Second)
	if status, _ := get(t, page+"?format=json"); status != http.StatusServiceUnavailable {
		t.Errorf("of a closed node: %d", status)
	}
}

func post(t testing.TB, page, what string, form url.Values, header ...string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, page+what, strings.NewReader(form.Encode()))
	must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var b strings.Builder
	_ = resp.Write(&b)
	return resp.StatusCode, b.String()
}

func TestThePageChangesNothingUnlessItAndTheNodeAreMadeForThat(t *testing.T) {
	redis := redistest.Start(t)
	own, closed := startNode(t, redis), startNode(t, redis)
	run(t, closed, serve, "a")
	settle(t, closed, 1)
	run(t, own, serve, "a")
	shows, steers := startPage(t, gonehttp.New(own)), startPage(t, gonehttp.New(own, gonehttp.WithControl()))
	drain := func(g *gone.Gone) url.Values { return url.Values{"node": {g.Addr()}} }
	for _, what := range []string{"drain", "resume", "move"} {
		if status, _ := post(t, shows, what, drain(own)); status != http.StatusForbidden {
			t.Errorf("%s without control: %d", what, status)
		}
	}
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.test"}} {
		if status, _ := post(t, steers, "drain", drain(own), header...); status != http.StatusForbidden {
			t.Errorf("from a foreign page: %d", status)
		}
	}
	if status, body := post(t, steers, "drain", drain(closed)); status != http.StatusConflict || !strings.Contains(body, "WithControl") {
		t.Errorf("a node that does not allow it: %d, %s", status, body)
	}
	if status, _ := post(t, steers, "unknown", nil); status != http.StatusNotFound {
		t.Errorf("%d", status)
	}
	if own.Stats().Tenures != 0 || closed.Stats().Held != 1 {
		t.Error("something was moved")
	}
	p := open(t, shows)
	p.shows("#nodes tbody", "runs")
	if js[bool](p, "[...document.querySelectorAll('#nodes button')].some(b => b.checkVisibility())") {
		t.Error("a page that only shows has buttons")
	}
	p = open(t, steers)
	p.shows("#nodes tbody", "Drain")
	if n := js[int](p, "document.querySelectorAll('#nodes button:disabled').length"); n != 1 {
		t.Errorf("%d nodes do not allow it", n)
	}
}

func TestDrainAndMoveAskBeforeTheyAreDone(t *testing.T) {
	redis := redistest.Start(t)
	a, b := startNode(t, redis, gone.WithControl()), startNode(t, redis, gone.WithControl())
	run(t, a, serve, "a")
	settle(t, a, 1)
	run(t, b, serve, "a")
	page := startPage(t, gonehttp.New(b, gonehttp.WithControl()))
	p := open(t, page, chromedp.EmulateViewport(1000, 560), scheme("light"))
	press := func(g *gone.Gone) chromedp.Action {
		return chromedp.Click(fmt.Sprintf(`button[aria-label$="%s"]`, strings.TrimPrefix(g.Addr(), "tcp://")), chromedp.ByQuery)
	}
	p.shows("#nodes tbody", "Drain")
	p.do(press(a))
	p.shows("dialog[open]", "It hands over the 1 id")
	p.picture("confirm")
	p.do(chromedp.Click("dialog button[value='']", chromedp.ByQuery))
	if a.Stats().Held != 1 {
		t.Error("Cancel has done it")
	}
	p.do(press(a))
	p.shows("dialog[open]", "Drain")
	p.do(chromedp.Click("#yes", chromedp.ByQuery))
	p.shows("#notice", "holds nothing now")
	settle(t, b, 1)
	p.shows("#nodes tbody", "drains")
	p.do(press(a))
	p.do(chromedp.Click("#yes", chromedp.ByQuery))
	p.shows("#notice", "holds ids again")

	p = open(t, page+"?id=a")
	p.shows("#story-steer", "Move")
	p.do(chromedp.Click("#move", chromedp.ByQuery))
	p.shows("dialog[open]", "Move a?")
	p.do(chromedp.Evaluate(fmt.Sprintf("$('target').value = %q", a.Addr()), nil), chromedp.Click("#yes", chromedp.ByQuery))
	p.shows("#notice", "moved")
	settle(t, a, 1)
}

func TestThePageWorksUnderAPrefix(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	run(t, g, serve, "a")
	settle(t, g, 1)
	h := gonehttp.New(g, gonehttp.WithControl())
	mux := http.NewServeMux()
	mux.Handle("/ops/gone/", http.StripPrefix("/ops/gone", h))
	mux.Handle("/bare/", http.StripPrefix("/bare/", h))
	s := httptest.NewServer(mux)
	defer s.Close()
	defer h.Close()
	for _, at := range []string{"/ops/gone/", "/ops/gone", "/bare/"} {
		p := open(t, s.URL+at)
		p.shows("#rows tbody", "a")
		p.do(chromedp.Click("#rows a", chromedp.ByQuery))
		p.shows("#holder", "Held by")
		p.do(chromedp.Click("h1 a", chromedp.ByQuery))
		p.shows("#rows tbody", "a")
	}
}

func TestCloseEndsTheStreamsSoThatAServerCanShutDown(t *testing.T) {
	g := startNode(t, redistest.Start(t))
	h := gonehttp.New(g)
	s := httptest.NewUnstartedServer(h)
	s.Config.RegisterOnShutdown(h.Close)
	s.Start()
	defer s.Close()
	resp, err := http.Get(s.URL + "/events")
	must(t, err)
	defer resp.Body.Close()
	for range 70 { // more than there may be; each is answered
		r, err := http.Get(s.URL + "/events")
		must(t, err)
		defer r.Body.Close()
		if resp = r; r.StatusCode == http.StatusServiceUnavailable {
			break
		}
	}
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Error("as many streams as one likes")
	}
	began := time.Now()
	must(t, s.Config.Shutdown(t.Context()))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}
