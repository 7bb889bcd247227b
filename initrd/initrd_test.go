package initrd

import (
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
)

func file(data string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(data), Mode: 0o644} }

func module(name string) string { return "\x7fELF " + name + strings.Repeat(" code", 100) }

// kernel is a module folder with each kind of compression, soft dependencies, and drivers that are
// and are not ours.
func kernel() fstest.MapFS {
	return fstest.MapFS{
		"modules.dep": file(`kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.gz
kernel/lib/libcrc32c.ko.gz:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/arch/x86/crypto/sha256-ssse3.ko:
kernel/fs/overlayfs/overlay.ko.zst:
kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko
kernel/drivers/md/dm-mod.ko:
kernel/drivers/block/virtio_blk.ko:
kernel/net/wireguard.ko:
`),
		"modules.builtin": file("kernel/drivers/block/loop.ko\nkernel/fs/ext4/ext4.ko\n"),
		"modules.softdep": file("softdep libcrc32c pre: crc32c\nsoftdep dm_mod post: wireguard\n"),
		"modules.alias": file(
			"alias crc32c crc32c_intel\nalias crypto-sha256 sha256_ssse3\nalias virtio:d00000002v* virtio_blk\n" +
				"alias rtnl-link-wireguard wireguard\n",
		),
		"kernel/fs/erofs/erofs.ko.xz":            file(xzipped(module("erofs"))),
		"kernel/lib/libcrc32c.ko.gz":             file(gzipped(module("libcrc32c"))),
		"kernel/fs/overlayfs/overlay.ko.zst":     file(zstded(module("overlay"))),
		"kernel/arch/x86/crypto/crc32c-intel.ko": file(module("crc32c_intel")),
		"kernel/arch/x86/crypto/sha256-ssse3.ko": file(module("sha256_ssse3")),
		"kernel/drivers/md/dm-verity.ko":         file(module("dm_verity")),
		"kernel/drivers/md/dm-bufio.ko":          file(module("dm_bufio")),
		"kernel/drivers/md/dm-mod.ko":            file(module("dm_mod")),
		"kernel/drivers/block/virtio_blk.ko":     file(module("virtio_blk")),
		"kernel/net/wireguard.ko":                file(module("wireguard")),
	}
}

func xzipped(s string) string {
	var b bytes.Buffer
	w, _ := xz.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.String()
}

func zstded(s string) string {
	e, _ := zstd.NewWriter(nil)
	return string(e.EncodeAll([]byte(s), nil))
}

func TestSelectTakesWhatBootingNeeds(t *testing.T) {
	s, err := Select(kernel(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := kmod.Index{
		Modules: []kmod.Module{
			{Name: "crc32c_intel"},
			{Name: "dm_bufio", Deps: []string{"dm_mod"}},
			{Name: "dm_mod"},
			{Name: "dm_verity", Deps: []string{"sha256_ssse3", "dm_mod", "dm_bufio"}},
			{Name: "erofs", Deps: []string{"crc32c_intel", "libcrc32c"}},
			{Name: "libcrc32c", Deps: []string{"crc32c_intel"}},
			{Name: "overlay"},
			{Name: "sha256_ssse3"},
			{Name: "virtio_blk"},
		},
		Aliases: []kmod.Alias{
			{Pattern: "crc32c", Module: "crc32c_intel"},
			{Pattern: "crypto-sha256", Module: "sha256_ssse3"},
			{Pattern: "virtio:d00000002v*", Module: "virtio_blk"},
		},
	}
	if d := cmp.Diff(want, s.Index); d != "" {
		t.Error(d)
	}
	for _, m := range want.Modules {
		if got, err := s.content(m.Name); err != nil || string(got) != module(m.Name) {
			t.Errorf("%s: content %q, %v", m.Name, got, err)
		}
	}
}

func TestSelectTakesExtraModules(t *testing.T) {
	s, err := Select(kernel(), []string{"wireguard"})
	if err != nil {
		t.Fatal(err)
	}
	if s.packed["wireguard"] == nil || len(s.Index.Match("rtnl-link-wireguard")) != 1 {
		t.Errorf("wireguard is missing: %+v", s.Index)
	}
}

func TestSelectRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(fstest.MapFS)
		extra  []string
		want   string
	}{
		"no erofs": {change: func(m fstest.MapFS) {
			delete(m, "kernel/fs/erofs/erofs.ko.xz")
			m["modules.dep"] = file("kernel/fs/overlayfs/overlay.ko.zst:\nkernel/drivers/md/dm-verity.ko:\n")
		}, want: "the kernel has no EROFS (CONFIG_EROFS_FS): install a kernel that has it"},
		"nothing": {change: func(m fstest.MapFS) {
			clear(m)
			m["modules.dep"], m["modules.builtin"] = file(""), file("")
		},
			want: "no EROFS (CONFIG_EROFS_FS), no overlayfs (CONFIG_OVERLAY_FS), no dm-verity (CONFIG_DM_VERITY), " +
				"no loop devices (CONFIG_BLK_DEV_LOOP)"},
		"no depmod": {change: func(m fstest.MapFS) { delete(m, "modules.dep") }, want: "run depmod"},
		"stale depmod": {change: func(m fstest.MapFS) { delete(m, "kernel/drivers/md/dm-mod.ko") },
			want: "run depmod in the image after changing its modules"},
		"empty depmod": {change: func(m fstest.MapFS) { m["modules.dep"] = file("") },
			want: "modules.dep does not list kernel/drivers/md/dm-verity.ko, which is there: run depmod"},
		"new extra": {change: func(m fstest.MapFS) { m["updates/dkms/zfs.ko"] = file(module("zfs")) },
			extra: []string{"zfs"},
			want:  "modules.dep does not list updates/dkms/zfs.ko, which is there: run depmod"},
		"huge table": {change: func(m fstest.MapFS) { m["modules.alias"] = file(strings.Repeat("\n", maxTable+1)) },
			want: "it has more than 16 MiB"},
		"huge module": {change: func(m fstest.MapFS) {
			m["kernel/drivers/md/dm-mod.ko"] = &fstest.MapFile{Data: make([]byte, maxModule+1)}
		}, want: "it has more than 128 MiB"},
		"bad dep": {change: func(m fstest.MapFS) { m["modules.dep"] = file("what is this\n") },
			want: "modules.dep: line"},
		"escaping dep": {change: func(m fstest.MapFS) { m["modules.dep"] = file("../../etc/erofs.ko:\n") },
			want: "modules.dep: line"},
		"broken xz": {change: func(m fstest.MapFS) { m["kernel/fs/erofs/erofs.ko.xz"] = file("no xz") },
			want: "erofs.ko.xz"},
		"truncated gzip": {change: func(m fstest.MapFS) {
			m["kernel/lib/libcrc32c.ko.gz"].Data = []byte(gzipped(module("x")))[:30]
		}, want: "libcrc32c.ko.gz"},
		"no ELF": {change: func(m fstest.MapFS) { m["kernel/drivers/md/dm-mod.ko"] = file("#!/bin/sh") },
			want: "not an ELF file"},
		"unknown extra": {change: func(m fstest.MapFS) {}, extra: []string{"zfs"}, want: "no module zfs"},
	} {
		m := kernel()
		c.change(m)
		s, err := Select(m, c.extra)
		if err == nil {
			_, err = Make([]byte("init"), s, nil)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The archive is read by a cpio that we did not write.
func TestInitrdUnpacks(t *testing.T) {
	s, err := Select(kernel(), nil)
	if err != nil {
		t.Fatal(err)
	}
	init := []byte("\x7fELF /init")
	packed, err := Make(init, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Make(init, s, nil)
	if err != nil || !bytes.Equal(packed, again) {
		t.Error("two runs differ", err)
	}
	d, _ := zstd.NewReader(nil)
	cpio, err := d.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Making the device node needs root; the list shows it.
	cmd := exec.Command("cpio", "--extract", "--make-directories", "--nonmatching", "dev/console")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(cpio)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio (package cpio): %v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"init": string(init), kmod.IndexPath: string(s.Index.Marshal()), kmod.Path("erofs"): module("erofs"),
		kmod.Path("dm_verity"): module("dm_verity"),
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s = %q (%v)", name, got, err)
		}
	}
	list := exec.Command("cpio", "--list", "--verbose", "--numeric-uid-gid")
	list.Stdin = bytes.NewReader(cpio)
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"crw-------", "5,   1", "-rwxr-xr-x"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the archive has no %q:\n%s", want, out)
		}
	}
}

func FuzzSelect(f *testing.F) {
	f.Add("a.ko: b.ko\nb.ko:\n", "softdep a pre: b\n", "alias x a\n")
	f.Fuzz(func(t *testing.T, dep, soft, alias string) {
		tables, err := readTables(
			fstest.MapFS{"modules.dep": file(dep), "modules.softdep": file(soft), "modules.alias": file(alias)},
		)
		if err != nil {
			return
		}
		for name := range tables.path {
			before := tables.before(name)
			seen := map[string]bool{name: true}
			for _, b := range before {
				if seen[b] {
					t.Errorf("%s: %v loads something twice", name, before)
				}
				seen[b] = true
			}
		}
	})
}

// A kernel opens encrypted partitions with dm-crypt, XTS and AES, as modules or built in; what the kernel asks for by
// the name of an algorithm comes along.
func TestSelectForEncryption(t *testing.T) {
	k := kernel()
	if s, err := Select(k, nil); err != nil || s.Encrypts {
		t.Fatalf("%+v, %v", s, err)
	}
	add := func(name, line string) {
		k[name] = &fstest.MapFile{Data: append(slices.Clone(k[name].Data), line+"\n"...)}
	}
	for _, m := range []string{"dm_crypt", "xts", "aesni_intel"} {
		k["kernel/"+m+".ko"] = &fstest.MapFile{Data: []byte(module(m))}
		add("modules.dep", "kernel/"+m+".ko:")
	}
	add("modules.alias", "alias crypto-xts xts")
	add("modules.alias", "alias crypto-aes aesni_intel")
	s, err := Select(k, nil)
	if err != nil || !s.Encrypts {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, m := range s.Index.Modules {
		if m.Name == "dm_crypt" {
			if d := cmp.Diff([]string{"aesni_intel", "xts"}, m.Deps); d != "" {
				t.Error(d)
			}
			return
		}
	}
	t.Errorf("no dm_crypt in %+v", s.Index.Modules)
}
