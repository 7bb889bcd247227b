package erofs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kairos-buildkit/kairos/erofs"
	"github.com/kairos-buildkit/kairos/erofs/erofstest"
)

// blockCheck fails the test when a block is not written exactly once, as a whole.
type blockCheck struct {
	t    *testing.T
	seen map[int64]bool
	busy atomic.Bool
}

func (c *blockCheck) WriteAt(p []byte, off int64) (int, error) {
	if c.busy.Swap(true) {
		c.t.Error("two writes at a time")
	}
	defer c.busy.Store(false)
	if off%4096 != 0 || len(p)%4096 != 0 || len(p) == 0 {
		c.t.Errorf("write of %d bytes at %d: not whole blocks", len(p), off)
	}
	for at := off; at < off+int64(len(p)); at += 4096 {
		if c.seen[at] {
			c.t.Errorf("block at %d written twice", at)
		}
		c.seen[at] = true
	}
	return len(p), nil
}

func TestEveryBlockIsWrittenOnce(t *testing.T) {
	for _, l := range erofstest.Layers() {
		if l.Large {
			continue
		}
		archive := layerBytes(t, l)
		for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}} {
			c := &blockCheck{t: t, seen: map[int64]bool{}}
			size, err := erofs.Convert(context.Background(), c, bytes.NewReader(archive), o)
			if err != nil {
				t.Fatal(err)
			}
			if int64(len(c.seen))*4096 != size {
				t.Errorf("%s %s: size %d, %d blocks written", l.Name, optionName(o), size, len(c.seen))
			}
		}
	}
}

func TestSameBytesWhateverTheWorkers(t *testing.T) {
	for _, l := range erofstest.Layers() {
		if l.Name != "sizes" && l.Name != "links" {
			continue
		}
		archive := layerBytes(t, l)
		for _, c := range []erofs.Compression{erofs.LZ4, erofs.Zstd} {
			var want [32]byte
			for _, workers := range []int{1, 3, 16} {
				// Odd reads: what comes when must not matter either.
				r := io.LimitReader(&stutter{r: bytes.NewReader(archive)}, 1<<40)
				got := sha256.Sum256(convert(t, r, erofs.Options{Compression: c, Workers: workers}))
				if workers == 1 {
					want = got
				} else if got != want {
					t.Errorf("%s %s: %d workers give other bytes than one", l.Name, c, workers)
				}
			}
		}
	}
}

// stutter reads a different amount each time.
type stutter struct {
	r io.Reader
	n int
}

func (s *stutter) Read(p []byte) (int, error) {
	s.n = (s.n*31 + 7) % 9973
	return s.r.Read(p[:min(len(p), s.n+1)])
}

func TestReadsTheArchiveToItsEnd(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Write(make([]byte, 1<<20))
	r := bytes.NewReader(b.Bytes())
	convert(t, r, erofs.Options{})
	if r.Len() != 0 {
		t.Errorf("%d bytes left", r.Len())
	}
}

func TestRefuses(t *testing.T) {
	type entry = tar.Header
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"dot dot": {[]entry{{Name: "../etc/passwd"}},
			`entry "../etc/passwd": path leads out of the layer`},
		"dot dot inside":   {[]entry{{Name: "a/../../b"}}, "path leads out of the layer"},
		"absolute dot dot": {[]entry{{Name: "/../b"}}, "path leads out of the layer"},
		"link out": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "../a"}},
			"path leads out of the layer"},
		"link to nothing": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}},
			`hard link to "b": it is not in this layer`},
		"link to itself": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "a"}}, "not in this layer"},
		"link to later": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}, {Name: "b"}},
			"not in this layer"},
		"link to folder": {[]entry{
			{Name: "d", Typeflag: tar.TypeDir},
			{Name: "a", Typeflag: tar.TypeLink, Linkname: "d"},
		}, "it is a directory"},
		"link to root": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "."}}, "not in this layer"},
		"link to whiteout": {[]entry{{Name: ".wh.b"}, {Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}},
			"not in this layer"},
		"link into folder": {[]entry{{Name: "a", Typeflag: tar.TypeLink, Linkname: "no/b"}}, "not in this layer"},
		"file as folder":   {[]entry{{Name: "a"}, {Name: "a/b"}}, `"a" is not a directory`},
		"loop": {[]entry{
			{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"},
			{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"},
			{Name: "a/x"},
		}, "more than 40 symbolic links"},
		"long name":   {[]entry{{Name: strings.Repeat("n", 256)}}, "want at most 255"},
		"long folder": {[]entry{{Name: strings.Repeat("n", 256) + "/x"}}, "want at most 255"},
		"long symbolic link": {[]entry{{Name: "a", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("n", 4096)}},
			"want 1 to 4095"},
		"empty symbolic link": {[]entry{{Name: "a", Typeflag: tar.TypeSymlink}}, "want 1 to 4095"},
		"root as file":        {[]entry{{Name: "/"}, {Name: "."}}, "the root must be a directory"},
		"nameless whiteout":   {[]entry{{Name: "a/.wh."}}, "whiteout without a name"},
		"large owner":         {[]entry{{Name: "a", Uid: 1 << 32}}, "want 32 bits"},
		"negative owner":      {[]entry{{Name: "a", Gid: -1, Format: tar.FormatGNU}}, "want 32 bits"},
		"large device": {[]entry{{Name: "a", Typeflag: tar.TypeChar, Devmajor: 4096, Format: tar.FormatGNU}},
			"12 bits of major"},
		"large minor": {[]entry{{Name: "a", Typeflag: tar.TypeBlock, Devminor: 1 << 20,
			Format: tar.FormatGNU}}, "20 of minor"},
		"large attribute": {[]entry{{Name: "a",
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 65536)}}}, "65535 of value"},
		"long attribute's name": {[]entry{{Name: "a",
			PAXRecords: map[string]string{"SCHILY.xattr.user." + strings.Repeat("x", 256): ""}}}, "255 bytes of name"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range c.entries {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}} {
				_, err := erofs.Convert(context.Background(), &image{}, bytes.NewReader(b.Bytes()), o)
				if err == nil || !strings.Contains(err.Error(), c.want) ||
					!strings.HasPrefix(err.Error(), "convert layer to EROFS: ") {
					t.Errorf("%s: error %v, want %q", optionName(o), err, c.want)
				}
			}
		})
	}
}

func TestRefusesBrokenArchives(t *testing.T) {
	var whole []byte
	for _, l := range erofstest.Layers() {
		if l.Name == "sizes" {
			whole = layerBytes(t, l)
		}
	}
	for _, o := range []erofs.Options{{}, {Compression: erofs.Zstd}} {
		for _, n := range []int{100, 700, len(whole) / 2, len(whole) - 1500} {
			if _, err := erofs.Convert(context.Background(), &image{}, bytes.NewReader(whole[:n]), o); err == nil {
				t.Errorf("%s: accepted the first %d bytes of %d", optionName(o), n, len(whole))
			}
		}
		broken := errors.New("the line went dead")
		r := io.MultiReader(
			bytes.NewReader(whole[:len(whole)/3]),
			readFunc(func([]byte) (int, error) { return 0, broken }),
		)
		if _, err := erofs.Convert(context.Background(), &image{}, r, o); !errors.Is(err, broken) {
			t.Errorf("%s: error %v, want the reader's", optionName(o), err)
		}
		full := errors.New("disk full")
		for _, after := range []int64{0, 1 << 20, 3 << 20} {
			_, err := erofs.Convert(context.Background(), &limited{after, full}, bytes.NewReader(whole), o)
			if !errors.Is(err, full) {
				t.Errorf("%s: error %v, want the writer's", optionName(o), err)
			}
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		changed := errors.New("changed my mind")
		r = io.MultiReader(bytes.NewReader(whole[:len(whole)/3]), readFunc(func(p []byte) (int, error) {
			cancel(changed)
			return 0, io.EOF
		}), bytes.NewReader(whole[len(whole)/3:]))
		if _, err := erofs.Convert(ctx, &image{}, r, o); !errors.Is(err, changed) {
			t.Errorf("%s: error %v, want the context's", optionName(o), err)
		}
	}
	for _, o := range []erofs.Options{
		{Compression: "xz"},
		{Compression: erofs.Zstd, Level: -1},
		{Compression: erofs.LZ4, Level: 10},
		{Level: 1},
	} {
		if _, err := erofs.Convert(context.Background(), &image{}, bytes.NewReader(whole), o); err == nil {
			t.Errorf("%+v: accepted", o)
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type limited struct {
	n   int64
	err error
}

func (l *limited) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > l.n {
		return 0, l.err
	}
	return len(p), nil
}

// A kernel lies in the image as it is, whatever of it could be compressed: a boot loader may read it there.
func TestProgramsOfFirmwareAreInOnePiece(t *testing.T) {
	for _, c := range []struct {
		start string
		whole bool
	}{{"MZ", true}, {"ZM", false}} {
		var b bytes.Buffer
		content := []byte(c.start + strings.Repeat("a kernel's setup code, and zeros\x00", 20_000))
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "vmlinuz", Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
		w.Close()
		for _, o := range []erofs.Options{{Compression: erofs.Zstd}, {Compression: erofs.LZ4}} {
			// Its end may be with the inode.
			got := bytes.Contains(convert(t, bytes.NewReader(b.Bytes()), o), content[:len(content)/4096*4096])
			if got != c.whole {
				t.Errorf("%s, %s: in one piece: %v", optionName(o), c.start, got)
			}
		}
	}
}

// The UUID tells images apart, and is the same for the same image.
func TestUUIDFollowsContent(t *testing.T) {
	uuids := map[string]string{}
	for i, content := range []string{"a", "b", strings.Repeat("a", 1<<20), strings.Repeat("a", 1<<20-1) + "b"} {
		for _, name := range []string{"x", "y"} {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content))}); err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, content)
			w.Close()
			uuid := string(convert(t, &b, erofs.Options{})[1024+48:][:16])
			if other, ok := uuids[uuid]; ok {
				t.Errorf("image %d %s has the UUID of %s", i, name, other)
			}
			uuids[uuid] = fmt.Sprint(i, name)
		}
	}
}
