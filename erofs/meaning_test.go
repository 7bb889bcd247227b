package erofs_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
)

var options = []erofs.Options{
	{}, {Compression: erofs.LZ4}, {Compression: erofs.LZ4, Level: 9},
	{
		Compression: erofs.Zstd,
	}, {Compression: erofs.Zstd, Level: 1}, {Compression: erofs.Zstd, Level: 2}, {Compression: erofs.Zstd, Level: 6},
	{Compression: erofs.Zstd, Level: 9}, {Compression: erofs.Zstd, Level: 15},
}

func optionName(o erofs.Options) string {
	return strings.TrimSuffix(fmt.Sprintf("%s-%d", cmp.Or(o.Compression, erofs.None), o.Level), "-0")
}

// image is an io.WriterAt that grows.
type image struct{ b []byte }

func (m *image) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = slices.Grow(m.b, need-len(m.b))[:need]
	}
	return copy(m.b[off:], p), nil
}

func convert(t testing.TB, r io.Reader, o erofs.Options) []byte {
	t.Helper()
	m := &image{}
	size, err := erofs.Convert(context.Background(), m, r, o)
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(len(m.b)) {
		t.Errorf("size %d, wrote %d bytes", size, len(m.b))
	}
	return m.b
}

func layerBytes(t testing.TB, l erofstest.Layer) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := l.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarLines reads an archive in the simplest way: what each name means, the last one wins.
func tarLines(t testing.TB, r io.Reader) []string {
	t.Helper()
	const s_ifdir, s_ifreg, s_iflnk = 0o040000, 0o100000, 0o120000
	files := map[string]*erofstest.File{".": {Mode: s_ifdir | 0o755, ModTime: time.Unix(0, 0)}}
	tr := tar.NewReader(r)
	for ino := uint64(1); ; ino++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := path.Clean(h.Name)
		for dir := path.Dir(name); files[dir] == nil; dir = path.Dir(dir) {
			files[dir] = &erofstest.File{Mode: s_ifdir | 0o755, ModTime: time.Unix(0, 0)}
		}
		f := &erofstest.File{
			Mode:    uint32(h.Mode),
			UID:     uint32(h.Uid),
			GID:     uint32(h.Gid),
			ModTime: h.ModTime,
			Ino:     ino,
		}
		switch h.Typeflag {
		case tar.TypeLink:
			files[name] = files[path.Clean(h.Linkname)]
			continue
		case tar.TypeDir:
			f.Mode |= s_ifdir
		case tar.TypeSymlink:
			f.Mode, f.Link = s_iflnk|0o777, h.Linkname
		case tar.TypeFifo:
			f.Mode |= 0o010000
		case tar.TypeChar, tar.TypeBlock:
			f.Mode |= map[byte]uint32{tar.TypeChar: 0o020000, tar.TypeBlock: 0o060000}[h.Typeflag]
			f.Rdev = uint64(h.Devminor&0xff | h.Devmajor<<8 | h.Devminor>>8<<20)
		default:
			content, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			f.Mode, f.Size = f.Mode|s_ifreg, int64(len(content))
			if f.Sum, err = erofstest.Sum(bytes.NewReader(content), f.Size); err != nil {
				t.Fatal(err)
			}
		}
		for k, v := range h.PAXRecords {
			if k, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				if f.Xattrs == nil {
					f.Xattrs = map[string][]byte{}
				}
				f.Xattrs[k] = []byte(v)
			}
		}
		files[name] = f
	}
	for name, f := range files {
		f.Nlink++
		if f.Mode&0o170000 == s_ifdir {
			f.Nlink++
			if name != "." {
				files[path.Dir(name)].Nlink++
			}
		}
	}
	var list []erofstest.File
	for name, f := range files {
		g := *f
		g.Name = name
		list = append(list, g)
	}
	return erofstest.Lines(list)
}

func imageLines(t testing.TB, b []byte) []string {
	t.Helper()
	f, err := erofs.Open(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files, err := erofstest.Walk(f)
	if err != nil {
		t.Fatal(err)
	}
	return erofstest.Lines(erofstest.Unmarked(files))
}

func TestImageMeansWhatTheArchiveMeans(t *testing.T) {
	for _, l := range erofstest.Layers() {
		if !l.Plain || l.Name == "huge" {
			continue
		}
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			archive := layerBytes(t, l)
			want := tarLines(t, bytes.NewReader(archive))
			for _, o := range options {
				if o.Level != 0 && (l.Name != "sizes" || o.Level < 9) || l.Large && o.Compression != erofs.Zstd {
					continue
				}
				if d := gocmp.Diff(want, imageLines(t, convert(t, bytes.NewReader(archive), o))); d != "" {
					t.Errorf("%s: -archive +image\n%s", optionName(o), d)
				}
			}
		})
	}
}

func TestHugeFile(t *testing.T) {
	for _, l := range erofstest.Layers() {
		if l.Name != "huge" {
			continue
		}
		archive := layerBytes(t, l)
		for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}} {
			b := convert(t, bytes.NewReader(archive), o)
			if len(b) > 1<<20 {
				t.Errorf("%s: image of %d bytes: holes are stored", optionName(o), len(b))
			}
			f, err := erofs.Open(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			file, err := f.Open("5GiB")
			if err != nil {
				t.Fatal(err)
			}
			for at, want := range map[int64]string{
				4<<30 - 513: "\x00",
				4<<30 + 512: "\x00",
				5<<30 - 3:   "end",
				5<<30 - 4:   "\x00e",
			} {
				got := make([]byte, len(want))
				if _, err := file.(io.ReaderAt).ReadAt(got, at); err != nil || string(got) != want {
					t.Errorf("%s: at %d: %q, %v, want %q", optionName(o), at, got, err, want)
				}
			}
			if i, err := file.Stat(); err != nil || i.Size() != 5<<30 {
				t.Errorf("%s: %v, %v", optionName(o), i, err)
			}
		}
	}
}

// What archives mean that extracting by hand would not tell.
func TestLayerSemantics(t *testing.T) {
	want := map[string]string{
		"order": `
"." 40555 3:0 links=6 1700000000.000000000 "trusted.kairos.implied"="in"
"becomes" 100644 0:0 links=1 1700000000.000000000 size=34 becomes
"file" 100644 0:0 links=1 1700000000.000000000 size=5 file
"gone" 40755 0:0 links=2 1700000000.000000000
"gone/own" 100644 0:0 links=1 1700000000.000000000 size=35 gone/own
"lib" 120777 0:0 links=1 1700000000.000000000 -> "usr/lib"
"odd" 40755 0:0 links=2 0.000000000 "trusted.kairos.implied"="y"
"odd/name" 100644 0:0 links=1 1700000000.000000000 size=7 odd/name
"up" 120777 0:0 links=1 1700000000.000000000 -> "../../usr"
"usr" 40751 0:0 links=4 1700000000.000000000
"usr/bin" 40700 7:0 links=2 1700000000.000000000
"usr/bin/late" 100644 0:0 links=1 1700000000.000000000 size=25 usr/bin/late
"usr/clamped" 100644 0:0 links=1 1700000000.000000000 size=12 usr/clamped
"usr/lib" 40755 0:0 links=2 0.000000000 "trusted.kairos.implied"="y"
"usr/lib/through" 100644 0:0 links=1 1700000000.000000000 size=16 usr/lib/through
"was" 40755 0:0 links=2 1700000000.000000000
"was/it" 100644 0:0 links=1 1700000000.000000000 size=0 was/it
`,
		"whiteouts": `
"." 40755 0:0 links=6 0.000000000 "trusted.kairos.implied"="in"
"etc" 40755 0:0 links=3 1700000000.000000000
"etc/came" 100644 0:0 links=1 1700000000.000000000 size=4 etc/came
"etc/gone" 20000 0:0 links=1 0.000000000 dev=0
"etc/kept" 100644 0:0 links=1 1700000000.000000000 size=4 etc/kept
"etc/opaque" 40755 0:0 links=2 1700000000.000000000 "trusted.overlay.opaque"="y"
"etc/opaque/new" 100644 0:0 links=1 1700000000.000000000 size=3 etc/opaque/new
"implied" 40755 0:0 links=2 0.000000000 "trusted.kairos.implied"="y" "trusted.overlay.opaque"="y"
"implied/new" 100644 0:0 links=1 1700000000.000000000 size=0 implied/new
"labelled" 40755 0:0 links=2 1700000000.000000000 "security.selinux"="x" "trusted.overlay.opaque"="y"
"var" 40755 0:0 links=3 0.000000000 "trusted.kairos.implied"="y"
"var/folder" 40755 0:0 links=2 0.000000000 "trusted.overlay.opaque"="y"
"var/folder/new" 100644 0:0 links=1 1700000000.000000000 size=0 var/folder/new
`,
	}
	for _, l := range erofstest.Layers() {
		if want[l.Name] == "" {
			continue
		}
		f, err := erofs.Open(bytes.NewReader(convert(t, bytes.NewReader(layerBytes(t, l)), erofs.Options{})))
		if err != nil {
			t.Fatal(err)
		}
		files, err := erofstest.Walk(f)
		if err != nil {
			t.Fatal(err)
		}
		for i := range files { // names say more than digests
			files[i].Sum = files[i].Name
		}
		if d := gocmp.Diff(strings.TrimSpace(want[l.Name]), strings.Join(erofstest.Lines(files), "\n")); d != "" {
			t.Errorf("%s: -want +got\n%s", l.Name, d)
		}
	}
}
