// Command holdfast gives a legacy Socket.IO server connection state recovery. It is a reverse proxy that
// keeps a dropped client's session alive until the client reconnects.
package main

import (
	"os"

	"github.com/holdfast/holdfast/internal/app"
)

// version is set at link time when a release is built.
var version = "dev"

func main() {
	os.Exit(app.Main(version))
}
