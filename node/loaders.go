package node

import (
	"fmt"
	"io/fs"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
)

// programs are the boot loaders that a release brings along.
func programs(tree fs.FS, r layout.Release) (loader.Programs, error) {
	fail := func(err error) (loader.Programs, error) {
		return loader.Programs{}, fmt.Errorf("the image's boot loader: %w", err)
	}
	s, err := boot.ReadSecureBoot(tree, bootOptions(r))
	if err != nil {
		return fail(refuse("the image cannot boot: %v", err))
	}
	b, err := readLoader(tree, s)
	if err != nil {
		return fail(err)
	}
	return loader.Programs{Arch: r.Arch, SystemdBoot: b, Grub: hasGrub(tree)}, nil
}

// readLoader reads systemd-boot, with the signature that is apart from the image where there is one.
func readLoader(tree fs.FS, s *boot.SecureBoot) ([]byte, error) {
	b, err := readImageFile(tree, layout.ImageSystemdBoot, maxText)
	if err != nil {
		return nil, err
	}
	if b, err = s.Finish(layout.ImageSystemdBoot, b); err != nil {
		return nil, refuse("the image cannot boot: %v", err)
	}
	return b, nil
}

// bootOptions are what a release says of its boot files.
func bootOptions(r layout.Release) boot.Options {
	o := boot.OptionsFrom(r.Labels)
	o.Detached = r.BootSignatures
	return o
}

// updateLoaders replaces the boot loaders' files on the ESP by those of a release. That waits until the release has
// proved healthy: nothing counts for the loader itself.
func (m *Machine) updateLoaders(r layout.Release, progress Progress) error {
	tree, err := m.State.Tree(r.Layers)
	if err != nil {
		return err
	}
	defer tree.Close()
	p, err := programs(tree, r)
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
