package medium

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestISOLabel(t *testing.T) {
	sector := make([]byte, 2048)
	copy(sector, "\x01CD001\x01")
	copy(sector[40:], "COS_LIVE                        ")
	if got := parseISOLabel(sector); got != layout.LabelLive {
		t.Errorf("label %q", got)
	}
	if got := parseISOLabel(make([]byte, 2048)); got != "" {
		t.Errorf("label %q of zeros", got)
	}
	small := filepath.Join(t.TempDir(), "small")
	os.WriteFile(small, []byte("x"), 0o600)
	if got, err := isoLabel(small); got != "" || err != nil {
		t.Errorf("a small disk: %q, %v", got, err)
	}
}
