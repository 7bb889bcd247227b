package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kairos-buildkit/kairos/layout"
)

// OEMConfig is the file on OEM that keeps the config of the installation.
const OEMConfig = "90_custom.yaml"

// Config is a cloud-config: what Kairos itself reads of it, and all of it for whoever applies
// the rest.
type Config struct {
	Install InstallConfig
	All     map[string]any
}

// InstallConfig is the block "install:" of a cloud-config.
type InstallConfig struct {
	Auto     bool   `yaml:"auto"`
	Device   string `yaml:"device"` // "auto", or a path
	Reboot   bool   `yaml:"reboot"`
	PowerOff bool   `yaml:"poweroff"`
	// Source is an image to install instead of the medium's.
	Source string `yaml:"source"`
	// NoFormat keeps the partitions that are on the disk, and OEM's and PERSISTENT's content.
	NoFormat        bool                       `yaml:"no-format"`
	Partitions      map[string]PartitionConfig `yaml:"partitions"`
	ExtraPartitions []ExtraPartition           `yaml:"extra-partitions"`
	BindMounts      []string                   `yaml:"bind_mounts"`
	EphemeralMounts []string                   `yaml:"ephemeral_mounts"`
	// GrubOptions has "extra_cmdline": words for the kernel's command line, for both loaders.
	GrubOptions map[string]string `yaml:"grub_options"`
}

// PartitionConfig changes one of the six partitions.
type PartitionConfig struct {
	Size int64 `yaml:"size"` // MiB; 0: the default
}

// ExtraPartition is one after the six.
type ExtraPartition struct {
	Name  string `yaml:"name"`
	Label string `yaml:"label"`
	Size  int64  `yaml:"size"` // MiB
	FS    string `yaml:"fs"`   // ext4 or vfat; empty: none
}

// ParseConfig reads cloud-config documents and merges them: of two values for a key the
// later one counts, lists are joined.
func ParseConfig(docs ...[]byte) (Config, error) {
	c := Config{All: map[string]any{}}
	for _, doc := range docs {
		var one map[string]any
		if err := yaml.Unmarshal(doc, &one); err != nil {
			return Config{}, fmt.Errorf("cloud-config: %w", err)
		}
		merge(c.All, one)
	}
	block, ok := c.All["install"]
	if !ok {
		return c, nil
	}
	b, err := yaml.Marshal(block)
	if err != nil {
		return Config{}, fmt.Errorf("cloud-config: install: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&c.Install); err != nil && block != nil {
		return Config{}, fmt.Errorf("cloud-config: install: %w", err)
	}
	return c, c.Install.check()
}

func (i InstallConfig) check() error {
	if i.Reboot && i.PowerOff {
		return errors.New("cloud-config: install: reboot and poweroff are both set")
	}
	known := map[string]bool{}
	for _, p := range layout.Partitions() {
		known[p.Name] = true
	}
	for name, p := range i.Partitions {
		if !known[name] || name == "bios" {
			return fmt.Errorf("cloud-config: install: partitions: %q: want efi, oem, recovery, state or persistent", name)
		}
		if p.Size < 0 {
			return fmt.Errorf("cloud-config: install: partitions: %s: size %d: want MiB", name, p.Size)
		}
	}
	for _, p := range i.ExtraPartitions {
		if p.Name == "" || known[p.Name] || p.Size <= 0 || p.FS != "" && p.FS != "ext4" && p.FS != "vfat" {
			return fmt.Errorf("cloud-config: install: extra-partitions: %+v: want an own name, a size in MiB, and fs ext4, vfat or none", p)
		}
		known[p.Name] = true
	}
	if _, err := i.source(); err != nil {
		return fmt.Errorf("cloud-config: install: %w", err)
	}
	for key := range i.GrubOptions {
		if key != "extra_cmdline" {
			return fmt.Errorf("cloud-config: install: grub_options: %q is not supported: want extra_cmdline", key)
		}
	}
	return layout.Mounts{Bind: i.BindMounts, Ephemeral: i.EphemeralMounts}.Check()
}

func (i InstallConfig) source() (Source, error) {
	if i.Source == "" {
		return Source{}, nil
	}
	return ParseSource(i.Source)
}

// merge adds from to into, the later value of a key over the earlier one.
func merge(into, from map[string]any) {
	for k, v := range from {
		switch old := into[k].(type) {
		case map[string]any:
			if m, ok := v.(map[string]any); ok {
				merge(old, m)
				continue
			}
		case []any:
			if l, ok := v.([]any); ok {
				into[k] = append(old, l...)
				continue
			}
		}
		into[k] = v
	}
}

// userData returns the part of a config that is not about the installation, as
// cloud-init's user-data.
func (c Config) userData() ([]byte, error) {
	rest := maps.Clone(c.All)
	delete(rest, "install")
	b, err := yaml.Marshal(rest)
	if err != nil {
		return nil, fmt.Errorf("cloud-config: %w", err)
	}
	return append([]byte("#cloud-config\n"), b...), nil
}

// readConfigDir reads the cloud-config files of a folder, ordered by name.
func readConfigDir(dir string) ([][]byte, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cloud-config: %w", err)
	}
	var docs [][]byte
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, ext) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("cloud-config: %w", err)
		}
		docs = append(docs, b)
	}
	return docs, nil
}

// NodeConfig reads the config of the running system: OEM's on an installed node, the
// medium's on a live medium.
func NodeConfig(root string, b layout.Boot) (Config, error) {
	if b.Role != layout.RoleLive {
		docs, err := readConfigDir(filepath.Join(root, layout.MountOEM))
		if err != nil {
			return Config{}, err
		}
		return ParseConfig(docs...)
	}
	doc, err := os.ReadFile(filepath.Join(root, layout.RunStoreMount, layout.LiveCloudConfig))
	if errors.Is(err, fs.ErrNotExist) {
		return ParseConfig()
	}
	if err != nil {
		return Config{}, fmt.Errorf("cloud-config: %w", err)
	}
	return ParseConfig(doc)
}
