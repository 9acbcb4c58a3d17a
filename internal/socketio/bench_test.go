package socketio

import (
	"strings"
	"testing"
)

func BenchmarkParseHeader(b *testing.B) {
	for _, bb := range []struct{ name, in string }{
		{"chat", `2["msg","hi"]`},
		{"namespace and ack id", `2/chat,1234["msg","hi"]`},
		{"binary", `52-/chat,["img",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`},
		{"64KiB", `2["msg","` + strings.Repeat("x", 64<<10) + `"]`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			in := []byte(bb.in)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseHeader(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSplitArray(b *testing.B) {
	in := []byte(`2["msg","` + strings.Repeat("x", 1<<10) + `"]`)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := SplitArray(in); !ok {
			b.Fatal("not an array")
		}
	}
}

func BenchmarkTakeRecovery(b *testing.B) {
	for _, bb := range []struct{ name, in string }{
		{"nothing to take", `0{"token":"abcdefgh"}`},
		{"reconnection", `0/admin,{"pid":"hfYHcX","offset":"hfMzUPkW0","token":"abcdefgh"}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			in := []byte(bb.in)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := TakeRecovery(in, isOurs, isOurs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Every packet's header is scanned, in both directions.
func TestHeaderScanDoesNotAllocate(t *testing.T) {
	in := []byte(`52-/chat,1234["msg","hi"]`)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseHeader(in); err != nil {
			t.Error(err)
		}
		if _, _, ok := SplitArray(in); !ok {
			t.Error("not an array")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
