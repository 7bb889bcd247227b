//go:build vm

package doors

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
)

// A disk is what others' tools accept, boots under both firmwares, and grows to the real disk.
func TestDisks(t *testing.T) {
	buildKairos(t, "--output", "type=oci,dest=disk-image.tar")
	for _, format := range []string{"raw", "qcow2"} {
		output := fmt.Sprintf("type=%s,dest=first.%s", format, format)
		c := command(
			t.Context(),
			kairosBin,
			"export",
			"--cache",
			filepath.Join(toolDir, "disks"),
			"--output",
			output,
			"oci-archive:disk-image.tar",
		)
		// Whatever the image's size: the layers of this one are larger than that together.
		if kb := memoryOf(t, c); kb == 0 || kb > 300_000 {
			t.Errorf("%s: the export took %d kB of memory", format, kb)
		}
		export(t, "--output", fmt.Sprintf("type=%s,dest=second.%s", format, format), "oci-archive:disk-image.tar")
		same(t, "first."+format, "second."+format)
	}
	checkDisk(t, filepath.Join(workDir, "first.raw"))

	out, err := tryRun(
		command(
			t.Context(),
			kairosBin,
			"export",
			"--output",
			"type=raw,size=100M,dest=small.raw",
			"oci-archive:disk-image.tar",
		),
	)
	if err == nil || !regexp.MustCompile(`too small for this image: use size=\d+M or more`).MatchString(out) {
		t.Errorf("a disk that is too small: %v\n%s", err, out)
	}

	big := filepath.Join(workDir, "big.qcow2")
	run(t, "qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", filepath.Join(workDir, "first.qcow2"), big, "8G")
	// The disk was written without a config: it takes the one of a volume that is attached, and keeps it.
	vm := boot(t, qemu.UEFI, qemu.Drive{Path: big, Format: "qcow2"}, qemu.Drive{Path: seed(t), CDROM: true})
	vm.RootShell()
	got := vm.Check("hostname; cat /etc/attached; stat -c %a /oem/5*cidata*")
	if got != "from-a-volume\nyes\n600\n600" {
		t.Errorf("the attached config: %q", got)
	}
	size, err := strconv.ParseInt(strings.TrimSpace(vm.Check("df -B1 --output=size /usr/local | tail -1")), 10, 64)
	if err != nil || size < 9<<29 {
		t.Errorf("/usr/local has %d bytes on a disk of 8 GiB, %v", size, err)
	}
	// A fifth of the disk is STATE's, as after an installation.
	state := vm.Check("df -B1 --output=size /run/kairos/store | tail -1")
	size, err = strconv.ParseInt(strings.TrimSpace(state), 10, 64)
	if err != nil || size < 3<<29 {
		t.Errorf("STATE has %d bytes on a disk of 8 GiB, %v", size, err)
	}
	boot(t, qemu.BIOS, qemu.Drive{Path: filepath.Join(workDir, "first.raw"), Snapshot: true})
}

// seed makes a volume as cloud-init's NoCloud has it.
func seed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"meta-data": "instance-id: i\nlocal-hostname: from-a-volume\n",
		"user-data": "#cloud-config\nwrite_files: [{path: /etc/attached, content: \"yes\\n\"}]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "seed.iso")
	run(t, "genisoimage", "-quiet", "-output", image, "-volid", "cidata", "-joliet", "-rock", dir)
	return image
}

// memoryOf runs a command and returns the most memory that it had, in kB. The kernel's own
// account in rusage begins with what this process has.
func memoryOf(t *testing.T, c *exec.Cmd) int {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	most := 0
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v: %v\n%s", c.Args, err, out.String())
			}
			return most
		case <-time.After(50 * time.Millisecond):
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
			if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
				kb, _ := strconv.Atoi(string(m[1]))
				most = max(most, kb)
			}
		}
	}
}

// checkDisk has others' tools look at a raw disk and its file systems.
func checkDisk(t *testing.T, disk string) {
	t.Helper()
	if out := run(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	entries := regexp.MustCompile(`(?m)^\s+(\d+)\s+(\d+)\s+(\d+)\s.*\s(\S+)$`).
		FindAllStringSubmatch(run(t, "sgdisk", "-p", disk), -1)
	if len(entries) != 6 {
		t.Fatalf("%d partitions, want 6", len(entries))
	}
	for _, e := range entries {
		checker := map[string][]string{
			"efi": {"fsck.vfat", "-n"}, "oem": {"e2fsck", "-fn"}, "recovery": {"e2fsck", "-fn"},
			"state": {"e2fsck", "-fn"}, "persistent": {"e2fsck", "-fn"},
		}[e[4]]
		if checker == nil {
			continue
		}
		first, _ := strconv.ParseInt(e[2], 10, 64)
		last, _ := strconv.ParseInt(e[3], 10, 64)
		part := filepath.Join(workDir, "partition")
		copyOut := exec.Command(
			"dd",
			"if="+disk,
			"of="+part,
			"bs=512",
			"conv=sparse",
			fmt.Sprint("skip=", first),
			fmt.Sprint("count=", last-first+1),
		)
		if out, err := tryRun(copyOut); err != nil {
			t.Fatal(out, err)
		}
		if out, err := tryRun(command(t.Context(), checker[0], append(checker[1:], part)...)); err != nil {
			t.Errorf("%s: %s", e[4], out)
		}
		if err := os.Remove(part); err != nil {
			t.Fatal(err)
		}
	}
}
