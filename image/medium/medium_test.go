package medium

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/verity"
)

var made = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func digestOf(c string) layout.Digest { return layout.Digest("sha256:" + strings.Repeat(c, 64)) }

// release has two layers: one that all have, and one of its own.
func release(c string) layout.Release {
	r := layout.Release{Version: "v" + c, Image: "example/os:" + c, Config: digestOf(c), Arch: "amd64",
		Labels: map[string]string{layout.ImageLabelCmdline: "quiet"}}
	for _, d := range []layout.Digest{digestOf("0"), digestOf(c)} {
		r.Layers = append(r.Layers, layout.Layer{DiffID: d, Size: 4096, RootHash: strings.Repeat("a", 64)})
	}
	return r
}

// storeFiles are those of a store with releases.
func storeFiles(t *testing.T, releases ...layout.Release) (files []filetree.File) {
	t.Helper()
	seen := map[layout.Digest]bool{}
	for _, r := range releases {
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		origin, err := layout.MarshalOrigin(r.Image)
		if err != nil {
			t.Fatal(err)
		}
		files = append(
			files,
			filetree.Bytes(layout.ReleasePath(r.ID()), b),
			filetree.Bytes(layout.ReleaseOriginPath(r.ID()), origin),
		)
		for _, l := range r.Layers {
			if !seen[l.DiffID] {
				files = append(files,
					filetree.Bytes(layout.BlobPath(l.DiffID), make([]byte, verity.TotalSize(l.Size))))
			}
			seen[l.DiffID] = true
		}
	}
	return files
}

// testDisk has the releases a, blessed, and b, on trial; c used up its tries; d has no entry; a is the recovery
// system.
func testDisk(t *testing.T) disk.Disk {
	t.Helper()
	a, b, c, d := release("a"), release("b"), release("c"), release("d")
	failed := layout.Entry{Seq: 3, ID: c.ID(), Counted: true, Done: 3}
	esp := []filetree.File{filetree.Bytes("EFI/BOOT/BOOTX64.EFI", []byte("loader"))}
	for _, e := range []layout.Entry{
		layout.Blessed(1, a.ID()), layout.OnTrial(2, b.ID()), failed, {Seq: layout.RecoverySeq, ID: a.ID()},
	} {
		esp = append(esp, filetree.Bytes(layout.UKIDir+"/"+e.String(), []byte("UKI")))
	}
	disks := disk.Disk{Seed: []byte("seed"), Time: made}
	for _, p := range layout.Partitions() {
		part := disk.Partition{Partition: p, Free: 1 << 20}
		switch p.Name {
		case "efi":
			part.Size, part.Files = 48<<20, esp
		case "oem":
			part.Size, part.Files = 8<<20, []filetree.File{
				filetree.Bytes("90_custom.yaml", []byte("secret")), filetree.Bytes("x.txt", nil),
			}
		case "state":
			part.Files = storeFiles(t, a, b, c, d)
		case "recovery":
			part.Files = storeFiles(t, a)
		case "persistent":
			part.Size = 8 << 20
		}
		disks.Partitions = append(disks.Partitions, part)
	}
	return disks
}

func write(t *testing.T, m *sparse.Image, err error) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := m.WriteSparse(t.Context(), f, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(m.Size); err != nil {
		t.Fatal(err)
	}
	return f
}

func open(t *testing.T, f *os.File) *Medium {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDisk(t *testing.T) {
	d, err := testDisk(t).Image()
	m := open(t, write(t, d, err))
	var got []string
	for _, r := range m.Releases {
		got = append(got, r.Place+" "+r.Version+" "+r.Role)
		if !r.Time.Equal(made) {
			t.Errorf("%s: %v", r.ID(), r.Time)
		}
	}
	want := []string{"state vb active", "state va passive", "state vc failed", "state vd ", "recovery va recovery"}
	if !slices.Equal(got, want) || len(m.Problems) > 0 || !slices.Equal(m.Configs, []string{"90_custom.yaml"}) {
		t.Errorf("%q, want %q; problems %q, configs %q", got, want, m.Problems, m.Configs)
	}
	for name, want := range map[string]string{
		"": "vb", RolePassive: "va", "recovery": "va", release("d").ID(): "vd",
	} {
		if r, err := m.Find(name); err != nil || r.Version != want {
			t.Errorf("%q: %+v, %v", name, r, err)
		}
	}
	if _, err := m.Find("nothing"); err == nil || !strings.Contains(err.Error(), `no release "nothing": it has `) {
		t.Errorf("%v", err)
	}
	m.State = loader.State{}
	m.setRoles()
	if _, err := m.Find(""); err == nil || !strings.Contains(err.Error(), "add :RELEASE, one of") {
		t.Errorf("%v", err)
	}
}

func TestImage(t *testing.T) {
	d, err := testDisk(t).Image()
	m := open(t, write(t, d, err))
	r, err := m.Find("passive")
	if err != nil {
		t.Fatal(err)
	}
	img, err := r.Image(image.Options{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	if img.ConfigDigest != digestOf("a") || img.Version() != "va" || len(img.Layers) != 2 ||
		img.Made.Image != "example/os:a" ||
		img.Config.Config.Labels[layout.ImageLabelCmdline] != "quiet" || !img.Config.Created.Equal(made) {
		t.Errorf("%+v", img)
	}
	b := img.Layers[1].Blob
	if n, err := b.ReadAt(make([]byte, 4096), 0); n != 4096 || b.DiffID != digestOf("a") {
		t.Errorf("%+v: %d, %v", b, n, err)
	}
	for want, o := range map[string]image.Options{
		"it is for linux/amd64, not for linux/arm64": {Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}},
		"too large": {Limit: &image.Limit{Max: 4096}},
	} {
		if _, err := r.Image(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What is damaged is said, and the rest is read.
func TestDamaged(t *testing.T) {
	d := testDisk(t)
	for i := range d.Partitions {
		p := &d.Partitions[i]
		for j, f := range p.Files {
			if f.Path == layout.ReleasePath(release("b").ID()) {
				p.Files[j] = filetree.Bytes(f.Path, []byte("{}"))
			}
			if p.Name == "state" && f.Path == layout.BlobPath(digestOf("d")) {
				p.Files[j] = filetree.Bytes(f.Path, []byte("short"))
			}
		}
	}
	laid, err := d.Image()
	f := write(t, laid, err)
	m := open(t, f)
	if len(m.Problems) != 1 || !strings.Contains(m.Problems[0], "state: release "+release("b").ID()) ||
		len(m.Releases) != 4 {
		t.Errorf("%q, %d releases", m.Problems, len(m.Releases))
	}
	r, err := m.Find(release("d").ID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Image(image.Options{}); err == nil || !strings.Contains(err.Error(), "the medium is damaged") {
		t.Errorf("%v", err)
	}
	// The ESP's boot sector.
	if _, err := f.WriteAt(make([]byte, 512), m.Volumes[1].Start); err != nil {
		t.Fatal(err)
	}
	if m := open(t, f); len(m.Releases) != 4 || len(m.BootFiles) != 0 {
		t.Errorf("%d releases, %d boot files", len(m.Releases), len(m.BootFiles))
	}
}

// A file system that was not unmounted is said to be one.
func TestDirty(t *testing.T) {
	d, err := testDisk(t).Image()
	f := write(t, d, err)
	m := open(t, f)
	b := make([]byte, 1024) // the superblock, with its checksum
	at := m.Volumes[4].Start + 1024
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0x60] |= 4
	binary.LittleEndian.PutUint32(b[0x3fc:], ^crc32.Checksum(b[:0x3fc], crc32.MakeTable(crc32.Castagnoli)))
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if m := open(t, f); len(m.Problems) != 1 || !strings.Contains(m.Problems[0], "COS_STATE: it was not unmounted") {
		t.Errorf("%q", m.Problems)
	}
}

func TestNoMedium(t *testing.T) {
	if _, err := Open(bytes.NewReader(make([]byte, 1<<20)), 1<<20); err == nil {
		t.Error("zeros are a medium")
	}
	// A disk of another system.
	d := disk.Disk{Seed: []byte("x"), Partitions: []disk.Partition{{Partition: layout.Partition{
		Name: "root", FS: "ext4", Label: "root", Type: layout.TypeLinux, Size: 8 << 20,
	}}}}
	laid, err := d.Image()
	m := open(t, write(t, laid, err))
	if _, err := m.Find(""); err == nil || !strings.Contains(err.Error(), "it was not made by Kairos") {
		t.Errorf("%v", err)
	}
}

// No bytes make it panic, or read without an end.
func FuzzOpen(f *testing.F) {
	iso := disk.ISO{
		Volume: layout.LabelLive,
		Files:  []filetree.File{filetree.Bytes("kairos/releases/aaaaaaaaaaaa/release.json", []byte("{}"))},
	}
	efi, err := fat.FileSystem{
		Label: layout.LabelESP,
		Files: []filetree.File{filetree.Bytes("EFI/BOOT/BOOTX64.EFI", []byte("MZ"))},
	}.Image()
	if err != nil {
		f.Fatal(err)
	}
	iso.EFI = efi
	m, err := iso.Image()
	if err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.WriteTo(f.Context(), &b); err != nil {
		f.Fatal(err)
	}
	whole := b.Bytes()
	f.Add(uint32(16*2048+156), []byte{0})
	f.Add(uint32(446), []byte{0xff})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		if int(at)+len(change) > len(whole) || len(change) > 4096 {
			return
		}
		m, err := Open(changed{whole, int64(at), change}, int64(len(whole)))
		if err != nil {
			return
		}
		for i := range m.Releases {
			_, _ = m.Releases[i].Image(image.Options{})
		}
	})
}

// changed are bytes of which some are others.
type changed struct {
	b      []byte
	at     int64
	change []byte
}

func (c changed) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(c.b).ReadAt(b, off)
	for i := range c.change {
		if j := c.at + int64(i) - off; j >= 0 && j < int64(n) {
			b[j] = c.change[i]
		}
	}
	return n, err
}

var _ io.ReaderAt = changed{}
