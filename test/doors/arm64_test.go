//go:build vm

package doors

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

// An image for arm64 is built on amd64. A Dockerfile without RUN takes no emulation, and its ISO
// boots; one with RUN takes Debian's qemu-user.
func TestOtherArchitecture(t *testing.T) {
	const base = "build/base/debian-trixie-arm64"
	if _, err := os.Stat(filepath.Join(repo, base, "index.json")); err != nil {
		t.Fatalf("%v: run it by `make test-vm`", err)
	}
	build := func(name, more string, output ...string) string {
		dir := filepath.Join(workDir, name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		text := "# syntax=kairos\nFROM debian:trixie\nCOPY Dockerfile /usr/lib/demo/Dockerfile\n" + more
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return run(
			t,
			kairosBin,
			append(append([]string{"build", "--progress", "plain", "--root", filepath.Join(toolDir, "state"),
				"--build-context", baseContext + filepath.Join(repo, base), "--platform", "linux/arm64"}, output...),
				dir)...)
	}
	build("arm64", rootShell, "--output", "type=iso,dest=arm64.iso", "--output", "type=raw,dest=arm64.raw")

	vm := vmtest.Start(
		t,
		qemu.Machine{
			Arch:     "arm64",
			NoReboot: true,
			NoNet:    true,
			Drives:   []qemu.Drive{{Path: filepath.Join(workDir, "arm64.iso"), CDROM: true}},
		},
	)
	vm.WaitLogin()
	if out := vm.Output(); !strings.Contains(out, "release ") {
		t.Errorf("the console does not say which release boots:\n%s", vm.Tail(30))
	}

	run(t, filepath.Join(repo, "scripts/emulate"), "arm64")
	build("arm64-run", "RUN uname -m > /usr/lib/demo/machine\n", "--output", "type=local,dest=arm64-files")
	if b, err := os.ReadFile(filepath.Join(workDir, "arm64-files/usr/lib/demo/machine")); err != nil ||
		string(b) != "aarch64\n" {
		t.Errorf("RUN for arm64: uname says %q, %v", b, err)
	}
}
