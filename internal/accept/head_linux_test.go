package accept

import "testing"

// endOfHead finds the end wherever the reads split the head, without scanning it again from the
// start.
func TestEndOfHead(t *testing.T) {
	for _, head := range []string{upgradeHead, "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\n\n", "GET / HTTP/1.1\n\r\n", "GET /\r\r\n\r\r\n\r\n", "\n\n"} {
		for cut := range len(head) {
			whole, first := endOfHead([]byte(head), 0), endOfHead([]byte(head[:cut]), 0)
			if got := endOfHead([]byte(head), cut); first == 0 && got != whole || first > 0 && first != whole {
				t.Errorf("the end of %q, cut at %d, is %d, then %d; want %d", head, cut, first, got, whole)
			}
		}
	}
}
