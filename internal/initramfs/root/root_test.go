package root

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// mount(2) takes one page of options, and drops what is beyond it.
func TestAsManyLayersAsTheKernelTakesFitInAPage(t *testing.T) {
	const page = 4096 // the smallest there is
	options := lowerdirs(layout.MaxLayers)
	if len(options) >= page {
		t.Errorf("%d bytes", len(options))
	}
	if !strings.HasPrefix(options, "lowerdir=499:498:") || !strings.HasSuffix(options, ":1:0") {
		t.Errorf("the highest layer has to come first: %s", options)
	}
	if err := mountOverlay(t.TempDir(), t.TempDir(), layout.MaxLayers+1); err == nil ||
		!strings.Contains(err.Error(), "501 layers: the kernel takes 500") {
		t.Errorf("one layer too many: %v", err)
	}
}
