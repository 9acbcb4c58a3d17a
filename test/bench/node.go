//go:build linux

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed socketio.cjs
var socketIOScript []byte

// nodeServer is an installed version of socket.io.
type nodeServer struct {
	dir     string // of the package
	version string
}

// findSocketIO finds a version of socket.io with this prefix in a node_modules
// directory, under any name.
func findSocketIO(modules, prefix string) (nodeServer, bool) {
	files, err := filepath.Glob(filepath.Join(modules, "socket.io*", "package.json"))
	if err != nil {
		return nodeServer{}, false // the directory's name is not a valid pattern
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var p struct{ Name, Version string }
		if json.Unmarshal(text, &p) != nil || p.Name != "socket.io" || !strings.HasPrefix(p.Version, prefix) {
			continue
		}
		if dir, err := filepath.Abs(filepath.Dir(file)); err == nil {
			return nodeServer{dir, p.Version}, true
		}
	}
	return nodeServer{}, false
}

// start returns a starter for the server, with or without its own recovery.
func (n nodeServer) start(recovery bool) serverStarter {
	return func(ctx context.Context, e *env, dir string, interval time.Duration) (*backend, error) {
		script := filepath.Join(dir, "socketio.cjs")
		if err := os.WriteFile(script, socketIOScript, 0o600); err != nil {
			return nil, err
		}
		return newBackend(ctx, "socket.io "+n.version, exec.Command(e.opts.node, script, n.dir,
			strconv.FormatInt(interval.Milliseconds(), 10), fmt.Sprint(recovery)))
	}
}
