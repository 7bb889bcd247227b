package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/layout"
)

// Whatever is asked of a writer, a program that we did not write accepts the medium, and reads the same from it.

const plainNames = "abcxyzABCXYZ0123456789-_+.~ "

func FuzzWriteFAT(f *testing.F) {
	addSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newChoices(input)
		v := FAT{
			Label: pick(c, "", "A", "COS_GRUB", "ELEVEN CHAR"), Serial: uint32(c.n(1 << 32)), Time: testTime,
			SectorSize: pick[int64](c, 0, 512, 1024, 2048, 4096), Hidden: uint32(c.n(1 << 20)),
			Files: c.files(plainNames+"äßжé日", 200, 5, true),
		}
		least, err := v.Image()
		if err != nil {
			t.Fatal(err)
		}
		if c.bool() {
			v.Size = (least.Size + c.n(pick[int64](c, 1<<20, 1<<25, 1<<29))) / 4096 * 4096
		}
		if c.n(4) == 0 {
			beside := Bytes("beside", content("beside", int(c.n(50)*4096)))
			v.Beside = &beside
		}
		m, err := v.Image()
		if err != nil && v.Size > 0 &&
			(strings.Contains(err.Error(), "for FAT") || strings.Contains(err.Error(), "the files need")) {
			return // a size between those of two kinds, or larger clusters
		}
		if err != nil {
			t.Fatal(err)
		}
		img := writeSparse(t, func() (*Image, error) { return m, nil })
		out := tool(t, "fsck.vfat", "-n", "-v", img)
		for _, bad := range []string{"differ", "wrong", "Free cluster", "Bad ", "bad "} {
			if strings.Contains(out, bad) {
				t.Errorf("%+v: %s", v, out)
			}
		}
		dir := removable(t)
		t.Setenv("LC_ALL", "C.UTF-8")
		t.Setenv("MTOOLS_SKIP_CHECK", "1")
		if len(v.Files) > 0 {
			tool(t, "mcopy", "-i", img, "-s", "-n", "-m", "::*", dir)
		}
		sameTree(t, dir, v.Files)
	})
}

func FuzzWriteISO(f *testing.F) {
	addSeeds(f, 16)
	uki := Bytes("EFI/BOOT/BOOTX64.EFI", content("uki", 9000))
	efi, err := FAT{Label: "EFI", Time: testTime, Files: []File{uki}}.Image()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newChoices(input)
		iso := ISO{
			Volume: pick(c, "COS_LIVE", "V", ""), Time: testTime,
			Files: c.files(plainNames+"äß日🐧:*?\\\"'", 100, 7, false),
		}
		var extra []string
		boot := c.n(3)
		if boot != 0 {
			iso.EFI = efi
		}
		if boot != 1 {
			iso.BootHybrid, iso.ElTorito = content("boot", 512), content("torito", int(3000+c.n(9000)))
			extra = []string{"boot", "boot/grub", "boot/grub/eltorito.img"}
			iso.Files = slices.DeleteFunc(iso.Files, func(f File) bool { return f.Path == "boot" })
		}
		img := writeSparse(t, iso.Image)
		out := tool(t, "xorriso", "-indev", img, "-report_el_torito", "plain")
		for _, bad := range []string{"WARNING", "SORRY", "FAILURE"} {
			if strings.Contains(out, bad) {
				t.Error(out)
			}
		}
		dir := removable(t)
		tool(t, "xorriso", "-osirrox", "on", "-indev", img, "-extract", "/", dir)
		sameTree(t, dir, iso.Files, extra...)
		table, folders := pathTable(tool(t, "isoinfo", "-p", "-i", img)), listed(tool(t, "isoinfo", "-l", "-i", img))
		slices.Sort(table)
		slices.Sort(folders)
		if !slices.Equal(table, folders) {
			t.Errorf("path table %q, folders %q", table, folders)
		}
		// Without Rock Ridge, every file has a name of its own.
		plain := strings.Fields(tool(t, "isoinfo", "-f", "-i", img))
		slices.Sort(plain)
		if all := len(plain); all != len(slices.Compact(plain)) {
			t.Errorf("plain names: %q", plain)
		}
	})
}

func FuzzWriteExt4(f *testing.F) {
	addSeeds(f, 12)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newChoices(input)
		e := Ext4{
			Label: pick(c, "", "COS_STATE", "SIXTEEN BYTES ..."[:16]), UUID: derive(input, "uuid"), Time: testTime,
			Files: c.files(plainNames+"äß日🐧:*?\\\"'", 255, 6, false),
		}
		var err error
		if e.Size, err = e.MinSize(c.n(pick[int64](c, 1, 1<<20, 1<<28, 1<<31))); err != nil {
			t.Fatal(err)
		}
		e.Size += pick(c, 0, 1, 4095, c.n(1<<28))
		img := writeSparse(t, e.Image)
		e2fsck(t, img)
		dir := removable(t)
		tool(t, "debugfs", "-R", "rdump / "+dir, img)
		sameTree(t, dir, e.Files, ext4LostFound)
	})
}

func FuzzWriteGPT(f *testing.F) {
	addSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newChoices(input)
		d := Disk{Seed: input, Time: testTime, SectorSize: pick[int64](c, 0, 512, 4096)}
		rest := c.n(20)
		for i := range 1 + c.n(pick[int64](c, 6, 128)) {
			d.Partitions = append(d.Partitions, Partition{Rest: i == rest, Partition: layout.Partition{
				Name: fmt.Sprint(pick(c, "state", "ä", "🐧", strings.Repeat("n", 30)), i),
				Type: pick(c, layout.TypeLinux, layout.TypeESP, layout.TypeBIOSBoot), Size: 1 + c.n(8<<20),
			}})
		}
		size, _, err := d.Place()
		if err != nil {
			t.Fatal(err)
		}
		if c.bool() {
			d.Size = size + c.n(1<<40)/512*512
		}
		img := writeSparse(t, d.Image)
		size, placed, err := d.Place()
		if err != nil {
			t.Fatal(err)
		}
		if d.sector() == 512 {
			if out := tool(t, "sgdisk", "-v", img); !strings.Contains(out, "No problems found") ||
				strings.Contains(out, "aution") || strings.Contains(out, "nvalid") {
				t.Error(out)
			}
		}
		got := readTable(t, img, d.sector())
		if got.Label != "gpt" || len(got.Partitions) != len(placed) {
			t.Fatalf("%+v, want %+v", got, placed)
		}
		for i, p := range placed {
			g := got.Partitions[i]
			if g.Start*d.sector() != p.Start || g.Size*d.sector() != p.Size || !strings.EqualFold(g.Type, p.Type) ||
				!strings.EqualFold(g.UUID, p.GUID) || g.Name != p.Name || p.Start+p.Size > size {
				t.Errorf("%+v, want %+v", g, p)
			}
		}
	})
}

func FuzzWriteQCOW2(f *testing.F) {
	addSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := newChoices(input)
		m := &Image{Size: (1 + c.n(pick[int64](c, 1<<16, 1<<24, 1<<32))) * 512}
		for at := int64(0); len(m.extents) < 20; {
			at += c.n(pick[int64](c, 2, 1<<12, 1<<18, 1<<30)) * pick[int64](c, 1, 512, 1<<16)
			size := c.size()
			if at+size > m.Size {
				break
			}
			if c.n(4) == 0 {
				m.addZero(at, size)
			} else {
				m.addBytes(at, "extent", content(fmt.Sprint("extent ", at), int(size)))
			}
			at += size
		}
		raw := writeSparse(t, func() (*Image, error) { return m, nil })
		ours := writeSparse(t, func() (*Image, error) { return QCOW2(m) })
		tool(t, "qemu-img", "check", "-f", "qcow2", ours)
		tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", ours, raw)
		// And the other way: what QEMU writes, OpenQCOW2 reads.
		theirs := filepath.Join(t.TempDir(), "theirs")
		args := []string{"convert", "-f", "raw", "-O", "qcow2", "-o",
			fmt.Sprintf("cluster_size=%d,compat=%s", 512<<c.n(13), pick(c, "0.10", "1.1"))}
		if c.bool() {
			args = append(args, "-c")
		}
		if m.Size > 1<<30 {
			return // metadata of gigabytes in clusters of 512 bytes
		}
		tool(t, "qemu-img", append(args, raw, theirs)...)
		for _, name := range []string{ours, theirs} {
			disk, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer disk.Close()
			r, size, err := OpenQCOW2(disk)
			if err != nil || size != m.Size {
				t.Fatalf("%d bytes (%v), want %d", size, err, m.Size)
			}
			for _, e := range m.extents {
				got := make([]byte, e.size)
				if err := readFull(r, got, e.at); err != nil {
					t.Fatal(err)
				}
				want := make([]byte, e.size)
				if e.open != nil {
					copy(want, content(fmt.Sprint("extent ", e.at), int(e.size)))
				}
				if string(got) != string(want) {
					t.Errorf("%s: %d bytes at %d differ", name, e.size, e.at)
				}
			}
		}
	})
}
