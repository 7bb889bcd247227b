package imagevm

import (
	"strings"

	"github.com/kairos-buildkit/kairos/initrd/kmod"
)

// containsModule says whether modules.dep lists a module.
func containsModule(dep, name string) bool {
	for line := range strings.Lines(dep) {
		path, _, _ := strings.Cut(line, ":")
		if kmod.Name(path) == kmod.Name(name) {
			return true
		}
	}
	return false
}
