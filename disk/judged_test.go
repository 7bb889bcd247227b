package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
	"github.com/kairos-buildkit/kairos/layout"
)

// Whatever is asked of a writer, a program that we did not write accepts the medium, and reads the same from it.

func FuzzWriteISO(f *testing.F) {
	disktest.AddSeeds(f, 16)
	uki := filetree.Bytes("EFI/BOOT/BOOTX64.EFI", disktest.Content("uki", 9000))
	efi, err := fat.FileSystem{Label: "EFI", Time: disktest.Time, Files: []filetree.File{uki}}.Image()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		c := disktest.NewChoices(input)
		iso := ISO{
			Volume: disktest.Pick(c, "COS_LIVE", "V", ""), Time: disktest.Time,
			Files: c.Files(disktest.Names+"äß日🐧:*?\\\"'", 100, 7, false),
		}
		var extra []string
		boot := c.N(3)
		if boot != 0 {
			iso.EFI = efi
		}
		if boot != 1 {
			iso.BootHybrid, iso.ElTorito =
				disktest.Content("boot", 512), disktest.Content("torito", int(3000+c.N(9000)))
			extra = []string{"boot", "boot/grub", "boot/grub/eltorito.img"}
			iso.Files = slices.DeleteFunc(iso.Files, func(f filetree.File) bool { return f.Path == "boot" })
		}
		img := disktest.WriteSparse(t, iso.Image)
		out := disktest.Tool(t, "xorriso", "-indev", img, "-report_el_torito", "plain")
		for _, bad := range []string{"WARNING", "SORRY", "FAILURE"} {
			if strings.Contains(out, bad) {
				t.Error(out)
			}
		}
		dir := disktest.Removable(t)
		disktest.Tool(t, "xorriso", "-osirrox", "on", "-indev", img, "-extract", "/", dir)
		disktest.SameTree(t, dir, iso.Files, extra...)
		table := pathTable(disktest.Tool(t, "isoinfo", "-p", "-i", img))
		folders := listed(disktest.Tool(t, "isoinfo", "-l", "-i", img))
		slices.Sort(table)
		slices.Sort(folders)
		if !slices.Equal(table, folders) {
			t.Errorf("path table %q, folders %q", table, folders)
		}
		// Without Rock Ridge, every file has a name of its own.
		plain := strings.Fields(disktest.Tool(t, "isoinfo", "-f", "-i", img))
		slices.Sort(plain)
		if all := len(plain); all != len(slices.Compact(plain)) {
			t.Errorf("plain names: %q", plain)
		}
	})
}

func FuzzWriteExt4(f *testing.F) {
	disktest.AddSeeds(f, 12)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := disktest.NewChoices(input)
		e := Ext4{
			Label: disktest.Pick(c, "", "COS_STATE", "SIXTEEN BYTES ..."[:16]),
			UUID:  derive(input, "uuid"), Time: disktest.Time,
			Files: c.Files(disktest.Names+"äß日🐧:*?\\\"'", 255, 6, false),
		}
		var err error
		if e.Size, err = e.MinSize(c.N(disktest.Pick[int64](c, 1, 1<<20, 1<<28, 1<<31))); err != nil {
			t.Fatal(err)
		}
		e.Size += disktest.Pick(c, 0, 1, 4095, c.N(1<<28))
		img := disktest.WriteSparse(t, e.Image)
		e2fsck(t, img)
		dir := disktest.Removable(t)
		disktest.Tool(t, "debugfs", "-R", "rdump / "+dir, img)
		disktest.SameTree(t, dir, e.Files, ext4LostFound)
	})
}

func FuzzWriteGPT(f *testing.F) {
	disktest.AddSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := disktest.NewChoices(input)
		d := Disk{Seed: input, Time: disktest.Time, SectorSize: disktest.Pick[int64](c, 0, 512, 4096)}
		rest := c.N(20)
		for i := range 1 + c.N(disktest.Pick[int64](c, 6, 128)) {
			d.Partitions = append(d.Partitions, Partition{Rest: i == rest, Partition: layout.Partition{
				Name: fmt.Sprint(disktest.Pick(c, "state", "ä", "🐧", strings.Repeat("n", 30)), i),
				Type: disktest.Pick(c, layout.TypeLinux, layout.TypeESP, layout.TypeBIOSBoot), Size: 1 + c.N(8<<20),
			}})
		}
		size, _, err := d.Place()
		if err != nil {
			t.Fatal(err)
		}
		if c.Bool() {
			d.Size = size + c.N(1<<40)/512*512
		}
		img := disktest.WriteSparse(t, d.Image)
		size, placed, err := d.Place()
		if err != nil {
			t.Fatal(err)
		}
		if d.sector() == 512 {
			if out := disktest.Tool(t, "sgdisk", "-v", img); !strings.Contains(out, "No problems found") ||
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
	disktest.AddSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := disktest.NewChoices(input)
		m := &sparse.Image{Size: (1 + c.N(disktest.Pick[int64](c, 1<<16, 1<<24, 1<<32))) * 512}
		for at, count := int64(0), 0; count < 20; {
			at += c.N(disktest.Pick[int64](c, 2, 1<<12, 1<<18, 1<<30)) * disktest.Pick[int64](c, 1, 512, 1<<16)
			size := c.Size()
			if at+size > m.Size {
				break
			}
			if size > 0 {
				count++
			}
			if c.N(4) == 0 {
				m.AddZero(at, size)
			} else {
				m.AddBytes(at, "extent", disktest.Content(fmt.Sprint("extent ", at), int(size)))
			}
			at += size
		}
		raw := disktest.WriteSparse(t, func() (*sparse.Image, error) { return m, nil })
		ours := disktest.WriteSparse(t, func() (*sparse.Image, error) { return QCOW2(m) })
		disktest.Tool(t, "qemu-img", "check", "-f", "qcow2", ours)
		disktest.Tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", ours, raw)
		// And the other way: what QEMU writes, OpenQCOW2 reads.
		theirs := filepath.Join(t.TempDir(), "theirs")
		args := []string{"convert", "-f", "raw", "-O", "qcow2", "-o",
			fmt.Sprintf("cluster_size=%d,compat=%s", 512<<c.N(13), disktest.Pick(c, "0.10", "1.1"))}
		if c.Bool() {
			args = append(args, "-c")
		}
		if m.Size > 1<<30 {
			return // metadata of gigabytes in clusters of 512 bytes
		}
		disktest.Tool(t, "qemu-img", append(args, raw, theirs)...)
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
			extents, err := m.Extents()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range extents {
				got := make([]byte, e.Size)
				if err := readFull(r, got, e.At); err != nil {
					t.Fatal(err)
				}
				want := make([]byte, e.Size)
				if e.Open != nil {
					copy(want, disktest.Content(fmt.Sprint("extent ", e.At), int(e.Size)))
				}
				if string(got) != string(want) {
					t.Errorf("%s: %d bytes at %d differ", name, e.Size, e.At)
				}
			}
		}
	})
}
