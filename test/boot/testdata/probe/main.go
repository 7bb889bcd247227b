// Command probe is the init of a very small image: it says what /init has made, and switches the machine off. With
// probe=hang on the kernel's command line it hangs, unless it runs in the recovery system; with probe=waits it first
// waits until it is blessed; with probe=stops it loads the drivers of a watchdog, waits until somebody pets it, and
// stops the guard and itself.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

func main() {
	boot, err := layout.ParseBoot(read("/" + layout.RunBoot))
	if err != nil {
		fmt.Println("probe:", err)
	}
	if cmdline := string(read("/proc/cmdline")); boot.Role == layout.RoleSystem &&
		strings.Contains(cmdline, "probe=hang") {
		fmt.Println("probe: hangs")
		for {
			time.Sleep(time.Hour)
		}
	}
	if strings.Contains(string(read("/proc/cmdline")), "probe=stops") {
		stops()
	}
	blessed := false
	for begin := time.Now(); strings.Contains(string(read("/proc/cmdline")), "probe=waits") && !blessed; {
		_, err := os.Stat("/" + layout.RunBlessed)
		if blessed = err == nil; !blessed && time.Since(begin) > 4*time.Minute {
			break
		}
		time.Sleep(time.Second)
	}
	report := struct {
		Blessed     bool
		Boot        layout.Boot
		Root        string            // file system and mount options of /
		Layers      int               // below the root, through dm-verity
		LayerMounts []string          // of them in the tree of mounts: none, since the root holds them
		Content     string            // of the files that the layers brought
		Written     map[string]string // what earlier boots have left where
		MachineID   string
		Failures    string
		Size        uint64            // of /usr/local, MiB
		PCRs        map[string]string // of the SHA-256 bank, where there is a TPM
	}{Blessed: blessed, Boot: boot, Written: map[string]string{}, MachineID: strings.TrimSpace(string(read("/etc/machine-id")))}
	for _, line := range strings.Split(string(read("/proc/mounts")), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) < 4:
		case f[1] == "/":
			report.Root = f[2] + " " + f[3][:2]
		case strings.HasPrefix(f[0], "/dev/dm-") && f[2] == "erofs":
			report.LayerMounts = append(report.LayerMounts, f[1])
		}
	}
	devices, _ := filepath.Glob("/sys/block/dm-*/dm/name")
	for _, d := range devices {
		if strings.HasPrefix(string(read(d)), "kairos-layer-") {
			report.Layers++
		}
	}
	files, _ := filepath.Glob("/content/*")
	for _, f := range files {
		report.Content += string(read(f))
	}
	for _, dir := range []string{"/etc", "/var", "/srv", "/tmp", "/home", "/opt", "/root", "/etc/ssh", "/usr/local", "/usr/local/bin", "/oem", "/var/lib/containerd", "/"} {
		name := dir + "/written"
		n, _ := strconv.Atoi(string(read(name)))
		report.Written[dir] = strconv.Itoa(n)
		if os.WriteFile(name, []byte(strconv.Itoa(n+1)), 0o644) != nil {
			report.Written[dir] = "read-only"
		}
	}
	report.Written["/etc/ssh/image"] = string(read("/etc/ssh/image"))
	report.Written["/usr/local/bin/image"] = string(read("/usr/local/bin/image"))
	if boot.Role == layout.RoleRecovery {
		os.MkdirAll("/tmp/state", 0o755)
		syscall.Mount(boot.Devices["state"], "/tmp/state", "ext4", syscall.MS_RDONLY, "")
		failures, _ := filepath.Glob("/tmp/state/" + layout.FailureDir + "/*")
		for _, f := range failures {
			reason, _, _ := strings.Cut(string(read(f)), "\n")
			report.Failures += filepath.Base(f) + ": " + reason + "\n"
		}
	}
	var st syscall.Statfs_t
	syscall.Statfs("/usr/local", &st)
	report.Size = st.Blocks * uint64(st.Bsize) >> 20
	report.PCRs = map[string]string{}
	for _, number := range []string{"11", "15"} {
		if b := read("/sys/class/tpm/tpm0/pcr-sha256/" + number); len(b) > 0 {
			report.PCRs[number] = strings.ToLower(strings.TrimSpace(string(b)))
		}
	}
	b, _ := json.Marshal(report)
	fmt.Printf("\nprobe: %s\n", b)
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

func stops() {
	for _, name := range []string{"watchdog", "i6300esb"} {
		files, _ := filepath.Glob("/lib/modules/*/kernel/drivers/watchdog/" + name + ".ko*")
		for _, file := range files {
			f, err := os.Open(file)
			if err == nil {
				err = unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE)
			}
			fmt.Println("probe:", file, err)
		}
	}
	const dir = "/sys/class/watchdog/watchdog0/"
	for strings.TrimSpace(string(read(dir+"state"))) != "active" {
		time.Sleep(time.Second)
	}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if strings.HasPrefix(string(read(file)), "@kairos-guard\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			err := syscall.Kill(pid, syscall.SIGSTOP)
			fmt.Printf("probe: the guard is stopped, with a watchdog of %s seconds: %v\n",
				strings.TrimSpace(string(read(dir+"timeout"))), err)
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

func read(name string) []byte {
	b, _ := os.ReadFile(name)
	return b
}
