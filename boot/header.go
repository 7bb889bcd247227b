package boot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/kairos-buildkit/kairos/internal/bounded"
)

// A kernel says its version itself, in one of these forms (all little-endian):
//
//	x86      bzImage, Documentation/arch/x86/boot.rst: "HdrS" at 0x202; u16 at 0x20e: the
//	         offset, less 0x200, of the version, which ends at a space or NUL
//	arm64    Image, Documentation/arch/arm64/booting.rst: "MZ", and "ARM\x64" at 56; the
//	         version is in the text "Linux version " that the kernel prints
//	zboot    drivers/firmware/efi/libstub/zboot-header.S: "MZ\0\0zimg"; u32 at 8 and 12: offset
//	         and size of the Image, compressed as the name at 24 says
//	gzip     of an Image, as some distributions of arm64 have it
const (
	bzMagicAt   = 0x202
	bzVersionAt = 0x20e
	armMagicAt  = 56
	zbootMagic  = "zimg"
	gzipMagic   = "\x1f\x8b"

	// headSize is how much of a file tells what it is, with the version of a bzImage.
	headSize = bzVersionAt + 2 + 1<<16 + 256
)

const (
	// maxKernel bounds a kernel's file, and what is in it: those of distributions have 10 to 60 MiB.
	maxKernel = 256 << 20
	// maxBootFile bounds what is made of it: a UKI.
	maxBootFile = 1 << 30
	// maxText bounds configurations and manifests.
	maxText = 16 << 20
)

// kernelForm is what a file's beginning says that it is.
type kernelForm int

const (
	formOther kernelForm = iota
	formX86
	formARM64
	formZboot
	formGzip
)

func formOf(head []byte) kernelForm {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(bzMagicAt, "HdrS"):
		return formX86
	case at(0, "MZ\x00\x00"+zbootMagic):
		return formZboot
	case at(0, "MZ") && at(armMagicAt, "ARM\x64"):
		return formARM64
	case at(0, gzipMagic):
		return formGzip
	}
	return formOther
}

// versionIn returns the version that a kernel's file says, or "" where it says none.
func versionIn(file []byte) string {
	switch formOf(file) {
	case formX86:
		return bzVersion(file)
	case formARM64:
		return banner(file)
	case formZboot:
		image, err := unzboot(file)
		if err != nil {
			return "" // a compression that is not known here: its name has to do
		}
		return banner(image)
	case formGzip:
		image, err := gunzip(file)
		if err != nil || formOf(image) == formGzip {
			return "" // a file that is itself when it is decompressed would be read for ever
		}
		return versionIn(image)
	}
	return ""
}

// bzVersion reads the version of a bzImage, of which file has at least the head.
func bzVersion(file []byte) string {
	if len(file) < bzVersionAt+2 {
		return ""
	}
	at := int(binary.LittleEndian.Uint16(file[bzVersionAt:]))
	if at == 0 || at+0x200 >= len(file) {
		return ""
	}
	return release(file[at+0x200:])
}

// banner finds the version in what a kernel prints first.
func banner(image []byte) string {
	const text = "Linux version "
	for {
		i := bytes.Index(image, []byte(text))
		if i < 0 {
			return ""
		}
		image = image[i+len(text):]
		if v := release(image); v != "" {
			return v
		}
	}
}

// release returns the name of a kernel's release that b begins with, as uname -r has it. It has
// at most 64 bytes (__NEW_UTS_LEN), and becomes a part of paths.
func release(b []byte) string {
	const most = 64
	end := bytes.IndexAny(b[:min(len(b), most+1)], " \x00\n")
	if end < 1 || b[0] < '0' || b[0] > '9' {
		return ""
	}
	v := string(b[:end])
	if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return ""
	}
	return v
}

func gunzip(file []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return bounded.ReadAll(z, maxKernel)
}

// unzboot returns the Image in a zboot program.
func unzboot(file []byte) ([]byte, error) {
	if len(file) < 56 {
		return nil, io.ErrUnexpectedEOF
	}
	at, size := int64(binary.LittleEndian.Uint32(file[8:])), int64(binary.LittleEndian.Uint32(file[12:]))
	if at+size > int64(len(file)) {
		return nil, io.ErrUnexpectedEOF
	}
	packed := file[at : at+size]
	name, _, _ := strings.Cut(string(file[24:56]), "\x00")
	switch name {
	case "gzip":
		return gunzip(packed)
	case "zstd", "zstd22":
		z, err := zstd.NewReader(
			bytes.NewReader(packed),
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxWindow(maxKernel),
		)
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return bounded.ReadAll(z, maxKernel)
	}
	return nil, fmt.Errorf("compression %q: %w", name, errors.ErrUnsupported)
}

// head reads the beginning of a file.
func (t tree) head(name string) ([]byte, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, headSize))
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}
