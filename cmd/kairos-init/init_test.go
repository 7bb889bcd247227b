package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/layout"
)

func TestRestartDelayIsTheKernels(t *testing.T) {
	for cmdline, want := range map[string]struct {
		wait    time.Duration
		forever bool
	}{
		"panic=10": {10 * time.Second, false}, "panic=0": {0, true}, "panic=-1": {0, false}, "": {10 * time.Second, false}, "panic=x": {10 * time.Second, false},
		"panic=5 panic=30": {30 * time.Second, false},
	} {
		wait, forever := restartDelay(layout.ParseCmdline(cmdline))
		if wait != want.wait || forever != want.forever {
			t.Errorf("%q: %v %v", cmdline, wait, forever)
		}
	}
}

func TestModuleOptions(t *testing.T) {
	params, blocked := moduleOptions(layout.ParseCmdline("quiet console=ttyS0 loop.max_part=8 loop.max_loop=4 usb-storage.quirks=1:2:u kairos.debug modprobe.blacklist=a-b,c panic=10 .x=1"))
	if d := cmp.Diff(map[string]string{"loop": "max_part=8 max_loop=4", "usb_storage": "quirks=1:2:u", "kairos": "debug"}, params); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]bool{"a_b": true, "c": true}, blocked); d != "" {
		t.Error(d)
	}
}

func TestUevent(t *testing.T) {
	got := parseUevent([]byte("add@/devices/virtio0\x00ACTION=add\x00DEVPATH=/devices/virtio0\x00MODALIAS=virtio:d00000002v00001AF4\x00"))
	if d := cmp.Diff(map[string]string{"ACTION": "add", "DEVPATH": "/devices/virtio0", "MODALIAS": "virtio:d00000002v00001AF4"}, got); d != "" {
		t.Error(d)
	}
	if got := parseUevent([]byte("libudev\x00\xfe\xed")); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

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

// mount(2) takes one page of options: images of 127 layers have to fit.
func TestManyLayersFitInAPage(t *testing.T) {
	var dirs []string
	for i := range 127 {
		dirs = append(dirs, layerDir(i))
	}
	options := lowerdirs(dirs)
	if len(options) >= 4096 {
		t.Errorf("%d bytes", len(options))
	}
	if !strings.HasPrefix(options, "lowerdir="+layerDir(126)+":") || !strings.HasSuffix(options, ":"+layerDir(0)) {
		t.Errorf("the highest layer has to come first: %.60s…", options)
	}
}

func TestVerityTable(t *testing.T) {
	root := strings.Repeat("ab", 32)
	got := verityTable("/dev/loop3", layout.Layer{Size: 40960, RootHash: root})
	want := "1 /dev/loop3 /dev/loop3 4096 4096 10 11 sha256 " + root + " " + strings.Repeat("00", 32)
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestReadRelease(t *testing.T) {
	digest := layout.Digest("sha256:" + strings.Repeat("0123456789abcdef", 4))
	r := layout.Release{Version: "v1", Config: digest, Arch: "amd64", Layers: []layout.Layer{{DiffID: digest, Size: 4096, RootHash: digest.Hex()}}}
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	store := t.TempDir()
	put := func(id string, b []byte) {
		name := filepath.Join(store, layout.ReleasePath(id))
		os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(id string) error {
		_, err := readRelease(&source{device: "/dev/sr0", store: store, boot: layout.Boot{Release: id}})
		return err
	}
	want := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	want(read(""), "list releases")
	put(r.ID(), text)
	if err := read(""); err != nil {
		t.Error(err)
	}
	if err := read(r.ID()); err != nil {
		t.Error(err)
	}
	want(read("../../../etc"), "not an id")
	want(read("ffffffffffff"), "read release ffffffffffff from /dev/sr0")
	put("ffffffffffff", text)
	want(read(""), "/dev/sr0 has 2 releases")
	want(read("ffffffffffff"), "is named "+r.ID()+" in its own file")
	put(r.ID(), text[:len(text)/2])
	want(read(r.ID()), "release")
}
