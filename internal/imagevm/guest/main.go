// The /init of package imagevm's machine.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/imagevm"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/initramfs/modules"
	"github.com/kairos-buildkit/kairos/internal/mount"
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
	if err := mount.KernelInterfaces(); err != nil {
		return err
	}
	loader, err := modules.Open(nil, &console.Log{})
	if err != nil {
		return err
	}
	if err := loader.LoadAll(imagevm.Modules...); err != nil {
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
