package fat

import (
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// Whatever is asked of the writer, programs that we did not write accept the volume, and read the same from it.
func FuzzWriteFAT(f *testing.F) {
	disktest.AddSeeds(f, 16)
	f.Fuzz(func(t *testing.T, input []byte) {
		c := disktest.NewChoices(input)
		v := FileSystem{
			Label:  disktest.Pick(c, "", "A", "COS_GRUB", "ELEVEN CHAR"),
			Serial: uint32(c.N(1 << 32)), Time: disktest.Time,
			SectorSize: disktest.Pick[int64](c, 0, 512, 1024, 2048, 4096), Hidden: uint32(c.N(1 << 20)),
			Files: c.Files(disktest.Names+"äßжé日", 200, 5, true),
		}
		least, err := v.Image()
		if err != nil {
			t.Fatal(err)
		}
		if c.Bool() {
			v.Size = (least.Size + c.N(disktest.Pick[int64](c, 1<<20, 1<<25, 1<<29))) / 4096 * 4096
		}
		if c.N(4) == 0 {
			beside := filetree.Bytes("beside", disktest.Content("beside", int(c.N(50)*4096)))
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
		img := disktest.WriteSparse(t, func() (*sparse.Image, error) { return m, nil })
		out := disktest.Tool(t, "fsck.vfat", "-n", "-v", img)
		for _, bad := range []string{"differ", "wrong", "Free cluster", "Bad ", "bad "} {
			if strings.Contains(out, bad) {
				t.Errorf("%+v: %s", v, out)
			}
		}
		dir := disktest.Removable(t)
		t.Setenv("LC_ALL", "C.UTF-8")
		t.Setenv("MTOOLS_SKIP_CHECK", "1")
		if len(v.Files) > 0 {
			disktest.Tool(t, "mcopy", "-i", img, "-s", "-n", "-m", "::*", dir)
		}
		disktest.SameTree(t, dir, v.Files)
	})
}
