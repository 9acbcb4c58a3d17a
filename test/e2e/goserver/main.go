// Command goserver is a Socket.IO server of googollee/go-socket.io, which speaks Engine.IO 3 only.
// It is a separate module, so that holdfast's own does not depend on that library.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"

	socketio "github.com/googollee/go-socket.io"
)

func main() {
	server := socketio.NewServer(nil)
	for _, namespace := range []string{"/", "/admin"} {
		server.OnConnect(namespace, func(s socketio.Conn) error {
			if namespace != "/" { // where the library would wait for itself
				s.Emit("early", namespace, s.ID()) // it is sent before the reply to the CONNECT
			}
			return nil
		})
		server.OnEvent(namespace, "echo", func(_ socketio.Conn, text string) string { return text })
		server.OnEvent(namespace, "stream", func(s socketio.Conn, from, to int) {
			for i := from; i <= to; i++ {
				s.Emit("n", i, "ü€😀")
			}
		})
		server.OnDisconnect(namespace, func(_ socketio.Conn, reason string) { fmt.Println("disconnect", namespace, reason) })
		server.OnError(namespace, func(_ socketio.Conn, err error) { fmt.Println("error", namespace, err) })
	}
	go func() { // ends with the process
		if err := server.Serve(); err != nil {
			log.Fatal(err)
		}
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("port", l.Addr().(*net.TCPAddr).Port)
	http.Handle("/socket.io/", server)
	log.Fatal(http.Serve(l, nil))
}
