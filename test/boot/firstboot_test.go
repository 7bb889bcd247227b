//go:build vm

package boot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

func tableOf(t *testing.T, path string) *gpt.Table {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, info.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// A raw image that was written to a larger disk has at its first boot the partitions that an installation makes there,
// and identifiers of its own; what is kept from then on stays.
func TestRawImageAdapts(t *testing.T) {
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 2, "")
		img.portable = true
		path := img.disk(t, 6<<30, true)
		before := tableOf(t, path)
		start := func() report {
			return wait(t, vmtest.Start(t, qemu.Machine{Firmware: f, NoNet: true, NoReboot: true,
				Drives: []qemu.Drive{{Path: path, Bus: qemu.Virtio}}}))
		}
		first, second := start(), start()
		if first.Boot.Role != layout.RoleSystem || first.Size < 2000 || first.MachineID != second.MachineID ||
			second.Written["/home"] != "1" {
			t.Errorf("%+v\n%+v", first, second)
		}
		after := tableOf(t, path)
		if after.Damage != gpt.Sound || after.GUID() == before.GUID() {
			t.Errorf("%+v", after)
		}
		for i, p := range after.Partitions {
			if p.GUID == before.Partitions[i].GUID {
				t.Errorf("%s has the image's GUID", p.Name)
			}
			size := (p.Last - p.First + 1) * 512
			if want := int64(6<<30) / 5; p.Name == "state" && (size < want || size > want+1<<20) {
				t.Errorf("STATE has %d bytes, want %d", size, want)
			}
			if p.Name == "state" || p.Name == "recovery" || p.Name == "oem" || p.Name == "persistent" {
				checkExt4(t, path, p.First*512, size)
			}
		}
	})
}

// checkExt4 has e2fsck look at a partition, whose file system takes all of it.
func checkExt4(t *testing.T, path string, at, size int64) {
	t.Helper()
	part := filepath.Join(t.TempDir(), "part")
	if out, err := exec.Command("dd", "if="+path, "of="+part, "bs=1M", "conv=sparse", fmt.Sprintf("skip=%d", at>>20),
		fmt.Sprintf("count=%d", size>>20)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer os.Remove(part)
	// What the machine left in the journal as it ended is no damage, and -n reads none of it.
	var status *exec.ExitError
	replay, err := exec.Command("/sbin/e2fsck", "-y", "-E", "journal_only", part).CombinedOutput()
	if err != nil && !(errors.As(err, &status) && status.ExitCode() == 1) {
		t.Fatalf("%v: %s", err, replay)
	}
	if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", part).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	out, err := exec.Command("/sbin/dumpe2fs", "-h", part).Output()
	if err != nil {
		t.Fatal(err)
	}
	var blocks int64
	for i := range out {
		if n, _ := fmt.Sscanf(string(out[i:]), "\nBlock count: %d", &blocks); n == 1 {
			break
		}
	}
	if size-blocks*4096 > 8<<20 {
		t.Errorf("the file system has %d bytes of %d", blocks*4096, size)
	}
}

// Of two disks with the same raw image, the one that the firmware started is used, and the other left alone; where the
// firmware does not say which that was, the machine stops.
func TestTwoCopies(t *testing.T) {
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 2, "")
		img.portable = true
		started := img.disk(t, 0, true)
		// The kernel names it before the one that was started.
		other := vmtest.Copy(t, started)
		was := tableOf(t, other).GUID()
		vm := vmtest.Start(t, qemu.Machine{Firmware: f, NoNet: true, NoReboot: true,
			Drives: []qemu.Drive{{Path: started, Bus: qemu.Virtio}, {Path: other, Bus: qemu.AHCI}}})
		if f == qemu.BIOS {
			vm.Expect(
				`cannot boot: /dev/[a-z]+ and /dev/[a-z]+ have the partition [^\n]*Detach the others`,
				vmtest.BootTimeout,
			)
			vm.Expect("stopped until somebody has looked", vmtest.BootTimeout)
			vm.PowerCut()
			return
		}
		r := wait(t, vm)
		if r.Boot.Devices["state"] != "/dev/vda5" {
			t.Errorf("%+v", r)
		}
		if tableOf(t, other).GUID() != was || tableOf(t, started).GUID() == was {
			t.Error("the wrong disk was adapted")
		}
	})
}
