package buffer

import (
	"bytes"
	"strings"
	"sync"
	"testing"
)

func TestEqualBytesAreKeptOnce(t *testing.T) {
	b := NewBudget(0)
	logs := make([]Log, 100)
	payload := []byte(strings.Repeat("broadcast ", 100))
	attachment := bytes.Repeat([]byte{7}, 500)
	for i := range logs {
		logs[i] = NewLog(b)
		logs[i].AppendShared(&Packet{Data: payload, Attachments: [][]byte{attachment, {1, 2}}})
		logs[i].AppendShared(&Packet{Data: []byte("short")})
		logs[i].Append(&Packet{Data: payload})
	}
	payload[0], attachment[0] = 'X', 0 // the logs have copies
	for i := range logs {
		p := logs[i].At(1)
		if !bytes.HasPrefix(p.Data(), []byte("broadcast ")) || p.Attachments()[0][0] != 7 || p.Attachments()[1][1] != 2 {
			t.Fatalf("log %d has %q", i, p.Data()[:10])
		}
	}
	if &logs[0].At(1).Data()[0] != &logs[99].At(1).Data()[0] {
		t.Error("equal payloads are kept twice")
	}
	const once = 1000 + 500
	each := int64(3*packetOverhead + 2*24 + 2 + len("short") + 1000)
	if got, want := b.Bytes(), once+100*each; got != want {
		t.Errorf("%d bytes are counted, want %d", got, want)
	}
	for i := range logs[1:] {
		logs[i+1].Release()
	}
	if got, want := b.Bytes(), once+each; got != want {
		t.Errorf("with one log left %d bytes are counted, want %d", got, want)
	}
	logs[0].Release()
	if b.Bytes() != 0 || b.Packets() != 0 || b.shares.blobs != nil {
		t.Errorf("after all: %d bytes, %d packets, %d shared", b.Bytes(), b.Packets(), len(b.shares.blobs))
	}
}

func TestAHashOfTwoIsNotShared(t *testing.T) {
	b := NewBudget(0)
	l := NewLog(b)
	l.AppendShared(&Packet{Data: bytes.Repeat([]byte{1}, 100)})
	for _, blob := range b.shares.blobs { // as if the next packet's hash were this one's
		blob.data = bytes.Clone(blob.data)
		blob.data[0] = 9
	}
	l.AppendShared(&Packet{Data: bytes.Repeat([]byte{1}, 100)})
	if got := l.At(2).Data(); !bytes.Equal(got, bytes.Repeat([]byte{1}, 100)) {
		t.Errorf("got %v", got)
	}
}

// The count is exact even if logs are created and released meanwhile.
func TestSharesAreCountedExactly(t *testing.T) {
	b := NewBudget(0)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			l := NewLog(b)
			for n := range 500 {
				l.AppendShared(&Packet{Data: bytes.Repeat([]byte{byte((n + i) % 3)}, 100)})
				if n%2 == 1 {
					l.Trim(l.Last())
				}
			}
		})
	}
	wg.Wait()
	if b.Bytes() != 0 || b.Packets() != 0 || b.shares.blobs != nil {
		t.Errorf("%d bytes, %d packets and %d blobs are left", b.Bytes(), b.Packets(), len(b.shares.blobs))
	}
}
