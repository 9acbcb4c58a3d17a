package socketio_test

import (
	"fmt"
	"strings"

	"github.com/holdfast/holdfast/internal/socketio"
)

func ExampleParseHeader() {
	packet := []byte(`2/chat,12["hi"]`)
	h, err := socketio.ParseHeader(packet)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%c %s %d %s\n", h.Type, h.Namespace, h.AckID, packet[h.Data:])
	// Output: 2 /chat 12 ["hi"]
}

// Events are stored without an offset. It is inserted when the event is written.
func ExampleSplitArray() {
	head, tail, ok := socketio.SplitArray([]byte(`2["news",{"id":1}]`))
	fmt.Println(ok)
	fmt.Printf("%s%s%s\n", head, `,"MzUPkW0"`, tail)
	// Output:
	// true
	// 2["news",{"id":1},"MzUPkW0"]
}

// The application's handshake.auth is the same as without recovery.
func ExampleTakeRecovery() {
	isOurs := func(s string) bool { return strings.HasPrefix(s, "hf") }
	packet := []byte(`0/admin,{"pid":"hfYHcX","offset":"hfMzUP","token":"secret"}`)
	rest, r, err := socketio.TakeRecovery(packet, isOurs, isOurs)
	fmt.Printf("%s\n%s %s %v\n", rest, r.PID, r.Offset, err)
	// Output:
	// 0/admin,{"token":"secret"}
	// hfYHcX hfMzUP <nil>
}

func ExampleAddPID() {
	reply := []byte(`0{"sid":"GNpW"}`)
	place, ok := socketio.PIDPlace(reply)
	fmt.Printf("%v %s\n", ok, socketio.AddPID(reply, place, "hfYHcX"))
	// Output: true 0{"sid":"GNpW","pid":"hfYHcX"}
}

func ExampleAppendDisconnect() {
	fmt.Printf("%s\n", socketio.AppendDisconnect(nil, "/admin"))
	// Output: 1/admin,
}
