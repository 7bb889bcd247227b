// Package boottest makes image trees that look bootable, for tests that need no real kernel.
package boottest

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/layout"
)

// Tree returns an image's tree with a kernel of that version, its modules, an init, and the boot
// layer's stub and /init. The kernel and the stub are EFI programs for amd64 that do nothing.
func Tree(version string) fstest.MapFS {
	t := fstest.MapFS{
		"usr/lib/systemd/systemd": {Data: []byte("init"), Mode: 0o755},
		"usr/sbin/init":           Link("../lib/systemd/systemd"),
		"sbin":                    Link("usr/sbin"),
		"lib":                     Link("usr/lib"),
		layout.ImageInit: {Data: []byte(
			"\x7fELF static /init with " + layout.InitrdTrust + " " + layout.FirmwareTPM +
				" " + layout.InitrdPCRSignatures), Mode: 0o755},
		layout.ImageStub: {Data: Program("stub"), Mode: 0o644},
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "var", "boot"} {
		t[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	AddKernel(t, version)
	return t
}

// AddKernel adds a kernel with its modules and configuration, as Debian's packages do.
func AddKernel(t fstest.MapFS, version string) {
	t["boot/vmlinuz-"+version] = &fstest.MapFile{Data: Kernel(version), Mode: 0o644}
	t["boot/config-"+version] = &fstest.MapFile{
		Data: []byte("# Linux\nCONFIG_EROFS_FS=m\nCONFIG_EROFS_FS_ZIP=y\nCONFIG_EROFS_FS_ZIP_ZSTD=y\n"),
		Mode: 0o644,
	}
	dir := "usr/lib/modules/" + version + "/"
	var dep strings.Builder
	for _, m := range []string{
		"kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko", "kernel/lib/libcrc32c.ko:",
		"kernel/fs/overlayfs/overlay.ko:",
		"kernel/drivers/md/dm-verity.ko: kernel/drivers/md/dm-bufio.ko kernel/drivers/md/dm-mod.ko",
		"kernel/drivers/md/dm-bufio.ko: kernel/drivers/md/dm-mod.ko",
		"kernel/drivers/md/dm-mod.ko:", "kernel/drivers/block/virtio_blk.ko:", "kernel/net/wireguard.ko:",
	} {
		fmt.Fprintln(&dep, m)
		file, _, _ := strings.Cut(m, ":")
		t[dir+file] = &fstest.MapFile{Data: []byte("\x7fELF " + version + " " + file), Mode: 0o644}
	}
	t[dir+"modules.dep"] = &fstest.MapFile{Data: []byte(dep.String()), Mode: 0o644}
	t[dir+"modules.builtin"] = &fstest.MapFile{
		Data: []byte("kernel/drivers/block/loop.ko\nkernel/fs/ext4/ext4.ko\n"),
		Mode: 0o644,
	}
	t[dir+"modules.alias"] = &fstest.MapFile{
		Data: []byte("# Aliases\nalias virtio:d00000002v* virtio_blk\nalias rtnl-link-wireguard wireguard\n"),
		Mode: 0o644,
	}
}

// Kernel returns an EFI program that says as x86 kernels do which version it is.
func Kernel(version string) []byte {
	const setup, at = 0x200, 0x480 // of the text, in the part that has room for section headers
	b := Program("kernel " + version)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x20e:], at-setup)
	copy(b[at:], version+" (root@build) #1 SMP")
	return b
}

// Link returns a symbolic link.
func Link(target string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// Program returns a PE32+ EFI program for amd64 with one section, .text, that holds the text, and
// room for 16 more section headers.
func Program(text string) []byte {
	const (
		pe          = 0x40
		optional    = 112 + 16*8
		headersSize = 0x600
	)
	b := make([]byte, headersSize+0x200)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], pe)
	copy(b[pe:], "PE\x00\x00")
	coff := b[pe+4:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], 1) // sections
	le.PutUint16(coff[16:], optional)
	le.PutUint16(coff[18:], 0x22e)
	opt := coff[20:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[16:], 0x1000)      // entry point
	le.PutUint32(opt[20:], 0x1000)      // base of code
	le.PutUint64(opt[24:], 0x14df00000) // image base
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], headersSize)
	le.PutUint16(opt[68:], 10) // EFI application
	le.PutUint32(opt[108:], 16)
	section := opt[optional:]
	copy(section, ".text")
	le.PutUint32(section[8:], uint32(len(text)))
	le.PutUint32(section[12:], 0x1000)
	le.PutUint32(section[16:], 0x200)
	le.PutUint32(section[20:], headersSize)
	le.PutUint32(section[36:], 0x60000020)
	copy(b[headersSize:], text)
	return b
}
