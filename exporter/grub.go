package exporter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// liveGrubConfig is grub.cfg of a live medium of the system of this name. Kernel messages and menu go to screen and
// serial port. The menu waits long enough to press a key, and no longer.
func liveGrubConfig(cmdline layout.Cmdline, name string) []byte {
	b := []byte(`if serial --unit=0 --speed=115200; then
	terminal_input console serial
	terminal_output console serial
fi
set timeout=2
`)
	for _, c := range layout.LiveChoices(name) {
		words := append(slices.Clone(cmdline), layout.ParseCmdline(c.Words())...)
		b = fmt.Appendf(b, `menuentry "%s" {
	echo "Loading the kernel ..."
	linux /%s %s
	initrd /%s
}
`, c.Title, layout.ImageKernel, grubWords(words), layout.ImageInitrd)
	}
	return b
}

// grubWords quotes a kernel command line for GRUB's shell. Its words have no quotes and no spaces
// ([layout.Cmdline.Portable]); those of a UKI that was made before may have double quotes, which GRUB puts a
// backslash before: they are taken out.
func grubWords(cmdline layout.Cmdline) string {
	words := make([]string, len(cmdline))
	for i, w := range cmdline {
		w = strings.ReplaceAll(w, `"`, "")
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
