package engineio

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// newSID is how long a server may take to know a session that it has just opened.
	newSID = 3 * time.Second
	// newSIDPause is the time between two attempts.
	newSIDPause = 20 * time.Millisecond
)

// pollingLink is the polling half of a Conn. It makes one poll and one POST at a time.
type pollingLink struct {
	// Immutable. ctx is for polls and the upgrade, and ends with the Conn. postCtx lives a little
	// longer: what was sent before Close still goes out.
	conn       *Conn
	ctx        context.Context
	cancel     context.CancelFunc
	postCtx    context.Context
	cancelPost context.CancelFunc

	handshakeAt time.Time // when the handshake was answered
	decoder     decoder3  // of answers, in version 3; owned by Dial, then by the poll goroutine

	polls, posts keepAlive // connections of this Conn only, from the handshake on

	// Guarded by the Conn's mu.
	queue    postQueue
	polling  bool // the poll goroutine runs
	posting  bool // the POST goroutine runs
	upgrade  upgradeState
	changed  sync.Cond // polling, posting, upgrade, or the Conn's state or readPaused changed
	requests uint64    // numbers the requests, to defeat caches
}

func newPollingLink(c *Conn) *pollingLink {
	dial := c.dialer.DialPolling
	if dial == nil {
		dial = c.dialer.DialContext
	}
	l := &pollingLink{
		conn:  c,
		polls: keepAlive{dial: dial, server: &c.dialer.keeps},
		posts: keepAlive{dial: dial, server: &c.dialer.keeps},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.postCtx, l.cancelPost = context.WithCancel(context.Background())
	l.changed.L = &c.mu
	return l
}

// dial makes the handshake.
func (l *pollingLink) dial(ctx context.Context) error {
	c := l.conn
	resp, body, err := l.roundTrip(ctx, &l.polls, http.MethodGet, c.dialed.request.RawQuery, nil, func(r io.Reader) ([]byte, error) {
		return io.ReadAll(http.MaxBytesReader(nil, io.NopCloser(r), maxHandshakeBytes))
	})
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return &RejectedError{resp.status, resp.header, body}
	}
	c.dialed.response = resp.header
	l.handshakeAt = time.Now()
	if c.protocol == V4 && isPayload3(body) {
		if !c.dialed.request.AnyProtocol {
			return ErrOtherVersion
		}
		c.protocol = V3
	}
	var packets []Packet
	if err := l.decode(body, func(p Packet) bool {
		packets = append(packets, p)
		return true
	}); err != nil {
		return fmt.Errorf("the answer is not Engine.IO's, but perhaps another service's (upstream.url, engineio.paths): %w", err)
	}
	if len(packets) == 0 {
		return fmt.Errorf("%w: no OPEN packet", ErrMalformed)
	}
	c.dialed.handshakePackets = packets[1:]
	err = c.setHandshake(packets[0])
	l.queue = postQueue{v3: c.protocol == V3, maxBytes: l.maxPost()}
	return err
}

// maxPost returns how many bytes a POST may have.
func (l *pollingLink) maxPost() int {
	switch c := l.conn; {
	case c.protocol == V3:
		return maxPost3
	case c.handshake.MaxPayload > 0:
		return int(min(c.handshake.MaxPayload, math.MaxInt))
	default:
		return int(min(c.dialer.MaxPayload, math.MaxInt))
	}
}

// decode calls fn for each packet of a polling answer, or of a body to post.
func (l *pollingLink) decode(payload []byte, fn func(Packet) bool) error {
	if l.conn.protocol == V3 {
		return l.decoder.decode(payload, fn)
	}
	return DecodePayload(payload, fn)
}

func (l *pollingLink) startLocked() {
	l.startPollsLocked()
	if slices.Contains(l.conn.handshake.Upgrades, "websocket") {
		l.upgrade.moveLocked(upgradeProbing)
		u := &upgrade{conn: l.conn}
		go l.conn.run(u.run) // ends with the Conn, after the upgrade, or when that fails
	}
	l.startPostsLocked()
}

// abandon ends the requests of a Conn whose end needs no CLOSE packet.
func (l *pollingLink) abandon() {
	l.cancelPost()
	l.closeConnections()
}

// closeConnections is called when no further request will be made.
func (l *pollingLink) closeConnections() {
	l.polls.Close()
	l.posts.Close()
}

// changedLocked may be called on nil.
func (l *pollingLink) changedLocked() {
	if l != nil {
		l.changed.Broadcast()
	}
}

func (l *pollingLink) startPollsLocked() {
	l.polling = true
	go l.conn.run(l.pollLoop) // ends with the Conn, or for an upgrade
}

func (l *pollingLink) pollLoop() {
	for {
		query, ok := l.nextPoll()
		if !ok {
			return
		}
		if err := l.poll(query); err != nil {
			l.conn.end(err)
		}
	}
}

// nextPoll waits until another poll may start, and returns its query. ok is false if polling ends.
func (l *pollingLink) nextPoll() (query string, ok bool) {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.readPaused && !c.state.ended() && !l.upgrade.stopsPolls() {
		l.changed.Wait()
	}
	if c.state.ended() || l.upgrade.stopsPolls() {
		l.polling = false
		l.changedLocked()
		return "", false
	}
	return l.nextQueryLocked(), true
}

func (l *pollingLink) poll(query string) error {
	c := l.conn
	counted := &countedBody{incomplete: c.incomplete}
	defer counted.release()
	resp, body, err := l.laterRoundTrip(l.ctx, &l.polls, http.MethodGet, query, nil, func(r io.Reader) ([]byte, error) {
		counted.r = pausedBody{r, counted, l}
		return io.ReadAll(counted)
	})
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return fmt.Errorf("engineio: poll answered with status %d", resp.status)
	}
	c.input.Lock()
	defer c.input.Unlock()
	if c.state.ended() {
		return nil
	}
	err = l.decode(body, c.packet)
	c.h.Flush()
	return err
}

// pausedBody is the body of a polling answer. A large one is not read while the Conn is paused.
type pausedBody struct {
	io.Reader
	counted *countedBody
	link    *pollingLink
}

// Read implements io.Reader.
func (b pausedBody) Read(p []byte) (int, error) {
	if b.counted.reserved > 0 {
		b.link.awaitResume()
	}
	return b.Reader.Read(p)
}

// awaitResume waits until the Conn is not paused, or has ended.
func (l *pollingLink) awaitResume() {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.readPaused && !c.state.ended() {
		l.changed.Wait()
	}
}

// startPostsLocked starts the POST goroutine if it has something to do. Before Start there is no
// handler to report a failure to; Start calls this again.
func (l *pollingLink) startPostsLocked() {
	if len(l.queue.bodies) > 0 && !l.posting && !l.upgrade.stopsPosts() && l.conn.h != nil {
		l.posting = true
		go l.conn.run(l.postLoop) // ends when nothing is left to post, or for an upgrade
	}
}

func (l *pollingLink) postLoop() {
	for {
		query, body, drained := l.nextPost()
		if body == nil {
			if drained {
				l.conn.h.Drained()
			}
			return
		}
		err := l.post(query, body)
		l.posted(body)
		if err != nil {
			l.conn.end(err)
		}
	}
}

// nextPost returns the next POST's query and body. The body is nil if no POST may start now;
// drained then says whether nothing waits.
func (l *pollingLink) nextPost() (query string, body []byte, drained bool) {
	c := l.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.ended() && !l.upgrade.stopsPosts() {
		body = l.queue.next()
	}
	if body == nil {
		l.posting = false
		l.changedLocked()
		return "", nil, !c.state.ended() && len(l.queue.bodies) == 0
	}
	return l.nextQueryLocked(), body, false
}

func (l *pollingLink) posted(body []byte) {
	l.conn.mu.Lock()
	defer l.conn.mu.Unlock()
	l.queue.posted(body)
}

func (l *pollingLink) post(query string, body []byte) error {
	resp, _, err := l.laterRoundTrip(l.postCtx, &l.posts, http.MethodPost, query, body, readRefusal)
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return fmt.Errorf("engineio: POST answered with status %d", resp.status)
	}
	return nil
}

// postClose posts what still waits, followed by a CLOSE packet.
func (l *pollingLink) postClose() {
	c := l.conn
	defer l.closeConnections()
	defer l.cancelPost()
	defer time.AfterFunc(c.dialer.Timeout, l.cancelPost).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for l.posting {
		l.changed.Wait()
	}
	l.queue.add(Close, nil)
	for body := l.queue.next(); body != nil; body = l.queue.next() {
		query := l.nextQueryLocked()
		var err error
		c.withoutLock(func() { err = l.post(query, body) })
		if err != nil {
			return // the server is gone, or will notice by its own heartbeat
		}
	}
}

// laterRoundTrip makes a polling request with the sid. Shortly after the handshake, it repeats a
// request that the server refuses because it does not know the sid. In a cluster the process that
// chooses the worker may learn of the sid later than this client (@socket.io/sticky). The server
// has not handled such a request. Once one is accepted, k repeats none.
func (l *pollingLink) laterRoundTrip(ctx context.Context, k *keepAlive, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	for {
		resp, answer, err := l.roundTrip(ctx, k, method, query, body, read)
		if err != nil || k.sidKnown || resp.status != http.StatusBadRequest || time.Since(l.handshakeAt) > newSID ||
			!bytes.HasPrefix(answer, []byte(`{"code":1,`)) {
			k.sidKnown = true
			return resp, answer, err
		}
		select {
		case <-time.After(newSIDPause):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// roundTrip makes one polling request.
func (l *pollingLink) roundTrip(ctx context.Context, k *keepAlive, method, query string, body []byte, read bodyReader) (*response, []byte, error) {
	r := &l.conn.dialed.request
	b := headBuffers.Get().(*bytes.Buffer)
	b.Reset()
	b.WriteString(method + " " + r.Path)
	if query != "" {
		b.WriteString("?" + query)
	}
	b.WriteString(" HTTP/1.1\r\nHost: " + r.Host + "\r\n")
	_ = r.Header.Write(b) // writing to a Buffer does not fail
	if method == http.MethodPost {
		b.WriteString("Content-Type: " + l.queue.contentType() + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	request := bytes.Clone(b.Bytes()) // a poll takes long, and must not keep the buffer
	headBuffers.Put(b)
	return k.do(ctx, method, request, read)
}

// nextQueryLocked returns the query of the next polling request.
func (l *pollingLink) nextQueryLocked() string {
	l.requests++
	c := l.conn
	return laterQuery(c.dialed.request.RawQuery, "polling", c.handshake.SID, "hf"+strconv.FormatUint(l.requests, 36))
}
