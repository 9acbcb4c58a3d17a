package admin

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/internal/admin/status"
	"github.com/holdfast/holdfast/internal/reason"
)

func newServer(t *testing.T, report func() status.Report) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(New(prometheus.NewRegistry(), func() error { return nil }, report))
	t.Cleanup(server.Close)
	return server
}

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func TestPageIsSelfContained(t *testing.T) {
	server := newServer(t, idle)
	code, header, index := get(t, server, "GET", "/", browser)
	if code != 200 || header.Get("Content-Type") != "text/html; charset=utf-8" || header.Get("Vary") != "Accept" {
		t.Fatalf("got %d, %v", code, header)
	}
	policy := header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("Content-Security-Policy: %s; want %s", policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", policy)
	}
	files := map[string]string{"/": index}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(index, -1) {
		if strings.Contains(m[1], ":") || strings.HasPrefix(m[1], "/") {
			t.Errorf("%s is no relative address", m[1])
			continue
		}
		code, header, body := get(t, server, "GET", "/"+m[1], "*/*")
		if code != 200 || strings.HasPrefix(m[1], "assets/") && header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %v", m[1], code, header)
		}
		files[m[1]] = body
	}
	for _, name := range []string{"assets/status.js", "assets/status.css", "assets/icon.svg"} {
		if files[name] == "" {
			t.Errorf("the page does not use %s", name)
		}
	}
	for name, body := range files {
		if strings.HasPrefix(name, "assets/") || name == "/" {
			foreign := regexp.MustCompile(`https?://[^"\s]+`).FindAllString(body, -1)
			for _, f := range foreign {
				if f != "http://www.w3.org/2000/svg" { // a name, not an address
					t.Errorf("%s: %s", name, f)
				}
			}
			if regexp.MustCompile(`(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|<style|style="|\son[a-z]+="`).MatchString(body) {
				t.Errorf("%s has what the policy forbids", name)
			}
		}
	}
}

func TestNothingElseIsAnAsset(t *testing.T) {
	server := newServer(t, idle)
	for _, path := range []string{"/assets/", "/assets/index.html", "/assets/..%2fadmin.go", "/assets/nothing.js", "/api", "/api/"} {
		if code, _, _ := get(t, server, "GET", path, browser); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
}

func TestStatusAsJSON(t *testing.T) {
	recorder := status.NewRecorder()
	recorder.Failed(status.Failure{Client: 3, Namespace: "/<b>", Reason: reason.Expired})
	server := newServer(t, recorder.Report)
	code, header, body := get(t, server, "GET", "/api/status", "")
	if code != 200 || header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d, %v", code, header)
	}
	if header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("other sites may read it")
	}
	var got status.Report
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != status.Version || len(got.LatestFailure) != 1 || got.LatestFailure[0].Reason != reason.Expired {
		t.Errorf("got %+v", got)
	}
	if strings.Contains(body, "<b>") {
		t.Error("markup of a client's stands in the answer as it is")
	}
}

func TestTextForCurl(t *testing.T) {
	recorder := status.NewRecorder()
	recorder.Recovered(status.Recovery{Reason: reason.Resumed})
	recorder.Failed(status.Failure{Reason: reason.Expired})
	recorder.Failed(status.Failure{Reason: reason.Expired})
	recorder.Failed(status.Failure{Reason: reason.UnknownPID})
	server := newServer(t, func() status.Report {
		r := recorder.Report()
		r.Sessions = status.Sessions{Live: 5, Parked: 2, MaxParked: 10}
		r.Holdfast.Version = "v1.2.3"
		return r
	})
	for _, accept := range []string{"", "*/*", "text/plain"} {
		code, header, body := get(t, server, "GET", "/", accept)
		if code != 200 || header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Fatalf("got %d, %v", code, header)
		}
		for _, want := range []string{
			"holdfast    v1.2.3, serving, up 0s\n", "sessions    5 live, 2 parked (maximum 10)\n",
			"recoveries  1 recovered, 3 failed: expired 2, unknown_pid 1\n", "/api/status",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %q in\n%s", want, body)
			}
		}
	}
}
