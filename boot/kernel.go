package boot

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Kernel is a kernel in an image.
type Kernel struct {
	Version string // as uname -r says
	Path    string // of its file, without links in it, such as "boot/vmlinuz-6.12.1"
	Modules string // folder of its modules, such as "usr/lib/modules/6.12.1"
	Config  Config // how it was configured; empty where the image does not say
	// Chosen says that a person chose it among others by the link /boot/vmlinuz.
	Chosen bool
}

// Config is a kernel's configuration: "CONFIG_EROFS_FS" → "y", "m", or a value.
type Config map[string]string

const installKernel = "install one, such as Debian's linux-image-amd64, Fedora's kernel-core, or Alpine's linux-virt"

// FindKernel returns the kernel that an image boots.
//
// That is the newest of those in /boot (vmlinuz-<version>, as in Debian, Fedora's and Alpine's
// packages) and in /usr/lib/modules/<version>/vmlinuz (Fedora, Arch), unless /boot/vmlinuz
// is a link to one of them that a person made. The link that Kairos itself makes for the kernel
// that it found is no choice, see [Manifest].
//
// The error says what an image without a usable kernel should install.
func FindKernel(root fs.FS) (Kernel, error) {
	t := tree{root}
	kernels, err := t.kernels()
	if err != nil {
		return Kernel{}, fmt.Errorf("find the kernel: %w", err)
	}
	if len(kernels) == 0 {
		return Kernel{}, errors.New("the image has no kernel in /boot or /usr/lib/modules: " + installKernel)
	}
	k := slices.MaxFunc(kernels, func(a, b Kernel) int { return compareVersions(a.Version, b.Version) })
	if chosen, ok := t.chosen(kernels); ok {
		k = chosen
	}
	if k.Modules == "" {
		return Kernel{}, fmt.Errorf("the image has the kernel %s but not its modules in /usr/lib/modules/%s: install the package that has them", k.Path, k.Version)
	}
	if k.Config, err = t.kernelConfig(k); err != nil {
		return Kernel{}, err
	}
	return k, nil
}

// Compression returns the best compression that the kernel's EROFS reads: "zstd", "lz4" or
// "none". A kernel that does not come with its configuration gets "none", which all can read.
func (k Kernel) Compression() string {
	switch {
	case k.Config["CONFIG_EROFS_FS_ZIP_ZSTD"] == "y":
		return "zstd"
	case k.Config["CONFIG_EROFS_FS_ZIP"] == "y":
		return "lz4"
	}
	return "none"
}

// kernels lists all kernels, each version once.
func (t tree) kernels() ([]Kernel, error) {
	found := map[string]Kernel{}
	add := func(version, file string) error {
		real, err := t.resolve(file)
		if err != nil {
			return err
		}
		if info, err := fs.Lstat(t.FS, real); err != nil || !info.Mode().IsRegular() {
			return nil // such as a link to a kernel that was removed
		}
		if _, ok := found[version]; !ok {
			found[version] = Kernel{Version: version, Path: real, Modules: t.modulesDir(version)}
		}
		return nil
	}
	names, err := t.names("boot")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, prefix := range []string{"vmlinuz-", "Image-"} {
			if version, ok := strings.CutPrefix(name, prefix); ok && version != "" && !strings.Contains(name, "rescue") {
				if err := add(t.versionOf(version), path.Join("boot", name)); err != nil {
					return nil, err
				}
			}
		}
	}
	versions, err := t.names("usr/lib/modules")
	if err != nil {
		return nil, err
	}
	for _, version := range versions {
		if err := add(version, path.Join("usr/lib/modules", version, "vmlinuz")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	var list []Kernel
	for _, k := range found {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b Kernel) int { return strings.Compare(a.Version, b.Version) })
	return list, nil
}

// versionOf returns the version of the kernel in /boot/vmlinuz-<suffix>. Where that is only a
// flavor ("lts", "virt": Alpine), it is the one module folder whose name ends with it.
func (t tree) versionOf(suffix string) string {
	if t.modulesDir(suffix) != "" {
		return suffix
	}
	names, _ := t.names("usr/lib/modules")
	if more, _ := t.names("lib/modules"); names == nil {
		names = more
	}
	best := ""
	for _, name := range names {
		if strings.HasSuffix(name, "-"+suffix) && (best == "" || compareVersions(name, best) > 0) {
			best = name
		}
	}
	if best != "" {
		return best
	}
	return suffix
}

// modulesDir returns the folder with a kernel's modules, or "".
func (t tree) modulesDir(version string) string {
	for _, dir := range []string{"usr/lib/modules", "lib/modules"} {
		if d := path.Join(dir, version); t.isDir(d) {
			if real, err := t.resolve(d); err == nil {
				return real
			}
		}
	}
	return ""
}

// chosen returns the kernel that the link /boot/vmlinuz names, if a person has made it. Some
// distributions make such a link themselves, which is no choice while there is one kernel.
func (t tree) chosen(kernels []Kernel) (Kernel, bool) {
	if len(kernels) < 2 {
		return Kernel{}, false
	}
	info, err := fs.Lstat(t.FS, layout.ImageKernel)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return Kernel{}, false
	}
	target, err := t.resolve(layout.ImageKernel)
	if err != nil {
		return Kernel{}, false
	}
	if m, err := readManifest(t); err == nil && m.Kernel.Path == target && !m.Kernel.Chosen {
		return Kernel{}, false
	}
	i := slices.IndexFunc(kernels, func(k Kernel) bool { return k.Path == target })
	if i < 0 {
		return Kernel{}, false
	}
	k := kernels[i]
	k.Chosen = true
	return k, true
}

// kernelConfig reads the configuration that most distributions install beside the kernel.
func (t tree) kernelConfig(k Kernel) (Config, error) {
	flavor := strings.TrimPrefix(path.Base(k.Path), "vmlinuz-") // Alpine: config-<version>-<flavor>
	for _, name := range []string{"boot/config-" + k.Version, path.Join(k.Modules, "config"), "boot/config-" + flavor} {
		b, err := t.readFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
		}
		return parseConfig(b), nil
	}
	return nil, nil
}

func parseConfig(b []byte) Config {
	c := Config{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "CONFIG_") {
			c[key] = value
		}
	}
	return c
}

// read returns the kernel as an EFI program, which is what both the stub and GRUB start. On
// arm64 some distributions compress it with gzip, which no firmware reads.
func (t tree) readKernel(k Kernel) ([]byte, error) {
	b, err := t.readFile(k.Path)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Path, err)
		}
		const limit = 256 << 20
		if b, err = io.ReadAll(io.LimitReader(z, limit)); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Path, err)
		}
	}
	if !bytes.HasPrefix(b, []byte("MZ")) {
		return nil, fmt.Errorf("the kernel %s is not an EFI program: install one that has CONFIG_EFI_STUB", k.Path)
	}
	return b, nil
}
