package status

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/holdfast/holdfast/internal/reason"
)

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		r := NewRecorder()
		r.Recovered(Recovery{Reason: reason.Resumed})
		time.Sleep(step - time.Nanosecond)
		r.Failed(Failure{Reason: reason.Expired})
		check := func(wantStart time.Time, recovered, failed []int) {
			t.Helper()
			h := r.Report().History
			if !h.Start.Equal(wantStart) || !slices.Equal(h.Recovered, recovered) || !slices.Equal(h.Failed, failed) || h.StepSeconds != 5 {
				t.Errorf("history = %+v\nwant start %v, %v, %v", h, wantStart, recovered, failed)
			}
		}
		check(start, []int{1}, []int{1})
		time.Sleep(time.Nanosecond)
		check(start, []int{1, 0}, []int{1, 0})
		time.Sleep(2 * step)
		r.Recovered(Recovery{Reason: reason.Takeover})
		check(start, []int{1, 0, 0, 1}, []int{1, 0, 0, 0})

		// The oldest steps fall out one by one.
		time.Sleep((steps - 4) * step)
		check(start, slices.Concat([]int{1, 0, 0, 1}, make([]int, steps-4)), slices.Concat([]int{1}, make([]int, steps-1)))
		time.Sleep(step)
		check(start.Add(step), slices.Concat([]int{0, 0, 1}, make([]int, steps-3)), make([]int, steps))

		// After a long silence they contain nothing old.
		time.Sleep(10 * steps * step)
		r.Failed(Failure{Reason: reason.Expired})
		h := r.Report().History
		if want := append(make([]int, steps-1), 1); !slices.Equal(h.Failed, want) || slices.Max(h.Recovered) != 0 || len(h.Recovered) != steps {
			t.Errorf("after a long time: %+v", h)
		}
	})
}

func TestLatestAndTotals(t *testing.T) {
	r := NewRecorder()
	for i := range latest + 3 {
		r.Recovered(Recovery{Client: uint64(i), Reason: reason.Resumed, Missed: i, AwaySeconds: 1.5, Namespace: "/"})
	}
	r.Failed(Failure{Client: 100, Reason: reason.UnknownPID, Namespace: "/a"})
	r.Failed(Failure{Client: 101, Reason: reason.Expired, Namespace: "/b"})
	got := r.Report()
	if n := len(got.LatestRecovery); n != latest {
		t.Fatalf("%d recoveries are remembered, want %d", n, latest)
	}
	if first, last := got.LatestRecovery[0], got.LatestRecovery[latest-1]; first.Client != latest+2 || last.Client != 3 || first.Missed != latest+2 {
		t.Errorf("from %+v to %+v, want the newest first", first, last)
	}
	if f := got.LatestFailure; len(f) != 2 || f[0].Reason != reason.Expired || f[0].Namespace != "/b" || f[0].Time.IsZero() {
		t.Errorf("failures: %+v", f)
	}
	if rec := got.Recoveries; rec.Recovered != latest+3 || rec.Failed != 2 {
		t.Errorf("%d recovered, %d failed", rec.Recovered, rec.Failed)
	}
	// Every reason of the closed list is there, with its meaning, in the list's order.
	i := 0
	for _, want := range slices.Concat(reason.Recovered(), reason.Failed()) {
		if rc := got.Recoveries.Reasons[i]; rc.Reason != want || rc.Meaning == "" {
			t.Errorf("reason %d = %+v, want %s with a meaning", i, rc, want)
		}
		i++
	}
	if i != len(got.Recoveries.Reasons) {
		t.Errorf("%d reasons, want %d", len(got.Recoveries.Reasons), i)
	}
}

func TestUpstreamHealth(t *testing.T) {
	refused := errors.New("connection refused")
	type dial struct {
		result DialResult
		err    error
	}
	tests := []struct {
		name   string
		dials  []dial
		health string
		err    string
	}{
		{"nothing yet", nil, HealthUnknown, ""},
		{"answered", []dial{{DialOK, nil}}, HealthOK, ""},
		{"a refusal is an answer", []dial{{DialRejected, nil}}, HealthOK, ""},
		{"never answered", []dial{{DialError, refused}}, HealthFailing, "connection refused"},
		{"answers no more", []dial{{DialOK, nil}, {DialTimeout, refused}}, HealthFailing, "connection refused"},
		{"answers again", []dial{{DialError, refused}, {DialOK, nil}}, HealthOK, "connection refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewRecorder()
			for _, d := range tt.dials {
				time.Sleep(time.Microsecond) // a later time than the last
				r.Dialled(d.result, d.err)
			}
			if u := r.Report().Upstream; u.Health != tt.health || u.LastError != tt.err {
				t.Errorf("got %+v, want %s, error %q", u, tt.health, tt.err)
			}
		})
	}
}

// The JSON names are a promise that docs/status.md makes.
func TestEmptyReportHasNoNullLists(t *testing.T) {
	data, err := json.Marshal(NewRecorder().Report())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"version":1`, `"latest_recoveries":[]`, `"latest_failures":[]`, `"parked":[]`, `"recovered":[0]`, `"last_answer":null`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
}

func TestShortNamespace(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"/chat", "/chat"},
		{strings.Repeat("x", maxNamespace), strings.Repeat("x", maxNamespace)},
		{strings.Repeat("x", maxNamespace+1), strings.Repeat("x", maxNamespace-3) + "…"},
		{strings.Repeat("ä", maxNamespace), strings.Repeat("ä", maxNamespace/2-2) + "…"},
	} {
		if got := ShortNamespace(tt.in); got != tt.want || !utf8.ValidString(got) {
			t.Errorf("ShortNamespace(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func BenchmarkRecovered(b *testing.B) {
	r := NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		r.Recovered(Recovery{Namespace: "/", Reason: reason.Resumed})
	}
}

// docs/status.md names every field.
func TestStatusPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "status.md"))
	if err != nil {
		t.Fatal(err)
	}
	var check func(prefix string, typ reflect.Type)
	check = func(prefix string, typ reflect.Type) {
		for field := range typ.Fields() {
			name := prefix + field.Tag.Get("json")
			kind := field.Type
			switch {
			case kind.Kind() == reflect.Struct && kind != reflect.TypeFor[time.Time]():
				check(name+".", kind)
				continue
			case kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct:
				name += "[]"
				for f := range kind.Elem().Fields() {
					if part := f.Tag.Get("json"); !regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(name) + "` .*`" + part + "`").Match(page) {
						t.Errorf("docs/status.md: %s has no %s", name, part)
					}
				}
			case kind.Kind() == reflect.Slice:
				name += "[]"
			}
			short := "`." + field.Tag.Get("json") + "`" // a row may list several of one parent
			if row := "`" + name + "`"; !strings.Contains(string(page), row) && !strings.Contains(string(page), short) {
				t.Errorf("docs/status.md: no %s", name)
			}
		}
	}
	check("", reflect.TypeFor[Report]())
}
