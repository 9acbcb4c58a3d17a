package engineio

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

func TestOpenAnswer(t *testing.T) {
	s := NewSocket("sid", testOptions, newFakeHandler())
	a := s.OpenAnswer(testHandshake)
	if a.Status != http.StatusOK || string(a.Body) != openText || a.Type != "text/plain; charset=UTF-8" || a.Code != -1 {
		t.Errorf("OpenAnswer() = %+v, body %s", a, a.Body)
	}
	if s.SID() != "sid" {
		t.Errorf("SID() = %q", s.SID())
	}
}

func TestPollIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.add("before")
		startPoll(t, s, "a").want(t, "200 4before")
		p := startPoll(t, s, "b")
		h.wantLog(t, "confirm 1")
		p.wantWaiting(t)
		h.add("x", "b:\x01\x02\x03\x04", "y")
		s.Wake()
		p.want(t, "200 4x\x1ebAQIDBA==\x1e4y")
		h.wantLog(t)
		startPoll(t, s, "c")
		h.wantLog(t, "confirm 4")
	})
}

// What comes within a moment goes together.
func TestPollLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		h.add("x")
		s.Wake()
		time.Sleep(pollLinger - time.Nanosecond)
		p.wantWaiting(t)
		h.add("y")
		s.Wake()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		p.want(t, "200 4x\x1e4y")
	})
}

func TestPollTakesABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		large := strings.Repeat("x", batchBytes/2)
		h.add(large, large, "rest")
		startPoll(t, s, "a").want(t, "200 4"+large+"\x1e4"+large)
		startPoll(t, s, "b").want(t, "200 4rest")
	})
}

func TestRetriedPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.add("x")
		startPoll(t, s, "a").want(t, "200 4x")
		h.add("y")
		for range 3 {
			startPoll(t, s, "a").want(t, "200 4x")
		}
		h.wantLog(t) // a retry confirms nothing
		startPoll(t, s, "b").want(t, "200 4y")
		h.wantLog(t, "confirm 1")
	})
}

// Where only pongs confirm, a poll does not: it may overtake a POST that was sent before it.
func TestConfirmByPong(t *testing.T) {
	opts := testOptions
	opts.ConfirmByPong = true
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, opts)
		h.add("x")
		startPoll(t, s, "a").want(t, "200 4x")
		startPoll(t, s, "a").want(t, "200 4x") // a retry
		waiting := startPoll(t, s, "b")
		h.wantLog(t)
		h.askForConfirmations()
		h.add("y")
		s.Wake()
		waiting.want(t, "200 4y\x1e2")
		h.wantLog(t, "confirm ping")
		h.add("z")
		startPoll(t, s, "c").want(t, "200 4z") // with one ping in flight at most
		h.wantLog(t)
		wantPost(t, s, "p", "41\x1e3", okAnswer)
		h.wantLog(t, "message 41", "confirm 2")

		waiting = startPoll(t, s, "d")
		h.askForConfirmations()
		h.add("v")
		s.Wake()
		waiting.want(t, "200 4v\x1e2")
		wantPost(t, s, "q", "3", okAnswer)
		h.wantLog(t, "confirm ping") // a pong alone may be another's: the answer need not have arrived
		startPoll(t, s, "e")
		h.wantLog(t, "confirm 4")

		p := startProbe(t, s)
		p.send(t, "2probe")
		p.want(t, "3probe")
		p.send(t, "5")
		h.wantLog(t, "upgraded") // the change to WebSocket may overtake it too
		h.add("w")
		s.Wake()
		p.want(t, "4w")
		p.want(t, "2")
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 5")
	})
}

// A ping is as much part of an answer as an event.
func TestRetriedPollHasThePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openPolling(t, testOptions)
		time.Sleep(25 * time.Second)
		startPoll(t, s, "a").want(t, "200 2")
		startPoll(t, s, "a").want(t, "200 2")
		wantPost(t, s, "p", "3", okAnswer)
		p := startPoll(t, s, "b")
		until(t, 25*time.Second+pollLinger, func() { p.wantWaiting(t) })
		p.want(t, "200 2")
	})
}

func TestRetryOfAPollThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.add("x")
		startPoll(t, s, "a").want(t, "200 4x")
		first := startPoll(t, s, "b")
		first.wantWaiting(t)
		second := startPoll(t, s, "b")
		first.want(t, "200 6") // nobody is there to have it
		second.wantWaiting(t)
		first.cancel()
		h.add("y")
		s.Wake()
		second.want(t, "200 4y")
		h.wantLog(t, "confirm 1")
	})
}

// Clients without a "t", or with one that is not theirs alone, do not retry.
func TestPollsWithoutIdentity(t *testing.T) {
	opts := testOptions
	opts.HandshakeID = "v2" // made up by the application
	for _, id := range []string{"", "v2", "1700000000", "1700000000000"} {
		t.Run(id, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, h := openPolling(t, opts)
				h.add("x")
				startPoll(t, s, id).want(t, "200 4x")
				h.add("y")
				startPoll(t, s, id).want(t, "200 4y")
				h.wantLog(t, "confirm 1")
				wantPost(t, s, id, "4z", okAnswer)
				wantPost(t, s, id, "4z", okAnswer)
				h.wantLog(t, "message 4z", "message 4z")
				first := startPoll(t, s, id)
				first.wantWaiting(t)
				startPoll(t, s, id).want(t, "400")
				first.want(t, "200 1")
			})
		})
	}
}

func TestOverlappingPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		first := startPoll(t, s, "a")
		first.wantWaiting(t)
		startPoll(t, s, "b").want(t, "400")
		first.want(t, "200 1")
		h.wantLog(t, "closed: poll error")
		startPoll(t, s, "c").want(t, unknownSID)
	})
}

func TestCancelledPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		p.cancel()
		p.want(t, "none")
		h.wantLog(t, "closed: poll error")
		startPoll(t, s, "b").want(t, unknownSID)
	})
}

// An answer that was on its way when the poll was cancelled is not lost: the next poll shows whether it arrived.
func TestPollCancelledWhileAnswered(t *testing.T) {
	s, h := openPolling(t, testOptions)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.add("x")
	s.mu.Lock()
	s.state.set(stateClosing) // answers without lingering
	s.mu.Unlock()
	if got := answerText(s.Poll(ctx, "a")); got != "200 4x" {
		t.Errorf("the poll got %q, want 200 4x", got)
	}
}

func TestPost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		wantPost(t, s, "a", "4x\x1ebAQIDBA==\x1e4y", okAnswer)
		h.wantLog(t, "message 4x", "message b01020304", "message 4y")
		wantPost(t, s, "b", "4a€\xffb", okAnswer)
		h.wantLog(t, "message 4a€\uFFFDb") // as engine.io reads it
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
		wantPost(t, s, "a", "4y", okAnswer)
		h.wantLog(t, "message 4y", "message 4y", "message 4y")
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
			wantPost(t, s, "b", "4later", okAnswer) // the session lives on
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
		h.wantLog(t) // nothing of the first is handled any more
	})
}

func TestPausedPostWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		h.onMessage = func(string) { s.Pause() }
		answer := make(chan string, 1) // so that the POST always ends
		go func() { answer <- post(s, "a", "4x\x1e4y") }()
		h.wantLog(t, "message 4x", "message 4y") // what was read already
		time.Sleep(time.Hour)                    // no ping timeout either
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

func TestCloseAnswersTheWaitingPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		s.Close()
		s.Close()
		p.want(t, "200 1")
		h.wantLog(t, "closed: forced close")
		startPoll(t, s, "b").want(t, unknownSID)
	})
}

// CLOSE never comes with events, nor before they were fetched: the client would handle it first.
func TestCloseComesAfterTheData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		large := strings.Repeat("x", batchBytes)
		h.add(large, "y")
		s.Close()
		p.want(t, "200 4"+large)
		startPoll(t, s, "a").want(t, "200 4"+large) // still retried
		startPoll(t, s, "b").want(t, "200 4y")
		h.wantLog(t, "confirm 1")
		wantPost(t, s, "p", "4too late", okAnswer)
		startPoll(t, s, "c").want(t, "200 6\x1e1")
		h.wantLog(t, "confirm 2", "closed: forced close")
		startPoll(t, s, "d").want(t, unknownSID)
	})
}

func TestCloseWhileAPollLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		h.add("x")
		s.Wake()
		s.Close()
		p.want(t, "200 4x")
		startPoll(t, s, "b").want(t, "200 6\x1e1")
		h.wantLog(t, "confirm 1", "closed: forced close")
	})
}

func TestCloseWithoutAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		s.Close()
		h.wantLog(t)
		startPoll(t, s, "a").want(t, "200 6\x1e1")
		h.wantLog(t, "closed: forced close")
	})
}

func TestCloseIsNotFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		time.Sleep(20 * time.Second)
		s.Close()
		until(t, closeTimeout, func() { h.wantLog(t) })
		h.wantLog(t, "closed: forced close")
		startPoll(t, s, "a").want(t, unknownSID)
	})
}

func TestClientsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		wantPost(t, s, "b", "1", okAnswer)
		p.want(t, "200 6")
		h.wantLog(t, "closed: client close")
		startPoll(t, s, "c").want(t, unknownSID)
	})
}

// A client sends its last poll and its CLOSE on two connections: the poll is to be answered as if it had come first.
func TestClientsCloseOvertakesItsPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		answer := make(chan string, 1) // so that the POST always ends
		go func() { answer <- post(s, "a", "1") }()
		synctest.Wait()
		startPoll(t, s, "b").want(t, "200 6")
		if got := <-answer; got != okAnswer {
			t.Errorf("the POST got %q, want %q", got, okAnswer)
		}
		h.wantLog(t, "closed: client close")
	})
}

// It is not waited for any longer than it takes to come.
func TestClientsCloseWaitsForItsPollOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := openPolling(t, testOptions)
		since := time.Now()
		answer := make(chan string, 1) // so that the POST always ends
		go func() { answer <- post(s, "a", "1") }()
		time.Sleep(time.Millisecond)
		startPoll(t, s, "b").want(t, "200 6")
		if got := <-answer; got != okAnswer || time.Since(since) != time.Millisecond {
			t.Errorf("the POST got %q after %v", got, time.Since(since))
		}
	})
}

func TestAbortPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startPoll(t, s, "a")
		p.wantWaiting(t)
		h.add("x")
		s.Abort()
		p.want(t, "200 1")
		h.wantLog(t, "closed: forced close")
		s.Wake()
		s.Pause()
		s.Resume()
		s.Close()
		h.wantLog(t)
	})
}
