//go:build vm

// Package boot tests /init in virtual machines, with a very small image: the Debian base's kernel, and an
// init that says what it finds. So a boot takes seconds, and the tests can afford many. They run side
// by side, since some of them wait for a machine that waits.
//
// `make test-vm` makes what it starts from: build/base and the boot assets. It needs no root.
package boot

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kairos-buildkit/kairos/assets"
	"github.com/kairos-buildkit/kairos/disk/gpt"
	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// report is what the probe says, see testdata/probe.
type report struct {
	Blessed     bool
	Boot        layout.Boot
	Root        string
	Layers      int
	LayerMounts []string
	Content     string
	Written     map[string]string
	MachineID   string
	Failures    string
	Size        uint64
	PCRs        map[string]string
}

// wait returns the probe's report, after which the machine is off.
func wait(t *testing.T, vm *vmtest.VM) report {
	t.Helper()
	m := vm.Expect(`probe: (\{.*\})\r?\n`, vmtest.BootTimeout)
	var r report
	if err := json.Unmarshal([]byte(m[1]), &r); err != nil {
		t.Fatalf("%v: %s", err, m[1])
	}
	vm.WaitOff(time.Minute)
	return r
}

// An image may have as many layers as container engines allow.
func TestLayers(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, 127} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			img := makeImage(t, n, "")
			vm := vmtest.Start(
				t,
				qemu.Machine{
					Firmware: qemu.BIOS,
					NoNet:    true,
					NoReboot: true,
					Drives:   []qemu.Drive{{Path: img.iso(t, layout.LabelLive), Bus: qemu.Virtio}},
				},
			)
			r := wait(t, vm)
			root := "overlay ro"
			if n == 1 {
				root = "erofs ro"
			}
			if r.Root != root || r.Layers != n || len(r.LayerMounts) > 0 || r.Content != img.content ||
				r.Boot.Role != layout.RoleLive || r.Boot.Release != img.release.ID() {
				t.Errorf("want %d layers, content %q: %+v", n, img.content, r)
			}
		})
	}
}

func firmwares(t *testing.T, do func(t *testing.T, f qemu.Firmware)) {
	for _, f := range []qemu.Firmware{qemu.UEFI, qemu.BIOS} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			do(t, f)
		})
	}
}

// What is persistent stays, what is ephemeral goes, what the image has is seen, and the last partition
// takes the whole disk.
func TestMountPolicy(t *testing.T) {
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 2, "")
		disk := img.disk(t, 3<<30, true)
		start := func() report {
			return wait(
				t,
				vmtest.Start(
					t,
					qemu.Machine{
						Firmware: f,
						NoNet:    true,
						NoReboot: true,
						Drives:   []qemu.Drive{{Path: disk, Bus: qemu.Virtio}},
					},
				),
			)
		}
		first, second := start(), start()
		if first.Boot.Role != layout.RoleSystem || first.Boot.Trial || first.Boot.Firmware != string(f) ||
			len(first.Boot.Devices) < 5 {
			t.Errorf("boot.json: %+v", first.Boot)
		}
		if first.MachineID == "" || first.MachineID != second.MachineID {
			t.Errorf("machine-id %q, then %q", first.MachineID, second.MachineID)
		}
		if first.Size < 1000 {
			t.Errorf("/usr/local has %d MiB: it has not grown", first.Size)
		}
		want := map[string]string{
			"/": "read-only", "/etc": "0", "/var": "0", "/srv": "0", "/tmp": "0",
			"/home": "1", "/opt": "1", "/root": "1", "/etc/ssh": "1", "/usr/local": "1", "/usr/local/bin": "1",
			"/oem": "1", "/var/lib/containerd": "1",
			"/etc/ssh/image": "image", "/usr/local/bin/image": "image",
		}
		if d := cmp.Diff(want, second.Written); d != "" {
			t.Error(d)
		}
	})
}

// A release whose files are damaged uses up its tries, and the machine ends in the recovery system by itself; the
// reason is kept. It was healthy once under BIOS, where GRUB counts nine tries, and is on trial under UEFI, for time:
// that systemd-boot counts nine is seen in test/node.
func TestDamagedReleaseFallsBack(t *testing.T) {
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 2, "panic=1")
		img.damaged = []string{"state"}
		disk := img.disk(t, 0, f == qemu.BIOS)
		r := wait(
			t,
			vmtest.Start(
				t,
				qemu.Machine{Firmware: f, NoNet: true, Drives: []qemu.Drive{{Path: disk, Bus: qemu.Virtio}}},
			),
		)
		if r.Boot.Role != layout.RoleRecovery ||
			!strings.Contains(r.Failures, img.release.ID()+".txt: cannot boot: ") {
			t.Errorf("%+v", r)
		}
	})
}

// longTest skips a test that takes minutes, where not all are wanted.
func longTest(t *testing.T) {
	t.Helper()
	if os.Getenv("KAIROS_TEST_ALL") == "" {
		t.Skip("part of `make test-all`")
	}
}

// When all that the disk has is damaged, the recovery system too, the machine does not spin: it says so on its screen
// and serial line, and waits longer each time.
func TestAllDamaged(t *testing.T) {
	longTest(t)
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 2, "panic=1")
		img.damaged = []string{"state", "recovery"}
		vm := vmtest.Start(t, qemu.Machine{
			Firmware: f, NoNet: true, Drives: []qemu.Drive{{Path: img.disk(t, 0, false), Bus: qemu.Virtio}},
		})
		for range layout.Tries {
			vm.Expect("kairos: cannot boot: ", vmtest.BootTimeout)
		}
		// Under BIOS GRUB says it, before the start after the one that failed.
		for _, seconds := range []string{"10", "30"} {
			vm.Expect("kairos: cannot boot: ", vmtest.BootTimeout)
			if f == qemu.UEFI {
				vm.Expect("nothing else is left: repair this machine from a live medium", vmtest.BootTimeout)
				vm.Expect("kairos: restarting in "+seconds+"s", vmtest.BootTimeout)
			} else {
				// GRUB begins new lines where it has come to the screen's edge.
				vm.Expect(`Nothing else\s+is\s+left to start`, vmtest.BootTimeout)
				vm.Expect(`The next attempt is in\s+`+seconds+`\s+seconds`, vmtest.BootTimeout)
			}
		}
	})
}

// A release on trial whose init hangs is given up after three tries. Nothing in the image helps. (How
// systemd-boot counts is seen in test/node.)
func TestGuardEndsAHang(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 2, "probe=hang "+layout.CmdlineDeadline+"=3")
	vm := vmtest.Start(
		t,
		qemu.Machine{
			Firmware: qemu.BIOS,
			NoNet:    true,
			Drives:   []qemu.Drive{{Path: img.disk(t, 0, false), Bus: qemu.Virtio}},
		},
	)
	for range layout.Tries {
		vm.Expect("probe: hangs", vmtest.BootTimeout)
	}
	r := wait(t, vm)
	if r.Boot.Role != layout.RoleRecovery || !strings.Contains(r.Failures, "not blessed within 3 seconds") {
		t.Errorf("%+v", r)
	}
}

// A healthy machine is blessed, on trial and afterwards, although nothing in the image starts the node agent: its
// process 1 is a program that Kairos knows nothing about.
func TestGuardBlessesUnderAnyInit(t *testing.T) {
	t.Parallel()
	a, err := assets.FS(arch)
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string][]byte{}
	for name, asset := range map[string]string{
		layout.ImageApply: "kairos-apply", layout.ImageSystemdBoot: "systemd-boot.efi",
	} {
		if programs[name], err = fs.ReadFile(a, asset); err != nil {
			t.Fatal(err)
		}
	}
	// No udev loads what mounting the ESP takes: the node agent does.
	tree, err := kernelTree()
	if err != nil {
		t.Fatal(err)
	}
	needed := regexp.MustCompile(`/(v?fat|nls_\w+)\.ko|/modules\.(dep|builtin|alias)$`)
	for name, file := range tree {
		if needed.MatchString(name) {
			programs[strings.TrimPrefix(name, "usr/")] = file.Data
		}
	}
	disk := makeImageWith(t, 2, "probe=waits "+layout.CmdlineDeadline+"=300", programs).disk(t, 0, false)
	for _, trial := range []bool{true, false} {
		r := wait(t, vmtest.Start(t, qemu.Machine{
			Firmware: qemu.UEFI, NoNet: true, NoReboot: true, Drives: []qemu.Drive{{Path: disk, Bus: qemu.Virtio}},
		}))
		if !r.Blessed || r.Boot.Trial != trial || r.Boot.Role != layout.RoleSystem {
			t.Errorf("want on trial %v, and blessed: %+v", trial, r)
		}
	}
}

// A disk whose primary partition table an interrupted write has left torn boots, and its table is whole then. Where
// only its checksum is wrong, GRUB finds the ESP; UEFI firmware by the copy.
func TestTornTableIsHealed(t *testing.T) {
	t.Parallel()
	firmwares(t, func(t *testing.T, f qemu.Firmware) {
		img := makeImage(t, 1, "")
		// The copy is where firmware looks for it, at the end of the disk, as it is once a boot has grown the disk.
		path := img.disk(t, 0, true)
		d, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		info, err := d.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt([]byte("torn"), 512+16); err != nil { // the header's checksum
			t.Fatal(err)
		}
		r := wait(
			t,
			vmtest.Start(
				t,
				qemu.Machine{
					Firmware: f,
					NoNet:    true,
					NoReboot: true,
					Drives:   []qemu.Drive{{Path: path, Bus: qemu.Virtio}},
				},
			),
		)
		if r.Boot.Role != layout.RoleSystem || r.Content != img.content {
			t.Errorf("%+v", r)
		}
		table, err := gpt.Read(d, info.Size(), 512)
		if err != nil || table.Damage != gpt.Sound {
			t.Errorf("%+v, %v", table, err)
		}
	})
}

// A disk with sectors of 4096 bytes boots, and its last partition takes all of it.
func TestBigSectors(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 2, "")
	img.sectorSize = 4096
	r := wait(t, vmtest.Start(t, qemu.Machine{Firmware: qemu.UEFI, NoNet: true, NoReboot: true,
		Drives: []qemu.Drive{{Path: img.disk(t, 3<<30, true), Bus: qemu.Virtio, SectorSize: 4096}}}))
	if r.Boot.Role != layout.RoleSystem || r.Content != img.content || r.Size < 1000 {
		t.Errorf("%+v", r)
	}
}

// Without its medium the machine says so and restarts.
func TestNoMedium(t *testing.T) {
	t.Parallel()
	img := makeImage(t, 1, "")
	vm := vmtest.Start(
		t,
		qemu.Machine{
			Firmware: qemu.BIOS,
			NoNet:    true,
			NoReboot: true,
			Drives:   []qemu.Drive{{Path: img.iso(t, "ANOTHER"), Bus: qemu.Virtio}},
		},
	)
	vm.Expect(
		`cannot boot: no medium labelled COS_LIVE within .* \(looked at /dev/vda, /dev/vda1\)`,
		vmtest.BootTimeout,
	)
	vm.WaitOff(time.Minute)
}
