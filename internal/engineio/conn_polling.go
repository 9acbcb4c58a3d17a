package engineio

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/holdfast/holdfast/internal/netpoll"
)

// maxPostPackets is how many packets python-engineio takes in one POST.
const maxPostPackets = 16

// pollingLink is what a Conn keeps while its transport is polling; guarded by the Conn's mu.
type pollingLink struct {
	// Immutable. ctx is that of polls and the upgrade, and ends with the Conn; postCtx lives a little longer: what was sent
	// before Close still goes out.
	conn       *Conn
	ctx        context.Context
	cancel     context.CancelFunc
	postCtx    context.Context
	cancelPost context.CancelFunc

	opened time.Time // when the handshake was answered
	// Whether the server knows the sid of polls and of POSTs. Owned by their goroutines.
	pollKnown, postKnown bool

	polls, postings keepAlive // connections of this link only, from the handshake on

	posts     [][]byte // bodies that wait, each within the server's maxPayload and maxPostPackets
	last      int      // packets in the last of them
	bytes     int      // of posts, and of the one under way
	taken     int64    // bytes that were posted
	posting   bool     // one POST is under way, and its goroutine runs
	polling   bool     // the poll goroutine runs
	upgrading bool     // no further poll is to start
	givenUp   bool     // the upgrade takes too long
	sealed    bool     // no further POST is to start
	changed   sync.Cond
	requests  uint64 // numbers the requests, against caches
}

func newPollingLink(c *Conn) *pollingLink {
	dial := c.dialer.DialPolling
	if dial == nil {
		dial = c.dialer.DialContext
	}
	p := &pollingLink{conn: c, polls: keepAlive{dial: dial}, postings: keepAlive{dial: dial}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.postCtx, p.cancelPost = context.WithCancel(context.Background())
	p.changed.L = &c.mu
	return p
}

// closeConnections is for when no further request is made.
func (p *pollingLink) closeConnections() {
	p.polls.Close()
	p.postings.Close()
}

func (p *pollingLink) changedLocked() {
	if p != nil {
		p.changed.Broadcast()
	}
}

func (p *pollingLink) queuedBytes() int { return p.bytes }

// queue adds one encoded packet to the last waiting body, or begins a new one.
func (p *pollingLink) queue(packet []byte, maxBytes int) {
	p.bytes += len(packet)
	if last := len(p.posts) - 1; last >= 0 && p.last < maxPostPackets && len(p.posts[last])+1+len(packet) <= maxBytes {
		p.bytes++
		p.posts[last] = append(append(p.posts[last], separator), packet...)
		p.last++
		return
	}
	p.posts = append(p.posts, packet)
	p.last = 1
}

func (p *pollingLink) queueText(text []byte, maxBytes int) {
	p.queue(appendPacket(nil, Message, text), maxBytes)
}

func (p *pollingLink) queueBinary(data []byte, maxBytes int) {
	p.queue(base64.StdEncoding.AppendEncode([]byte{'b'}, data), maxBytes)
}

func (c *Conn) maxPost() int {
	if c.handshake.MaxPayload > 0 {
		return int(min(c.handshake.MaxPayload, math.MaxInt))
	}
	return int(min(c.dialer.MaxPayload, math.MaxInt))
}

func (c *Conn) startPolling() {
	c.startPollLoop()
	if slices.Contains(c.handshake.Upgrades, "websocket") {
		go c.upgrade() // ends with the Conn, when it has upgraded, or when that fails
	}
	c.startPostLocked()
}

func (c *Conn) startPollLoop() {
	c.poll.polling = true
	go c.pollLoop() // ends with the Conn, or for an upgrade
}

func (c *Conn) nextQueryLocked() string {
	c.poll.requests++
	return laterQuery(c.begun.request.RawQuery, "polling", c.handshake.SID, "hf"+strconv.FormatUint(c.poll.requests, 36))
}

func (c *Conn) pollLoop() {
	defer c.contain()
	for {
		query, ok := c.nextPoll()
		if !ok {
			return
		}
		if err := c.pollOnce(query); err != nil {
			c.end(err)
		}
	}
}

// nextPoll waits until there is to be another poll, and returns its query; ok is false if there is to be none.
func (c *Conn) nextPoll() (query string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.paused && !c.closed.Load() && !c.poll.upgrading {
		c.poll.changed.Wait()
	}
	if c.closed.Load() || c.poll.upgrading {
		c.poll.polling = false
		c.poll.changedLocked()
		return "", false
	}
	return c.nextQueryLocked(), true
}

func (c *Conn) pollOnce(query string) error {
	counted := &countedBody{take: c.dialer.Incomplete}
	defer counted.free()
	resp, body, err := c.laterRoundTrip(c.poll.ctx, &c.poll.pollKnown, http.MethodGet, query, nil, func(r io.Reader) ([]byte, error) {
		counted.r = r
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
	if c.closed.Load() {
		return nil
	}
	err = DecodePayload(body, c.packet)
	c.h.Flush()
	return err
}

func (c *Conn) startPostLocked() {
	// Before Start there is no handler to tell of a failure; Start itself comes back here.
	if len(c.poll.posts) > 0 && !c.poll.posting && !c.poll.sealed && c.h != nil {
		c.poll.posting = true
		go c.postLoop() // ends when nothing is left to post, or for an upgrade
	}
}

func (c *Conn) postLoop() {
	defer c.contain()
	for {
		query, body, idle := c.nextPost()
		if body == nil {
			if idle {
				c.h.Drained()
			}
			return
		}
		err := c.post(query, body)
		c.posted(body)
		if err != nil {
			c.end(err)
		}
	}
}

// nextPost returns the next POST's query and body. Without a body there is to be none now; idle says that nothing waits.
func (c *Conn) nextPost() (query string, body []byte, idle bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() || c.poll.sealed || len(c.poll.posts) == 0 {
		c.poll.posting = false
		c.poll.changedLocked()
		return "", nil, !c.closed.Load() && len(c.poll.posts) == 0
	}
	body = c.poll.posts[0]
	c.poll.posts[0] = nil
	c.poll.posts = c.poll.posts[1:]
	return c.nextQueryLocked(), body, false
}

// posted notes that a POST was answered, or failed.
func (c *Conn) posted(body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.poll.bytes -= len(body)
	c.poll.taken += int64(len(body))
}

func (c *Conn) post(query string, body []byte) error {
	resp, _, err := c.laterRoundTrip(c.poll.postCtx, &c.poll.postKnown, http.MethodPost, query, body, readRefusal)
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return fmt.Errorf("engineio: POST answered with status %d", resp.status)
	}
	return nil
}

// sayClose tells the server that the connection ends, and what was still to be posted before.
func (c *Conn) sayClose() {
	defer c.contain()
	defer c.poll.closeConnections()
	defer c.poll.cancelPost()
	defer time.AfterFunc(c.dialer.Timeout, c.poll.cancelPost).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.poll.posting {
		c.poll.changed.Wait()
	}
	c.poll.queue([]byte{byte(Close)}, c.maxPost())
	for _, body := range c.poll.posts {
		query := c.nextQueryLocked()
		var err error
		c.unlocked(func() { err = c.post(query, body) })
		if err != nil {
			return // the server is gone; it will find out by its own heartbeat
		}
	}
}

// upgrade moves the Conn to WebSocket. It implements Engine.IO protocol v4, "Upgrade": probe, let the
// poll and the POST under way end, send UPGRADE. If that fails, or takes too long, polling goes on.
func (c *Conn) upgrade() {
	defer c.contain()
	p, err := c.probe()
	if err != nil {
		c.tellUpgradeFailed(err)
		return
	}
	if !c.moveTo(p) {
		p.conn.Close()
		c.tellUpgradeFailed(errUpgradeGivenUp)
		return
	}
	c.h.Drained()
}

var errUpgradeGivenUp = errors.New("engineio: the server did not end its poll in time, or ended the WebSocket")

// tellUpgradeFailed tells of a failure, unless that is only the connection's end.
func (c *Conn) tellUpgradeFailed(err error) {
	if f := c.dialer.UpgradeFailed; f != nil && !c.closed.Load() {
		f(err)
	}
}

// moveTo makes a WebSocket that answered the probe the transport.
func (c *Conn) moveTo(p *probed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer time.AfterFunc(c.dialer.Timeout, c.giveUpUpgrade).Stop()
	c.poll.upgrading = true
	c.poll.changedLocked()
	for !c.closed.Load() && !c.poll.givenUp && c.poll.polling {
		c.poll.changed.Wait()
	}
	c.poll.sealed = true // only now: a POST may bring the answer that ends the poll
	for !c.closed.Load() && !c.poll.givenUp && c.poll.posting {
		c.poll.changed.Wait()
	}
	alive := false
	c.unlocked(func() { alive = p.alive() })
	if c.closed.Load() {
		return false
	}
	if c.poll.givenUp || !alive {
		c.resumePollingLocked()
		return false
	}
	p.link.stream = netpoll.New(p.conn, p.link)
	e := newEncoder(clientFrames)
	e.packet(Upgrade, nil, nil, nil)
	p.link.stream.Write(e.buf)
	e.free()
	c.ws = p.link
	c.flushPostsLocked()
	c.poll.closeConnections()
	if c.paused {
		c.ws.stream.Pause()
	}
	c.ws.stream.Start(p.initial)
	return true
}

func (c *Conn) giveUpUpgrade() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.poll.givenUp = true
	c.poll.changedLocked()
}

// resumePollingLocked goes on as if no upgrade had been tried.
func (c *Conn) resumePollingLocked() {
	c.poll.upgrading, c.poll.sealed = false, false
	if !c.poll.polling {
		c.startPollLoop()
	}
	c.startPostLocked()
}

// flushPostsLocked sends by WebSocket what was to be posted.
func (c *Conn) flushPostsLocked() {
	e := newEncoder(clientFrames)
	for _, body := range c.poll.posts {
		// The bodies are our own work: they decode.
		_ = DecodePayload(body, func(p Packet) bool {
			if p.Binary {
				e.Binary(p.Data)
			} else {
				e.packet(p.Type, p.Data, nil, nil)
			}
			return true
		})
	}
	c.poll.posts, c.poll.bytes = nil, 0
	if e.packets > 0 {
		c.ws.stream.Write(e.buf)
	}
	e.free()
}

// probed is a WebSocket on which the server answered a probe.
type probed struct {
	conn    net.Conn
	link    *wsLink // has no stream yet
	initial []byte  // read behind the answer
}

// alive reports whether the server has not ended the WebSocket since: some give an upgrade little time.
func (p *probed) alive() bool {
	var buf [512]byte
	p.conn.SetReadDeadline(time.Now().Add(time.Millisecond)) // one in the past would fail without a look
	n, err := p.conn.Read(buf[:])
	p.conn.SetReadDeadline(time.Time{})
	p.initial = append(p.initial, buf[:n]...)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	var r frameReader
	_, err = r.feed(slices.Clone(p.initial), func(op ws.OpCode, _ []byte) error {
		if op == ws.OpClose {
			return ErrServerClosed
		}
		return nil
	})
	return err == nil
}

// probe opens a WebSocket to upgrade to, and sees a probe answered on it.
func (c *Conn) probe() (*probed, error) {
	ctx, cancel := context.WithTimeout(c.poll.ctx, c.dialer.Timeout)
	defer cancel()
	query := laterQuery(c.begun.request.RawQuery, "websocket", c.handshake.SID, "")
	o, err := c.openWebSocket(ctx, query)
	if err != nil {
		return nil, err
	}
	c.frames = frameReader{}
	p := &probed{conn: o.conn, link: (*wsLink)(c)}
	e := newEncoder(clientFrames)
	e.packet(Ping, []byte("probe"), nil, nil)
	_, err = o.conn.Write(e.buf) // a few bytes on a fresh connection
	e.free()
	if err == nil {
		p.initial, err = o.readUntil(p.link, func(p Packet) (bool, error) {
			return p.Type == Pong && string(p.Data) == "probe", nil
		})
	}
	if err = o.end(err); err != nil {
		return nil, err
	}
	return p, nil
}
