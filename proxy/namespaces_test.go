package proxy

import (
	"slices"
	"testing"
)

// namespaced are the methods that byNamespace and snapshot share.
type namespaced interface {
	get(namespace string) int
	set(namespace string, value int)
	remove(namespace string)
}

func TestByNamespace(t *testing.T) {
	var m byNamespace[int]
	testNamespaced(t, &m, func() (values []int) {
		for _, e := range m {
			values = append(values, e.value)
		}
		return values
	})
}

func TestSnapshot(t *testing.T) {
	var s snapshot[int]
	testNamespaced(t, &s, s.all)
	if got := s.find([]byte("/chat")); got != 4 || s.find([]byte("/none")) != 0 {
		t.Errorf("find got %d", got)
	}
	if s.empty() {
		t.Error("it is empty")
	}
	s.clear()
	if !s.empty() || s.get("/chat") != 0 || len(s.all()) != 0 {
		t.Error("it is not empty")
	}
}

func testNamespaced(t *testing.T, m namespaced, values func() []int) {
	t.Helper()
	m.remove("/") // is not an error
	m.set("/", 1)
	m.set("/chat", 2)
	m.set("", 3)
	m.set("/chat", 4)
	if m.get("/") != 1 || m.get("/chat") != 4 || m.get("") != 3 || m.get("/none") != 0 {
		t.Errorf("got %v", values())
	}
	m.remove("/")
	if got := values(); m.get("/") != 0 || !slices.Equal(got, []int{4, 3}) {
		t.Errorf("got %v", got)
	}
}

func TestNamespacesThatEndedAreForgottenOldestFirst(t *testing.T) {
	var s snapshot[int]
	ended := func(v int) bool { return v%2 == 1 }
	for v := range 10 {
		s.set(string(rune('a'+v)), v)
		s.trim(4, ended)
	}
	if got, want := s.all(), []int{0, 2, 4, 6, 8}; !slices.Equal(got, want) { // entries that have not ended stay
		t.Errorf("kept %v, want %v", got, want)
	}
	s.trim(100, ended)
	if s.get("a") != 0 || s.get("i") != 8 {
		t.Error("an entry was lost")
	}
}
