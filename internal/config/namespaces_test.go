package config

import "testing"

func TestNamespacesFilter(t *testing.T) {
	tests := []struct {
		include, exclude []string
		namespace        string
		want             bool
	}{
		{[]string{"*"}, nil, "/", true},
		{[]string{"*"}, nil, "/admin", true},
		{[]string{"*"}, []string{"/"}, "/", false},
		{[]string{"*"}, []string{"/"}, "/admin", true},
		{[]string{"/"}, nil, "/", true},
		{[]string{"/"}, nil, "/admin", false},
		{[]string{"/*"}, nil, "/", true},
		{[]string{"/chat", "/game-*"}, nil, "/chat", true},
		{[]string{"/chat", "/game-*"}, nil, "/chats", false},
		{[]string{"/chat", "/game-*"}, nil, "/game-17", true},
		{[]string{"/chat", "/game-*"}, []string{"/game-7"}, "/game-7", false},
		{[]string{"/chat", "/game-*"}, []string{"/game-7"}, "/game-77", true},
		{[]string{"/chat"}, []string{"/c*"}, "/chat", false},
		{[]string{"*"}, []string{"*-strict"}, "/py-strict", false},
		{[]string{"*"}, []string{"/größe"}, "/größe", false},
	}
	for _, tt := range tests {
		if got := (Namespaces{tt.include, tt.exclude}).Filter()(tt.namespace); got != tt.want {
			t.Errorf("include %q, exclude %q: %s is chosen: %v, want %v", tt.include, tt.exclude, tt.namespace, got, tt.want)
		}
	}
}
