// Command go is zishang520's Socket.IO client for clients.test.js. It knows of recovery.
//
// Usage: go URL polling|websocket|upgrade plain|key|count
//
// It prints one JSON object a line: {"nsp", "connected": sid, "recovered"}, {"nsp", "disconnected":
// true}, and {"nsp", "n", "args": how many} for the event "n".
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/zishang520/socket.io/clients/engine/v3/transports"
	"github.com/zishang520/socket.io/clients/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

var printing sync.Mutex

func say(what map[string]any) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	printing.Lock()
	defer printing.Unlock()
	fmt.Println(string(line))
}

func main() {
	url, transport, mode := os.Args[1], os.Args[2], os.Args[3]
	opts := socket.DefaultOptions()
	switch transport {
	case "polling":
		opts.SetTransports(types.NewSet(transports.Polling))
	case "websocket":
		opts.SetTransports(types.NewSet(transports.WebSocket))
	case "upgrade":
		opts.SetTransports(types.NewSet(transports.Polling, transports.WebSocket))
	}
	if mode != "plain" {
		opts.SetQuery(map[string][]string{"hf_key": {fmt.Sprintf("%032d", time.Now().UnixNano())}})
	}
	opts.SetReconnectionDelay(50)
	opts.SetReconnectionDelayMax(200)
	opts.SetRandomizationFactor(0)
	manager := socket.NewManager(url, opts)
	for _, namespace := range []string{"/", "/admin"} {
		register(namespace, manager.Socket(namespace, opts))
	}
	select {}
}

func register(namespace string, io *socket.Socket) {
	on := func(name string, do func(...any)) {
		if err := io.On(types.EventName(name), do); err != nil {
			panic(err)
		}
	}
	on("connect", func(...any) {
		say(map[string]any{"nsp": namespace, "connected": io.Id(), "recovered": io.Recovered()})
	})
	on("disconnect", func(...any) { say(map[string]any{"nsp": namespace, "disconnected": true}) })
	on("n", func(args ...any) { say(map[string]any{"nsp": namespace, "n": args[0], "args": len(args)}) })
}
