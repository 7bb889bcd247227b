package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// loaderFiles are the boot loaders' files on the ESP that a release brings along.
func loaderFiles(tree fs.FS, arch string) (map[string][]byte, error) {
	files := map[string][]byte{layout.LoaderConfig: []byte(layout.LoaderConfigText)}
	b, err := fs.ReadFile(tree, layout.ImageSystemdBoot)
	if err != nil {
		return nil, fmt.Errorf("the image's boot loader: %w", err)
	}
	name, err := layout.EFIDefaultPath(arch)
	if err != nil {
		return nil, err
	}
	files[name] = b
	if hasGrub(tree) {
		files[layout.GrubConfig] = layout.GrubDiskConfig()
	}
	return files, nil
}

// updateLoaders replaces the boot loaders' files on the ESP by those of a release. A new file
// is complete before it takes the old one's place, which is one write of the disk.
func (m *Machine) updateLoaders(r layout.Release, progress Progress) error {
	tree, err := m.State.Tree(r.Layers)
	if err != nil {
		return err
	}
	defer tree.Close()
	files, err := loaderFiles(tree, r.Arch)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		changed, err := m.ESP.replace(name, files[name])
		if err != nil {
			return fmt.Errorf("boot loader: %w", err)
		}
		if changed {
			progress.note("boot loader file updated: " + name)
		}
	}
	return nil
}

// replace makes a file have this content. The old content stays under another name until
// the new one is in place.
func (p *ESP) replace(name string, data []byte) (changed bool, err error) {
	file := p.path(name)
	temp := strings.TrimSuffix(file, filepath.Ext(file)) + staged
	have, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := p.FS.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return false, err
		}
		return true, p.writeNew(file, data)
	case err != nil:
		return false, err
	case bytes.Equal(have, data):
		return false, p.remove(filepath.Dir(temp), filepath.Base(temp)) // of a run that was cut off
	}
	if err := p.writeNew(temp, data); err != nil {
		return false, err
	}
	if err := p.exchange(name, temp, file); err != nil {
		return false, err
	}
	return true, p.remove(filepath.Dir(temp), filepath.Base(temp))
}

func (p *ESP) exchange(name, temp, final string) error {
	return p.FS.Do(durable.Step{Kind: durable.Exchange, Path: temp, To: final}, func() error {
		if p.Exchange != nil {
			return p.Exchange(path.Dir(name), filepath.Base(temp), filepath.Base(final))
		}
		return unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE)
	})
}
