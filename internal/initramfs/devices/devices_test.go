package devices

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUevent(t *testing.T) {
	got := parseUevent(
		[]byte(
			"add@/devices/virtio0\x00ACTION=add\x00DEVPATH=/devices/virtio0\x00MODALIAS=virtio:d00000002v00001AF4\x00",
		),
	)
	d := cmp.Diff(map[string]string{
		"ACTION":   "add",
		"DEVPATH":  "/devices/virtio0",
		"MODALIAS": "virtio:d00000002v00001AF4",
	}, got)
	if d != "" {
		t.Error(d)
	}
	if got := parseUevent([]byte("libudev\x00\xfe\xed")); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
