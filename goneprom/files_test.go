package goneprom_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.yaml.in/yaml/v2"

	"github.com/Diggs/go-one/internal/redistest"
)

// promtool runs it, and returns what it prints.
func promtool(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s (make test installs it): %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An expr is of an alert or a panel.
type expr struct{ where, text string }

type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func alerts(t *testing.T) (r rules) {
	t.Helper()
	b, err := os.ReadFile("alerts.yml")
	must(t, err)
	must(t, yaml.Unmarshal(b, &r))
	return r
}

// A panel of the dashboard.
type panel struct {
	Title   string
	Targets []struct{ Expr, LegendFormat string }
}

func dashboard(t *testing.T) (ps []panel) {
	t.Helper()
	b, err := os.ReadFile("dashboard.json")
	must(t, err)
	var d struct{ Panels []panel }
	must(t, json.Unmarshal(b, &d))
	return d.Panels
}

func exprs(t *testing.T) (es []expr) {
	for _, g := range alerts(t).Groups {
		for _, r := range g.Rules {
			es = append(es, expr{r.Alert, r.Expr})
		}
	}
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$job", ".*", "$instance", ".*")
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			es = append(es, expr{p.Title, variables.Replace(target.Expr)})
		}
	}
	return es
}

// series are the labels that each series of a real node has, by its name, and their values.
func series(t *testing.T) map[string]map[string]map[string]bool {
	all := map[string]map[string]map[string]bool{}
	for _, f := range start(t, redistest.Start(t)).scrape(t) {
		for _, m := range f.Metric {
			labels := map[string]map[string]bool{"job": nil, "instance": nil, "node": nil} // whoever scrapes adds these
			names := []string{f.GetName()}
			if m.Histogram != nil {
				names = []string{f.GetName() + "_sum", f.GetName() + "_count", f.GetName() + "_bucket"}
			}
			for _, name := range names {
				if all[name] == nil {
					all[name] = labels
				}
				for _, l := range m.Label {
					if all[name][l.GetName()] == nil {
						all[name][l.GetName()] = map[string]bool{}
					}
					all[name][l.GetName()][l.GetValue()] = true
				}
			}
		}
	}
	return all
}

var (
	aSelector = regexp.MustCompile(`(gone_\w+)(?:\{([^}]*)\})?`)
	aMatcher  = regexp.MustCompile(`(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"`)
	aGrouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
	aLegend   = regexp.MustCompile(`\{\{ ?(?:\$labels\.)?(\w+) ?\}\}`)
)

// unknown are the names in an expression that no series of a node has.
func unknown(all map[string]map[string]map[string]bool, e, legend string) (names []string) {
	known := map[string]bool{}
	for _, s := range aSelector.FindAllStringSubmatch(e, -1) {
		labels, ok := all[s[1]]
		if !ok {
			names = append(names, s[1])
		}
		for label := range labels {
			known[label] = true
		}
		if strings.HasSuffix(s[1], "_bucket") {
			known["le"] = true
		}
		for _, m := range aMatcher.FindAllStringSubmatch(s[2], -1) {
			values, ok := labels[m[1]]
			if !ok || (m[2] == "=" || m[2] == "!=") && !values[m[3]] {
				names = append(names, s[1]+"{"+m[0]+"}")
			}
		}
	}
	for _, g := range aGrouping.FindAllStringSubmatch(e, -1) {
		for label := range strings.SplitSeq(g[1], ",") {
			if !known[strings.TrimSpace(label)] {
				names = append(names, "by "+label)
			}
		}
	}
	for _, l := range aLegend.FindAllStringSubmatch(legend, -1) {
		if !known[l[1]] && l[1] != "value" {
			names = append(names, "{{"+l[1]+"}}")
		}
	}
	return names
}

func TestAlertsAndDashboardNameOnlyWhatANodeShows(t *testing.T) {
	t.Parallel()
	all := series(t)
	for _, e := range exprs(t) {
		if names := unknown(all, e.text, ""); names != nil || !strings.Contains(e.text, "gone_") {
			t.Errorf("%s: %v in %s", e.where, names, e.text)
		}
	}
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			if names := unknown(all, target.Expr, target.LegendFormat); names != nil {
				t.Errorf("%s: %v in %s", p.Title, names, target.LegendFormat)
			}
		}
	}
	for _, wrong := range []string{
		"gone_nothing", `rate(gone_messages_sent_total{result="lost"}[5m])`, `gone_links{id=""}`,
		"sum by (result, le) (gone_messages_sent_total)",
	} {
		if unknown(all, wrong, "") == nil {
			t.Errorf("%s is not noticed", wrong)
		}
	}
}

func TestEveryMetricIsOnTheDashboard(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for _, p := range dashboard(t) {
		for _, target := range p.Targets {
			fmt.Fprintln(&text, target.Expr)
		}
	}
	for _, f := range start(t, redistest.Start(t)).scrape(t) {
		if !strings.Contains(text.String(), f.GetName()) {
			t.Error(f.GetName())
		}
	}
}

func TestEachAlertSaysWhatToDo(t *testing.T) {
	t.Parallel()
	tested, err := os.ReadFile("testdata/alerts_test.yml")
	must(t, err)
	for _, g := range alerts(t).Groups {
		for _, r := range g.Rules {
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s: %+v, %+v", r.Alert, r.Annotations, r.Labels)
			}
			if !bytes.Contains(tested, []byte(`alertname="`+r.Alert+`"`)) {
				t.Errorf("%s is not in alerts_test.yml", r.Alert)
			}
		}
	}
}

func TestPrometheusTakesAlertsAndDashboard(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", "alerts.yml")
	var all strings.Builder
	all.WriteString("groups: [{name: all, rules: [\n")
	for i, e := range exprs(t) {
		text, err := json.Marshal(e.text)
		must(t, err)
		fmt.Fprintf(&all, "{record: 'e%d', expr: %s},\n", i, text)
	}
	all.WriteString("]}]\n")
	file := filepath.Join(t.TempDir(), "all.yml")
	must(t, os.WriteFile(file, []byte(all.String()), 0o600))
	promtool(t, "", "check", "rules", file)
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	t.Parallel()
	promtool(t, "", "test", "rules", "testdata/alerts_test.yml")
}

func TestNamesAreByTheConventions(t *testing.T) {
	t.Parallel()
	g := start(t, redistest.Start(t))
	page := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	if out := promtool(t, page.Body.String(), "check", "metrics"); out != "" {
		t.Error(out)
	}
}
