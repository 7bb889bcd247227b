package root

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// The check reads each layer whole, from the device that has it, whatever number that has.
func TestCheck(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	var r layout.Release
	for n := range 3 {
		id := layout.Digest("sha256:" + strings.Repeat(fmt.Sprint(n), 64))
		r.Layers = append(r.Layers, layout.Layer{DiffID: id, Size: 1 << 20})
		name := fmt.Sprintf("dm-%d", 7-n)
		os.MkdirAll(filepath.Join(sys, name, "dm"), 0o755)
		os.WriteFile(filepath.Join(sys, name, "dm", "name"), fmt.Appendf(nil, "%s%d\n", devicePrefix, n), 0o644)
		os.WriteFile(filepath.Join(dev, name), make([]byte, 1<<20), 0o644)
	}
	said := ""
	say := func(format string, args ...any) { said = fmt.Sprintf(format, args...) }
	if err := check(sys, dev, r, say); err != nil || !strings.Contains(said, "3 of 3 MiB") {
		t.Errorf("%q, %v", said, err)
	}
	os.Truncate(filepath.Join(dev, "dm-6"), 100)
	if err := check(sys, dev, r, say); err == nil || !strings.Contains(err.Error(), "layer 2 of 3 (111111111111)") {
		t.Error(err)
	}
	os.Remove(filepath.Join(dev, "dm-6"))
	if err := check(sys, dev, r, say); err == nil {
		t.Error("a layer without a device is good")
	}
}
