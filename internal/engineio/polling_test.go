package engineio

import (
	"context"
	"net/http"
	"strings"
	"testing"
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
		h.emit(s, "x", "b:\x01\x02\x03\x04", "y")
		p.want(t, "200 4x\x1ebAQIDBA==\x1e4y")
		h.wantLog(t)
		startPoll(t, s, "c")
		h.wantLog(t, "confirm 4")
	})
}

// Messages that come within pollLinger share an answer.
func TestPollLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startWaiting(t, s, "a")
		h.emit(s, "x")
		time.Sleep(pollLinger - time.Nanosecond)
		p.wantWaiting(t)
		h.emit(s, "y")
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

// With ConfirmByPong, a poll confirms nothing: it may overtake a POST that was sent before it.
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
		h.emit(s, "y")
		waiting.want(t, "200 4y\x1e2")
		h.wantLog(t, "confirm ping")
		h.add("z")
		startPoll(t, s, "c").want(t, "200 4z") // at most one ping is in flight
		h.wantLog(t)
		wantPost(t, s, "p", "41\x1e3", okAnswer)
		h.wantLog(t, "message 41", "confirm 2")

		waiting = startPoll(t, s, "d")
		h.askForConfirmations()
		h.emit(s, "v")
		waiting.want(t, "200 4v\x1e2")
		wantPost(t, s, "q", "3", okAnswer)
		// The answer may not have arrived: the pong may be a late one of another ping.
		h.wantLog(t, "confirm ping")
		startPoll(t, s, "e")
		h.wantLog(t, "confirm 4")

		p := startProbed(t, s)
		p.send(t, "5")
		h.wantLog(t, "upgraded") // the UPGRADE may overtake a POST too
		h.emit(s, "w")
		p.want(t, "4w")
		p.want(t, "2")
		p.send(t, "3")
		h.wantLog(t, "confirm ping", "confirm 5")
	})
}

// A repeated answer includes its ping.
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
		first := startWaiting(t, s, "b")
		second := startPoll(t, s, "b")
		first.want(t, "200 6") // its client has gone
		second.wantWaiting(t)
		first.cancel()
		h.emit(s, "y")
		second.want(t, "200 4y")
		h.wantLog(t, "confirm 1")
	})
}

// Without a "t" that identifies the request, a poll is never a retry.
func TestPollsWithoutIdentity(t *testing.T) {
	opts := testOptions
	opts.HandshakeID = "v2" // set by the application
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
				first := startWaiting(t, s, id)
				startPoll(t, s, id).want(t, "400")
				first.want(t, "200 1")
			})
		})
	}
}

func TestOverlappingPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		first := startWaiting(t, s, "a")
		startPoll(t, s, "b").want(t, "400")
		first.want(t, "200 1")
		h.wantLog(t, "closed: poll error")
		startPoll(t, s, "c").want(t, unknownSID)
	})
}

func TestCancelledPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startWaiting(t, s, "a")
		p.cancel()
		p.want(t, "none")
		h.wantLog(t, "closed: poll error")
		startPoll(t, s, "b").want(t, unknownSID)
	})
}

// An answer that crosses the poll's cancelation is not lost: the next poll shows whether it
// arrived.
func TestPollCancelledWhileAnswered(t *testing.T) {
	s, h := openPolling(t, testOptions)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.add("x")
	s.mu.Lock()
	s.state.moveLocked(stateClosing) // answers without lingering
	s.mu.Unlock()
	if got := answerText(s.Poll(ctx, "a")); got != "200 4x" {
		t.Errorf("the poll got %q, want 200 4x", got)
	}
}

func TestCloseAnswersTheWaitingPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startWaiting(t, s, "a")
		s.Close()
		s.Close()
		p.want(t, "200 1")
		h.wantLog(t, "closed: forced close")
		startPoll(t, s, "b").want(t, unknownSID)
	})
}

// CLOSE never shares an answer with events or precedes them: the client would handle it first.
func TestCloseComesAfterTheData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, testOptions)
		p := startWaiting(t, s, "a")
		large := strings.Repeat("x", batchBytes)
		h.add(large, "y")
		s.Close()
		p.want(t, "200 4"+large)
		startPoll(t, s, "a").want(t, "200 4"+large) // a retry
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
		p := startWaiting(t, s, "a")
		h.emit(s, "x")
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
		p := startWaiting(t, s, "a")
		wantPost(t, s, "b", "1", okAnswer)
		p.want(t, "200 6")
		h.wantLog(t, "closed: client close")
		startPoll(t, s, "c").want(t, unknownSID)
	})
}

// A client sends its last poll and its CLOSE on two connections. The poll is answered as if it had
// come first.
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

// CLOSE waits only until the poll arrives.
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
		p := startWaiting(t, s, "a")
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
