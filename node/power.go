package node

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// Restart restarts the machine in order, through its init. Where that does nothing, the
// kernel is asked after a minute.
func Restart(ctx context.Context) error { return power(ctx, "reboot", unix.LINUX_REBOOT_CMD_RESTART) }

// PowerOff turns the machine off in order, through its init.
func PowerOff(ctx context.Context) error {
	return power(ctx, "poweroff", unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func power(ctx context.Context, program string, command int) error {
	unix.Sync()
	if err := exec.CommandContext(ctx, program).Run(); err == nil {
		select {
		case <-ctx.Done(): // init ends us
			return nil
		case <-time.After(time.Minute):
		}
	}
	unix.Sync()
	if err := unix.Reboot(command); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}
