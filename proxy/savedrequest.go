package proxy

import (
	"bufio"
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/internal/engineio"
	"github.com/holdfast/holdfast/internal/httpmsg"
)

// savedRequest is a client's upstream handshake as text. Few clients ever dial again, and the text
// takes far less memory than an http.Header.
type savedRequest string

func saveRequest(r engineio.Request) savedRequest { return savedRequest(r.Head()) }

// restore returns the handshake, for a dial over WebSocket or polling.
func (s savedRequest) restore(websocket bool) (engineio.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(s) + "\r\n")))
	if err != nil {
		return engineio.Request{}, err
	}
	path, query, _ := httpmsg.Target(r)
	return engineio.Request{WebSocket: websocket, Path: path, RawQuery: query, Host: r.Host, Header: r.Header}, nil
}
