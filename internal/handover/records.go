package handover

import "time"

// Process is what belongs to the process as a whole.
type Process struct {
	Version string // of the holdfast that wrote the snapshot
	// Clock is when the snapshot was written, on a clock that both processes share.
	Clock time.Duration
	// Handshakes is the number of the latest client.
	Handshakes uint64
	// Owner identifies the process among its replicas. It is empty if there are none.
	Owner []byte
	// BindKey is the key of the sessions' Bindings, and BindSum identifies what they were made of.
	BindKey, BindSum []byte
	// KeySalt is what the digests of the clients' keys are made with.
	KeySalt []byte
	// Results counts the handovers so far, by their result.
	Results map[string]uint64
	// Ends says why sessions ended that clients may still ask for, the oldest first.
	Ends []End
	// Lost are the sessions that are not handed over.
	Lost uint64
	// What the handover did before the snapshot was written, for the log. Began is on Clock.
	Began, Leaving, Freezing time.Duration
	Clients, Cut, Passing    uint64
	// Config is the configuration in force, as a file. The process continues with it if the next
	// program cannot take over.
	Config []byte
}

// End is a session that has ended.
type End struct{ PID, Reason string }

func (p *Process) encode(f *fields) {
	f.text(1, p.Version)
	f.duration(2, p.Clock)
	f.number(3, p.Handshakes)
	f.bytes(4, p.Owner)
	f.bytes(5, p.BindKey)
	f.bytes(6, p.BindSum)
	for _, result := range sortedKeys(p.Results) {
		f.message(7, func(f *fields) {
			f.text(1, result)
			f.number(2, p.Results[result])
		})
	}
	for _, e := range p.Ends {
		f.message(8, func(f *fields) {
			f.text(1, e.PID)
			f.text(2, e.Reason)
		})
	}
	f.number(9, p.Lost)
	f.duration(10, p.Began)
	f.duration(11, p.Leaving)
	f.duration(12, p.Freezing)
	f.number(13, p.Clients)
	f.number(14, p.Cut)
	f.number(15, p.Passing)
	f.bytes(16, p.Config)
	f.bytes(17, p.KeySalt)
}

func (p *Process) decode(b []byte) error { return eachField(b, p.decodeField) }

func (p *Process) decodeField(field int, v value) error {
	switch field {
	case 1:
		p.Version = v.text()
	case 2:
		p.Clock = v.duration()
	case 3:
		p.Handshakes = v.n
	case 4:
		p.Owner = v.bytes
	case 5:
		p.BindKey = v.bytes
	case 6:
		p.BindSum = v.bytes
	case 7:
		return p.decodeResult(v.bytes)
	case 8:
		return p.decodeEnd(v.bytes)
	case 9:
		p.Lost = v.n
	case 10:
		p.Began = v.duration()
	case 11:
		p.Leaving = v.duration()
	case 12:
		p.Freezing = v.duration()
	case 13:
		p.Clients = v.n
	case 14:
		p.Cut = v.n
	case 15:
		p.Passing = v.n
	case 16:
		p.Config = v.bytes
	case 17:
		p.KeySalt = v.bytes
	}
	return nil
}

func (p *Process) decodeEnd(b []byte) error {
	var e End
	err := eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			e.PID = v.text()
		case 2:
			e.Reason = v.text()
		}
		return nil
	})
	p.Ends = append(p.Ends, e)
	return err
}

func (p *Process) decodeResult(b []byte) error {
	var result string
	var n uint64
	err := eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			result = v.text()
		case 2:
			n = v.n
		}
		return nil
	})
	if p.Results == nil {
		p.Results = make(map[string]uint64)
	}
	p.Results[result] = n
	return err
}

// Listener is a listening socket, with the connections that wait in its queue.
type Listener struct {
	Kind    string // what it serves
	Address string // as the configuration writes it
	FD      int
}

func (l *Listener) encode(f *fields) {
	f.text(1, l.Kind)
	f.text(2, l.Address)
	f.number(3, uint64(l.FD))
}

func (l *Listener) decode(b []byte) error {
	return eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			l.Kind = v.text()
		case 2:
			l.Address = v.text()
		case 3:
			l.FD = v.count()
		}
		return nil
	})
}

// Group is sessions that were parked together and expire together.
type Group struct {
	Reason string
	Ending uint8 // how the client's connection ended, in the terms of package session
	Left   time.Duration
	// Disconnected means that the client sent a DISCONNECT. AllArrived and LastSession are what
	// became known about it since.
	Disconnected, AllArrived, LastSession bool
}

func (g *Group) encode(f *fields) {
	f.text(1, g.Reason)
	f.number(2, uint64(g.Ending))
	f.duration(3, g.Left)
	f.flag(5, g.Disconnected)
	f.flag(6, g.AllArrived)
	f.flag(7, g.LastSession)
}

func (g *Group) decode(b []byte) error {
	return eachField(b, func(field int, v value) error {
		switch field {
		case 1:
			g.Reason = v.text()
		case 2:
			g.Ending = uint8(min(v.n, 255))
		case 3:
			g.Left = v.duration()
		case 5:
			g.Disconnected = v.flag()
		case 6:
			g.AllArrived = v.flag()
		case 7:
			g.LastSession = v.flag()
		}
		return nil
	})
}

// Link is a connection to the server.
type Link struct {
	FD     int
	Server string // the server's address, if there are several
	// Initial is what was read from the socket and not parsed yet. Queue is what was not written
	// yet; it may begin inside a frame.
	Initial, Queue []byte
	Handshake      Handshake
	Frames         Frames
	// SincePing and SincePong are the ages of the server's last ping and of the answer to it.
	SincePing, SincePong time.Duration
	PongsSentEarly       int
	PingMayBeUnread      bool
	Used                 bool // a namespace was connected on it
	// Namespaces with a DISCONNECT, whose session has ended, and whose CONNECT has no reply yet.
	Disconnected, Ended, Pending []string
	// Partial is a binary packet whose attachments have not all arrived. PartialNeed is their
	// number; 0 if there is none.
	Partial            []byte
	PartialNeed        int
	PartialAttachments [][]byte
	// Version3 says that the server speaks Engine.IO 3. The Translation is for such links only.
	Version3    bool
	Translation Translation
}

// Translation is the state of what translates a server's packets.
type Translation struct {
	Query string // what the handshake said about the client's auth
	ForV3 bool   // its clients speak Engine.IO 3
	Root  int    // state of the namespace "/"
	// Attachments that follow, and belong to a dropped packet, or to the last of Early.
	Dropping, Holding int
	// Early holds messages of namespaces whose CONNECT has no reply yet. The first byte of each is
	// 1 if it is binary, and otherwise 0.
	Early [][]byte
}

// Handshake is the server's answer to the link's handshake. Times are in milliseconds.
type Handshake struct {
	SID                       string
	PingInterval, PingTimeout int64
	MaxPayload                int64
}

// Frames is the state of a WebSocket's input between two reads.
type Frames struct {
	Partial, Message []byte
	Op               uint8
	Fragments        int
}

func (l *Link) encode(f *fields) {
	f.number(1, uint64(l.FD))
	f.text(2, l.Server)
	f.bytes(3, l.Initial)
	f.bytes(4, l.Queue)
	f.text(5, l.Handshake.SID)
	f.number(6, uint64(max(l.Handshake.PingInterval, 0)))
	f.number(7, uint64(max(l.Handshake.PingTimeout, 0)))
	f.number(8, uint64(max(l.Handshake.MaxPayload, 0)))
	f.bytes(9, l.Frames.Partial)
	f.bytes(10, l.Frames.Message)
	f.number(11, uint64(l.Frames.Op))
	f.number(12, uint64(l.Frames.Fragments))
	f.duration(13, l.SincePing)
	f.duration(14, l.SincePong)
	f.number(15, uint64(l.PongsSentEarly))
	f.flag(16, l.PingMayBeUnread)
	f.flag(17, l.Used)
	for i, list := range [][]string{l.Disconnected, l.Ended, l.Pending} {
		for _, namespace := range list {
			f.item(18+i, []byte(namespace))
		}
	}
	f.bytes(21, l.Partial)
	f.number(22, uint64(l.PartialNeed))
	for _, a := range l.PartialAttachments {
		f.item(23, a)
	}
	f.flag(24, l.Version3)
	f.text(25, l.Translation.Query)
	f.number(26, uint64(l.Translation.Root))
	f.number(27, uint64(l.Translation.Dropping))
	f.number(28, uint64(l.Translation.Holding))
	for _, m := range l.Translation.Early {
		f.item(29, m)
	}
	f.flag(30, l.Translation.ForV3)
}

func (l *Link) decode(b []byte) error {
	err := eachField(b, l.decodeField)
	if err == nil && l.PartialNeed > 0 && len(l.PartialAttachments) >= l.PartialNeed {
		return malformed("link: a complete packet as a partial one")
	}
	return err
}

func (l *Link) decodeField(field int, v value) error {
	switch field {
	case 1:
		l.FD = v.count()
	case 2:
		l.Server = v.text()
	case 3:
		l.Initial = v.bytes
	case 4:
		l.Queue = v.bytes
	case 5:
		l.Handshake.SID = v.text()
	case 6:
		l.Handshake.PingInterval = int64(v.count())
	case 7:
		l.Handshake.PingTimeout = int64(v.count())
	case 8:
		l.Handshake.MaxPayload = int64(v.duration())
	case 9:
		l.Frames.Partial = v.bytes
	case 10:
		l.Frames.Message = v.bytes
	case 11:
		l.Frames.Op = uint8(min(v.n, 255))
	case 12:
		l.Frames.Fragments = v.count()
	case 13:
		l.SincePing = v.duration()
	case 14:
		l.SincePong = v.duration()
	case 15:
		l.PongsSentEarly = v.count()
	case 16:
		l.PingMayBeUnread = v.flag()
	case 17:
		l.Used = v.flag()
	case 18:
		l.Disconnected = append(l.Disconnected, v.text())
	case 19:
		l.Ended = append(l.Ended, v.text())
	case 20:
		l.Pending = append(l.Pending, v.text())
	case 21:
		l.Partial = v.bytes
	case 22:
		l.PartialNeed = v.count()
	case 23:
		l.PartialAttachments = append(l.PartialAttachments, v.bytes)
	case 24:
		l.Version3 = v.flag()
	case 25:
		l.Translation.Query = v.text()
	case 26:
		l.Translation.Root = v.count()
	case 27:
		l.Translation.Dropping = v.count()
	case 28:
		l.Translation.Holding = v.count()
	case 29:
		l.Translation.Early = append(l.Translation.Early, v.bytes)
	case 30:
		l.Translation.ForV3 = v.flag()
	}
	return nil
}
