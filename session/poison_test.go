package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast/holdfast/buffer"
)

// Verdicts on packets that some clients cannot decode.
const doubtful, unusual Verdict = 1, 2

// judgeByName judges packets by a word in them.
func judgeByName(packet []byte) Verdict {
	switch s := string(packet); {
	case strings.Contains(s, "broken"):
		return Undecodable
	case strings.Contains(s, "doubtful"):
		return doubtful
	case strings.Contains(s, "unusual"):
		return unusual
	}
	return Fine
}

func judging() Limits {
	l := roomy
	l.Judge = judgeByName
	return l
}

// decoder is a client that closes its connection when it cannot decode a packet.
type decoder struct {
	w       *world
	s       *Session
	cannot  string // what a packet must not contain
	keeps   bool   // it opens another connection instead of closing this one
	order   uint64
	cur     *Cursor
	offset  string
	got     []string
	returns int
	trials  []string // packets, in the order in which they were tried
}

func (d *decoder) decodes(packet string) bool {
	return d.cannot == "" || !strings.Contains(packet, d.cannot)
}

func (d *decoder) end(ending Ending) {
	d.w.ParkEnded([]*Cursor{d.cur}, time.Minute, "test", ending)
}

// read handles packets. It returns false at one that it cannot decode.
func (d *decoder) read() bool {
	r := read(d.cur, 1000)
	for i, data := range r.data {
		if !d.decodes(data) {
			return false
		}
		d.got = append(d.got, data)
		if r.offsets[i] != "" {
			d.offset = r.offsets[i]
		}
	}
	return true
}

// comeBack resumes, goes through the trial and reads. It returns false if a packet cannot be
// decoded.
func (d *decoder) comeBack() bool {
	d.w.t.Helper()
	d.returns++
	d.order++
	r := d.w.Resume(Claim{PID: d.s.PID(), Namespace: d.s.Namespace(), Offset: d.offset}, &client{d.order})
	if r.Cursor == nil {
		d.w.t.Fatalf("Resume: %+v", r)
	}
	d.cur = r.Cursor
	if t := r.Trial; t != nil {
		d.cur.ReplyHandled()
		for _, unit := range t.Units {
			if !d.try(unit) {
				d.cur.Failed(unit, d.proof(unit, t), d.closes())
				d.end(d.closes())
				return false
			}
		}
		d.cur.Passed(t)
		if t.Resync {
			d.end(Lost)
			return false
		}
	}
	if !d.read() {
		d.end(d.closes())
		return false
	}
	return true
}

func (d *decoder) try(unit []uint64) (ok bool) {
	ok = true
	d.cur.Sample(unit, func(p *buffer.Entry) {
		d.trials = append(d.trials, string(p.Data()))
		ok = ok && d.decodes(string(p.Data()))
	})
	return ok
}

func (d *decoder) closes() Ending {
	if d.keeps {
		return LeftOpen
	}
	return ClosedByClient
}

// proof is how well package proxy proves that a unit was the reason.
func (d *decoder) proof(unit []uint64, t *Trial) int {
	switch {
	case !d.keeps:
		return GoodProof
	case slices.Equal(unit, t.Units[0]):
		return SureProof
	}
	return FairProof
}

func newDecoder(w *world, cannot string, packets ...string) *decoder {
	d := &decoder{w: w, cannot: cannot, order: 1}
	d.cur = w.open("/")
	d.s = d.cur.s
	for _, p := range packets {
		w.append(d.s, withOffset(p))
	}
	if !d.read() {
		d.end(ClosedByClient)
	}
	return d
}

func (d *decoder) settle(most int) {
	d.w.t.Helper()
	for !d.comeBack() {
		if d.returns > most {
			d.w.t.Fatalf("not settled after %d reconnections", d.returns)
		}
	}
}

func TestPoison(t *testing.T) {
	numbered := func(n int, special map[int]string) (packets []string) {
		for i := 1; i <= n; i++ {
			packets = append(packets, strings.TrimSpace(fmt.Sprint(i, " ", special[i])))
		}
		return packets
	}
	tests := []struct {
		name    string
		packets []string
		cannot  string
		keeps   bool
		most    int // reconnections
		left    []string
	}{
		{"doubtful", numbered(5, map[int]string{3: "doubtful"}), "doubtful", false, 3, []string{"3 doubtful"}},
		{"doubtful, and the client keeps its connection", numbered(5, map[int]string{3: "doubtful"}), "doubtful", true, 2, []string{"3 doubtful"}},
		{"two, and the client keeps its connection", numbered(9, map[int]string{3: "doubtful", 7: "doubtful"}), "doubtful", true, 3, []string{"3 doubtful", "7 doubtful"}},
		{"the first of all", numbered(3, map[int]string{1: "doubtful"}), "doubtful", false, 3, []string{"1 doubtful"}},
		{"the only one", []string{"doubtful"}, "doubtful", false, 3, []string{"doubtful"}},
		{"broken", numbered(5, map[int]string{3: "broken"}), "broken", false, 2, []string{"3 broken"}},
		{"two", numbered(9, map[int]string{3: "doubtful", 7: "doubtful"}), "doubtful", false, 5, []string{"3 doubtful", "7 doubtful"}},
		{"looks fine", numbered(5, map[int]string{3: "odd"}), "odd", false, 4, []string{"3 odd"}},
		{"looks fine among many", numbered(500, map[int]string{333: "odd"}), "odd", false, 6, []string{"333 odd"}},
		{"beside a doubtful one that can be decoded", numbered(9, map[int]string{3: "doubtful", 7: "odd"}), "odd", false, 5, []string{"7 odd"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, judging(), 10)
			d := newDecoder(w, tt.cannot, tt.packets...)
			d.keeps = tt.keeps
			d.settle(tt.most)
			want := slices.DeleteFunc(slices.Clone(tt.packets), func(p string) bool { return slices.Contains(tt.left, p) })
			equal(t, "received", d.got, want)
			var poisoned []string
			for _, e := range w.noted() {
				if name, ok := strings.CutPrefix(e, "/ poisoned: "); ok {
					poisoned = append(poisoned, name)
				}
			}
			equal(t, "left out", poisoned, tt.left)
			w.append(d.s, withOffset("later"))
			if !d.read() || d.got[len(d.got)-1] != "later" {
				t.Errorf("what comes later does not arrive: %q", d.got)
			}
			w.finish()
		})
	}
}

// A client before 4.8 that comes back later than its trial allowed has three times as long in the
// next one, so that it needs no more than three connections. One whose network changes has not been
// slow.
func TestSlowClientHasMoreTime(t *testing.T) {
	for ending, want := range map[Ending]time.Duration{LeftOpen: 15 * time.Second, Overtaken: holdTime, Lost: holdTime} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, judging(), 10)
			cur := w.open("/")
			s := cur.s
			for _, p := range []string{"1", "2 doubtful", "3"} {
				w.append(s, withOffset(p))
			}
			read(cur, 10)
			w.ParkEnded([]*Cursor{cur}, time.Minute, "test", Overtaken)
			r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{2})
			if r.Trial == nil || r.Trial.Hold != holdTime {
				t.Fatalf("first trial: %+v", r.Trial)
			}
			r.Cursor.ReplyHandled() // it handles "1", which it had buffered
			time.Sleep(holdTime)
			r.Cursor.Passed(r.Trial)
			read(r.Cursor, 10)
			time.Sleep(3 * time.Second)
			w.ParkEnded([]*Cursor{r.Cursor}, time.Minute, "test", ending)
			offset := string(Offset{s.tag, 1}.AppendTo(nil))
			r = w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: offset}, &client{3})
			switch {
			case ending == LeftOpen && (r.Trial == nil || r.Trial.Hold != want):
				t.Errorf("second trial after %v: %+v, want one that waits for %v", ending, r.Trial, want)
			case ending != LeftOpen && r.Trial != nil && r.Trial.Hold > want:
				t.Errorf("second trial after %v: %+v, want none that waits longer", ending, r.Trial)
			}
			w.finish()
		})
	}
}

// A client before 4.8 may take longer to come back than any trial waits. It fails late twice, and
// then its packet is dropped, so that it never takes more than three connections. If it handles the
// packet, or fails with a later one, the packet stays.
func TestSlowClientFailsLate(t *testing.T) {
	tests := []struct {
		name    string
		packets []string
		offset  uint64 // after the first late failure
		late    uint64 // the packet that package proxy names
		want    []string
	}{
		{"it cannot decode the packet", []string{"doubtful", "after"}, 0, 1, []string{"after"}},
		{"another one comes before", []string{"before", "doubtful", "after"}, 0, 2, []string{"before", "doubtful", "after"}},
		{"it had buffered the packet", []string{"doubtful", "after", "unusual"}, 1, 1, []string{"after", "unusual"}},
		{"it fails with another packet each time", []string{"doubtful", "after"}, 0, 2, []string{"doubtful", "after"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, judging(), 10)
			cur := w.open("/")
			s := cur.s
			for _, p := range tt.packets {
				w.append(s, withOffset(p))
			}
			read(cur, 1)
			read(cur, len(tt.packets)-1)
			w.ParkEnded([]*Cursor{cur}, time.Minute, "test", Overtaken)
			offset := ""
			for i := range uint64(2) {
				r := w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: offset}, &client{i + 2})
				if r.Cursor == nil {
					t.Fatalf("Resume: %+v", r)
				}
				r.Cursor.ReplyHandled()
				if r.Trial != nil {
					r.Cursor.Passed(r.Trial)
				}
				read(r.Cursor, 10)
				r.Cursor.FailedLate(tt.late)
				w.ParkEnded([]*Cursor{r.Cursor}, time.Minute, "test", LeftOpen)
				if tt.offset > 0 {
					offset = string(Offset{s.tag, tt.offset}.AppendTo(nil))
				}
			}
			r := w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: offset}, &client{4})
			equal(t, "sent to the third connection", read(r.Cursor, 10).data, tt.want)
			w.finish()
		})
	}
}

// A packet that no client can decode is sent once, however the connection ended.
func TestBrokenPacketIsSentOnce(t *testing.T) {
	w := newWorld(t, judging(), 10)
	c := w.parked(0)
	w.append(c, withOffset("broken while away"))
	d := &decoder{w: w, s: c, order: 1}
	if d.comeBack(); !slices.Equal(d.got, []string{"broken while away"}) {
		t.Fatalf("received %q", d.got)
	}
	d.offset = "" // it did not handle it
	d.end(Lost)
	d.comeBack()
	equal(t, "received", d.got, []string{"broken while away"})
	w.finish()
}

// A client that can decode everything receives everything, however its connections end.
func TestReadablePacketsStay(t *testing.T) {
	endings := map[string][]Ending{
		"cut":      {Lost},
		"closed":   {ClosedByClient},
		"overtook": {Overtaken},
		"all":      {Lost, ClosedByClient, ClosedByClient, Overtaken},
	}
	for name, list := range endings {
		for _, step := range []string{"before the trial", "in the trial", "after the trial", "in the replay"} {
			t.Run(name+" "+step, func(t *testing.T) {
				w := newWorld(t, judging(), 10)
				cur := w.open("/")
				s := cur.s
				want := []string{"1", "2 doubtful", "3", "4 doubtful", "5"}
				for _, p := range want {
					w.append(s, withOffset(p))
				}
				read(cur, 1000)
				w.ParkEnded([]*Cursor{cur}, time.Minute, "test", list[0])
				for i := range 50 {
					r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{uint64(i) + 2})
					if r.Cursor == nil {
						t.Fatalf("Resume: %+v", r)
					}
					ending := list[i%len(list)]
					if step == "in the trial" && r.Trial != nil && ending != Lost {
						r.Cursor.Inconclusive()
					}
					if step == "after the trial" && r.Trial != nil || step == "in the replay" {
						if r.Trial != nil {
							r.Cursor.Passed(r.Trial)
						}
					}
					if step == "in the replay" {
						read(r.Cursor, i%6)
					}
					w.ParkEnded([]*Cursor{r.Cursor}, time.Minute, "test", ending)
				}
				c := w.mustResumeAs(s, &client{100})
				equal(t, "received", read(c, 1000).data, want)
				w.finish()
			})
		}
	}
}

// Proof among closes for other reasons must repeat.
func TestProofMustRepeat(t *testing.T) {
	w := newWorld(t, judging(), 10)
	cur := w.open("/")
	s := cur.s
	w.append(s, withOffset("doubtful"))
	read(cur, 10)
	w.ParkEnded([]*Cursor{cur}, time.Minute, "test", ClosedByClient)
	for i := range uint64(20) {
		c := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{i + 2})
		if c.Trial == nil || len(c.Trial.Units) != 1 {
			t.Fatalf("no trial: %+v", c)
		}
		if i%2 == 0 {
			c.Cursor.Failed(c.Trial.Units[0], GoodProof, ClosedByClient)
		} else {
			c.Cursor.Inconclusive()
		}
		w.ParkEnded([]*Cursor{c.Cursor}, time.Minute, "test", ClosedByClient)
	}
	equal(t, "received", read(w.mustResumeAs(s, &client{100}), 10).data, []string{"doubtful"})
	w.finish()
}

// A client that cannot decode a packet of one session may have buffered events of another.
func TestSiblingsOfPoisonWait(t *testing.T) {
	tests := []struct {
		name   string
		second string // packet in the session that comes back second
		first  bool   // whether the other one had packets in flight
		want   string // of the first session
	}{
		{"doubtful", "doubtful", true, "waits, with events aside"},
		{"broken", "broken", true, "waits, with events aside, and closes"},
		{"harmless", "fine", true, "none"},
		{"nothing to put aside", "doubtful", false, "waits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, judging(), 10)
			first, second := w.open("/"), w.open("/chat")
			if tt.first {
				w.append(first.s, withOffset("aside"))
				read(first, 10)
			}
			w.append(second.s, withOffset(tt.second))
			read(second, 10)
			w.ParkEnded([]*Cursor{first, second}, time.Minute, "test", Overtaken)

			r := w.Resume(Claim{PID: first.s.PID(), Namespace: "/"}, &client{2})
			got := "none"
			if t := r.Trial; t != nil {
				got = "waits"
				if t.Buffered {
					got += ", with events aside"
				}
				if t.Resync {
					got += ", and closes"
				}
			}
			if got != tt.want || r.Trial != nil && (r.Trial.Siblings != 1 || len(r.Trial.Units) > 0) {
				t.Errorf("trial of the first session: %s: %+v, want %s", got, r.Trial, tt.want)
			}
			w.finish()
		})
	}
}

// A client handles what it buffered with the first CONNECT reply that it gets, over whatever
// connection.
func TestAsideUntilTheReplyWasShown(t *testing.T) {
	for _, poison := range []string{"2 broken", "2 doubtful"} {
		t.Run(poison, func(t *testing.T) {
			w := newWorld(t, judging(), 10)
			cur := w.open("/")
			s := cur.s
			for _, p := range []string{"1", poison, "3"} {
				w.append(s, withOffset(p))
			}
			read(cur, 10)
			w.ParkEnded([]*Cursor{cur}, time.Minute, "test", Lost) // the client had closed it
			for i := range uint64(3) {
				r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{i + 2})
				if r.Trial == nil || r.Trial.Resync != (poison == "2 broken") {
					t.Fatalf("connection %d: trial %+v", i, r.Trial)
				}
				w.ParkEnded([]*Cursor{r.Cursor}, time.Minute, "test", Lost) // before the reply
			}
			r := w.Resume(Claim{PID: s.PID(), Namespace: "/"}, &client{10})
			r.Cursor.ReplyHandled() // it handles "1"
			w.ParkEnded([]*Cursor{r.Cursor}, time.Minute, "test", Lost)
			offset := string(Offset{s.tag, 1}.AppendTo(nil))
			r = w.Resume(Claim{PID: s.PID(), Namespace: "/", Offset: offset}, &client{11})
			if broken := poison == "2 broken"; (r.Trial == nil) != broken || !broken && r.Trial.Resync {
				t.Errorf("trial after the reply was shown: %+v", r.Trial)
			}
			w.finish()
		})
	}
}
