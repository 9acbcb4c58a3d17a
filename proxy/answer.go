package proxy

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/holdfast/holdfast/internal/contentcoding"
	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
)

func writeAnswer(log *slog.Logger, w http.ResponseWriter, r *http.Request, a engineio.Answer) {
	h := w.Header()
	if a.Type != "" {
		h.Set("Content-Type", a.Type)
	}
	h.Set("Cache-Control", "no-store")
	body := a.Body
	if len(body) >= compressFrom {
		if encoding := contentcoding.Choose(r.Header, "gzip", "deflate"); encoding != "" {
			h.Set("Content-Encoding", encoding)
			body = httpmsg.Compress(encoding, body)
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(a.Status)
	if err := writeBody(w, body); err != nil { // the heartbeat notices if the client is gone
		log.Debug("polling answer not taken", "bytes", len(body), "error", err)
	}
}

// writeBody writes an answer's body and moves the deadline with each piece. A slow client thus gets
// the whole body. A client that stops reading cannot keep the goroutine and the body forever.
func writeBody(w http.ResponseWriter, body []byte) error {
	if len(body) <= smallAnswerBytes {
		_, err := w.Write(body)
		return err
	}
	rc := http.NewResponseController(w) // ignore errors: writers in tests lack deadlines and Flush
	for len(body) > 0 {
		n := min(len(body), answerPieceBytes)
		_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
		if _, err := w.Write(body[:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	_ = rc.Flush()                       // while the deadline still applies
	_ = rc.SetWriteDeadline(time.Time{}) // the next answer must not inherit it
	return nil
}

// compressFrom is the smallest body that is compressed. engine.io has the same threshold.
const compressFrom = 1024

const (
	// answerTimeout is how long a client may take to read answerPieceBytes. Clients slower than
	// about 1 KiB/s time out.
	answerTimeout    = 30 * time.Second
	answerPieceBytes = 32 << 10
	// smallAnswerBytes is the size of an answer that fits the buffers of net/http and the kernel.
	// Writing it never blocks.
	smallAnswerBytes = 4 << 10
)
