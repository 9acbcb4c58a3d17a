package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/internal/engineio"
)

// serveAnswer serves a polling answer of the given size on a connection and returns the client's
// end. done is closed when the handler returns.
func serveAnswer(t *testing.T, size int) (client net.Conn, done chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	done = make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/next" { // a slow handler, to show that no write deadline is left
			time.Sleep(2 * answerTimeout)
			_, _ = io.WriteString(w, "next")
			return
		}
		defer close(done)
		writeAnswer(slog.New(slog.DiscardHandler), w, r, engineio.Answer{Status: http.StatusOK, Body: bytes.Repeat([]byte("x"), size), Code: -1})
	})}
	l := newModelListener()
	go srv.Serve(l) //nolint:errcheck // returns when srv is closed
	l.conns <- ours
	t.Cleanup(func() { _ = srv.Close() }) // the test is over
	go func() { _, _ = io.WriteString(theirs, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }()
	return theirs, done
}

func TestAnswerThatIsNotRead(t *testing.T) {
	for _, taken := range []int{0, 100_000} {
		synctest.Test(t, func(t *testing.T) {
			client, done := serveAnswer(t, 1<<20)
			if _, err := io.ReadFull(client, make([]byte, taken)); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			<-done
			if waited := time.Since(start); waited != answerTimeout {
				t.Errorf("the handler returned after %v, want %v", waited, answerTimeout)
			}
			if rest, _ := io.Copy(io.Discard, client); taken+int(rest) > 200_000 {
				t.Errorf("%d bytes came after the deadline", rest)
			}
			time.Sleep(time.Second) // until net/http has closed its end
		})
	}
}

func TestAnswerThatIsReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond = 14_000
		client, done := serveAnswer(t, 1<<20)
		got := 0
		for buf := make([]byte, perSecond); got < 1<<20; {
			time.Sleep(time.Second)
			n, err := io.ReadAtLeast(client, buf, 1)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			got += n
		}
		<-done
		go func() { _, _ = io.WriteString(client, "GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }()
		rest, err := io.ReadAll(client)
		if err != nil || !bytes.HasSuffix(rest, []byte("next")) {
			t.Errorf("the next answer on the connection, long after: %.100q, %v", rest, err)
		}
		time.Sleep(time.Second)
	})
}
