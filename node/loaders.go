package node

import (
	"fmt"
	"io/fs"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// programs are the boot loaders that a release brings along.
func programs(tree fs.FS, arch string) (loader.Programs, error) {
	b, err := readImageFile(tree, layout.ImageSystemdBoot, maxText)
	if err != nil {
		return loader.Programs{}, fmt.Errorf("the image's boot loader: %w", err)
	}
	return loader.Programs{Arch: arch, SystemdBoot: b, Grub: hasGrub(tree)}, nil
}

// updateLoaders replaces the boot loaders' files on the ESP by those of a release. That waits until the release has
// proved healthy: nothing counts for the loader itself.
func (m *Machine) updateLoaders(r layout.Release, progress Progress) error {
	tree, err := m.State.Tree(r.Layers)
	if err != nil {
		return err
	}
	defer tree.Close()
	p, err := programs(tree, r.Arch)
	if err != nil {
		return err
	}
	changed, err := m.ESP.Update(p)
	for _, name := range changed {
		progress.note("boot loader file updated: " + name)
	}
	if err != nil {
		return fmt.Errorf("boot loader: %w", err)
	}
	return nil
}
