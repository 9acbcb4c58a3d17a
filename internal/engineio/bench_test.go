package engineio

import (
	"net"
	"testing"

	"github.com/gobwas/ws"
)

// askingHandler sends one event at a time and receives its answer.
type askingHandler struct {
	*fakeHandler
	result   FillResult // of a Fill that adds an event
	due      bool
	answered chan struct{}
}

func (h *askingHandler) Message([]byte, bool) { h.answered <- struct{}{} }
func (h *askingHandler) Flush()               {}
func (h *askingHandler) Confirm(uint64)       {}
func (h *askingHandler) ConfirmPing()         {}
func (h *askingHandler) Alive()               {}
func (h *askingHandler) Mark() uint64         { return 0 }

func (h *askingHandler) Unconfirmed() (pending, overdue bool) { return false, false }

func (h *askingHandler) Fill(e *Encoder, _ int) FillResult {
	if !h.due {
		return FillResult{}
	}
	h.due = false
	e.Text([]byte(`20["event"]`), nil, nil)
	return h.result
}

// BenchmarkAskingEvents measures an event over loopback that its client answers immediately, for
// each way to confirm it.
func BenchmarkAskingEvents(b *testing.B) {
	for _, bb := range []struct {
		name   string
		result FillResult
	}{
		{"not", FillResult{}},
		{"immediately", FillResult{Confirm: true}},
		{"later", FillResult{ConfirmLater: true}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h := &askingHandler{fakeHandler: newFakeHandler(), result: bb.result, answered: make(chan struct{}, 1)}
			s := NewSocket("sid", testOptions, h)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			theirs, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer theirs.Close()
			ours, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			go answerAll(theirs) // ends with the connection
			s.StartWebSocket(ours, nil, nil, testHandshake)
			defer s.Abort()
			b.ReportAllocs()
			for b.Loop() {
				h.due = true
				s.Wake()
				<-h.answered
			}
		})
	}
}

// answerAll answers pings and events.
func answerAll(conn net.Conn) {
	var r frameReader
	buf := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		e := newEncoder(clientFrames)
		_, _ = r.feed(buf[:n], func(_ ws.OpCode, payload []byte) error {
			switch string(payload[:min(1, len(payload))]) {
			case "2":
				e.packet(Pong, nil, nil, nil)
			case "4":
				e.Text([]byte("30[]"), nil, nil)
			}
			return nil
		})
		if len(e.buf) > 0 {
			_, err = conn.Write(e.buf)
		}
		e.free()
		if err != nil {
			return
		}
	}
}
