package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// NodeConfig reads the config of the running system: what the image has in /system/oem, and over it on an installed
// node what PERSISTENT and OEM have, on a live medium what that and the attached volumes have. What is wrong with it,
// also that a file cannot be read, is in its report.
func NodeConfig(root string, b layout.Boot) *config.Config {
	return config.Merge(nodeFiles(root, b)...)
}

func nodeFiles(root string, b layout.Boot) []*config.File {
	files := readConfigDir(filepath.Join(root, layout.ImageConfigDir))
	if b.Role == layout.RoleLive {
		if f := readConfigFile(filepath.Join(root, layout.RunStoreMount, layout.LiveCloudConfig)); f != nil {
			files = append(files, f)
		}
		files = append(files, readConfigDir(filepath.Join(root, layout.RunDatasource))...)
		return withPaths(root, files)
	}
	files = append(files, readConfigDir(filepath.Join(root, layout.PersistentConfigDir))...)
	return withPaths(root, append(files, readConfigDir(filepath.Join(root, layout.MountOEM))...))
}

// withPaths adds the files of the folders that files name.
func withPaths(root string, files []*config.File) []*config.File {
	read := []string{"/" + layout.ImageConfigDir, "/" + layout.PersistentConfigDir, layout.MountOEM}
	for _, dir := range config.Merge(files...).CloudInitPaths() {
		if dir = filepath.Clean("/" + dir); !slices.Contains(read, dir) {
			read = append(read, dir)
			files = append(files, readConfigDir(filepath.Join(root, dir))...)
		}
	}
	return files
}

// readConfigDir reads the cloud-config files of a folder, ordered by name.
func readConfigDir(dir string) []*config.File {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []*config.File{config.Unreadable(dir, err)}
	}
	var files []*config.File
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, ext) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if f := readConfigFile(filepath.Join(dir, e.Name())); f != nil {
			files = append(files, f)
		}
	}
	return files
}

// readConfigFile returns nil for a file that is not there.
func readConfigFile(name string) *config.File {
	b, err := bounded.ReadFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), config.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return config.Unreadable(name, err)
	}
	return config.Parse(name, b)
}

// config is the node's config as far as it is right.
func (m *Machine) config() *config.Config { return config.Merge(readConfigDir(m.OEM)...) }

// imageConfig is the config that the running image brings.
func (m *Machine) imageConfig() *config.Config {
	return config.Merge(readConfigDir(m.path(layout.ImageConfigDir))...)
}

// nodeConfig is the config of the running system, also where that is the recovery system: OEM is read where it is
// mounted for this command.
func (m *Machine) nodeConfig() *config.Config {
	files := readConfigDir(m.path(layout.ImageConfigDir))
	files = append(files, readConfigDir(m.path(layout.PersistentConfigDir))...)
	if m.OEM != "" {
		files = append(files, readConfigDir(m.OEM)...)
	}
	return config.Merge(withPaths(m.Root, files)...)
}

// Config is the config of the running system. In the recovery system that is OEM's, too.
func (m *Machine) Config() *config.Config { return m.nodeConfig() }

// withCmdline adds the config's words for the kernel's command line to a release's settings,
// as far as making boot files is concerned.
func withCmdline(r layout.Release, i config.Install) layout.Release {
	r.Labels = i.Labels(r.Labels)
	return r
}

// HasCloudInit says whether the image has cloud-init, which then reads what it knows.
func HasCloudInit(root string) bool {
	_, err := os.Stat(filepath.Join(root, "usr/bin/cloud-init"))
	return err == nil
}

// GetConfig fetches a config once.
func GetConfig(ctx context.Context, url string) ([]byte, error) {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("%s: want http:// or https://", url)
	}
	return get(ctx, url)
}

// checkInstall refuses what the installation would find out too late.
func checkInstall(c *config.Config) error {
	if err := c.Report().Err(); err != nil {
		return refuse("%v", err)
	}
	i := c.Install()
	if _, err := disk.OEMFiles(i, nil); err != nil {
		return refuse("%v", err)
	}
	for _, ref := range []string{i.Source, i.RecoverySource} {
		if ref == "" {
			continue
		}
		if _, err := source.Parse(ref); err != nil {
			return refuse("cloud-config: install: %v", err)
		}
	}
	return nil
}
