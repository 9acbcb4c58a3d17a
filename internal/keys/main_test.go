package keys

import (
	"testing"

	"github.com/holdfast/holdfast/internal/steady"
)

func TestMain(m *testing.M) { steady.VerifyTestMain(m) }
