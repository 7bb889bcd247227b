// Package assets holds what an image needs to boot and does not bring along itself: /init,
// the node agent, the systemd stub and the boot loaders, for each architecture that Kairos
// supports. `make assets` fills the folder files, and the programs that import this
// package carry its content.
//
//	init              static program, PID 1 of the initrd
//	kairos-apply      static program, the node agent
//	stub.efi          systemd's UEFI stub
//	systemd-boot.efi  systemd's UEFI boot loader
//	e2fsck            the checker of ext4, static
//	grub/             amd64: boot.img, core.img (disk), boot_hybrid.img, eltorito.img (ISO)
package assets

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
)

//go:embed all:files
var files embed.FS

// compressed ends the names of files that are kept compressed, and shown without it.
const compressed = ".zst"

// Archs lists the architectures in OCI's words whose assets this program carries.
func Archs() []string {
	var archs []string
	entries, _ := files.ReadDir("files")
	for _, e := range entries {
		if e.IsDir() {
			archs = append(archs, e.Name())
		}
	}
	return archs
}

// FS returns the assets for an architecture. Its error says how to get them.
func FS(arch string) (fs.FS, error) {
	return open(files, arch)
}

func open(files fs.FS, arch string) (fs.FS, error) {
	if arch == "" || strings.ContainsAny(arch, "/.") {
		return nil, fmt.Errorf("boot assets: %q is not the name of an architecture", arch)
	}
	sub, err := fs.Sub(files, "files/"+arch)
	if err != nil {
		return nil, fmt.Errorf("boot assets for %s: %w", arch, err)
	}
	if _, err := fs.Stat(sub, "init"); err != nil {
		if entries, _ := fs.ReadDir(files, "files"); len(entries) <= 1 {
			return nil, errors.New(
				"boot assets: this program was built without them: run `make assets`, then build it again",
			)
		}
		return nil, fmt.Errorf("boot assets: none for architecture %s: Kairos supports amd64 and arm64; "+
			"where that is what you want, run `make assets` and build this program again", arch)
	}
	return unpacked{sub}, nil
}

// unpacked shows the files of an fs.FS, those that are compressed as if they were not.
type unpacked struct{ fs.FS }

func (u unpacked) Open(name string) (fs.File, error) {
	f, err := u.FS.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return u.openCompressed(name)
	}
	if d, ok := f.(fs.ReadDirFile); ok {
		return dir{d}, nil
	}
	return f, err
}

func (u unpacked) openCompressed(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	info, err := fs.Stat(u.FS, name+compressed)
	if err != nil {
		return fail(fs.ErrNotExist)
	}
	packed, err := fs.ReadFile(u.FS, name+compressed)
	if err != nil {
		return fail(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return fail(err)
	}
	defer d.Close()
	b, err := d.DecodeAll(packed, nil)
	if err != nil {
		return fail(err)
	}
	return &file{bytes.NewReader(b), fileInfo{info, int64(len(b))}}, nil
}

// dir lists names as Open takes them.
type dir struct{ fs.ReadDirFile }

func (d dir) ReadDir(n int) ([]fs.DirEntry, error) {
	entries, err := d.ReadDirFile.ReadDir(n)
	for i, e := range entries {
		if strings.HasSuffix(e.Name(), compressed) {
			entries[i] = entry{e}
		}
	}
	return entries, err
}

type entry struct{ fs.DirEntry }

func (e entry) Name() string { return strings.TrimSuffix(e.DirEntry.Name(), compressed) }

// Info has the size of the compressed file: the other one takes reading it.
func (e entry) Info() (fs.FileInfo, error) {
	info, err := e.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	return fileInfo{info, info.Size()}, nil
}

type file struct {
	*bytes.Reader
	info fileInfo
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type fileInfo struct {
	fs.FileInfo
	size int64
}

func (i fileInfo) Name() string { return strings.TrimSuffix(i.FileInfo.Name(), compressed) }
func (i fileInfo) Size() int64  { return i.size }
