package engineio

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
)

func options3(base64 bool) Options {
	o := testOptions
	o.Protocol, o.Base64 = V3, base64
	return o
}

// binaryMessage returns a binary message as a payload in the binary form.
func binaryMessage(data ...byte) string {
	return string(appendBinaryForm3(nil, binaryForm3, []byte{4}, data))
}

func TestSocket3OpenAnswer(t *testing.T) {
	h := testHandshake
	h.MaxPayload = 0
	open := strings.Replace(openText, `,"maxPayload":1048576`, "", 1)
	a := NewSocket("sid", options3(false), newFakeHandler()).OpenAnswer(h)
	if string(a.Body) != binary3(open) || a.Type != "application/octet-stream" {
		t.Errorf("OpenAnswer() = %s, %q", a.Type, a.Body)
	}
	a = NewSocket("sid", options3(true), newFakeHandler()).OpenAnswer(h)
	if string(a.Body) != string(appendTextForm3(nil, []byte(open))) || a.Type != "text/plain; charset=UTF-8" {
		t.Errorf("with b64 OpenAnswer() = %s, %q", a.Type, a.Body)
	}
}

func TestSocket3Polls(t *testing.T) {
	for base64, want := range map[bool]string{
		false: "200 " + binary3("4€") + binaryMessage(1, 2, 3) + binary3("4😀"),
		true:  `200 7:4\u20ac6:b4AQID13:4\ud83d\ude00`,
	} {
		synctest.Test(t, func(t *testing.T) {
			s, h := openPolling(t, options3(base64))
			h.add("€", "b:\x01\x02\x03", "😀")
			startPoll(t, s, "a").want(t, want)
			startPoll(t, s, "b").wantWaiting(t)
			h.wantLog(t, "confirm 3")
		})
	}
}

func TestSocket3Posts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, options3(false))
		wantPost(t, s, "a", "3:4€x6:b4AQID3:4😀", "200 ok")
		h.wantLog(t, "message 4€x", "message b010203", "message 4😀")
		a, ok := s.Post(t.Context(), "b", "application/octet-stream", -1, strings.NewReader(binary3("4€")+binaryMessage(9, 0xff)))
		if got := answerText(a, ok); got != "200 ok" {
			t.Errorf("a binary POST got %s", got)
		}
		h.wantLog(t, "message 4€", "message b09ff")
		wantPost(t, s, "c", "9:4", "200 ok")
		h.wantLog(t, "closed: parse error")
	})
}

// The client's PINGs are answered once each, over polling with the next answer.
func TestSocket3PingsByPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, options3(true))
		p := startPoll(t, s, "a")
		wantPost(t, s, "b", "1:2", "200 ok")
		h.wantLog(t)
		p.want(t, "200 1:3")
		p = startPoll(t, s, "c")
		h.wantLog(t, "confirm 0")
		p.wantWaiting(t)

		// Nothing more comes.
		time.Sleep(44 * time.Second)
		h.wantLog(t)
		time.Sleep(2 * time.Second)
		h.wantLog(t, "closed: ping timeout")
		p.want(t, "200 1:1")
	})
}

func TestSocket3PollingIsKeptByPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, options3(false))
		for range 5 {
			p := startPoll(t, s, "")
			time.Sleep(25 * time.Second)
			p.wantWaiting(t)
			wantPost(t, s, "", "1:2", "200 ok")
			p.want(t, "200 "+binary3("3"))
		}
		h.took()
		wantPost(t, s, "z", "1:1", "200 ok")
		h.wantLog(t, "closed: client close")
	})
}

func openPipe3(t *testing.T) (*Socket, *fakeHandler, *wsPeer) {
	t.Helper()
	return openPipe(t, options3(false))
}

// Over WebSocket the Socket confirms by RFC 6455 pings, and answers the client's PINGs.
func TestSocket3Confirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe3(t)
		h.askForConfirmations()
		h.emit(s, "x", "b:\x01\x02")
		p.want(t, "4x", "b040102", "ping:m2")
		h.wantLog(t, "confirm ping")
		h.emit(s, "y")
		p.want(t, "4y") // one ping is in flight at most
		p.sendFrame(t, ws.OpPong, []byte("m1"))
		h.wantLog(t)
		p.sendFrame(t, ws.OpPong, []byte("m2"))
		h.wantLog(t, "confirm 2")
		p.send(t, "2")
		p.want(t, "3")
		p.send(t, "3") // means nothing
		h.wantLog(t)
		p.sendFrame(t, ws.OpBinary, []byte{4, 7})
		p.send(t, "b4CA==")
		h.wantLog(t, "message b07", "message b08")
	})
}

// A client whose timers are late is not closed while it answers RFC 6455 pings.
func TestSocket3HiddenPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h, p := openPipe3(t)
		for range 10 {
			until(t, 25*time.Second, func() { p.wantNothing(t) })
			p.want(t, "ping:m0")
			p.sendFrame(t, ws.OpPong, []byte("m0"))
			h.wantLog(t, "confirm 0")
		}
		time.Sleep(25 * time.Second)
		p.want(t, "ping:m0")
		until(t, 45*time.Second, func() { h.wantLog(t) })
		p.want(t, "close:")
		h.wantLog(t, "closed: ping timeout")
	})
}

// If nothing answers RFC 6455 pings, the client's PINGs keep the connection, and show what arrived:
// PING n+1 shows that PONG n has come.
func TestSocket3WithoutPongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h, p := openPipe3(t)
		h.askForConfirmations()
		p.send(t, "2")
		p.want(t, "3")
		h.emit(s, "x")
		p.want(t, "4x", "ping:m1")
		h.wantLog(t, "confirm ping")
		time.Sleep(25 * time.Second)
		p.send(t, "2") // may have been sent before x came
		p.want(t, "3")
		h.wantLog(t)
		time.Sleep(25 * time.Second)
		p.send(t, "2")
		p.want(t, "3")
		h.wantLog(t, "confirm 1")
		for range 5 {
			time.Sleep(25 * time.Second)
			p.send(t, "2")
		}
		for _, f := range h.took() {
			if strings.HasPrefix(f, "closed") {
				t.Error(f)
			}
		}
	})
}

func TestSocket3Upgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, h := openPolling(t, options3(false))
		wantPost(t, s, "a", "1:2", "200 ok")
		h.wantLog(t)
		w := startProbed(t, s)
		p := startPoll(t, s, "b")
		p.want(t, "200 "+binary3("3")) // the answer to the PING
		p = startPoll(t, s, "c")
		h.wantLog(t, "confirm 0")
		time.Sleep(noopDelay)
		p.want(t, "200 "+binary3("6"))
		w.send(t, "5")
		h.wantLog(t, "upgraded", "confirm 0")
		h.emit(s, "x")
		w.want(t, "4x")
		until(t, 25*time.Second-noopDelay, func() { h.wantLog(t) })
		w.send(t, "2")
		w.want(t, "3")
		time.Sleep(noopDelay)
		w.want(t, "ping:m1")
	})
}

// A POST of version 3 is decoded, or closes the connection.
func FuzzPost3(f *testing.F) {
	for _, seed := range []string{"1:2", "12:42[\"hi\",\"€\"]6:b4AQID", "1:1", "x", "", "0:", "\x00\x01\xff2\x01\x03\xff\x04ab", "2:5x", "1:0", "3:b4!"} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, base64 bool) {
		synctest.Test(t, func(t *testing.T) {
			s, h := openPolling(t, options3(base64))
			a, ok := s.Post(t.Context(), "id1", "text/plain", int64(len(body)), bytes.NewReader(body))
			if !ok || a.Status != 200 {
				t.Errorf("POST got %s", answerText(a, ok))
			}
			var want []string
			d := decoder3{}
			text := body
			if !isBinaryForm3(body) {
				text = bytes.ToValidUTF8(body, []byte("\uFFFD"))
			}
			ended := false
			err := d.decode(text, func(p Packet) bool {
				switch p.Type { //nolint:exhaustive // the others mean nothing
				case Message:
					want = append(want, "message "+p.String())
				case Close:
					ended = true
				}
				return !ended
			})
			var got []string
			closed := false
			for _, e := range h.took() {
				if strings.HasPrefix(e, "message ") {
					got = append(got, e)
				}
				closed = closed || strings.HasPrefix(e, "closed")
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") || closed != (err != nil || ended) {
				t.Errorf("POST %q gave %q, closed %v; want %q, %v", body, got, closed, want, err)
			}
		})
	})
}
