package session

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
	"github.com/holdfast/holdfast/internal/reason"
)

func TestOldestParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, roomy, 10)
		start := time.Now()
		var cursors []*Cursor
		for i, namespace := range []string{"/a", "/b", "/c", "/d"} {
			cursors = append(cursors, w.New(w.link, namespace, &client{uint64(i)}, true))
		}
		for i, c := range cursors[:3] {
			time.Sleep(time.Second)
			w.Park([]*Cursor{c}, time.Minute, []reason.Reason{"ping_timeout", "transport_close", "going_away"}[i])
		}
		if _, err := cursors[1].Session().Append(&buffer.Packet{Data: []byte(`2["x"]`), Kind: buffer.WithOffset}); err != nil {
			t.Fatal(err)
		}
		want := []ParkedInfo{
			{Namespace: "/a", Since: start.Add(time.Second), Expires: start.Add(61 * time.Second), Reason: "ping_timeout"},
			{
				Namespace: "/b", Since: start.Add(2 * time.Second), Expires: start.Add(62 * time.Second), Reason: "transport_close",
				Packets: 1, Bytes: cursors[1].Session().log.Bytes(),
			},
		}
		if got := w.OldestParked(2); !slices.Equal(got, want) {
			t.Errorf("OldestParked(2) = %+v\nwant %+v", got, want)
		}
		if got := w.OldestParked(100); len(got) != 3 || got[2].Namespace != "/c" {
			t.Errorf("OldestParked(100) = %+v, want the three that are parked", got)
		}
		w.Resume(Claim{PID: cursors[0].Session().PID(), Namespace: "/a"}, &client{9})
		if got := w.OldestParked(1); len(got) != 1 || got[0].Namespace != "/b" {
			t.Errorf("OldestParked(1) = %+v, want /b: /a was resumed", got)
		}
		for _, c := range cursors {
			w.Close(c.Session(), reason.UpstreamLost)
		}
		if got := w.OldestParked(1); len(got) != 0 {
			t.Errorf("OldestParked(1) = %+v, want none", got)
		}
	})
}

func BenchmarkOldestParked(b *testing.B) {
	w := newWorld(b, roomy, 100_000)
	for i := range 100_000 {
		w.Park([]*Cursor{w.New(w.link, "/", &client{uint64(i)}, true)}, time.Hour, "transport_close")
	}
	b.ReportAllocs()
	for b.Loop() {
		w.OldestParked(100)
	}
}
