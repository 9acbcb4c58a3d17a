package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// schemaURL returns where the JSON schema of a version's configuration file is. version is what git
// describe says of the binary.
func schemaURL(version string) string {
	if regexp.MustCompile(`^v\d+\.\d+\.\d+(-[a-z]+(\.\d+)?)?$`).MatchString(version) {
		return "https://github.com/holdfast/holdfast/releases/download/" + version + "/config.schema.json"
	}
	return "https://raw.githubusercontent.com/holdfast/holdfast/main/config.schema.json"
}

// listenAddress is the default of listen, unless the server itself has that port on this machine.
func listenAddress(server *url.URL) string {
	ip := net.ParseIP(server.Hostname())
	if server.Port() == "8080" && (server.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())) {
		return "0.0.0.0:8081"
	}
	return "0.0.0.0:8080"
}

// configFile builds the text of a configuration file.
type configFile struct{ strings.Builder }

const fileWidth = 80

// comment writes text as a comment of several lines.
func (f *configFile) comment(indent, text string) {
	line := indent + "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > fileWidth {
			f.WriteString(line + "\n")
			line = indent + "#"
		}
		line += " " + word
	}
	f.WriteString(line + "\n")
}

// set writes a setting.
func (f *configFile) set(indent, key string, value any) {
	var node yaml.Node
	err := node.Encode(value)
	node.Style |= yaml.FlowStyle // lists in one line
	text, marshalErr := yaml.Marshal(&node)
	if err = errors.Join(err, marshalErr); err != nil {
		panic(err) // impossible for texts, switches and lists
	}
	f.WriteString(indent + key + ": " + string(text))
}

func (f *configFile) line(text string) { f.WriteString(text + "\n") }

// Config returns a configuration file for the server that r describes, with comments. version is
// that of holdfast.
func Config(r Report, o Options, version string, now time.Time) string {
	f := &configFile{}
	f.line("# yaml-language-server: $schema=" + schemaURL(version))
	f.line("")
	f.comment("", fmt.Sprintf("Written by holdfast init on %s for the server at %s, which is %s. Everything that is not here has its default: "+
		"config.example.yaml lists all settings. Check the file with holdfast -check -config FILE.", now.Format(time.DateOnly), r.URL, orUnknown(r.Server.Software)))
	f.line("")
	f.comment("", "Where clients connect: point them at this port instead of the server's.")
	f.set("", "listen", listenAddress(o.URL))
	f.line("")
	f.upstream(r, o)
	f.engineIO(r)
	f.recovery(r)
	f.clients(r)
	f.rest()
	return f.String()
}

func orUnknown(software string) string {
	if software == "" {
		return "a Socket.IO server"
	}
	return software
}

func (f *configFile) upstream(r Report, o Options) {
	f.line("upstream:")
	f.set("  ", "url", r.URL)
	if r.Server.OneConnection {
		f.comment("  ", "The server refused a second connection of the same client. So a client that returns must not make a handshake with it.")
		f.set("  ", "handshake", "lazy")
	} else {
		f.comment("  ", "Each client that returns makes its handshake with the server again, so that it is authenticated. lazy spares the server that.")
		f.line("  # handshake: eager")
	}
	if r.has(CodeOldServer) {
		f.comment("  ", "The server speaks Engine.IO 3: holdfast translates for clients of socket.io 3 and 4. Name the keys of their option auth that the server should find in socket.handshake.query.")
		f.line("  protocol: 3")
		f.line("  # translate: {auth_to_query: [token]}")
	}
	switch {
	case o.CAFile != "":
		path, err := filepath.Abs(o.CAFile)
		if err != nil {
			path = o.CAFile
		}
		f.line("  tls:")
		f.set("    ", "ca_file", path)
	case o.Insecure && o.URL.Scheme == "https":
		f.line("  tls:")
		f.comment("    ", "For tests only: anyone in between can read along. Name the certificate authority in ca_file instead.")
		f.set("    ", "insecure_skip_verify", true)
	}
	f.line("")
}

func (f *configFile) engineIO(r Report) {
	f.line("engineio:")
	f.comment("  ", "The path option of server and clients.")
	f.set("  ", "paths", []string{r.Path})
	s := r.Server
	if r.has(CodeOldServer) {
		f.comment("  ", "Heartbeats towards clients of socket.io 3 and 4 are holdfast's: 25s and 20s. The server does not say how much a client may send at a time. Set this to its maxHttpBufferSize.")
		f.line("  # max_payload: 1MB")
		f.line("")
		return
	}
	if s.PingIntervalMS > 0 {
		interval, timeout := time.Duration(s.PingIntervalMS)*time.Millisecond, time.Duration(s.PingTimeoutMS)*time.Millisecond
		f.comment("  ", fmt.Sprintf("Heartbeats are the server's: %v and %v. So a connection that dies silently is noticed after %v at most.", interval, timeout, interval+timeout))
		if interval > 50*time.Second {
			f.comment("  ", "Many load balancers cut connections that are silent for a minute.")
			f.line("  ping_interval: 25s")
		} else {
			f.line("  # ping_interval: 0")
		}
		if timeout > time.Minute {
			f.line("  ping_timeout: 20s")
		} else {
			f.line("  # ping_timeout: 0")
		}
	}
	if s.MaxPayload > 0 {
		f.comment("  ", fmt.Sprintf("The server also sets the most that a client may send at a time: %d bytes.", s.MaxPayload))
		f.line("  # max_payload: 0")
	} else {
		f.comment("  ", "The server does not say how much a client may send at a time. Set this to its maxHttpBufferSize.")
		f.line("  # max_payload: 1MB")
	}
	f.line("")
}

func (f *configFile) recovery(r Report) {
	f.line("recovery:")
	if r.Server.OwnRecovery {
		f.comment("  ", "The server recovers connections itself, so holdfast passes its sessions through: nothing below has an effect until connectionStateRecovery is off in the server.")
	}
	f.comment("  ", "How long a session waits for its client. The server sees it as connected meanwhile.")
	f.line("  max_disconnection_duration: 2m")
	f.comment("  ", "The same, if shorter, for clients that left the page.")
	f.line("  going_away_duration: 10s")
	f.comment("  ", "How many sessions may wait, and how much one of them may miss.")
	f.line("  max_parked_sessions: 10000")
	f.line("  buffer:")
	f.line("    max_bytes: 16MiB")
	f.line("")
	f.comment("", "Events that a client may miss while it is away, or of which it needs only the newest.")
	f.line("# events:")
	f.line("#   volatile: [cursor, typing*]")
	f.line("#   latest: [score]")
	f.line("")
}

func (f *configFile) clients(r Report) {
	v := r.Server.ClientBundle
	if v == "" || canResume(v) {
		return
	}
	f.comment("", fmt.Sprintf("Pages that load %ssocket.io.js from the server get version %s, which cannot resume. This serves a newer one in its place: npm install socket.io-client@4, and name its folder.", r.Path, v))
	f.line("# client_bundle:")
	f.line("#   dir: node_modules/socket.io-client/dist")
	f.line("")
}

func (f *configFile) rest() {
	f.comment("", "The load balancers in front of holdfast. Their X-Forwarded-For is believed.")
	f.line("# trusted_proxies: [10.0.0.0/8]")
	f.line("")
	f.line("admin:")
	f.comment("  ", "Status page, metrics and health. Keep it private.")
	f.line("  listen: 127.0.0.1:9090")
}

// writeFile writes the file. It replaces one that exists only if it may.
func writeFile(name, text string, replace bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if replace {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	file, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
