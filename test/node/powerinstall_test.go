//go:build vm

package node

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// TestPowerCutInstallation has the writes of an installation: until its last one there is no disk that
// anything could boot from, and from then on one that boots.
func TestPowerCutInstallation(t *testing.T) {
	t.Parallel()
	bothFirmwares(t, func(t *testing.T, firmware qemu.Firmware) {
		installations[firmware].get(t, firmware)
		log := readLog(t, installLog(firmware))
		dir := scratch(t)
		end := newJudge(t, firmware, blank(t, dir, "end"))
		if err := log.Apply(end, 0, len(log.Ops)); err != nil {
			t.Fatal(err)
		}
		if err := end.partitions(); err != nil {
			t.Fatal(err)
		}
		if err := end.learn(); err != nil {
			t.Fatal(err)
		}

		j := newJudge(t, firmware, blank(t, dir, "disk"))
		j.known, j.blobs = end.known, end.blobs
		intervals := log.Intervals(0, len(log.Ops))
		blankStates, complete := 0, 0
		judgeNow := func(i int, what string) {
			there, err := j.visible()
			if err != nil {
				t.Fatal(err)
			}
			if !there {
				if out, err := exec.Command("partx", "--show", j.disk.Name()).CombinedOutput(); err == nil {
					t.Fatalf("partitions before the boot record:\n%s", out)
				}
				blankStates++
				return
			}
			if j.parts == nil {
				if err := j.partitions(); err != nil {
					t.Fatal(err)
				}
			}
			complete++
			if err := j.state(); err != nil {
				t.Errorf("power cut in the installation, flush %d of %d, %s: %v", i, len(intervals), what, err)
			}
		}
		for i, v := range intervals {
			judgeNow(i, "nothing after it")
			if some := log.Subset(v, 1); some != nil {
				if err := log.ApplyIndices(j, some); err != nil {
					t.Fatal(err)
				}
				j.inFlight = true
				judgeNow(i, "some of the next ones")
				j.inFlight = false
			}
			if err := log.Apply(j, v.From, v.To); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf(
			"%d operations, %d flushes: %d disks without partitions, %d complete",
			len(log.Ops),
			len(intervals),
			blankStates,
			complete,
		)
		if blankStates == 0 || complete == 0 {
			t.Error("the boot record was not seen to come")
		}
		if !t.Failed() {
			seesDamage(t, j)
		}
	}, qemu.UEFI, qemu.BIOS)
}

// blank makes an empty disk.
func blank(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := run("truncate", "-s", fmt.Sprint(diskSize), path); err != nil {
		t.Fatal(err)
	}
	return path
}
