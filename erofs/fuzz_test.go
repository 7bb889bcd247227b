package erofs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
)

// script turns fuzz bytes into an archive: few names, so that entries meet.
func script(program []byte) []byte {
	names := []string{
		"a",
		"b",
		"a/b",
		"a/c",
		"d/e/f",
		"d",
		".wh.a",
		"a/.wh.b",
		"a/.wh..wh..opq",
		"./",
		"d/../b",
		"/a/b/c",
		"g",
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for len(program) >= 4 {
		op, name, arg, more := program[0], names[int(program[1])%len(names)], names[int(program[2])%len(names)], int(
			program[3],
		)
		program = program[4:]
		h := tar.Header{Name: name, Mode: int64(more) * 16, Uid: more << 10}
		var content []byte
		switch op % 8 {
		case 0:
			h.Typeflag = tar.TypeDir
		case 1:
			h.Typeflag, h.Linkname = tar.TypeSymlink, arg
		case 2:
			h.Typeflag, h.Linkname = tar.TypeLink, arg
		case 3:
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(more), int64(more)
		case 4:
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": arg}
		case 5:
			content = bytes.Repeat([]byte{op, byte(more)}, more*more*3)
		case 6:
			content = make([]byte, more<<9)
			for i := range content {
				content[i] = byte(i * i >> 3 * more)
			}
		default:
			content = []byte(arg)
		}
		h.Size = int64(len(content))
		if w.WriteHeader(&h) != nil {
			continue
		}
		w.Write(content)
	}
	w.Close()
	return b.Bytes()
}

// Whatever the archive: all compressions agree on what it means, the result does not
// depend on the workers, and the reader finds everything.
func FuzzConvert(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x20\x02\x01\x00\x00\x00\x02\x00\x00\x06\x04\x00\xff\x01\x05\x00\x00"))
	f.Add([]byte("\x05\x00\x00\xff\x05\x01\x00\xff\x06\x02\x00\xff\x06\x0c\x00\xfe\x02\x03\x0c\x00"))
	f.Add([]byte("\x01\x00\x01\x00\x00\x01\x00\x00\x07\x02\x03\x00\x07\x06\x00\x00\x07\x08\x00\x00"))
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 200 {
			return
		}
		archive := script(program)
		var want []string
		var wantErr error
		for i, o := range []erofs.Options{
			{}, {Compression: erofs.Zstd, Workers: 1}, {Compression: erofs.Zstd, Workers: 3}, {Compression: erofs.LZ4},
		} {
			m := &image{}
			_, err := erofs.Convert(context.Background(), m, bytes.NewReader(archive), o)
			if i == 0 {
				wantErr = err
			} else if (err == nil) != (wantErr == nil) {
				t.Fatalf("%s: error %v, uncompressed %v", optionName(o), err, wantErr)
			}
			if err != nil {
				continue
			}
			got := imageLines(t, m.b)
			if i == 0 {
				want = got
			} else if d := gocmp.Diff(want, got); d != "" {
				t.Fatalf("%s: -uncompressed +compressed\n%s", optionName(o), d)
			}
		}
	})
}

// Archives as they are: no panic, and what is accepted can be read.
func FuzzConvertRaw(f *testing.F) {
	for _, l := range erofstest.Layers() {
		if l.Name == "kinds" || l.Name == "sparse" || l.Name == "order" || l.Name == "attributes" {
			b := layerBytes(f, l)
			f.Add(b[:min(len(b), 8<<10)])
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		if len(archive) > 64<<10 || claimsMuch(archive) {
			return
		}
		m := &image{}
		_, err := erofs.Convert(context.Background(), m, bytes.NewReader(archive),
			erofs.Options{Compression: erofs.Zstd, Workers: 1})
		if err != nil {
			return
		}
		imageLines(t, m.b)
	})
}

// claimsMuch is whether an archive has a sparse file that takes long to read.
func claimsMuch(archive []byte) bool {
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err != nil {
			return false
		}
		if h.Size > 16<<20 {
			return true
		}
	}
}

// Hostile images: errors, no panic, no endless loop, no read outside the image. An input
// is a good image and bytes to change in it: three for the place, one for the value.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for _, l := range erofstest.Layers() {
		if l.Name == "kinds" || l.Name == "order" || l.Name == "attributes" {
			b := layerBytes(f, l)
			for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}, {Compression: erofs.LZ4}} {
				images = append(images, convert(f, bytes.NewReader(b), o))
			}
		}
	}
	// Small images with every kind of block map.
	for _, n := range []int{3000, 70000, 200000} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "x", Size: int64(n)})
		w.Write(bytes.Repeat([]byte("compressible"), n/12+1)[:n])
		w.Close()
		for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}, {Compression: erofs.LZ4}} {
			images = append(images, convert(f, bytes.NewReader(b.Bytes()), o))
		}
	}
	for i := range images {
		f.Add(uint8(i), []byte{0, 4, 0x50, 1, 0, 0x10, 0x20, 0xff})
	}
	f.Fuzz(func(t *testing.T, which uint8, patch []byte) {
		b := bytes.Clone(images[int(which)%len(images)])
		for ; len(patch) >= 4; patch = patch[4:] {
			at := int(patch[0])<<16 | int(patch[1])<<8 | int(patch[2])
			b[at%len(b)] ^= patch[3]
		}
		b[1024+8] &^= 1 // no checksum: it would refuse nearly everything
		fsys, err := erofs.Open(bytes.NewReader(b))
		if err != nil {
			return
		}
		visit(fsys, ".", new(int))
		visit(erofs.Overlay(fsys, fsys), ".", new(int))
	})
}

// visit reads as much as a person would wait for.
func visit(fsys fs.FS, name string, visited *int) {
	if *visited++; *visited > 100 || len(name) > 2000 {
		return
	}
	info, err := fs.Lstat(fsys, name)
	if err != nil {
		return
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		fs.ReadLink(fsys, name)
		fs.Stat(fsys, name)
	case info.Mode().IsRegular():
		if file, err := fsys.Open(name); err == nil {
			io.CopyN(io.Discard, file, 1<<20)
			if r, ok := file.(io.ReaderAt); ok {
				r.ReadAt(make([]byte, 100), info.Size()-50)
			}
			file.Close()
		}
	case info.IsDir():
		entries, err := fs.ReadDir(fsys, name)
		if err != nil {
			return
		}
		for _, e := range entries {
			next := e.Name()
			if name != "." {
				next = name + "/" + next
			}
			visit(fsys, next, visited)
		}
	}
}
