package initrd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// A module of the running kernel is loaded after what it depends on, as modprobe does, plain or packed.
func TestLoad(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte("\x7fELF fat"))
	z.Close()
	modules := fstest.MapFS{
		"modules.dep": {Data: []byte("fs/fat.ko.gz: lib/nls.ko\nlib/nls.ko:\nfs/vfat.ko: fs/fat.ko.gz lib/nls.ko\n" +
			"fs/bad.ko: fs/gone.ko\nfs/gone.ko:\n")},
		"modules.builtin": {Data: []byte("kernel/fs/ext4/ext4.ko\n")},
		"modules.alias":   {Data: []byte("alias fs-vfat vfat\nalias pci:v*d2* fat\n")},
		"fs/fat.ko.gz":    {Data: packed.Bytes()},
		"fs/vfat.ko": {
			Data: []byte("\x7fELF vfat"),
		}, "lib/nls.ko": {Data: []byte("\x7fELF nls")}, "fs/bad.ko": {Data: []byte("\x7fELF bad")},
	}
	for name, want := range map[string][]string{
		"vfat": {"nls", "fat", "vfat"}, "fs-vfat": {"nls", "fat", "vfat"},
		"pci:v1d2": {"nls", "fat"}, "ext4": nil, "bad": {"bad"},
	} {
		var got []string
		err := Load(modules, name, func(name string, plain []byte) error {
			if string(plain) != "\x7fELF "+name {
				t.Errorf("%s has %q", name, plain)
			}
			got = append(got, name)
			return nil
		})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
	if err := Load(modules, "none", nil); err == nil ||
		err.Error() != "load module none: the kernel has no such module" {
		t.Error(err)
	}
	refused := errors.New("refused")
	err := Load(modules, "vfat", func(name string, _ []byte) error {
		if name == "vfat" {
			return refused
		}
		return nil
	})
	if !errors.Is(err, refused) || !strings.Contains(err.Error(), "vfat") {
		t.Error(err)
	}
}
