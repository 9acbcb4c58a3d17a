package proxy

import (
	"testing"

	"github.com/holdfast/holdfast/internal/config"
)

func TestSuspect(t *testing.T) {
	n := newNotifier(config.Notify{Parked: "client_parked", Resumed: "zurück"}, false)
	for data, want := range map[string]bool{
		// Events with other names, and messages that are not events.
		`2["news"]`:                 false,
		`2/chat,17["client_parke"]`: false,
		`2["x","client_parked"]`:    false,
		`2[5]`:                      false,
		`51-["x",{"num":0}]`:        false,
		`0{"client_parked":1}`:      false,
		`1`:                         false,
		`3/chat,1["client_parked"]`: false,
		`4{"message":1}`:            false,
		`61-1["client_parked"]`:     false,
		`{"event":"client_parked"}`: false, // of another parser
		`hello`:                     false,
		``:                          false,
		// The reserved names, in every way to write them.
		`2["client_parked"]`:             true,
		`2["zurück",{"away":1}]`:         true,
		`2["zur\u00fcck"]`:               true,
		`2["client_p\u0061rked"]`:        true,
		`2/chat,["client_parked"]`:       true,
		`2/chat?a=b,7["client_parked"]`:  true,
		`51-["client_parked",{"num":0}]`: true,
		`50-["client_parked"]`:           true,
		`51-/chat,3["client_parked"]`:    true,
		"2[\n\t\"client_parked\"]":       true,
		// Values that a server may convert to a reserved name.
		`2[["client_parked"]]`:               true,
		`51-[{"_placeholder":true,"num":0}]`: true,
		`2['client_parked']`:                 true,
		`2[null]`:                            true,
		`2[]`:                                true,
		// Messages that a server may read as events, although holdfast does not.
		`2 ["client_parked"]`:       true,
		`2 1["client_parked"]`:      true,
		`5-["client_parked"]`:       true,
		`5 1-["client_parked"]`:     true,
		`2`:                         true,
		"\uff12[\"client_parked\"]": true, // a digit two of another script
		`7["client_parked"]`:        true,
	} {
		if got := n.suspect([]byte(data)); got != want {
			t.Errorf("suspect(%s) = %v, want %v", data, got, want)
		}
	}
	if (*notifier)(nil).suspect([]byte(`2["client_parked"]`)) || newNotifier(config.Notify{}, false) != nil {
		t.Error("a message is suspect although no name is reserved")
	}
}
