package imagevm

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kairos-buildkit/kairos/initrd"
	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// Modules are those that a job's machine loads, beside what every initrd has.
var Modules = []string{"loop", "erofs", "dm-verity", "squashfs", "virtio_blk", "virtio_pci", "sha256_generic"}

// Machine makes a machine of a root tree with a kernel (Debian's paths), which runs the job on
// disk. Files that it needs go to dir.
func Machine(ctx context.Context, root fs.FS, dir, disk string) (qemu.Machine, error) {
	m := qemu.Machine{
		Firmware: qemu.BIOS, Memory: 2048, Accel: qemu.TCG, NoNet: true, NoReboot: true, NoVGA: true,
		Vars: filepath.Join(dir, "vars"),
	}
	kernels, err := fs.Glob(root, "boot/vmlinuz-*")
	if err != nil || len(kernels) != 1 {
		return m, fmt.Errorf("boot/vmlinuz-*: %d kernels, %w", len(kernels), err)
	}
	version := kernels[0][len("boot/vmlinuz-"):]
	kernel, err := fs.ReadFile(root, kernels[0])
	if err != nil {
		return m, err
	}
	modules, err := fs.Sub(root, "usr/lib/modules/"+version)
	if err != nil {
		return m, err
	}
	var extra []string
	for _, name := range Modules {
		if hasModule(modules, name) {
			extra = append(extra, name)
		}
	}
	selection, err := initrd.Select(modules, extra)
	if err != nil {
		return m, err
	}
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(
		ctx,
		"go",
		"build",
		"-o",
		guest,
		"github.com/kairos-buildkit/kairos/internal/imagevm/guest",
	)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return m, fmt.Errorf("build the machine's /init: %w\n%s", err, out)
	}
	init, err := os.ReadFile(guest)
	if err != nil {
		return m, err
	}
	ramdisk, err := initrd.Make(init, selection, nil)
	if err != nil {
		return m, err
	}
	for name, b := range map[string][]byte{"vmlinuz": kernel, "initrd": ramdisk} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return m, err
		}
	}
	m.Args = []string{
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"),
		"-append", "console=ttyS0,115200 quiet panic=-1",
		// Not as one of the machine's drives: those are numbered in the order in which the
		// firmware is to boot them, and the kernel above is the first.
		"-drive", "if=none,id=job,format=raw,file=" + strings.ReplaceAll(disk, ",", ",,"), "-device",
		"virtio-blk-pci,drive=job",
	}
	return m, nil
}

// hasModule says whether the kernel has a module as a file; else it is built in.
func hasModule(modules fs.FS, name string) bool {
	dep, err := fs.ReadFile(modules, "modules.dep")
	if err != nil {
		return false
	}
	return containsModule(string(dep), name)
}

// Live is a machine in software emulation that boots an ISO from CD.
func Live(iso string) qemu.Machine {
	return qemu.Machine{Firmware: qemu.BIOS, Accel: qemu.TCG, Drives: []qemu.Drive{{Path: iso, CDROM: true}}}
}
