package proxy

import (
	"encoding/json"
	"net/http/httptest"
	"strconv"
	"testing"
	"unsafe"

	"github.com/holdfast/holdfast/internal/config"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
	"github.com/holdfast/holdfast/session"
)

// Go's own quoting is not JSON: it writes \x00, \a and \U0001f600.
func TestErrorsAreJSON(t *testing.T) {
	for _, message := range []string{"plain", "\x00\a\v\x7f", "\U0001f600 \u2028", `"\`, "\xff"} {
		w := httptest.NewRecorder()
		httpmsg.WriteError(w, 503, message)
		var got struct {
			Code    int
			Message string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Code != 503 {
			t.Errorf("%q: %s: %v", message, w.Body, err)
		}
		if message != "\xff" && got.Message != message {
			t.Errorf("%q became %q", message, got.Message)
		}
	}
}

// A server's huge payload limit must not overflow holdfast's limits, not even on 32-bit machines.
func TestLimitsOfLargePayloads(t *testing.T) {
	for _, maxPayload := range []int64{1 << 27, 1 << 31, 1 << 40} { // the last is the largest value accepted in a handshake
		if got := partialLimit(maxPayload); got < maxPayload {
			t.Errorf("payloads of %d: partial packets may have %d bytes", maxPayload, got)
		}
	}
	if n := (1 << 40 * config.Size(1)).Int(); n < 1<<30 {
		t.Errorf("a size of 1 TiB became %d", n)
	}
}

// The memory per client decides how many idle ones fit. The sizes are those of Go's allocator: with
// one byte more, each takes the next one.
func TestSizesOfWhatEveryClientNeeds(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("the sizes are those of 64-bit systems")
	}
	for what, size := range map[string][2]uintptr{
		"client":          {unsafe.Sizeof(client{}), 576},
		"link":            {unsafe.Sizeof(link{}), 208},
		"engineio.Socket": {unsafe.Sizeof(engineio.Socket{}), 384},
		"session.Session": {unsafe.Sizeof(session.Session{}), 384},
		"session.Cursor":  {unsafe.Sizeof(session.Cursor{}), 48},
	} {
		if got, most := size[0], size[1]; got > most {
			t.Errorf("a %s has %d bytes, want at most %d", what, got, most)
		}
	}
}
