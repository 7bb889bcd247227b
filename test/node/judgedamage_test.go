//go:build vm

package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	klayout "github.com/kairos-buildkit/kairos/layout"
)

// seesDamage damages a disk that is good in one way after the other: the judge must see each.
func seesDamage(t *testing.T, j *judge) {
	t.Helper()
	inExt4 := func(do string) func(p *part) error {
		return func(p *part) error {
			dir := filepath.Join(j.scratch, "damage")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			err := run("mount", "-t", "ext4", "-o", fmt.Sprintf("loop,offset=%d,sizelimit=%d", p.start, p.size),
				j.disk.Name(), dir)
			if err != nil {
				return err
			}
			return errors.Join(run("sh", "-euc", "cd "+dir+"; "+do), unmount(dir))
		}
	}
	for _, c := range []struct {
		name, part string
		do         func(p *part) error
		says       string
	}{
		{"a byte of a layer", "state",
			inExt4(`f=$(find blobs -name '*.erofs' -size +1M | head -n 1); ` +
				`printf x | dd of=$f bs=1 seek=500000 conv=notrunc`), "layer sha256:"},
		{"release.json", "recovery", inExt4(`truncate -s 100 releases/*/release.json`), "is damaged: "},
		{"a byte of a boot file", "efi", func(p *part) error {
			return j.copiedFAT(p, func(dir string) error {
				if err := j.copyFAT(p, klayout.GrubKernelDir+"/"+j.part("efi").esp.order[0].ID+"/*", dir); err != nil {
					return err
				}
				return run("sh", "-euc", "cd "+dir+"; for f in "+klayout.UKIDir+"/*.efi "+klayout.GrubKernelDir+
					"/*/initrd; do printf x | dd of=$f bs=1 seek=1000000 conv=notrunc; "+
					fmt.Sprintf("mcopy -o -i %s@@%d $f ::$f; done", j.disk.Name(), p.start))
			})
		}, "neither the old nor the new file"},
		{"one of two FATs", "efi", func(p *part) error {
			_, err := j.disk.WriteAt([]byte("xxxxxxxx"), p.start+32*512+4096)
			return err
		}, "fsck.vfat"},
		{"a folder of OEM", "oem", func(p *part) error {
			return exec.Command("debugfs", "-w", "-R", "clri <11>",
				fmt.Sprintf("%s?offset=%d", j.disk.Name(), p.start)).Run()
		}, "e2fsck"},
	} {
		if err := j.state(); err != nil && strings.Contains(err.Error(), c.says) {
			t.Fatalf("before the damage to %s: %v", c.name, err)
		}
		p := j.part(c.part)
		if err := c.do(p); err != nil {
			t.Fatalf("damage %s: %v", c.name, err)
		}
		p.changed = true
		if err := j.state(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("damage to %s: got %v, want %q", c.name, err, c.says)
		}
	}
}
