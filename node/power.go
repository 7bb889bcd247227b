package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// restartWanted is where Debian's packages say that the machine wants a restart, and where tools that restart
// nodes one after the other look for that (kured, needrestart).
const restartWanted = "run/reboot-required"

// RestartWanted says whether another release than the running one boots next on the machine with this root.
func RestartWanted(root string) bool {
	_, err := os.Stat(filepath.Join(root, restartWanted))
	return err == nil
}

func (m *Machine) wantRestart(want bool) error {
	name := m.path(restartWanted)
	if want {
		return os.WriteFile(name, []byte("*** System restart required ***\n"), 0o644)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Restart restarts the machine in order, through its init, which ends ctx on the way. Where that does nothing, the
// kernel is asked after a minute.
func Restart(ctx context.Context) error {
	return power(ctx, "reboot", unix.LINUX_REBOOT_CMD_RESTART, unix.Reboot)
}

// PowerOff turns the machine off in order, through its init, as Restart does.
func PowerOff(ctx context.Context) error {
	return power(ctx, "poweroff", unix.LINUX_REBOOT_CMD_POWER_OFF, unix.Reboot)
}

func power(ctx context.Context, program string, command int, force func(int) error) error {
	unix.Sync()
	// Init may end the program, too, before it has had its answer: that is no reason to go on by force.
	err := exec.Command(program).Run()
	var ended *exec.ExitError
	if err == nil || errors.As(err, &ended) && ended.ExitCode() < 0 {
		select {
		case <-ctx.Done(): // init ends us
			return nil
		case <-time.After(time.Minute):
		}
	}
	unix.Sync()
	if err := force(command); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}
