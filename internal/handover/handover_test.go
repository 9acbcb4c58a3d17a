package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the snapshot of the current format to testdata")

// content is what a snapshot contains, as a tree.
type content struct {
	Process   Process
	Listeners []Listener
	Groups    []Group
	Links     []linkContent
}

type linkContent struct {
	Link     Link
	Sessions []Session
}

// write writes a snapshot of c.
func (c *content) write(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Process(&c.Process)
	for i := range c.Listeners {
		w.Listener(&c.Listeners[i])
	}
	for i := range c.Groups {
		if n := w.Group(&c.Groups[i]); n != uint64(i) {
			t.Errorf("group %d has the number %d", i, n)
		}
	}
	for i := range c.Links {
		w.Link(&c.Links[i].Link)
		for j := range c.Links[i].Sessions {
			w.Session(&c.Links[i].Sessions[j])
		}
	}
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read reads a snapshot.
func read(data []byte) (*content, error) {
	c := new(content)
	err := Read(data, Handler{
		Process:  func(p *Process) error { c.Process = *p; return nil },
		Listener: func(l *Listener) error { c.Listeners = append(c.Listeners, *l); return nil },
		Group:    func(g *Group) error { c.Groups = append(c.Groups, *g); return nil },
		Link:     func(l *Link) error { c.Links = append(c.Links, linkContent{Link: *l}); return nil },
		Session: func(s *Session) error {
			last := &c.Links[len(c.Links)-1]
			last.Sessions = append(last.Sessions, *s)
			return nil
		},
	})
	return c, err
}

// fill sets the fields of a struct, except for those named in skip, to values that t draws. It
// fails for a type it does not know, so that each new field is drawn.
func fill(t *rapid.T, v reflect.Value, skip ...string) {
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if slices.Contains(skip, name) {
			continue
		}
		switch f.Interface().(type) {
		case string:
			f.SetString(rapid.StringN(0, 20, -1).Draw(t, name))
		case []byte:
			if b := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, name); len(b) > 0 {
				f.SetBytes(b)
			}
		case []string:
			if l := rapid.SliceOfN(rapid.StringN(0, 9, -1), 0, 3).Draw(t, name); len(l) > 0 {
				f.Set(reflect.ValueOf(l))
			}
		case [][]byte:
			for range rapid.IntRange(0, 3).Draw(t, name) {
				f.Set(reflect.Append(f, reflect.ValueOf(rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, name))))
			}
		case bool:
			f.SetBool(rapid.Bool().Draw(t, name))
		case time.Duration, int64:
			f.SetInt(rapid.Int64Range(0, maxCount).Draw(t, name))
		case int:
			f.SetInt(int64(rapid.IntRange(0, maxCount).Draw(t, name)))
		case uint8:
			f.SetUint(uint64(rapid.Uint8().Draw(t, name)))
		case uint64:
			f.SetUint(rapid.Uint64().Draw(t, name))
		case map[string]uint64:
			if rapid.Bool().Draw(t, name) {
				f.Set(reflect.ValueOf(map[string]uint64{"ok": rapid.Uint64().Draw(t, name), "failed": 3}))
			}
		case []End:
			for range rapid.IntRange(0, 3).Draw(t, name) {
				var e End
				fill(t, reflect.ValueOf(&e).Elem())
				f.Set(reflect.Append(f, reflect.ValueOf(e)))
			}
		case Handshake, Frames, Translation:
			fill(t, f)
		default:
			t.Fatalf("no values for %s, a %v", name, f.Type())
		}
	}
}

// draw returns some content. shared are payloads that its logs share.
func draw(t *rapid.T) *content {
	c := new(content)
	fill(t, reflect.ValueOf(&c.Process).Elem())
	c.Groups = make([]Group, rapid.IntRange(1, 3).Draw(t, "groups"))
	for i := range c.Groups {
		fill(t, reflect.ValueOf(&c.Groups[i]).Elem())
	}
	for range rapid.IntRange(0, 2).Draw(t, "listeners") {
		var l Listener
		fill(t, reflect.ValueOf(&l).Elem())
		c.Listeners = append(c.Listeners, l)
	}
	var shared [][]byte
	for range 3 {
		shared = append(shared, rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "shared"))
	}
	for range rapid.IntRange(0, 3).Draw(t, "links") {
		var l linkContent
		fill(t, reflect.ValueOf(&l.Link).Elem())
		l.Link.PartialNeed = rapid.SampledFrom([]int{0, len(l.Link.PartialAttachments) + 1}).Draw(t, "need")
		for range rapid.IntRange(0, 3).Draw(t, "sessions") {
			l.Sessions = append(l.Sessions, drawSession(t, len(c.Groups), shared))
		}
		c.Links = append(c.Links, l)
	}
	return c
}

func drawSession(t *rapid.T, groups int, shared [][]byte) Session {
	var s Session
	fill(t, reflect.ValueOf(&s).Elem(), "Group", "Sent", "SentWhenParked", "Confirmed", "Trimmed", "Suspicions", "Key", "Entries")
	s.PID += "hf"
	s.Group = rapid.Uint64Range(0, uint64(groups-1)).Draw(t, "group")
	s.Trimmed = rapid.Uint64Range(0, 1<<50).Draw(t, "trimmed")
	for range rapid.IntRange(0, 5).Draw(t, "entries") {
		s.Entries = append(s.Entries, drawEntry(t, shared))
	}
	s.Sent = rapid.Uint64Range(0, s.Trimmed+uint64(len(s.Entries))).Draw(t, "sent")
	s.SentWhenParked = rapid.Uint64Range(0, 1<<50).Draw(t, "sentWhenParked")
	s.Confirmed = rapid.Uint64Range(0, s.Trimmed).Draw(t, "confirmed")
	if rapid.Bool().Draw(t, "key") {
		s.Key = new(Key)
		fill(t, reflect.ValueOf(s.Key).Elem())
	}
	if rapid.Bool().Draw(t, "suspicions") {
		s.Suspicions = new(Suspicions)
		fill(t, reflect.ValueOf(s.Suspicions).Elem(), "Doubt")
		if rapid.Bool().Draw(t, "doubt") {
			s.Suspicions.Doubt = new(Doubt)
			fill(t, reflect.ValueOf(s.Suspicions.Doubt).Elem(), "From", "To")
			s.Suspicions.Doubt.From, s.Suspicions.Doubt.To = 5, rapid.Uint64Range(0, 1<<40).Draw(t, "to")
		}
	}
	return s
}

func drawEntry(t *rapid.T, shared [][]byte) Entry {
	part := func() Part {
		if rapid.Bool().Draw(t, "isShared") {
			return Part{rapid.SampledFrom(shared).Draw(t, "part"), true}
		}
		return Part{Bytes: rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "part")}
	}
	e := Entry{
		Kind: rapid.Uint8Range(0, 3).Draw(t, "kind"), ShortLived: rapid.Bool().Draw(t, "shortLived"),
		AckID: rapid.Int64().Draw(t, "ackID"), DroppedLate: rapid.Bool().Draw(t, "droppedLate"), Data: part(),
	}
	for range rapid.IntRange(0, 2).Draw(t, "attachments") {
		e.Attachments = append(e.Attachments, part())
	}
	return e
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := draw(rt)
		data := want.write(t)
		got, err := read(data)
		if err != nil {
			rt.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			rt.Fatalf("got  %+v\nwant %+v", got, want)
		}
		sum, err := Verify(data)
		if err != nil || int(sum.Counts.Links) != len(want.Links) || len(sum.LinkFDs) != len(want.Links) {
			rt.Fatalf("%+v, %v", sum, err)
		}
	})
}

// example has every field of every record.
func example() *content {
	broadcast := []byte(`2["news","` + strings.Repeat("x", 100) + `"]`)
	return &content{
		Process: Process{
			Version: "v1", Clock: time.Hour, Handshakes: 7, Owner: []byte("owner"), BindKey: []byte("key"), BindSum: []byte("sum"), KeySalt: []byte("salt"),
			Results: map[string]uint64{"ok": 3, "failed": 1}, Ends: []End{{"hfa", "expired"}, {"hfb", "evicted"}}, Lost: 2,
			Began: time.Minute, Leaving: time.Second, Freezing: time.Millisecond, Clients: 9, Cut: 1, Passing: 4,
			Config: []byte("listen: :80\n"),
		},
		Listeners: []Listener{{"clients", ":80", 3}, {"admin", "unix:///a", 4}},
		Groups: []Group{
			{Reason: "handover", Left: time.Minute},
			{Reason: "client_disconnect", Ending: 1, Left: time.Second, Disconnected: true, AllArrived: true, LastSession: true},
		},
		Links: []linkContent{{
			Link: Link{
				FD: 9, Server: "http://127.0.0.1:3000", Initial: []byte{1}, Queue: []byte{2, 3},
				Handshake: Handshake{"sid", 25000, 20000, 1e6},
				Frames:    Frames{[]byte{0x81}, []byte("4"), 1, 2},
				SincePing: time.Second, SincePong: 2 * time.Second, PongsSentEarly: 1, PingMayBeUnread: true, Used: true,
				Disconnected: []string{"/a", ""}, Ended: []string{"/b"}, Pending: []string{"/c"},
				Partial: []byte("51-[]"), PartialNeed: 2, PartialAttachments: [][]byte{{5}},
				Version3: true, Translation: Translation{Query: "a=b", Root: 2, Dropping: 3, Holding: 4, Early: [][]byte{[]byte("early")}},
			},
			Sessions: []Session{
				{
					PID: "hfpid", Namespace: "/", Tag: 1 << 60, Place: 3, Sent: 11, SentWhenParked: 10, Confirmed: 9, Reply: []byte("0{}"),
					Binding: "bind", Owned: 6, ParkedFor: time.Minute, TakeoversLeft: time.Second, Heard: true, InFlight: true,
					Key:        &Key{"digest", "handshake", 2, 3, true},
					Suspicions: &Suspicions{2, 1, 4, true, 4 * time.Second, 10, &Doubt{9, 10, 2, 1, true, 10, 4}}, Trimmed: 10,
					Entries: []Entry{
						{Kind: 1, Data: Part{broadcast, true}},
						{Kind: 3},
						{Kind: 2, AckID: -4, Data: Part{Bytes: []byte(`27["q"]`)}, ShortLived: true},
						{Data: Part{Bytes: []byte("51-[]")}, Attachments: []Part{{broadcast, true}, {Bytes: []byte{7}}}},
					},
				},
				{PID: "hfother", Namespace: "/chat", Group: 1, Entries: []Entry{{Kind: 1, Data: Part{broadcast, true}}}},
			},
		}},
	}
}

// Each released format stays readable. A file in testdata is never changed; a new format gets a new
// file: go test -run TestFormats -update.
func TestFormats(t *testing.T) {
	current := filepath.Join("testdata", "format-1.bin")
	if *update {
		if err := os.WriteFile(current, example().write(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "format-*.bin"))
	if err != nil || len(files) != Format-Oldest+1 {
		t.Fatalf("%d files for formats %d to %d, %v", len(files), Oldest, Format, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if file == current && !reflect.DeepEqual(got, example()) {
			t.Errorf("%s: got %+v\nwant %+v", file, got, example())
		}
		if file == current && !bytes.Equal(data, example().write(t)) {
			t.Errorf("%s: the format has changed. If it was released, raise Format and keep this file; otherwise run with -update", file)
		}
	}
}

// Every field of a record is written and read. The codec would silently lose one that it forgets.
func TestExampleHasEveryField(t *testing.T) {
	c := example()
	for _, v := range []any{c.Process, c.Listeners[0], c.Groups[1], c.Links[0].Link, c.Links[0].Sessions[0], *c.Links[0].Sessions[0].Suspicions, *c.Links[0].Sessions[0].Suspicions.Doubt, *c.Links[0].Sessions[0].Key} {
		r := reflect.ValueOf(v)
		for i := range r.NumField() {
			name := r.Type().Field(i).Name
			if r.Field(i).IsZero() && name != "Group" {
				t.Errorf("%v.%s is zero in the example", r.Type(), name)
			}
		}
	}
}

// writable is a snapshot that can be written to.
type writable []byte

func (w writable) WriteAt(p []byte, at int64) (int, error) { return copy(w[at:], p), nil }

// A snapshot is read once. After a process has read from its links, they no longer match it.
func TestUsedSnapshot(t *testing.T) {
	c := content{Process: Process{Version: "test"}}
	data := c.write(t)
	if err := MarkUsed(writable(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(data); !errors.Is(err, ErrUsed) {
		t.Errorf("got %v", err)
	}
}

func TestTruncated(t *testing.T) {
	data := example().write(t)
	for n := range data {
		if _, err := Verify(data[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := Verify(append(slices.Clone(data), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("with a byte behind the end: %v", err)
	}
}

func TestEachBitIsChecked(t *testing.T) {
	data := example().write(t)
	for i := range data {
		for bit := range 8 {
			flipped := slices.Clone(data)
			flipped[i] ^= 1 << bit
			if _, err := Verify(flipped); err == nil {
				t.Fatalf("bit %d of byte %d is not noticed", bit, i)
			}
		}
	}
}

// reseal corrects the checksums of a snapshot whose records were changed.
func reseal(data []byte, change func(t recordType, payload []byte) (recordType, []byte)) []byte {
	out := slices.Clone(data[:headerBytes])
	for at := headerBytes; at+recordHeadBytes <= len(data); {
		n := int(binary.LittleEndian.Uint32(data[at+1:]))
		t, payload := change(recordType(data[at]), data[at+recordHeadBytes:at+recordHeadBytes+n])
		head := recordHead(t, payload)
		out = append(append(out, head[:]...), payload...)
		at += recordHeadBytes + n
	}
	return out
}

// A later format may add fields and records. This reader skips them.
func TestUnknownFieldsAndRecords(t *testing.T) {
	var extra fields
	extra.number(1000, 5)
	extra.item(1001, []byte("new"))
	data := reseal(example().write(t), func(t recordType, payload []byte) (recordType, []byte) {
		if t == blobRecord {
			return t, payload
		}
		return t, append(slices.Clone(payload), extra...)
	})
	head := recordHead(200, extra)
	got, err := read(data)
	if err != nil || !reflect.DeepEqual(got, example()) {
		t.Errorf("with unknown fields: %v", err)
	}
	first := headerBytes + recordHeadBytes + int(binary.LittleEndian.Uint32(data[headerBytes+1:]))
	data = slices.Concat(data[:first], head[:], extra, data[first:])
	if got, err := read(data); err != nil || !reflect.DeepEqual(got, example()) {
		t.Errorf("with an unknown record: %v", err)
	}
}

func TestVersions(t *testing.T) {
	data := example().write(t)
	version := func(format, least uint16) error {
		d := slices.Clone(data)
		binary.LittleEndian.PutUint16(d[len(magic):], format)
		binary.LittleEndian.PutUint16(d[len(magic)+2:], least)
		sealHeader(d)
		_, err := Verify(d)
		return err
	}
	if err := version(Format+5, Format); err != nil {
		t.Errorf("a later format that this reader understands: %v", err)
	}
	if err := version(Format+5, Format+1); !errors.Is(err, ErrVersion) {
		t.Errorf("one that it does not: %v", err)
	}
	if err := version(Oldest-1, Oldest-1); !errors.Is(err, ErrVersion) {
		t.Errorf("one that is too old: %v", err)
	}
}

func TestImpossibleContent(t *testing.T) {
	for name, change := range map[string]func(c *content){
		"a group that is missing":      func(c *content) { c.Links[0].Sessions[0].Group = 2 },
		"more sent than there is":      func(c *content) { c.Links[0].Sessions[0].Sent = 15 },
		"more confirmed than trimmed":  func(c *content) { c.Links[0].Sessions[0].Confirmed = 11 },
		"a number that may overflow":   func(c *content) { c.Links[0].Sessions[0].Trimmed = 1 << 62 },
		"a session without a pid":      func(c *content) { c.Links[0].Sessions[0].PID = "" },
		"a partial packet that is not": func(c *content) { c.Links[0].Link.PartialNeed = 1 },
		"a doubt that may overflow":    func(c *content) { c.Links[0].Sessions[0].Suspicions.Doubt.To = 1 << 62 },
	} {
		c := example()
		change(c)
		if _, err := Verify(c.write(t)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsOfTheWriterAreKept(t *testing.T) {
	w := NewWriter(failing{})
	for range 10000 {
		w.Link(&Link{Server: strings.Repeat("x", 100)})
	}
	if err := w.End(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, os.ErrClosed }

// A payload that logs share is written once.
func TestSharedPayloads(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 10000)
	c := &content{Groups: []Group{{}}, Links: []linkContent{{}}}
	for i := range 100 {
		c.Links[0].Sessions = append(c.Links[0].Sessions, Session{PID: "p", Place: uint64(i), Entries: []Entry{{Data: Part{big, true}}}})
	}
	if n := len(c.write(t)); n > 15000 {
		t.Errorf("100 sessions with one payload take %d bytes", n)
	}
}
