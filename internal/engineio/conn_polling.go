package engineio

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
)

// maxPostPackets is how many packets python-engineio takes in one POST.
const maxPostPackets = 16

// pollingLink is what a Conn keeps while its transport is polling; guarded by the Conn's mu.
type pollingLink struct {
	// Immutable. ctx is for polls and the upgrade, and ends with the Conn. postCtx lives a little
	// longer: what was sent before Close still goes out.
	ctx        context.Context
	cancel     context.CancelFunc
	postCtx    context.Context
	cancelPost context.CancelFunc

	handshakeAt time.Time // when the handshake was answered
	v3          bool      // bodies have the binary form of version 3
	decoder     decoder3  // of answers, in version 3; owned by Dial, then by the poll goroutine

	polls, posts keepAlive // connections of this Conn only, from the handshake on

	bodies  [][]byte // POST bodies that wait, each within the server's maxPayload and maxPostPackets
	last    int      // packets in the last body
	bytes   int      // of all bodies, and of the one being posted
	taken   int64    // bytes that were posted
	polling bool     // the poll goroutine runs
	posting bool     // the POST goroutine runs
	upgrade upgradeState
	changed sync.Cond // polling, posting, upgrade, or the Conn's state or readPaused changed

	requests uint64 // numbers the requests, to defeat caches
}

func newPollingLink(c *Conn) *pollingLink {
	dial := c.dialer.DialPolling
	if dial == nil {
		dial = c.dialer.DialContext
	}
	p := &pollingLink{polls: keepAlive{dial: dial, server: &c.dialer.keeps}, posts: keepAlive{dial: dial, server: &c.dialer.keeps}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.postCtx, p.cancelPost = context.WithCancel(context.Background())
	p.changed.L = &c.mu
	return p
}

// closeConnections is called when no further request will be made.
func (p *pollingLink) closeConnections() {
	p.polls.Close()
	p.posts.Close()
}

// changedLocked may be called on nil.
func (p *pollingLink) changedLocked() {
	if p != nil {
		p.changed.Broadcast()
	}
}

// queue adds a packet to the last waiting body, or begins a new one.
func (p *pollingLink) queue(t PacketType, data []byte, maxBytes int) {
	if p.v3 {
		p.add(appendBinaryForm3(nil, textForm3, []byte{byte(t)}, data), maxBytes)
		return
	}
	p.add(appendPacket(nil, t, data), maxBytes)
}

// queueBinary is queue for a binary message.
func (p *pollingLink) queueBinary(data []byte, maxBytes int) {
	if p.v3 {
		p.add(appendBinaryForm3(nil, binaryForm3, []byte{binaryMessage3}, data), maxBytes)
		return
	}
	p.add(base64.StdEncoding.AppendEncode([]byte{'b'}, data), maxBytes)
}

// endBody makes the next packet begin a body. netty-socketio 1.7 ignores what follows the text of a
// binary event in its body, the attachments included.
func (p *pollingLink) endBody() { p.last = maxPostPackets }

// add adds an encoded packet.
func (p *pollingLink) add(packet []byte, maxBytes int) {
	p.bytes += len(packet)
	if last := len(p.bodies) - 1; last >= 0 && p.last < maxPostPackets && len(p.bodies[last])+1+len(packet) <= maxBytes {
		if !p.v3 {
			p.bytes++
			p.bodies[last] = append(p.bodies[last], separator)
		}
		p.bodies[last] = append(p.bodies[last], packet...)
		p.last++
		return
	}
	p.bodies = append(p.bodies, packet)
	p.last = 1
}

// contentType returns the content type of a POST.
func (p *pollingLink) contentType() string {
	if p.v3 {
		return binaryType3
	}
	return "text/plain;charset=UTF-8"
}

// decodePayload calls fn for each packet of a polling answer, or of a body to post.
func (c *Conn) decodePayload(payload []byte, fn func(Packet) bool) error {
	if c.protocol == V3 {
		return c.poll.decoder.decode(payload, fn)
	}
	return DecodePayload(payload, fn)
}

// maxPost3 is the largest POST in version 3, whose servers announce no limit. netty-socketio takes
// 64 KiB by default.
const maxPost3 = 60 << 10

// maxPost returns how many bytes a POST may have.
func (c *Conn) maxPost() int {
	if c.protocol == V3 {
		return maxPost3
	}
	if c.handshake.MaxPayload > 0 {
		return int(min(c.handshake.MaxPayload, math.MaxInt))
	}
	return int(min(c.dialer.MaxPayload, math.MaxInt))
}

func (c *Conn) startPollingLocked() {
	c.startPollLoopLocked()
	if slices.Contains(c.handshake.Upgrades, "websocket") {
		c.poll.upgrade.moveLocked(upgradeProbing)
		go c.run((*Conn).upgradeTransport) // ends with the Conn, after the upgrade, or when that fails
	}
	c.startPostLocked()
}

func (c *Conn) startPollLoopLocked() {
	c.poll.polling = true
	go c.run((*Conn).pollLoop) // ends with the Conn, or for an upgrade
}

func (c *Conn) pollLoop() {
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

// nextPoll waits until another poll may start, and returns its query. ok is false if polling ends.
func (c *Conn) nextPoll() (query string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.readPaused && !c.state.ended() && !c.poll.upgrade.stopsPolls() {
		c.poll.changed.Wait()
	}
	if c.state.ended() || c.poll.upgrade.stopsPolls() {
		c.poll.polling = false
		c.poll.changedLocked()
		return "", false
	}
	return c.nextQueryLocked(), true
}

func (c *Conn) pollOnce(query string) error {
	counted := &countedBody{incomplete: c.dialer.Incomplete}
	defer counted.release()
	resp, body, err := c.laterRoundTrip(c.poll.ctx, &c.poll.polls, http.MethodGet, query, nil, func(r io.Reader) ([]byte, error) {
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
	if c.state.ended() {
		return nil
	}
	err = c.decodePayload(body, c.packet)
	c.h.Flush()
	return err
}

// startPostLocked starts the POST goroutine if it has something to do. Before Start there is no
// handler to report a failure to; Start calls this again.
func (c *Conn) startPostLocked() {
	if len(c.poll.bodies) > 0 && !c.poll.posting && !c.poll.upgrade.stopsPosts() && c.h != nil {
		c.poll.posting = true
		go c.run((*Conn).postLoop) // ends when nothing is left to post, or for an upgrade
	}
}

func (c *Conn) postLoop() {
	for {
		query, body, drained := c.nextPost()
		if body == nil {
			if drained {
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

// nextPost returns the next POST's query and body. The body is nil if no POST may start now;
// drained then says whether nothing waits.
func (c *Conn) nextPost() (query string, body []byte, drained bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.ended() || c.poll.upgrade.stopsPosts() || len(c.poll.bodies) == 0 {
		c.poll.posting = false
		c.poll.changedLocked()
		return "", nil, !c.state.ended() && len(c.poll.bodies) == 0
	}
	body = c.poll.bodies[0]
	c.poll.bodies[0] = nil
	c.poll.bodies = c.poll.bodies[1:]
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
	resp, _, err := c.laterRoundTrip(c.poll.postCtx, &c.poll.posts, http.MethodPost, query, body, readRefusal)
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return fmt.Errorf("engineio: POST answered with status %d", resp.status)
	}
	return nil
}

// postClose posts what still waits, followed by a CLOSE packet.
func (c *Conn) postClose() {
	defer c.poll.closeConnections()
	defer c.poll.cancelPost()
	defer time.AfterFunc(c.dialer.Timeout, c.poll.cancelPost).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.poll.posting {
		c.poll.changed.Wait()
	}
	c.poll.queue(Close, nil, c.maxPost())
	for _, body := range c.poll.bodies {
		query := c.nextQueryLocked()
		var err error
		c.withoutLock(func() { err = c.post(query, body) })
		if err != nil {
			return // the server is gone, or will notice by its own heartbeat
		}
	}
}
