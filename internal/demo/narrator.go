package demo

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

// narrator writes for a human reader. Only one goroutine may use it. A nil
// narrator is silent. Write errors are ignored, because the demo does not depend
// on its output.
type narrator struct {
	out    io.Writer
	colour bool
	start  time.Time
}

func newNarrator(out io.Writer) *narrator {
	return &narrator{out: out, colour: wantsColour(out), start: time.Now()}
}

// wantsColour follows https://no-color.org.
func wantsColour(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// ANSI escape sequences by kind of text.
var colours = map[string]string{
	"client":  "\x1b[36m",
	"server":  "\x1b[35m",
	"network": "\x1b[31m",
	"good":    "\x1b[32m",
	"bad":     "\x1b[31m",
	"title":   "\x1b[1m",
}

// paint colours text if colours are on.
func (n *narrator) paint(kind, text string) string {
	if !n.colour {
		return text
	}
	return colours[kind] + text + "\x1b[0m"
}

func (n *narrator) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(n.out, format, args...)
}

// say writes a line about who does what, with the time since the start.
func (n *narrator) say(who, format string, args ...any) {
	if n == nil {
		return
	}
	n.printf("  %5.2fs  %s  %s\n", time.Since(n.start).Seconds(),
		n.paint(who, fmt.Sprintf("%-7s", who)), fmt.Sprintf(format, args...))
}

func (n *narrator) opening(legacyAddr, proxyAddr string) {
	n.printf("%s\n\n", n.paint("title", "A client loses its connection, and holdfast keeps its session."))
	n.printf("  legacy server  http://%s  Socket.IO without connection state recovery\n", legacyAddr)
	n.printf("  holdfast       http://%s  in front of it\n\n", proxyAddr)
	n.start = time.Now()
}

// contrast summarizes the story of the client without holdfast.
func (n *narrator) contrast(o outcome) {
	n.printf("\n%s\n\n", n.paint("title", "At the same time, a client without holdfast:"))
	n.printf("  connected, id %s; received messages 1 to %d; its connection was cut\n", o.firstID, before)
	n.printf("  the server noticed immediately: %s (%s)\n", count(o.visits.disconnects, "disconnect"), o.visits.reason)
	n.printf("  reconnected as a new client, id %s, recovered: %v\n", o.secondID, o.recovered)
	n.printf("  received %d of the %d messages it had missed\n", o.lateCount(), missed)
}

func (n *narrator) summary(held, direct outcome) {
	sameID := func(o outcome) bool { return o.firstID == o.secondID }
	rows := []struct {
		what         string
		held, direct string
		good         bool // of held
	}{
		{"socket id", idWord(sameID(held)), idWord(sameID(direct)), sameID(held)},
		{"socket.recovered", strconv.FormatBool(held.recovered), strconv.FormatBool(direct.recovered), held.recovered},
		{
			"missed messages", fmt.Sprintf("%d of %d", held.lateCount(), missed),
			fmt.Sprintf("%d of %d", direct.lateCount(), missed), held.lateCount() == missed,
		},
		{
			"connection handler ran", times(held.visits.connections), times(direct.visits.connections),
			held.visits.connections == 1,
		},
		{
			"disconnects seen", strconv.Itoa(held.visits.disconnects), strconv.Itoa(direct.visits.disconnects),
			held.visits.disconnects == 0,
		},
	}
	n.printf("\n  %-22s  %-16s  %s\n", "", "through holdfast", "directly")
	for _, r := range rows {
		kind := "good"
		if !r.good {
			kind = "bad"
		}
		n.printf("  %-22s  %s  %s\n", r.what, n.paint(kind, fmt.Sprintf("%-16s", r.held)), r.direct)
	}
	verdict := n.paint("good", "Recovered: the same session, every missed message once and in order.")
	if held.check() != nil {
		verdict = n.paint("bad", "Not recovered.")
	}
	n.printf("\n  %s\n", verdict)
}

func (n *narrator) invitation(legacyAddr, proxyAddr string) {
	n.printf(`
%s

    import { io } from "socket.io-client";

    const socket = io("http://%s");
    socket.on("connect", () => console.log(socket.id, "recovered:", socket.recovered));
    socket.on("tick", (n, time) => console.log("tick", n, time));
    setInterval(() => socket.io.engine.close(), 5000); // lose the connection

  The server sends "tick" every second, and answers "echo". Without holdfast: http://%s
  Press Ctrl-C to stop.
`, n.paint("title", "Try it yourself, with socket.io-client 4.6 or later:"), proxyAddr, legacyAddr)
}

func idWord(same bool) string {
	if same {
		return "the same"
	}
	return "a new one"
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
