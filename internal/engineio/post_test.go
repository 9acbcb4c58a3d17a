package engineio

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		wantPost(t, s, "a", "4x\x1ebAQIDBA==\x1e4y", okAnswer)
		h.wantLog(t, "message 4x", "message b01020304", "message 4y")
		wantPost(t, s, "b", "4a€\xffb", okAnswer)
		h.wantLog(t, "message 4a€\uFFFDb") // as the reference server decodes it
		wantPost(t, s, "c", "0{}\x1e5\x1e6\x1e4z", okAnswer)
		h.wantLog(t, "message 4z") // the others are ignored
	})
}

func TestPostAnswer(t *testing.T) {
	s, _ := openPolling(t, testOptions)
	a, ok := s.Post(context.Background(), "a", "", -1, strings.NewReader("4x"))
	if !ok || a.Type != "text/html" || string(a.Body) != "ok" || a.Code != -1 {
		t.Errorf("Post() = %+v, %v", a, ok)
	}
}

func TestFlushFollowsEachPost(t *testing.T) {
	s, h := openPolling(t, testOptions)
	wantPost(t, s, "a", "4x\x1e4y\x1e1", okAnswer)
	want := []string{"message 4x", "message 4y", "flush", "closed: client close"}
	if got := strings.Join(h.log, ", "); got != strings.Join(want, ", ") {
		t.Errorf("the handler saw %v, want %v", got, want)
	}
}

func TestRepeatedPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		wantPost(t, s, "a", "4x", okAnswer)
		wantPost(t, s, "a", "4x", okAnswer)
		h.wantLog(t, "message 4x")
		wantPost(t, s, "a", "4y", okAnswer) // another body
		wantPost(t, s, "b", "4y", okAnswer) // another request
		h.wantLog(t, "message 4y", "message 4y")
		// The first requests were delayed. The client has repeated them, and continued.
		wantPost(t, s, "a", "4x", okAnswer)
		wantPost(t, s, "a", "4y", okAnswer)
		h.wantLog(t)
		time.Sleep(repeatTime + time.Millisecond)
		wantPost(t, s, "c", "4z", okAnswer)
		wantPost(t, s, "a", "4y", okAnswer) // an application with few values for t
		h.wantLog(t, "message 4z", "message 4y")
	})
}

func TestPostOverTheLimit(t *testing.T) {
	opts := testOptions
	opts.MaxPayload = 10
	tests := []struct {
		name   string
		length int64
		body   string
		want   string
		log    string
	}{
		{"as long as allowed", 10, "4234567890", okAnswer, "message 4234567890"},
		{"announced", 11, "42345678901", "413", ""},
		{"chunked", -1, "42345678901", "413", ""},
		{"announced, and shorter than that", 11, "4x", "413", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, h := openPolling(t, opts)
			a, ok := s.Post(context.Background(), "a", "", tt.length, strings.NewReader(tt.body))
			if got := answerText(a, ok); got != tt.want {
				t.Errorf("the POST got %q, want %q", got, tt.want)
			}
			if got := strings.Join(h.took(), ", "); got != tt.log {
				t.Errorf("the handler saw %q, want %q", got, tt.log)
			}
			wantPost(t, s, "b", "4later", okAnswer) // the session continues
		})
	}
}

func TestPostsThatEndTheSession(t *testing.T) {
	tests := []struct {
		name, contentType, body string
		want                    string
		log                     string
	}{
		{"empty", "text/plain", "", okAnswer, "closed: parse error"},
		{"not a payload", "text/plain", "hello", okAnswer, "closed: parse error"},
		{"bad packet after good ones", "text/plain", "4x\x1e9\x1e4y", okAnswer, "message 4x, closed: parse error"},
		{"a ping, which is the server's", "text/plain", "4x\x1e2\x1e4y", okAnswer, "message 4x, closed: parse error"},
		{"binary body", "application/octet-stream", "4x", "400", "closed: parse error"},
		{"the client's close", "text/plain", "4x\x1e1\x1e4y", okAnswer, "message 4x, closed: client close"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, h := openPolling(t, testOptions)
			a, ok := s.Post(context.Background(), "a", tt.contentType, int64(len(tt.body)), strings.NewReader(tt.body))
			if got := answerText(a, ok); got != tt.want {
				t.Errorf("the POST got %q, want %q", got, tt.want)
			}
			if got := strings.Join(h.took(), ", "); got != tt.log {
				t.Errorf("the handler saw %q, want %q", got, tt.log)
			}
			wantPost(t, s, "b", "4z", unknownSID)
		})
	}
}

func TestCancelledPost(t *testing.T) {
	s, h := openPolling(t, testOptions)
	body := io.MultiReader(strings.NewReader("4x"), iotest.ErrReader(errors.New("gone")))
	a, ok := s.Post(context.Background(), "a", "", 100, body)
	if got := answerText(a, ok); got != "none" {
		t.Errorf("the POST got %q, want no answer", got)
	}
	if got := strings.Join(h.took(), ", "); got != "closed: poll error" {
		t.Errorf("the handler saw %q", got)
	}
}

func TestOverlappingPosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		body, w := io.Pipe()
		first := make(chan string, 1) // so that Post always ends
		go func() {
			first <- answerText(s.Post(context.Background(), "a", "", -1, body))
		}()
		synctest.Wait()
		wantPost(t, s, "b", "4y", "400")
		h.wantLog(t, "closed: parse error")
		_ = w.Close() // never fails
		<-first
		h.wantLog(t) // the first POST is not handled
	})
}

func TestPausedPostWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.onMessage = func(string) { s.Pause() }
		answer := make(chan string, 1) // so that the POST always ends
		go func() { answer <- post(s, "a", "4x\x1e4y") }()
		h.wantLog(t, "message 4x", "message 4y") // read before the pause
		time.Sleep(time.Hour)                    // and there is no ping timeout
		synctest.Wait()
		select {
		case got := <-answer:
			t.Fatalf("the POST got %q while paused", got)
		default:
		}
		h.wantLog(t)
		s.Resume()
		if got := <-answer; got != okAnswer {
			t.Errorf("the POST got %q, want %q", got, okAnswer)
		}
	})
}

// What a Socket keeps for polling goes with the upgrade, or with the POST that outlasts it.
func TestPausedPostOutlastsTheUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		polls := func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.poll != nil
		}
		h.onMessage = func(string) { s.Pause() }
		answer := make(chan string, 1) // so that the POST always ends
		go func() { answer <- post(s, "a", "4x") }()
		h.wantLog(t, "message 4x")
		p := startProbed(t, s)
		p.send(t, "5")
		h.wantLog(t, "upgraded", "confirm 0")
		if !polls() {
			t.Error("the POST under way is forgotten")
		}
		s.Resume()
		if got := <-answer; got != okAnswer {
			t.Errorf("the POST got %q, want %q", got, okAnswer)
		}
		wantPost(t, s, "b", "4y", badRequest)
		if polls() {
			t.Error("the polling transport is still there")
		}
	})
}

func TestPausedPostEndsWithTheSession(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(s *Socket, cancel context.CancelFunc)
		log  string
	}{
		{"closed", func(s *Socket, _ context.CancelFunc) { s.Close() }, ""},
		{"aborted", func(s *Socket, _ context.CancelFunc) { s.Abort() }, "closed: forced close"},
		{"cancelled", func(_ *Socket, cancel context.CancelFunc) { cancel() }, "closed: poll error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := openPolling(t, testOptions)
				s.Pause()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.Post(ctx, "a", "", -1, strings.NewReader("4x"))
				}()
				h.wantLog(t, "message 4x")
				tt.end(s, cancel)
				<-done
				if tt.log == "" {
					h.wantLog(t)
				} else {
					h.wantLog(t, tt.log)
				}
			})
		})
	}
}

// A POST whose body arrives when the Socket has ended or moved away is not answered as if it had
// been handled: a client that was moved would miss nothing, and continue.
func TestPostThatComesTooLate(t *testing.T) {
	for name, end := range map[string]func(*Socket){
		"detached": func(s *Socket) { s.Input(func() { s.Detach(nil) }) },
		"aborted":  (*Socket).Abort,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := openPolling(t, testOptions)
				r, w := io.Pipe()
				done := make(chan string, 1)
				go func() {
					a, ok := s.Post(context.Background(), "a", "text/plain", -1, r)
					done <- answerText(a, ok)
				}()
				synctest.Wait()
				end(s)
				if _, err := w.Write([]byte("4late")); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if got, want := <-done, `400 {"code":1,"message":"Session ID unknown"}`; got != want {
					t.Errorf("the POST got %q, want %q", got, want)
				}
				for _, line := range h.took() {
					if strings.HasPrefix(line, "message") {
						t.Errorf("the handler got %q", line)
					}
				}
			})
		})
	}
}
