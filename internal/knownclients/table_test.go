package knownclients

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

const (
	chromium = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36"
	safari   = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Mobile/15E148"
)

// Handshakes of clients. Those of JavaScript and Python were captured, and the others follow the
// clients' sources.
func TestIdentify(t *testing.T) {
	tests := []struct {
		client, query, agent, origin string
		want                         string // Name of the row, or ""
	}{
		{"3.1.3 in Node, polling", "EIO=4&transport=polling&t=Q8dbKxA&b64=1", "node-XMLHttpRequest", "", ""},
		{"3.1.3 in Node, WebSocket", "EIO=4&transport=websocket", "", "", ""},
		{"4.6.2 in Node, polling", "EIO=4&transport=polling&t=Q8dbL_f&b64=1", "node-XMLHttpRequest", "", ""},
		{"4.8.4 in Node, polling", "EIO=4&transport=polling&t=wgy9nzfx", "node-XMLHttpRequest", "", ""},
		{"4.8.4 in Node with a query", "token=1795960447&EIO=4&transport=polling&t=wgy9nzfx", "node-XMLHttpRequest", "", ""},
		{"4.8.4 in Node with its own agent", "EIO=4&transport=polling&t=wgy9nzfx", "App/2.1", "", ""},
		{"4.8.4 in Chromium, polling", "EIO=4&transport=polling&t=wh8er6oh", chromium, "http://app.test", ""},
		{"4.8.4 in Chromium, same origin", "EIO=4&transport=polling&t=wh8er6oh", chromium, "", ""},
		{"4.8.4 in Chromium, WebSocket", "EIO=4&transport=websocket", chromium, "http://app.test", ""},
		{"4.8.4 in a phone's web view", "EIO=4&transport=polling&t=wh8er6oh", safari, "http://app.test", ""},
		{"React Native on Android, polling", "EIO=4&transport=polling&t=Q8dbL_f", "okhttp/4.12.0", "", ""},
		{"React Native on Android, WebSocket", "EIO=4&transport=websocket", "okhttp/4.12.0", "https://app.test", ""},
		{"React Native on iOS, polling", "EIO=4&transport=polling&t=Q8dbL_f", "App/1 CFNetwork/1494.0.7 Darwin/23.4.0", "", ""},
		{"without timestampRequests", "EIO=4&transport=polling", "node-XMLHttpRequest", "", ""},
		{"by hand", "EIO=4&transport=websocket", "curl/8.5.0", "", ""},
		{"nothing at all", "", "", "", ""},
		{"by hand, with Python's HTTP libraries", "EIO=4&transport=websocket", "Python/3.11 aiohttp/3.8.4", "", ""},

		{"Python on threads, polling", "transport=polling&EIO=4&t=1795960447.7700217", "python-requests/2.28.1", "", "python-socketio"},
		{"Python on threads, WebSocket", "transport=websocket&EIO=4&t=1795960449.5099702", "", "http://127.0.0.1:1", "python-socketio"},
		{"Python on asyncio", "transport=websocket&EIO=4&t=1795960453.3179688", "Python/3.11 aiohttp/3.8.4", "", "python-socketio"},
		{"Python with its own agent and query", "a=b&transport=polling&EIO=4&t=1795960451.45", "App/2.1", "", "python-socketio"},
		{"C++", "EIO=4&transport=websocket&t=1795960453", "WebSocket++/0.8.2", "", "socket.io-client-cpp"},
		{"C++ with its own agent", "EIO=4&transport=websocket&t=1795960453&a=b", "App/2.1", "", "socket.io-client-cpp"},
		{"Swift, polling", "transport=polling&b64=1&EIO=4", "App/1 CFNetwork/1494.0.7 Darwin/23.4.0", "", "socket.io-client-swift"},
		{"Swift, WebSocket", "transport=websocket&a=b&EIO=4", "", "http://app.test:80", "socket.io-client-swift"},
		{"Java, polling", "EIO=4&transport=polling", "okhttp/3.12.12", "", "socket.io-client-java"},
		{"Java, WebSocket", "EIO=4&transport=websocket", "okhttp/3.12.12", "", "socket.io-client-java"},
		{"Dart, WebSocket", "EIO=4&transport=websocket", "Dart/3.4 (dart:io)", "", "socket.io-client-dart"},
		{"C#, polling", "EIO=4&transport=polling&a=b", "", "", "socket.io-client-csharp"},
		{"C#, WebSocket", "EIO=4&transport=websocket", "", "", ""},
		{"Rust, polling", "EIO=4&transport=polling&t=2860061553", "", "", "rust-socketio"},
	}
	for _, tt := range tests {
		t.Run(tt.client, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/socket.io/?"+tt.query, nil)
			if tt.agent != "" {
				r.Header.Set("User-Agent", tt.agent)
			}
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			got := ""
			if c := Identify(r); c != nil {
				got = c.Name
			}
			if got != tt.want {
				t.Errorf("recognized as %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTableIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Table {
		if row := "| " + c.Name + " | " + c.Sign + " | " + c.Source + " |"; !strings.Contains(string(text), row) {
			t.Errorf("docs/compatibility.md lacks this row of the table:\n%s", row)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/socket.io/?EIO=4&transport=polling&t=wgy9nzfx", nil)
	r.Header.Set("User-Agent", chromium)
	for b.Loop() {
		if Identify(r) != nil {
			b.Fatal("recognized")
		}
	}
}
