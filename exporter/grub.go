package exporter

import (
	"fmt"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// liveGrubConfig is grub.cfg of a live medium. Kernel messages and menu go to screen and
// serial port. The menu waits long enough to press a key, and no longer.
func liveGrubConfig(cmdline layout.Cmdline) []byte {
	return fmt.Appendf(nil, `if serial --unit=0 --speed=115200; then
	terminal_input console serial
	terminal_output console serial
fi
set timeout=2
menuentry "Kairos" {
	echo "Loading the kernel ..."
	linux /%s %s
	initrd /%s
}
`, layout.ImageKernel, grubWords(cmdline), layout.ImageInitrd)
}

// grubWords quotes a kernel command line for GRUB's shell. GRUB puts double quotes around
// a word with spaces when it hands it to the kernel, and a backslash before quotes that
// are in the word, which the kernel does not understand: so those are taken out.
func grubWords(cmdline layout.Cmdline) string {
	words := make([]string, len(cmdline))
	for i, w := range cmdline {
		w = strings.ReplaceAll(w, `"`, "")
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
