package contentcoding_test

import (
	"net/http"
	"testing"

	"github.com/holdfast/holdfast/internal/contentcoding"
)

func TestChoose(t *testing.T) {
	tests := []struct{ accepted, want string }{
		{"", ""},
		{"gzip", "gzip"},
		{"deflate", "deflate"},
		{"deflate, gzip", "gzip"},
		{"gzip;q=0.5, deflate", "deflate"},
		{"gzip;q=0.5, deflate;q=0.5", "gzip"},
		{" GZip ; Q=1", "gzip"},
		{"br", ""},
		{"br, *", "gzip"},
		{"*;q=0", ""},
		{"gzip;q=0, *", "deflate"},
		{"gzip;q=0.0, deflate;q=0", ""},
		{"gzip;q=much", ""},
		{"identity, gzip;q=0", ""},
	}
	for _, tt := range tests {
		h := http.Header{}
		if tt.accepted != "" {
			h.Set("Accept-Encoding", tt.accepted)
		}
		if got := contentcoding.Choose(h, "gzip", "deflate"); got != tt.want {
			t.Errorf("%q: chose %q, want %q", tt.accepted, got, tt.want)
		}
	}
}

func TestChooseReadsAllFields(t *testing.T) {
	h := http.Header{"Accept-Encoding": {"br", "deflate"}}
	if got := contentcoding.Choose(h, "gzip", "deflate"); got != "deflate" {
		t.Errorf("chose %q, want deflate", got)
	}
}
