package disk

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
)

// A raw disk and an installation have the same partitions and files in OEM for the same config.
func TestConfigure(t *testing.T) {
	text := []byte(
		"install: {bind_mounts: [/data], partitions: {oem: {size: 100}, persistent: {size: 200}}, extra-partitions: " +
			"[{name: data, size: 0, fs: vfat}]}",
	)
	c := config.Merge(config.Parse("a", text))
	if err := c.Report().Err(); err != nil {
		t.Fatal(err)
	}
	var s System
	if err := s.Configure(c.Install(), text); err != nil {
		t.Fatal(err)
	}
	if s.Sizes["oem"] != 100<<20 || s.Sizes["persistent"] != 200<<20 || len(s.Extra) != 1 || s.Extra[0].FS != "vfat" {
		t.Errorf("%+v", s)
	}
	files := map[string]filetree.File{}
	for _, f := range s.OEM {
		files[f.Path] = f
	}
	if f := files[layout.OEMCloudConfig]; f.Size != int64(len(text)) || f.Mode != 0o600 {
		t.Errorf("cloud-config: %+v", f)
	}
	if files[layout.OEMMounts].Size == 0 {
		t.Error("no mounts")
	}
}

// What no node can mount is refused where the disk is made, not found out at its first boot.
func TestConfigureRefusesMounts(t *testing.T) {
	for _, path := range []string{"/usr/bin", "/a:b", "relative"} {
		var s System
		if err := s.Configure(config.Install{BindMounts: []string{path}}, nil); err == nil {
			t.Errorf("%s is accepted", path)
		}
	}
}

// A partition that is encrypted has its place, and no file system of its own; an image for many disks has none.
func TestConfigureEncryption(t *testing.T) {
	s := testSystem()
	i := config.Install{Encrypted: []string{"oem", "persistent"}}
	if err := s.Configure(i, []byte("#cloud-config\n")); err != nil {
		t.Fatal(err)
	}
	d, err := s.Disk()
	if err != nil {
		t.Fatal(err)
	}
	_, placed, err := d.Place()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range placed {
		encrypted := p.Name == "oem" || p.Name == "persistent"
		if encrypted && (p.FS != "" || len(p.Files) > 0 || p.Size < 64<<20) ||
			!encrypted && p.Name != "bios" && p.FS == "" {
			t.Errorf("%+v", p)
		}
	}
	if _, err := d.Image(); err != nil {
		t.Error(err)
	}
	if e := s.Inside("oem", 48<<20); e.Label != layout.LabelOEM || len(e.Files) != len(s.OEM) || e.Size != 48<<20 {
		t.Errorf("%+v", e)
	}
	s.Portable = true
	if err := s.Configure(i, nil); err == nil || !strings.Contains(err.Error(), "one key") {
		t.Errorf("an image for many disks: %v", err)
	}
}
