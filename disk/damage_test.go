package disk

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/internal/disktest"
	"github.com/kairos-buildkit/kairos/disk/sparse"
)

// The checks of the other tests have to see damage, or they prove nothing. (FAT and ext4 have
// theirs beside their tests.)
func TestCheckersSeeDamage(t *testing.T) {
	disk := func() (*sparse.Image, error) { return testSystem().image() }
	qcow := func() (*sparse.Image, error) {
		m, err := disk()
		if err != nil {
			return nil, err
		}
		return QCOW2(m)
	}
	for name, c := range map[string]struct {
		lay   func() (*sparse.Image, error)
		at    int64
		good  string // what the checker says of a sound one
		check []string
	}{
		"GPT entry":      {disk, 2*lba + 33, "No problems found", []string{"sgdisk", "-v"}},
		"qcow2 refcount": {qcow, 2*qcowCluster + 5, "No errors were found", []string{"qemu-img", "check"}},
		"ISO folder":     {testISO(t).Image, 16*sector + 156 + 2, "/boot", []string{"xorriso"}},
	} {
		t.Run(name, func(t *testing.T) {
			img := disktest.WriteSparse(t, c.lay)
			sound := func() bool {
				args := append([]string(nil), c.check[1:]...)
				if name == "ISO folder" {
					args = []string{"-indev", img, "-find", "/"}
				} else {
					args = append(args, img)
				}
				out, err := exec.Command(c.check[0], args...).CombinedOutput()
				return err == nil && strings.Contains(string(out), c.good)
			}
			if !sound() {
				t.Fatal("the checker refuses a sound one")
			}
			f, err := os.OpenFile(img, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, c.at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 0x41
			if _, err := f.WriteAt(b, c.at); err != nil {
				t.Fatal(err)
			}
			if sound() {
				t.Errorf("%s accepts a changed byte at %d", c.check[0], c.at)
			}
		})
	}
}
