package doctor

import (
	"strings"
	"testing"
)

func FuzzParseV3(f *testing.F) {
	const open = `0{"sid":"a","upgrades":[],"pingInterval":1,"pingTimeout":1}`
	for _, seed := range []string{"", "59:" + open, "59:" + open + "2:40", "\x00\x05\x09\xff" + open, "0:", ":", "\x00\xff", "1:2", "999999999999:" + open, "59:0{", open} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		h, ok := parseV3(payload)
		if ok && (h.SID == "" || h.PingInterval <= 0) {
			t.Errorf("%q is %+v", payload, h)
		}
		if ok && strings.HasPrefix(string(payload), "0{") {
			t.Errorf("%q is version 4", payload)
		}
	})
}
