//go:build vm

package live

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
)

// randomBytes is content that no compression shortens.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	copy(seed[:], "kairos")
	rand.NewChaCha8(seed).Read(b)
	return b
}

// An image derived with a plain Dockerfile boots, and shows exactly the tree that a container engine
// shows. One byte of one file is flipped on the medium: reading that file fails, and nothing
// else is different.
func TestDerived(t *testing.T) {
	img := get(t, derived)
	if strings.Contains(img.log, "are regenerated") {
		t.Error("the boot files were regenerated, for a kernel that is the same")
	}
	want := listImage(t, img)

	iso := vmtest.Copy(t, img.iso)
	random := randomBytes(64 << 10)
	flip(t, iso, find(t, iso, random[32<<10:][:64]))
	vm := vmtest.Start(
		t,
		qemu.Machine{Firmware: qemu.UEFI, NoReboot: true, Drives: []qemu.Drive{disk(iso, qemu.NVMe)}},
	)
	rootShell(vm)
	checkRoot(t, vm)
	table := vm.Check("dmsetup table")
	if n, all := strings.Count(table, " verity "), len(strings.Split(table, "\n")); n != all || n < 8 {
		t.Errorf("not all devices are verity:\n%s", table)
	}

	script, err := os.ReadFile("testdata/list.sh")
	if err != nil {
		t.Fatal(err)
	}
	// A bind mount shows the root without what is mounted on it.
	vm.Check("mkdir /run/tree && mount --bind / /run/tree")
	got, exit := vm.RunWithin(10*time.Minute, "cd /run/tree\n"+string(script))
	if exit != 0 {
		t.Fatalf("list the tree: exit code %d\n%s", exit, got)
	}
	compareLists(t, lines(want, "random.bin"), lines(got, "random.bin"))

	out, exit := vm.Run("cat /opt/test/random.bin >/tmp/read")
	if exit == 0 || !strings.Contains(out, "Input/output error") {
		t.Errorf("read of the damaged file: exit code %d\n%s", exit, out)
	}
	// What was read before the error is right.
	if read, _ := vm.Run("cat /tmp/read"); !strings.HasPrefix(string(random), read) {
		t.Errorf("%d bytes of the damaged file were read, and are wrong", len(read))
	}
}

// listImage lists the tree of an image as a container engine unpacks it.
func listImage(t *testing.T, img image) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	build(t, "--no-cache", "--file", "testdata/list.Dockerfile", "--build-context", "derived=oci-layout://"+img.oci,
		"--build-context", "files=testdata", "--output", "type=local,dest="+out, "testdata")
	list, err := os.ReadFile(filepath.Join(out, "list"))
	if err != nil {
		t.Fatal(err)
	}
	return string(list)
}

// lines splits a listing, without the lines on one file.
func lines(s, without string) []string {
	return slices.DeleteFunc(
		strings.Split(strings.TrimSpace(s), "\n"),
		func(l string) bool { return strings.Contains(l, without) },
	)
}

func compareLists(t *testing.T, want, got []string) {
	t.Helper()
	if len(want) < 5000 {
		t.Errorf("the listing has only %d lines", len(want))
	}
	missing, extra := minus(want, got), minus(got, want)
	if len(missing)+len(extra) == 0 {
		return
	}
	t.Errorf(
		"the machine's tree is not the container's: %d lines only in the container's, %d only in the machine's",
		len(missing),
		len(extra),
	)
	for _, l := range missing[:min(len(missing), 25)] {
		t.Log("container: ", l)
	}
	for _, l := range extra[:min(len(extra), 25)] {
		t.Log("machine:   ", l)
	}
}

// minus returns the lines of a that are not in b.
func minus(a, b []string) []string {
	in := map[string]bool{}
	for _, l := range b {
		in[l] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(l string) bool { return in[l] })
}

// find returns the offset of content in a file.
func find(t *testing.T, file string, content []byte) int64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, content)
	if at < 0 {
		t.Fatalf("%s does not contain the file's bytes as they are", file)
	}
	return int64(at)
}

// A plain Dockerfile that changes the kernel: the exporter regenerates the boot files, says so, and
// the other kernel boots, from a USB stick.
func TestOtherKernel(t *testing.T) {
	img := get(t, otherKernel)
	if !strings.Contains(img.log, "boot files are regenerated") {
		t.Errorf("the build does not say that boot files are regenerated:\n%s", tail(img.log, 30))
	}
	vm := vmtest.Start(
		t,
		qemu.Machine{Firmware: qemu.UEFI, NoReboot: true, Drives: []qemu.Drive{disk(img.iso, qemu.USB)}},
	)
	rootShell(vm)
	checkRoot(t, vm)
	if version := vm.Check("uname -r"); strings.Contains(version, "cloud") {
		t.Errorf("the running kernel is %s, the one that was replaced", version)
	}
	vm.Check("modprobe xfs && modinfo -n xfs | grep -q $(uname -r)")
	// The release that booted has the initrd made for it on the medium, not in its tree.
	vm.Check("mkdir /run/medium && mount -o ro LABEL=COS_LIVE /run/medium")
	if size := vm.Check("stat -c %s /run/medium/boot/initrd"); atoi(t, size) >= 10_000_000 {
		t.Errorf("initrd for the full kernel takes %s bytes, want less than 10 MB", size)
	}
}
