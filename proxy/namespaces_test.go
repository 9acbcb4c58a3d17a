package proxy

import (
	"slices"
	"testing"
)

func TestByNamespace(t *testing.T) {
	var m byNamespace[int]
	m.remove("/") // is no error
	m.set("/", 1)
	m.set("/chat", 2)
	m.set("", 3)
	m.set("/chat", 4)
	if m.get("/") != 1 || m.get("/chat") != 4 || m.get("") != 3 || m.get("/none") != 0 {
		t.Errorf("got %v", m)
	}
	m.remove("/")
	if got := m.values(); m.get("/") != 0 || !slices.Equal(got, []int{4, 3}) {
		t.Errorf("got %v", got)
	}
}
