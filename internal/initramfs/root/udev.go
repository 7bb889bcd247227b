package root

import (
	"fmt"
	"os"
	"path/filepath"
)

// devicePrefix begins the device mapper's names of layers.
const devicePrefix = "kairos-layer-"

// rulesFile is read by udev before its own rules: udev(7).
const rulesFile = "/run/udev/rules.d/00-kairos-layers.rules"

// rules keep udev and systemd from looking into the layers' devices, two for each layer: there is nothing for them to
// find, and an image of a hundred layers would start half a minute later.
const rules = `# The devices of the root's layers hold nothing that anything else needs: written by /init.
ACTION=="remove", GOTO="kairos_layers_end"
SUBSYSTEM!="block", GOTO="kairos_layers_end"
KERNEL=="loop*", ATTR{loop/backing_file}=="*/blobs/sha256/*.erofs", GOTO="kairos_layer"
KERNEL=="dm-*", ATTR{dm/name}=="` + devicePrefix + `*", GOTO="kairos_layer"
GOTO="kairos_layers_end"
LABEL="kairos_layer"
ENV{SYSTEMD_READY}="0", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", OPTIONS:="nowatch"
ENV{DM_UDEV_DISABLE_DISK_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG}="1"
ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1"
LABEL="kairos_layers_end"
`

func quietDevices() error {
	err := os.MkdirAll(filepath.Dir(rulesFile), 0o755)
	if err == nil {
		err = os.WriteFile(rulesFile, []byte(rules), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write udev's rules: %w", err)
	}
	return nil
}
