package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Read implements netpoll.Handler.
func (c *conn) Read(p []byte) {
	c.heard.Store(true)
	c.socket.in = p
	for {
		n, err := c.tls.Read(c.plain)
		if err == nil || n > 0 {
			err = c.frames(c.plain[:n])
		}
		if errors.Is(err, errNoInput) {
			return
		}
		if err != nil {
			c.close(err)
			return
		}
	}
}

// frames handles decrypted bytes.
func (c *conn) frames(p []byte) error {
	for len(p) > 0 {
		if c.headN < headerBytes {
			n := copy(c.head[c.headN:], p)
			c.headN += n
			p = p[n:]
			if c.headN < headerBytes {
				return nil
			}
			if err := c.begin(); err != nil {
				return err
			}
		}
		n := min(c.left, len(p))
		c.left -= n
		if c.h.kind == frameData {
			if c.to != nil && n > 0 {
				if err := c.to.arrive(p[:n]); err != nil {
					return err
				}
			}
		} else {
			c.control = append(c.control, p[:n]...)
		}
		p = p[n:]
		if c.left == 0 {
			c.headN, c.to = 0, nil
			if c.h.kind != frameData {
				if err := c.handle(c.control); err != nil {
					return err
				}
				c.control = c.control[:0]
				if cap(c.control) > 4<<10 {
					c.control = nil
				}
			}
		}
	}
	return nil
}

// begin parses the header of the next frame.
func (c *conn) begin() (err error) {
	if c.h, err = parseHeader(c.head[:]); err != nil {
		return err
	}
	c.left = c.h.length
	if c.h.kind == frameData {
		c.to = c.stream(c.h.stream)
	}
	return nil
}

func (c *conn) stream(number uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[number]
}

// handle handles a whole frame that is not data.
func (c *conn) handle(p []byte) error {
	switch c.h.kind {
	case frameOpen:
		return c.accept(p)
	case frameWindow:
		if len(p) != 4 {
			return fmt.Errorf("%w: window", errProtocol)
		}
		if s := c.stream(c.h.stream); s != nil {
			return s.allow(int(binary.BigEndian.Uint32(p)))
		}
	case frameFin:
		if s := c.stream(c.h.stream); s != nil {
			s.peerEnded(io.EOF)
		}
	case frameReset:
		if s := c.stream(c.h.stream); s != nil {
			s.peerEnded(ErrReset)
		}
	case frameNote:
		if len(p) > 0 && !c.dialed {
			c.events.noted(p[0], p[1:])
		}
	case framePing:
		c.pong(p)
	case framePong:
		return c.ponged(p)
	case frameBye:
		c.mu.Lock()
		c.bye = true
		c.mu.Unlock()
	case frameHello, frameData:
		return fmt.Errorf("%w: a second hello", errProtocol)
	}
	return nil
}

// accept accepts a stream that the other side opens.
func (c *conn) accept(p []byte) error {
	if c.dialed || len(p) == 0 {
		return fmt.Errorf("%w: open", errProtocol)
	}
	s := newStream(c, c.h.stream)
	s.kind, s.about = p[0], append([]byte(nil), p[1:]...)
	c.mu.Lock()
	_, exists := c.streams[s.number]
	full, ended := len(c.streams) >= maxStreams, c.err != nil
	if !exists && !full && !ended {
		c.streams[s.number] = s
	}
	c.mu.Unlock()
	if ended {
		return nil
	}
	if exists || full {
		return fmt.Errorf("%w: stream %d opened twice, or too many", errProtocol, s.number)
	}
	c.events.opened(s)
	return nil
}
