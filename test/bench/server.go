//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/test/bench/internal/frame"
	"github.com/holdfast/holdfast/test/bench/internal/loop"
)

// serverMain is the synthetic Socket.IO server, without recovery: WebSocket
// only, and the main namespace only. It returns echo events, and reads commands
// from standard input:
//
//	broadcast COUNT BYTES  sends COUNT events with a payload of BYTES to all
//	stats                  prints what it counted
//
// It answers each command with one line, and exits at the end of its input. With -eio3 it speaks
// Engine.IO 3 and Socket.IO 4, as socket.io 2.x does.
func serverMain(args []string) error {
	flags := flag.NewFlagSet(serverArg, flag.ContinueOnError)
	interval := flags.Duration("ping-interval", 25*time.Second, "between two pings")
	ports := flags.Int("ports", 1, "how many to listen on")
	eio3 := flags.Bool("eio3", false, "speak Engine.IO 3")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := loop.New()
	if err != nil {
		return err
	}
	defer l.Close()
	s := newServer(l, *interval)
	s.eio3 = *eio3
	var opened []string
	for range *ports {
		port, err := l.Listen(s.accept)
		if err != nil {
			return err
		}
		opened = append(opened, strconv.Itoa(port))
	}
	fmt.Println(strings.Join(opened, " "))
	go readCommands(os.Stdin, l, s) // ends with its input
	return l.Run(context.Background(), 0, func() bool { return s.over })
}

func readCommands(in io.Reader, l *loop.Loop, s *server) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		l.Post(func() { fmt.Println(s.command(line)) })
	}
	l.Post(func() { s.over = true })
}

// pingTimeout is socket.io's default.
const pingTimeout = 20 * time.Second

// server must only be used in its loop's goroutine.
type server struct {
	interval  time.Duration
	peers     []*peer // connected to the main namespace
	all       map[*peer]struct{}
	numbers   uint64 // of broadcasts
	events    uint64 // received
	connected uint64 // ever
	ended     uint64 // of the connected
	out       []byte // scratch
	over      bool
	eio3      bool // it connects the main namespace by itself, and clients send the pings
}

func newServer(l *loop.Loop, interval time.Duration) *server {
	s := &server{interval: interval, all: make(map[*peer]struct{})}
	l.Tick, l.TickEvery = s.beat, min(interval/4, time.Second)
	return s
}

func (s *server) accept(c *loop.Conn) loop.Handler {
	p := &peer{srv: s, conn: c, index: -1, due: time.Now().Add(s.interval)}
	if s.eio3 {
		p.due = p.due.Add(pingTimeout)
	}
	s.all[p] = struct{}{}
	return p
}

// stats counts a server's connections to the main namespace, and events from
// clients.
type stats struct {
	connected, ended, events uint64
}

func (s stats) String() string {
	return fmt.Sprintf("connected %d ended %d events %d", s.connected, s.ended, s.events)
}

func parseStats(line string) (s stats, err error) {
	if _, err = fmt.Sscanf(line, "connected %d ended %d events %d", &s.connected, &s.ended, &s.events); err != nil {
		err = fmt.Errorf("the server answered %q", line)
	}
	return s, err
}

func (s *server) command(line string) string {
	var count, size int
	if n, _ := fmt.Sscanf(line, "broadcast %d %d", &count, &size); n == 2 {
		s.broadcast(count, size)
		return "done"
	}
	if line == "stats" {
		return stats{s.connected, s.ended, s.events}.String()
	}
	return "unknown command"
}

// broadcast writes one frame for each event to each client.
func (s *server) broadcast(count, size int) {
	payload := payloadOf(size)
	for range count {
		s.numbers++
		s.out = frame.AppendServer(s.out[:0], frame.Text, appendEvent(nil, broadcastEvent, s.numbers, payload))
		for _, p := range s.peers {
			p.conn.Write(s.out)
		}
	}
}

var pingFrame = frame.AppendServer(nil, frame.Text, []byte("2"))

// beat is the heartbeat of all clients.
func (s *server) beat(now time.Time) {
	for p := range s.all {
		switch {
		case now.Before(p.due):
		case p.awaited || s.eio3: // no pong came, or no ping
			p.conn.Close()
			p.gone()
		default:
			p.awaited = true
			p.due = now.Add(pingTimeout)
			if p.opened {
				p.conn.Write(pingFrame)
			}
		}
	}
}

// peer is one client.
type peer struct {
	srv     *server
	conn    *loop.Conn
	opened  bool      // the handshake is done
	index   int       // among srv.peers; -1 if not connected to the namespace
	due     time.Time // of the next ping, or of the pong
	awaited bool      // a pong is due
}

// Opened implements loop.Handler.
func (p *peer) Opened(*loop.Conn) {}

// Closed implements loop.Handler.
func (p *peer) Closed(*loop.Conn, error) { p.gone() }

func (p *peer) gone() {
	delete(p.srv.all, p)
	p.leave()
}

func (p *peer) leave() {
	if p.index < 0 {
		return
	}
	s := p.srv
	last := s.peers[len(s.peers)-1]
	s.peers[p.index], last.index = last, p.index
	s.peers = s.peers[:len(s.peers)-1]
	p.index = -1
	s.ended++
}

// Data implements loop.Handler. All responses to one read go out in one write.
func (p *peer) Data(c *loop.Conn, data []byte) (used int, err error) {
	s := p.srv
	s.out = s.out[:0]
	if !p.opened {
		if used, err = p.handshake(data); used == 0 || err != nil {
			return 0, err
		}
	}
	n, err := frame.ParseAll(data[used:], p.frame)
	used += n
	if err != nil {
		return used, err
	}
	if len(s.out) > 0 {
		c.Write(s.out)
	}
	return used, nil
}

func (p *peer) handshake(data []byte) (used int, err error) {
	key, used, err := frame.ParseRequest(data)
	if used == 0 || err != nil {
		return 0, err
	}
	s := p.srv
	s.out = append(s.out, frame.Response(key)...)
	p.opened = true
	if s.eio3 {
		p.say(fmt.Appendf(nil, `0{"sid":"%s","upgrades":[],"pingInterval":%d,"pingTimeout":%d}`,
			newID(), s.interval.Milliseconds(), pingTimeout.Milliseconds()))
		p.connect([]byte("40"))
		return used, nil
	}
	p.say(fmt.Appendf(nil, `0{"sid":"%s","upgrades":[],"pingInterval":%d,"pingTimeout":%d,"maxPayload":1000000}`,
		newID(), s.interval.Milliseconds(), pingTimeout.Milliseconds()))
	return used, nil
}

// connect connects the client to the main namespace.
func (p *peer) connect(reply []byte) {
	p.index = len(p.srv.peers)
	p.srv.peers = append(p.srv.peers, p)
	p.srv.connected++
	p.say(reply)
}

// newID returns an id for a socket or a connection, as long as socket.io's.
func newID() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// say adds a message to Data's next write.
func (p *peer) say(text []byte) {
	p.srv.out = frame.AppendServer(p.srv.out, frame.Text, text)
}

var errProtocol = errors.New("not a packet of a benchmark client")

func (p *peer) frame(f frame.Frame) error {
	switch {
	case f.Opcode == frame.Close:
		return io.EOF
	case f.Opcode == frame.Ping:
		p.srv.out = frame.AppendServer(p.srv.out, frame.Pong, f.Payload)
		return nil
	case f.Opcode == frame.Pong:
		return nil
	case f.Opcode != frame.Text || len(f.Payload) == 0:
		return errProtocol
	}
	text := f.Payload
	switch {
	case text[0] == '2' && p.srv.eio3:
		p.due = time.Now().Add(p.srv.interval + pingTimeout)
		p.say([]byte("3"))
	case text[0] == '3':
		p.awaited = false
		p.due = time.Now().Add(p.srv.interval)
	case bytes.HasPrefix(text, []byte("42")) && p.index >= 0:
		p.srv.events++
		if bytes.HasPrefix(text, []byte{'4', '2', '[', '"', echoEvent, '"'}) {
			p.say(text)
		}
	case bytes.HasPrefix(text, []byte("40")) && p.index < 0:
		p.connect([]byte(`40{"sid":"` + newID() + `"}`))
	case bytes.HasPrefix(text, []byte("41")):
		p.leave()
	default:
		return errProtocol
	}
	return nil
}
