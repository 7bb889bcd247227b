package guard

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/layout"
)

// environment is what an init would give the node agent.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}

// mostAsks is how often the guard asks for a blessing that ends with an error: the last time after about two hours.
const mostAsks = 10

// again asks until somebody says that it is decided, with pauses that grow: a hiccup must not cost a healthy release
// its tries. A release on trial is restarted at its deadline whatever comes out here.
func again(ask func() (decided bool), pause func(time.Duration)) {
	for i := range mostAsks {
		if i > 0 {
			pause(15 * time.Second << (i - 1))
		}
		if ask() {
			return
		}
	}
}

// bless runs the node agent's blessing in the image's root until it ends. Nothing says when such an image's services
// are up: the agent asks its health checks again while one of them says no. It returns whether that is all: the
// release is blessed or reported, or there is no agent.
func bless(log *console.Log) (decided bool) {
	if err := unix.Fchdir(rootFD); err != nil {
		log.Crit("bless: the image's root: %v", err)
		return false
	}
	// /dev/null is the image's, and so is not to be had here.
	args := []string{layout.ImageApply, "bless", "--boot", "--patient"}
	pid, err := syscall.ForkExec("/"+layout.ImageApply, args, &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Chroot: "."},
	})
	if errors.Is(err, unix.ENOENT) {
		return true // an image that brings its own way
	}
	if err != nil {
		log.Crit("bless: start %s: %v", layout.ImageApply, err)
		return false
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && status.ExitStatus() != 0 {
			log.Crit("bless: exit code %d", status.ExitStatus())
			return marked(layout.RunUnhealthy) || marked(layout.RunBlessed)
		}
		return err == nil
	}
}
