package config

import "testing"

func TestIsListener(t *testing.T) {
	tests := []struct {
		listen, url string
		want        bool
	}{
		{":8080", "http://127.0.0.1:8080", true},
		{":8080", "https://localhost:8080", true},
		{"0.0.0.0:8080", "http://[::1]:8080", true},
		{"[::]:8080", "http://0.0.0.0:8080", true},
		{":80", "http://localhost", true},
		{":443", "https://localhost", true},
		{"10.0.0.5:8080", "http://10.0.0.5:8080", true},
		{"chat.internal:8080", "http://Chat.internal:8080", true},
		{"localhost:8080", "http://127.0.0.1:8080", true},
		{"127.0.0.1:8080", "http://localhost:8080", true},
		{"127.0.0.1:8080", "http://0.0.0.0:8080", true},
		{"unix:///run/a.sock", "unix:///run/a.sock", true},

		{":8080", "http://127.0.0.1:3000", false},
		{":8080", "http://localhost", false},
		{":8080", "http://10.0.0.5:8080", false}, // known when it is dialled
		{":8080", "http://app:8080", false},
		{"127.0.0.1:8080", "http://127.0.0.2:8080", false},
		{"127.0.0.1:8080", "http://10.0.0.5:8080", false},
		{"10.0.0.5:8080", "http://localhost:8080", false},
		{":0", "http://localhost:8080", false},
		{"unix:///run/a.sock", "unix:///run/b.sock", false},
		{"unix:///run/a.sock", "http://localhost:8080", false},
		{":8080", "unix:///run/a.sock", false},
	}
	for _, tt := range tests {
		if got := isListener(tt.listen, tt.url); got != tt.want {
			t.Errorf("listen %s, upstream.url %s: %v; want %v", tt.listen, tt.url, got, tt.want)
		}
	}
}
