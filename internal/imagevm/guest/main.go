// The /init of package imagevm's machine.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
	"github.com/kairos-buildkit/kairos/internal/imagevm"
)

func main() {
	debug.SetGCPercent(400)
	if err := run(); err != nil {
		fmt.Printf("\nFAILED %v\n", err)
	}
	fmt.Printf("\n%s\n", imagevm.DoneMark)
	unix.Sync()
	time.Sleep(time.Second) // for the console
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range []struct{ dir, fs string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/run", "tmpfs"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	disk, err := waitFor("/dev/vda")
	if err != nil {
		return err
	}
	defer disk.Close()
	job, err := imagevm.ReadJob(disk)
	if err != nil {
		return err
	}
	for _, c := range job.Checks {
		what := "ok"
		if err := check(disk, c); err != nil {
			what = err.Error()
		}
		fmt.Printf("\n%s%s: %s\n", imagevm.CheckMark, c.Name, what)
	}
	return reads(disk, job)
}

func loadModules() error {
	text, err := os.ReadFile("/" + kmod.IndexPath)
	if err != nil {
		return err
	}
	index, err := kmod.Parse(text)
	if err != nil {
		return err
	}
	loaded := map[string]bool{}
	load := func(name string) error {
		if loaded[name] {
			return nil
		}
		loaded[name] = true
		f, err := os.Open("/" + kmod.Path(name))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("module %s: %w", name, err)
		}
		return nil
	}
	for _, want := range imagevm.Modules {
		for _, m := range index.Modules {
			if m.Name != kmod.Name(want) {
				continue
			}
			for _, dep := range append(m.Deps, m.Name) {
				if err := load(dep); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func waitFor(device string) (*os.File, error) {
	for range 300 {
		if f, err := os.Open(device); err == nil {
			return f, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%s does not appear", device)
}

func report(r imagevm.Result) {
	b, _ := json.Marshal(r) // strings and numbers cannot fail
	fmt.Printf("\n%s%s\n", imagevm.ResultMark, b)
}
