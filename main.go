// Command holdfast gives a legacy Socket.IO server connection state recovery. It is a reverse proxy
// that keeps a dropped client's session alive until the client reconnects.
package main

import (
	"os"

	"github.com/holdfast/holdfast/internal/app"
	"github.com/holdfast/holdfast/internal/buildinfo"
)

func main() {
	os.Exit(app.Main(buildinfo.Read().Version))
}
