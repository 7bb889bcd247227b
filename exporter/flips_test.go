package exporter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/image/medium"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/verity"
)

// flip is a byte that changes, and what is to be named then.
type flip struct {
	at   int
	what string
	want []string // one of them
}

// A bit that changes anywhere in what a sealed disk starts from is found, offline, and named.
func TestVerifyEveryFlip(t *testing.T) {
	key := signKey(t)
	name, _ := exportFile(t, sealedImage(t, key, nil), FormatRaw, Options{Signatures: signedBy(key)})
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	disk := &flipped{ReaderAt: file, at: -1}
	a := trust.Anchor{Keys: []trust.PublicKey{key.PublicKey}, Threshold: 1}
	verify := func() error {
		m, err := medium.Open(disk, info.Size())
		if err != nil {
			return err
		}
		if len(m.Problems) > 0 {
			return errors.New(m.Problems[0])
		}
		if len(m.Releases) != 2 {
			return fmt.Errorf("%d releases", len(m.Releases))
		}
		for i := range m.Releases {
			r := &m.Releases[i]
			if _, err := a.Check(r.Release, "amd64"); err != nil {
				return fmt.Errorf("%s: %w", r.Place, err)
			}
			if err := m.Verify(t.Context(), r); err != nil {
				return err
			}
		}
		return m.VerifyESP(t.Context())
	}
	if err := verify(); err != nil {
		t.Fatalf("a pristine disk: %v", err)
	}
	m, err := medium.Open(disk, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	flips := append(espFlips(t, m), storeFlips(t, m)...)
	if len(flips) < 100 {
		t.Errorf("only %d flips", len(flips))
	}
	defer func() { t.Logf("%d flips in %s", len(flips), time.Since(started)) }()
	for _, f := range flips {
		disk.at = int64(f.at)
		err := verify()
		if err == nil {
			t.Errorf("%s, byte %d: a flip is not found", f.what, f.at)
			continue
		}
		named := false
		for _, want := range f.want {
			named = named || strings.Contains(err.Error(), want)
		}
		if !named {
			t.Errorf("%s, byte %d: %v: want one of %q", f.what, f.at, err, f.want)
		}
	}
}

// flipped is a file in which a bit of one byte is another one.
type flipped struct {
	io.ReaderAt
	at int64
}

func (f *flipped) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(b, off)
	if f.at >= off && f.at < off+int64(n) {
		b[f.at-off] ^= 1
	}
	return n, err
}

// begin is where a volume has all that it has.
func begin(t *testing.T, r io.ReaderAt) []byte {
	t.Helper()
	b := make([]byte, 24<<20)
	n, err := r.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b[:n]
}

// espFlips are in each file of the ESP, in its folders, boot sectors and tables.
func espFlips(t *testing.T, m *medium.Medium) (flips []flip) {
	t.Helper()
	for _, v := range m.Volumes {
		if v.Label != layout.LabelESP {
			continue
		}
		files, err := v.Open()
		if err != nil {
			t.Fatal(err)
		}
		esp := begin(t, v)
		add := func(at int, what string, want ...string) {
			flips = append(flips, flip{int(v.Start) + at, what, want})
		}
		err = fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			// Each piece of the file, where it is; equal files are there several times.
			for _, off := range []int{0, len(b) / 3, len(b) - min(len(b), 48)} {
				piece := b[off:min(len(b), off+48)]
				if len(bytes.Trim(piece, "\x00\n ")) < 24 { // it is anywhere
					continue
				}
				for at, n := 0, 0; n < 3; n++ {
					i := bytes.Index(esp[at:], piece)
					if i < 0 {
						break
					}
					add(at+i+len(piece)/2, name, path.Base(name), "kairos-", "ESP", "vmlinuz", "initrd")
					at += i + len(piece)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{3, 11, 13, 14, 16, 17, 24, 28, 36, 44, 64, 67, 71, 82, 510} {
			add(at, "boot sector", "FAT", "ESP", "open medium", "COS_GRUB", "release")
		}
		le := binary.LittleEndian
		sector, reserved := int(le.Uint16(esp[11:])), int(le.Uint16(esp[14:]))
		cluster, size := int(esp[13])*sector, int(le.Uint32(esp[36:]))*sector
		if le.Uint16(esp[22:]) != 0 {
			t.Fatal("the ESP is not FAT32: this test does not know where things are")
		}
		for i := range 2 {
			add((1+6*i)*sector+2, "FSInfo", "FSInfo", "FAT")
			add(6*sector+13, "the boot sector's copy", "FAT")
			for _, entry := range []int{0, 4, 8, 12, 24, 80, 400, 4000, size - 4} {
				add(reserved*sector+i*size+entry, "FAT", "FAT", "ESP", "kairos-", "volume", "release")
			}
		}
		data := reserved*sector + 2*size
		root := data + int(le.Uint32(esp[44:])-2)*cluster
		flips = append(flips, direntFlips(int(v.Start), esp, root, cluster/32)...)
		for at := data; at+cluster <= len(esp); at += cluster {
			if bytes.HasPrefix(esp[at:], []byte(".          \x10")) {
				flips = append(flips, direntFlips(int(v.Start), esp, at+64, cluster/32-2)...)
			}
		}
	}
	return flips
}

// direntFlips are in the name, the cluster and the size of each dirent, but in no volume label, time or attribute.
func direntFlips(start int, esp []byte, at, n int) (flips []flip) {
	for range n {
		d := esp[at : at+32]
		if d[0] == 0 {
			break
		}
		offsets := []int{0, 7, 26}
		switch {
		case d[0] == 0xe5 || d[11] == 0x08:
			offsets = nil
		case d[11] == 0x0f: // a part of a long name
			offsets = []int{1, 13}
		case d[11]&0x10 == 0:
			offsets = append(offsets, 28)
		}
		for _, off := range offsets {
			flips = append(flips, flip{start + at + off, fmt.Sprintf("dirent %q, byte %d", d[:11], off), []string{
				"ESP", "kairos-", "EFI", "loader", "grub", "release", "volume", "vmlinuz", "initrd", "README",
				"FAT", "entry.cfg",
			}})
		}
		at += 32
	}
	return flips
}

// storeFlips are in each file of both stores: superblocks, data and trees of blobs, their sidecars, and the releases.
func storeFlips(t *testing.T, m *medium.Medium) (flips []flip) {
	t.Helper()
	r := m.Releases[0]
	stores := 0
	for _, v := range m.Volumes {
		if v.Label != layout.LabelState && v.Label != layout.LabelRecovery {
			continue
		}
		stores++
		files, err := v.Open()
		if err != nil {
			t.Fatal(err)
		}
		part := begin(t, v)
		add := func(name string, b []byte, off int, want ...string) {
			t.Helper()
			piece := b[off:min(len(b), off+64)]
			i := bytes.Index(part, piece)
			if i < 0 || len(bytes.Trim(piece, "\x00")) == 0 {
				t.Fatalf("%s: its bytes at %d are not found", name, off)
			}
			flips = append(flips, flip{int(v.Start) + i, name, want})
		}
		read := func(name string) []byte {
			t.Helper()
			b, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		record := read(layout.ReleasePath(r.ID()))
		for off := 0; off < len(record); off += 311 {
			add("release.json", record, off, "release", "signature")
		}
		signatures := read(layout.ReleaseSignaturesPath(r.ID()))
		for off := 0; off < len(signatures); off += 83 {
			add("release.sig", signatures, off, "release", "signature")
		}
		for _, l := range r.Layers {
			b := read(layout.BlobPath(l.DiffID))
			const superblock = 1024 // of EROFS
			tree := int(l.Size)
			offsets := []int{superblock, superblock + 32, tree, tree + 32, tree + 70, tree + verity.BlockSize}
			for _, off := range offsets {
				add("blob", b, off, string(l.DiffID))
			}
			sidecar := read(layout.SidecarPath(l.DiffID))
			for _, off := range []int{0, 14, len(sidecar) - 2} {
				add("sidecar", sidecar, off, string(l.DiffID))
			}
		}
	}
	if stores != 2 {
		t.Fatalf("%d stores", stores)
	}
	return flips
}
