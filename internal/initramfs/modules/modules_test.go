package modules

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestModuleOptions(t *testing.T) {
	params, blocked := options(
		layout.ParseCmdline(
			"quiet console=ttyS0 loop.max_part=8 loop.max_loop=4 usb-storage.quirks=1:2:u kairos.debug " +
				"modprobe.blacklist=a-b,c panic=10 .x=1",
		),
	)
	d := cmp.Diff(map[string]string{"loop": "max_part=8 max_loop=4", "usb_storage": "quirks=1:2:u", "kairos": "debug"},
		params)
	if d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]bool{"a_b": true, "c": true}, blocked); d != "" {
		t.Error(d)
	}
}
