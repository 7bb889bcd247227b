package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Kernel is a kernel in an image.
type Kernel struct {
	Version string // as uname -r says
	Path    string // of its file, without links in it, such as "boot/vmlinuz-6.12.1"
	Modules string // folder of its modules, such as "usr/lib/modules/6.12.1"
	Config  Config // how it was configured; empty where the image does not say
	// Chosen says that a person chose it among others, by a label or by a link.
	Chosen bool

	rank int // of files with one version, the lowest counts
}

// Config is a kernel's configuration: "CONFIG_EROFS_FS" → "y", "m", or a value.
type Config map[string]string

const installKernel = "install one, such as Debian's linux-image-amd64, Fedora's kernel-core, or Alpine's linux-virt"

// FindKernel returns the kernel that an image boots.
//
// Kernels are the files in /boot and /usr/lib/modules/<version>/vmlinuz that begin as a kernel
// does, whatever their names. A kernel's version is what its file says; where that says none, it
// follows from the name. Of those that have modules it is the newest, unless a person chose
// another: by the label [layout.ImageLabelKernel], or by a link /boot/vmlinuz or /vmlinuz. The link
// that Kairos itself makes for the kernel that it found is no choice, see [Manifest].
//
// The error says what an image without a usable kernel should install.
func FindKernel(root fs.FS, o Options) (Kernel, error) {
	t := tree{root}
	kernels, err := t.kernels()
	if err != nil {
		return Kernel{}, fmt.Errorf("find the kernel: %w", err)
	}
	if len(kernels) == 0 {
		return Kernel{}, errors.New("the image has no kernel in /boot or /usr/lib/modules: " + installKernel)
	}
	k, err := t.choose(kernels, o.Kernel)
	if err != nil {
		return Kernel{}, err
	}
	if k.Modules == "" {
		return Kernel{}, fmt.Errorf("the image has the kernel %s but not its modules in /usr/lib/modules/%s: "+
			"install the package that has them", k.Path, k.Version)
	}
	if k.Config, err = t.kernelConfig(k); err != nil {
		return Kernel{}, err
	}
	return k, nil
}

// Compression returns the best compression that the kernel's EROFS reads: "zstd", "lz4" or
// "none". A kernel that does not come with its configuration gets "none", which all can read.
func (k Kernel) Compression() string { return k.Config.Compression() }

// hidesRuntime says whether the kernel does not call the firmware unless it is told to by efi=runtime, as
// real-time kernels: then nobody reads which entry has booted.
func (k Kernel) hidesRuntime() bool {
	return k.Config["CONFIG_PREEMPT_RT"] == "y" || k.Config["CONFIG_EFI_DISABLE_RUNTIME"] == "y"
}

// Compression is [Kernel.Compression] of a kernel with this configuration.
func (c Config) Compression() string {
	switch {
	case c["CONFIG_EROFS_FS_ZIP_ZSTD"] == "y":
		return "zstd"
	case c["CONFIG_EROFS_FS_ZIP"] == "y":
		return "lz4"
	}
	return "none"
}

// kernelConfig reads the configuration that most distributions install beside the kernel.
func (t tree) kernelConfig(k Kernel) (Config, error) {
	flavor := strings.TrimPrefix(path.Base(k.Path), "vmlinuz-") // Alpine: config-<version>-<flavor>
	for _, name := range []string{
		"boot/config-" + k.Version, path.Join(k.Modules, "config"), "boot/config-" + flavor,
	} {
		b, err := t.readFile(name, maxText)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Version, err)
		}
		return ParseConfig(b), nil
	}
	return nil, nil
}

// ParseConfig reads a kernel's .config.
func ParseConfig(b []byte) Config {
	c := Config{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.HasPrefix(key, "CONFIG_") {
			c[key] = value
		}
	}
	return c
}

// readKernel returns the kernel as an EFI program, which is what both the stub and GRUB start. On
// arm64 some distributions compress it with gzip, which no firmware reads.
func (t tree) readKernel(k Kernel, file []byte) ([]byte, error) {
	b := file
	if formOf(b) == formGzip {
		var err error
		if b, err = gunzip(file); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Path, err)
		}
	}
	if !bytes.HasPrefix(b, []byte("MZ")) {
		return nil, fmt.Errorf("the kernel %s is not an EFI program: install one that has CONFIG_EFI_STUB", k.Path)
	}
	return b, nil
}
