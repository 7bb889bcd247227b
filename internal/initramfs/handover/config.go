package handover

import (
	"context"
	"os"
	"os/exec"
	"time"

	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/layout"
)

// configTimeout bounds what the node agent may take: it asks no network. A first boot on a busy emulated machine took
// more than a minute, and without its config a node would join its cluster under another name.
const configTimeout = 3 * time.Minute

// applyConfig has the image's node agent apply the node's cloud-config, in the new root and before
// any service runs. A config with a mistake in it must not keep a node from starting: somebody
// has to log in and correct it.
func applyConfig(log *console.Log) {
	agent := "/" + layout.ImageApply
	if _, err := os.Stat(agent); err != nil {
		return // an image that brings its own way
	}
	ctx, cancel := context.WithTimeout(context.Background(), configTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, agent, "config", "--boot")
	// What it has started may live on, and hold its output open.
	c.WaitDelay = 5 * time.Second
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	out, err := c.CombinedOutput()
	if len(out) > 0 {
		log.Info("%s", out)
	}
	if err != nil {
		log.Crit("the cloud-config did not apply in full: %v", err)
	}
}
