package erofstest

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// Layer is an archive to make an image of.
type Layer struct {
	Name string
	// Plain is whether the archive means the same to GNU tar: no whiteouts and nothing that
	// one extracts and the other refuses.
	Plain bool
	// Large is whether the tree takes more than a moment to read.
	Large bool
	Write func(w io.Writer) error
}

// Layers returns the layers, the same ones, byte for byte, every time.
func Layers() []Layer {
	layer := func(name string, plain, large bool, fill func(b *builder)) Layer {
		return Layer{name, plain, large, func(w io.Writer) error { return archive(w, fill) }}
	}
	return []Layer{
		layer("empty", true, false, func(*builder) {}),
		layer("kinds", true, false, kinds),
		layer("sizes", true, false, sizes),
		layer("attributes", true, false, attributes),
		layer("names", true, false, names),
		layer("links", true, false, links),
		layer("order", false, false, order),
		layer("whiteouts", false, false, whiteouts),
		layer("sparse", true, false, sparse),
		layer("huge", true, true, huge),
		layer("many", true, true, many),
	}
}

// random returns bytes that do not compress, the same for the same seed.
func random(seed uint64, n int) []byte {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(s).Read(b)
	return b
}

// text returns bytes that compress like prose.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	words := strings.Fields(
		"the kernel mounts a layer and reads what the archive said of every file in it before it was an image",
	)
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%s %s %d\n", words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(1000))
	}
	return b.Bytes()[:n]
}

func kinds(b *builder) {
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}, nil)
	b.dir("dev")
	for _, d := range []struct {
		name         string
		kind         byte
		major, minor int64
	}{
		{"null", tar.TypeChar, 1, 3}, {"sda", tar.TypeBlock, 8, 0}, {"large", tar.TypeChar, 4095, 1048575},
		{"minor", tar.TypeBlock, 259, 300}, {"major", tar.TypeChar, 511, 0},
	} {
		b.entry(
			tar.Header{Typeflag: d.kind, Name: "dev/" + d.name, Mode: 0o660, Devmajor: d.major, Devminor: d.minor},
			nil,
		)
	}
	b.entry(tar.Header{Typeflag: tar.TypeFifo, Name: "dev/initctl", Mode: 0o600}, nil)
	b.dir("tmp")
	for _, mode := range []int64{0, 0o4755, 0o2755, 0o1777, 0o7777, 0o400} {
		b.entry(tar.Header{Name: fmt.Sprintf("tmp/mode-%04o", mode), Mode: mode}, []byte("x"))
	}
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/sticky/", Mode: 0o1777}, nil)
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/setgid/", Mode: 0o2770, Gid: 999}, nil)
	for i, owner := range []int{0, 1000, 65535, 65536, 1 << 31, 1<<32 - 2} {
		b.entry(tar.Header{Name: fmt.Sprintf("tmp/owner-%d", i), Mode: 0o644, Uid: owner, Gid: owner}, []byte("x"))
	}
	for i, when := range []time.Time{
		time.Unix(0, 0), time.Unix(0, 1), time.Unix(1700000000, 999999999), time.Unix(-1, 500000000),
		time.Unix(-2208988800, 0),
		time.Unix(1<<31, 0), time.Unix(1<<32+5, 123456789),
	} {
		b.entry(tar.Header{Name: fmt.Sprintf("tmp/time-%d", i), Mode: 0o644, ModTime: when}, []byte("x"))
	}
}

func sizes(b *builder) {
	for _, n := range []int{
		0, 1, 127, 128, 129, 2047, 2048, 2049, 4032, 4095, 4096, 4097, 6144, 6145, 8192, 16384, 65535, 65536, 65537,
		131071, 131072, 131073, 196608, 196609, 300000, 1 << 20, 3<<20 + 777,
	} {
		b.file(fmt.Sprintf("text/%d", n), text(uint64(n), n))
		b.file(fmt.Sprintf("random/%d", n), random(uint64(n), n))
	}
	// Pclusters that are compressed and such that are not, in one file.
	mixed := bytes.Join([][]byte{text(1, 300000), random(1, 300000), text(2, 150000), random(2, 100001)}, nil)
	b.file("mixed", mixed)
	b.file("zeros", make([]byte, 1<<20))
	b.file("hole", append(append(text(3, 70000), make([]byte, 400000)...), text(4, 70000)...))
	b.file("most zeros", append(make([]byte, 5<<20), 1))
	// Content that there is already: whole, and a part.
	b.file("again/mixed", mixed)
	b.file("again/part", append(bytes.Clone(mixed[:262144]), text(5, 100000)...))
	for i := range 40 {
		b.file(fmt.Sprintf("again/small-%d", i%3), text(6, 3000))
		b.file(fmt.Sprintf("small/%d", i), text(uint64(100+i), 500*i))
	}
	// A late change of a file leaves the one before without a name.
	b.file("text/300000", text(7, 260000))
	b.file("random/4096", random(7, 4000))
}

func attributes(b *builder) {
	entry := func(name string, kind byte, attrs map[string]string) {
		h := tar.Header{Typeflag: kind, Name: name, Mode: 0o770, PAXRecords: map[string]string{}} // as the ACL says
		for k, v := range attrs {
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		b.entry(h, nil)
	}
	entry(
		"capability",
		tar.TypeReg,
		map[string]string{
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		},
	)
	entry(
		"user",
		tar.TypeReg,
		map[string]string{
			"user.a":                           "",
			"user.binary":                      "\x00\x01\xff\n=",
			"user." + strings.Repeat("n", 250): "long name",
		},
	)
	entry("trusted", tar.TypeReg, map[string]string{"trusted.overlay.metacopy": "", "trusted.x": "y"})
	entry("selinux", tar.TypeReg, map[string]string{"security.selinux": "system_u:object_r:bin_t:s0\x00"})
	// Version 2; owner rwx, user 1000 rw, group rx, mask rwx, other none.
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	entry("acl/", tar.TypeDir, map[string]string{"system.posix_acl_access": acl, "system.posix_acl_default": acl})
	entry("acl/file", tar.TypeReg, map[string]string{"system.posix_acl_access": acl, "user.too": "1"})
	for i := range 5 {
		entry(
			fmt.Sprintf("same-%d", i),
			tar.TypeReg,
			map[string]string{"security.selinux": "system_u:object_r:etc_t:s0\x00"},
		)
	}
	for _, n := range []int{100, 1500, 3000, 3900} {
		h := tar.Header{
			Name:       fmt.Sprintf("room-%d", n),
			Mode:       0o644,
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", n)},
		}
		b.entry(h, text(uint64(n), 1000))
		h.Name += "-tiny"
		b.entry(h, []byte("tiny"))
		h.Name += "-large"
		b.entry(h, text(uint64(n), 200000))
	}
}

func names(b *builder) {
	b.file(strings.Repeat("n", 255), []byte("longest name"))
	b.file(strings.Repeat("d/", 300)+"deep", []byte("deep"))
	b.file(strings.Repeat(strings.Repeat("e", 200)+"/", 15)+"long path", []byte("long"))
	for _, name := range []string{
		"caf\xe9", "\xff\xfe", "new\nline", "-dash", " space ", "!before dot", "+", ".hidden", "..two", "...", "~",
		"é", "日本語", "\x01",
	} {
		b.file("odd/"+name, []byte(name))
	}
	b.dir("full")
	for i := range 500 { // several blocks, and what sorts before "."
		b.file(fmt.Sprintf("full/%c%s%d", "!+-.az~"[i%7], strings.Repeat("x", i%60), i), nil)
	}
	b.symlink("link", "odd")
	b.symlink("odd/dangling", "nowhere")
	for _, n := range []int{1, 59, 60, 63, 100, 4000, 4032, 4033, 4095} {
		b.symlink(fmt.Sprintf("symlink-%d", n), strings.Repeat("t", n))
	}
}

func links(b *builder) {
	b.file("a", text(1, 5000))
	b.link("b", "a")
	b.link("dir/c", "b")
	b.link("dir/d", "./a")
	b.symlink("s", "a")
	b.link("s2", "s")
	b.entry(tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600}, nil)
	b.link("dir/fifo", "fifo")
	b.file("replaced", []byte("first"))
	b.link("keeps", "replaced")
	b.file("replaced", []byte("second"))
	b.file("large", text(2, 500000))
	for i := range 300 {
		b.link(fmt.Sprintf("many/%d", i), "large")
	}
}

func order(b *builder) {
	b.file("usr/bin/late", []byte("its folders come after it"))
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "usr/bin/", Mode: 0o700, Uid: 7}, nil)
	b.entry(
		tar.Header{
			Typeflag:   tar.TypeDir,
			Name:       "usr/",
			Mode:       0o711,
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"},
		},
		nil,
	)
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "usr/", Mode: 0o751}, nil) // again: the last one's metadata
	b.file("file", []byte("one"))
	b.file("./file", []byte("two"))
	b.file("/file", []byte("three"))
	b.file("becomes/a/folder", nil)
	b.file("becomes", []byte("a file, and what was in it is gone"))
	b.file("was", []byte("a file"))
	b.dir("was")
	b.file("was/it", nil)
	b.symlink("lib", "usr/lib")
	b.file("lib/through", []byte("lands in usr/lib"))
	b.symlink("up", "../../usr")
	b.file("up/clamped", []byte("stays inside"))
	b.symlink("gone", "usr")
	b.dir("gone")
	b.file("gone/own", []byte("a folder has taken the link's place"))
	b.file("odd//./x/../name", []byte("cleaned"))
	b.entry(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o555, Uid: 3}, nil)
}

func whiteouts(b *builder) {
	b.dir("etc")
	b.file("etc/.wh.gone", nil)
	b.file("etc/kept", []byte("kept"))
	b.file("etc/.wh.kept", nil) // of the layer below: what this one has stays
	b.file("etc/.wh.came", nil)
	b.file("etc/came", []byte("came"))
	b.dir("etc/opaque")
	b.file("etc/opaque/.wh..wh..opq", nil)
	b.file("etc/opaque/new", []byte("new"))
	b.file("implied/.wh..wh..opq", nil)
	b.file("implied/new", nil)
	b.file("var/.wh.folder", nil)
	b.file("var/folder/new", nil) // removed below and added again
	b.file("var/.wh..wh.plnk/1", nil)
	b.file("var/.wh..wh.aufs", nil)
	b.entry(
		tar.Header{
			Typeflag:   tar.TypeDir,
			Name:       "labelled/",
			Mode:       0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.security.selinux": "x"},
		},
		nil,
	)
	b.file("labelled/.wh..wh..opq", nil)
}

// GNU tar takes pieces of whole blocks of 512 bytes, but for the last one, and marks a hole
// at the end with an empty piece.
func sparse(b *builder) {
	b.sparsePAX("pax", 1<<20, []data{{0, text(1, 1024)}, {500736, text(2, 71680)}, {1<<20 - 512, random(3, 512)}})
	b.sparsePAX("pax-hole", 3<<20, nil)
	b.sparsePAX("pax-end", 2<<20+5, []data{{2 << 20, []byte("12345")}})
	b.sparseGNU("gnu", 700000, []data{{4096, text(4, 4096)}, {650000 &^ 511, text(5, 512)}, {700000, nil}})
	b.sparseGNU("gnu-small", 5000, []data{{0, text(6, 512)}, {5000, nil}})
}

// huge has a file that 32 bits do not measure.
func huge(b *builder) {
	b.sparsePAX("5GiB", 5<<30, []data{{0, text(1, 4096)}, {4<<30 - 512, text(2, 1024)}, {5<<30 - 3, []byte("end")}})
}

// many has a directory of 100,000 entries.
func many(b *builder) {
	for i := range 100_000 {
		b.file(fmt.Sprintf("many/%06d-%s", i*7919%100_000, "name"[:i%5]), text(uint64(i), i%3*40))
	}
}
