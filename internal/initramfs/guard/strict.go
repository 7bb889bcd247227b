package guard

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/layout"
)

// systemdTrial has systemd pet a watchdog where the machine has one, and restart where it would stop for ever after a
// crash of its own. The kernel module of the watchdog may come later: systemd looks for the device again.
const systemdTrial = `[Manager]
RuntimeWatchdogSec=2min
CrashReboot=yes
`

// Strict has the kernel and systemd restart where they would go on with a damaged state or hang: a release on trial
// has another one below it. A kernel that lacks one of these has nothing to be told, and another init does not read
// systemd's. They last until the next start. root is "/" or, in tests, a folder.
func Strict(root string) error {
	for _, name := range []string{"softlockup_panic", "hardlockup_panic", "panic_on_oops"} {
		_ = os.WriteFile(filepath.Join(root, "proc/sys/kernel", name), []byte("1"), 0o644)
	}
	name := filepath.Join(root, layout.RunSystemdTrial)
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, []byte(systemdTrial), 0o644)
	}
	if err != nil {
		return fmt.Errorf("ask systemd for a restart where it hangs: %w", err)
	}
	return nil
}
