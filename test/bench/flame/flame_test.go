package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/pprof/profile"
)

func stack(nanoseconds int64, names ...string) *profile.Sample {
	s := &profile.Sample{Value: []int64{1, nanoseconds}}
	for _, name := range names { // the innermost first
		s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: name}}}})
	}
	return s
}

func TestDraw(t *testing.T) {
	root := tree(&profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples"}, {Type: "cpu", Unit: "nanoseconds"}},
		Sample: []*profile.Sample{
			stack(30, "example.org/x/engineio.(*Socket).Wake", "main.main"),
			stack(10, "runtime.mallocgc", "example.org/x/engineio.(*Socket).Wake", "main.main"),
			stack(60, "a<b>", "main.main"),
		},
	})
	if root.value != 100 || root.depth() != 4 || root.calls["main.main"].calls["engineio.(*Socket).Wake"].value != 40 {
		t.Errorf("got %+v", root)
	}
	var b strings.Builder
	if err := draw(&b, "A & B", root); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A &amp; B", "engineio.(*Socket).Wake, 40.0 %", "a&lt;b&gt;, 60.0 %", "runtime.mallocgc, 10.0 %"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %s", want, b.String())
		}
	}
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
