//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/bench/internal/frame"
)

// scripted is a server that sends its only client the handshake's answer, and then each of texts as
// a frame. It reads nothing, and ends if told to.
func scripted(t *testing.T, hangUp bool, texts ...string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		br := bufio.NewReader(nc)
		var request []byte
		for !bytes.HasSuffix(request, []byte("\r\n\r\n")) {
			b, err := br.ReadByte()
			if err != nil {
				return
			}
			request = append(request, b)
		}
		key, _, _ := frame.ParseRequest(request)
		answer := []byte(frame.Response(key))
		for _, text := range texts {
			answer = frame.AppendServer(answer, frame.Text, []byte(text))
		}
		if _, err := nc.Write(answer); err != nil {
			return
		}
		if hangUp {
			_ = nc.(*net.TCPConn).CloseWrite() // what it still sends would make Close a reset
		}
		_, _ = br.WriteTo(io.Discard) // until the client closes
	}()
	t.Cleanup(func() {
		ln.Close()
		<-ended
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func TestGeneratorRefuses(t *testing.T) {
	const open, reply, withPID = `0{"sid":"x"}`, `40{"sid":"y"}`, `40{"sid":"y","pid":"z"}`
	event := func(n int, more string) string { return fmt.Sprintf(`42["b",%d,"%s"%s]`, n, payloadOf(8), more) }
	tests := []struct {
		name    string
		wantPID bool
		hangUp  bool
		says    []string
		want    string // in the error; "" for none
	}{
		{"nothing amiss", false, false, []string{open, reply, event(1, ""), event(2, "")}, ""},
		{"nothing amiss, with offsets", true, false, []string{open, withPID, event(1, `,"o1"`), event(2, `,"o2"`)}, ""},
		{"a lost event", false, false, []string{open, reply, event(1, ""), event(3, "")}, "1 events were lost"},
		{"the first event lost", false, false, []string{open, reply, event(2, "")}, "1 events were lost"},
		{"an event twice", false, false, []string{open, reply, event(1, ""), event(1, "")}, "event 1 arrived twice"},
		{"an altered event", false, false, []string{open, reply, `42["b",1,"abc"]`}, "altered"},
		{"more arguments", false, false, []string{open, reply, event(1, `,"o",{}`)}, "altered"},
		{"one event too many", false, false, []string{open, reply, event(1, ""), event(2, ""), event(3, "")}, "3 events arrived, 2 were sent"},
		{"an event before CONNECT", false, false, []string{open, event(1, "")}, errProtocol.Error()},
		{"no pid", true, false, []string{open, reply}, `the pid ""`},
		{"a pid", false, false, []string{open, withPID}, `the pid "z"`},
		{"a connection that ends", false, true, []string{open, reply}, "disconnected"},
		{"a DISCONNECT", false, false, []string{open, reply, "41"}, errProtocol.Error()},
		{"a CONNECT_ERROR", false, false, []string{open, `44{"message":"no"}`}, errProtocol.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := newGenerator(scripted(t, tt.hangUp, tt.says...), tt.wantPID)
			if err != nil {
				t.Fatal(err)
			}
			defer g.close()
			g.payload, g.expected = payloadOf(8), 2
			err = g.connect(t.Context(), g.add(1), 1)
			if err == nil {
				err = g.receive(t.Context())
			}
			if err == nil {
				err = g.quiet(t.Context())
			}
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.want != "" && (!errors.Is(err, errTrial) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want one that says %q", err, tt.want)
			}
		})
	}
}

func TestLostEventIsWaitedForOnlySoLong(t *testing.T) {
	g, err := newGenerator(scripted(t, false, `0{"sid":"x"}`, `40{"sid":"y"}`), false)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if err := g.connect(t.Context(), g.add(1), 1); err != nil {
		t.Fatal(err)
	}
	err = g.wait(t.Context(), 20*time.Millisecond, "receiving", func() bool { return g.received > 0 })
	if !errors.Is(err, errTrial) || !strings.Contains(err.Error(), "1 of 1 clients are connected, 0 events") {
		t.Errorf("wait = %v, want errTrial and what has come", err)
	}
}

func TestConnectPacketAsksForRecovery(t *testing.T) {
	for _, tt := range []struct{ pid, offset, want string }{
		{"", "", `40`},
		{"p", "", `40{"pid":"p"}`},
		{"p", "o", `40{"pid":"p","offset":"o"}`},
	} {
		c := &client{pid: tt.pid, offset: []byte(tt.offset)}
		if got := string(c.connectPacket()); got != tt.want {
			t.Errorf("connectPacket() with pid %q, offset %q = %s, want %s", tt.pid, tt.offset, got, tt.want)
		}
	}
}

func TestPayloadIsTheSameInTheNodeServer(t *testing.T) {
	node := findProgram("node")
	if node == "" {
		t.Skip("no Node.js")
	}
	function := string(socketIOScript)
	function = function[strings.Index(function, "function payloadOf"):]
	function = function[:strings.Index(function, "\n}\n")+2]
	cmd := exec.CommandContext(t.Context(), node, "-e", function+"; process.stdout.write(payloadOf(3000))")
	cmd.Stderr = os.Stderr
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, payloadOf(3000)) {
		t.Errorf("node says %.60q (%v), want %.60q", got, err, payloadOf(3000))
	}
}
