//go:build vm

package live

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kairos-buildkit/kairos/internal/qemu"
	"github.com/kairos-buildkit/kairos/internal/vmtest"
	"github.com/kairos-buildkit/kairos/layout"
)

// The ISO reaches its login prompt in all four ways, and the checksum beside it is right.
func TestBoot(t *testing.T) {
	img := get(t, example)
	sum := exec.Command("sha256sum", "--check", "--strict", "example.iso.sha256")
	sum.Dir = workDir
	if out, err := sum.CombinedOutput(); err != nil {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	for _, tc := range []struct {
		name     string
		firmware qemu.Firmware
		drive    qemu.Drive
		check    func(*testing.T, *vmtest.VM)
	}{
		{"UEFI-cdrom", qemu.UEFI, cdrom(img.iso), checkSystem},
		{"UEFI-disk", qemu.UEFI, disk(img.iso, qemu.Virtio), nil},
		{"BIOS-cdrom", qemu.BIOS, cdrom(img.iso), nil},
		{"BIOS-disk", qemu.BIOS, disk(img.iso, qemu.AHCI), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			vm := vmtest.Start(t, qemu.Machine{
				Firmware: tc.firmware, NoReboot: true, Drives: []qemu.Drive{tc.drive},
				Forwards: []qemu.Forward{{Guest: 22}},
			})
			if tc.check == nil {
				vm.WaitLogin()
				return
			}
			rootShell(vm)
			tc.check(t, vm)
			// What an unattended installation asks for: the end of systemd runs from the CD, too.
			vm.Check("echo /dev/sr0 >/" + layout.RunEject + " && systemctl --no-block reboot")
			vm.WaitOff(vmtest.BootTimeout)
			if !vm.Ejected() {
				t.Error("the medium has not left its drive")
			}
		})
	}
}

// checkSystem looks at a system that has booted.
func checkSystem(t *testing.T, vm *vmtest.VM) {
	checkRoot(t, vm)

	if out, exit := vm.Run("touch /file"); exit == 0 || !strings.Contains(out, "Read-only file system") {
		t.Errorf("write to /: exit code %d\n%s", exit, out)
	}
	vm.Check("touch /etc/file /var/file /tmp/file && rm /etc/hostname && echo new > /etc/hostname")

	state, _ := vm.RunWithin(vmtest.BootTimeout, "systemctl is-system-running --wait")
	if failed, _ := vm.Run("systemctl --failed --no-legend --plain"); strings.TrimSpace(failed) != "" {
		t.Errorf("the system is %s, units have failed:\n%s", strings.TrimSpace(state), failed)
	}

	release := vm.Check("cat /etc/kairos-release")
	for _, key := range []string{"ID", "NAME", "VERSION", "ARCH", "FLAVOR", "FLAVOR_RELEASE", "FAMILY", "VARIANT"} {
		if !regexp.MustCompile(`(?m)^KAIROS_` + key + `=.+`).MatchString(release) {
			t.Errorf("/etc/kairos-release lacks KAIROS_%s:\n%s", key, release)
		}
	}
	vm.Check("grep -q '^ID=debian' /etc/os-release")

	vm.Check("test -s /boot/vmlinuz && test -s /boot/initrd && test -s /boot/kairos.efi")
	if size := vm.Check("stat -L -c %s /boot/initrd"); atoi(t, size) >= 4_000_000 {
		t.Errorf("initrd takes %s bytes, want less than 4 MB", size)
	}
	if id := vm.Check("cat /etc/machine-id"); len(id) != 32 {
		t.Errorf("machine-id %q", id)
	}
	if shadow := vm.Check("getent shadow " + user); !strings.HasPrefix(shadow, user+":"+passwordHash+":") {
		t.Errorf("the account from the build secret is %q", shadow)
	}
	checkSSH(t, vm.Port(22))
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkRoot checks that / is a read-only overlay of layers, each on a device-mapper device over a read-only loop
// device, and that nothing but / shows them.
func checkRoot(t *testing.T, vm *vmtest.VM) {
	t.Helper()
	mounts := mountTable(vm.Check("cat /proc/self/mountinfo"))
	root := mounts["/"]
	if root.fs != "overlay" || !root.has("ro") || root.value("upperdir") != "" {
		t.Errorf("/ is %+v, want a read-only overlay", root)
	}
	lowers := strings.Split(root.value("lowerdir"), ":")
	if len(lowers) < 2 {
		t.Fatalf("/ has the lower layers %q", lowers)
	}
	for i := range lowers {
		vm.Check(
			fmt.Sprintf(
				"dm=$(dirname $(grep -lx kairos-layer-%d /sys/block/dm-*/dm/name))/.. "+
					"&& test $(cat $dm/ro) = 1 && ls $dm/slaves | grep -q loop",
				i,
			),
		)
	}
	// The module counts its users: one for each device.
	if n := atoi(t, vm.Check("cat /sys/module/dm_verity/refcnt")); n < len(lowers) {
		t.Errorf("dm_verity has %d users, want one for each of %d layers", n, len(lowers))
	}
	for dir, m := range mounts {
		if m.fs == "erofs" {
			t.Errorf("the layer %s is mounted on %s", m.source, dir)
		}
		if m.fs == "iso9660" && !strings.HasPrefix(dir, "/run/kairos/private/") {
			t.Errorf("the medium is mounted on %s, where everybody looks", dir)
		}
	}
	// What systemd knows of the layers, it asks udev about.
	out, _ := vm.Run("systemctl list-units --all --plain --no-legend --full | grep -E " +
		"'dev-(loop|dm).*device|run-kairos-(private-)?(layers|ephemeral|image)'")
	if out != "" {
		t.Errorf("systemd has units of the layers:\n%s", out)
	}
	vm.Check("ls /run/kairos/store/")
	const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "
	vm.Check(nobody + "test -r /run/kairos/boot.json")
	for _, dir := range []string{"/run/kairos/private", "/run/kairos/store/", "/run/kairos/store/kairos"} {
		if out, code := vm.Run(nobody + "ls " + dir); code == 0 || !strings.Contains(out, "Permission denied") {
			t.Errorf("ls %s as nobody: exit code %d, %s", dir, code, out)
		}
	}
	// Whatever a user may read and run there, it is none of these.
	if out, _ := vm.Run(nobody +
		"sh -c 'grep -rsl -e passwd -e \\$6\\$ /run/kairos; find /run/kairos -perm /6000 2>/dev/null'"); out != "" {
		t.Errorf("nobody finds below /run/kairos:\n%s", out)
	}
}

type mount struct {
	fs, source string
	options    []string
}

func (m mount) has(option string) bool {
	for _, o := range m.options {
		if o == option {
			return true
		}
	}
	return false
}

func (m mount) value(key string) string {
	for _, o := range m.options {
		if v, ok := strings.CutPrefix(o, key+"="); ok {
			return v
		}
	}
	return ""
}

// mountTable reads /proc/self/mountinfo: proc_pid_mountinfo(5).
func mountTable(mountinfo string) map[string]mount {
	mounts := map[string]mount{}
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		mounts[b[4]] = mount{
			fs:      a[0],
			source:  a[1],
			options: append(strings.Split(b[5], ","), strings.Split(a[2], ",")...),
		}
	}
	return mounts
}

// checkSSH waits for the ssh daemon's greeting: network and host keys are there.
func checkSSH(t *testing.T, port int) {
	t.Helper()
	deadline := time.Now().Add(vmtest.RunTimeout)
	var last error
	for time.Now().Before(deadline) {
		greeting, err := greet(port)
		if err == nil && strings.HasPrefix(greeting, "SSH-2.0-") {
			return
		}
		last = fmt.Errorf("%q, %v", greeting, err)
		time.Sleep(time.Second)
	}
	t.Errorf("no greeting from ssh: %v", last)
}

func greet(port int) (string, error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), 10*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return bufio.NewReader(conn).ReadString('\n')
}

// A flipped byte in what the boot needs stops the boot, with a word on what is wrong. (One in a
// file's data: TestDerived.)
func TestFlippedByteStopsBoot(t *testing.T) {
	img := get(t, example)
	blob := largestBlob(t, img.iso)
	for _, tc := range []struct {
		name string
		at   func() int64 // within the blob
	}{
		{"superblock", func() int64 { return 1024 + 100 }},
		{"top of the hash tree", func() int64 { return blob.hashOffset + 4096 + 5 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			iso := vmtest.Copy(t, img.iso)
			flip(t, iso, blob.offset+tc.at())
			vm := vmtest.Start(t, qemu.Machine{Firmware: qemu.UEFI, NoReboot: true, Drives: []qemu.Drive{cdrom(iso)}})
			vm.WaitOff(vmtest.BootTimeout) // it restarts, which this machine takes for switching off
			out := vm.Output()
			if strings.Contains(out, "login: ") {
				t.Errorf("the system has booted:\n%s", vm.Tail(30))
			}
			if !strings.Contains(out, "layer ") || !strings.Contains(out, blob.name[:12]) {
				t.Errorf("the console does not say which layer is damaged:\n%s", vm.Tail(30))
			}
		})
	}
}

type blobOnISO struct {
	name         string // hex
	offset, size int64  // of the whole blob
	hashOffset   int64  // within the blob
}

// largestBlob finds the largest layer on an ISO, by xorriso.
func largestBlob(t *testing.T, iso string) blobOnISO {
	t.Helper()
	out, err := exec.Command("xorriso", "-indev", iso, "-find", "/kairos/blobs", "-name", "*.erofs", "-exec",
		"report_lba", "--").
		Output()
	if err != nil {
		t.Fatalf("xorriso: %v", err)
	}
	var best blobOnISO
	// File data lba:  0 ,     1234 ,    56789 , 116303872 , '/kairos/blobs/sha256/ab/ab….erofs'
	blobs := regexp.MustCompile(`lba: +\d+ , +(\d+) , +\d+ , +(\d+) , '.*/([0-9a-f]{64})\.erofs'`)
	for _, m := range blobs.FindAllStringSubmatch(string(out), -1) {
		if size := int64(atoi(t, m[2])); size > best.size {
			best = blobOnISO{name: m[3], offset: int64(atoi(t, m[1])) * 2048, size: size}
		}
	}
	if best.size == 0 {
		t.Fatalf("no blobs on the ISO:\n%s", out)
	}
	// The superblock of dm-verity begins the tree; it is the last "verity" at a block's begin.
	f, err := os.Open(iso)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 8)
	for at := best.size / 4096 * 4096; at > 0; at -= 4096 {
		if _, err := f.ReadAt(b, best.offset+at); err == nil && string(b) == "verity\x00\x00" {
			best.hashOffset = at
			return best
		}
	}
	t.Fatal("the blob has no dm-verity superblock")
	return best
}

func flip(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x20
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
