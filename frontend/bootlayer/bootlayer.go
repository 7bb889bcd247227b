// Package bootlayer makes the one layer that turns a container image with a kernel into one
// that boots and updates itself:
//
//	boot/vmlinuz                      link to the kernel that the distribution installed
//	boot/initrd boot/kairos.efi       made by package boot
//	usr/lib/kairos/boot/…             what it takes to regenerate them for another kernel, and systemd-boot
//	usr/bin/kairos-apply              the node agent, and a link to it named kairos-agent
//	usr/lib/systemd/system/kairos-*   its units, and the links that enable them
//	oem/ usr/local/ home/ …           folders that the node mounts on, where the image lacks them
//
// Where the image has a certificate for Secure Boot, UKI and systemd-boot are signed by its key. Where it has a public
// key for TPMs, the UKI has signatures for what they measure of it.
//
// And the layer on top of it, which names the version:
//
//	etc/kairos-release                the KAIROS_* keys of the Kairos project
//
// The boot layer depends on the kernel, its modules, and the labels that the boot files are made with:
// equal ones give an equal layer, byte for byte, whatever else is in the image. So a node that has
// this layer does not get it again. For that, every file that the layer writes and every folder
// above it has one constant time, [Time], and SOURCE_DATE_EPOCH has no say in it.
package bootlayer

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kairos-buildkit/kairos/assets"
	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/layout"
)

// Time is the modification time of all that the layer holds: the first moment that both tar
// and FAT can express. It is older than any SOURCE_DATE_EPOCH, so rewriting timestamps leaves it.
var Time = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Options says what the image's tree does not.
type Options struct {
	Arch   string            // the image's architecture in OCI's words
	Labels map[string]string // the image's labels
	// Key is the private key that signs the boot files, where the image has its certificate; nil for none.
	Key []byte
	// PCRKey is the private key that signs what a TPM measures of them, where the image has its public key.
	PCRKey []byte
	// Assets replaces the assets that the program carries. For tests.
	Assets fs.FS
}

// File is a regular file, a symbolic link when Link is set, or a folder by its Mode; or, when
// Removed is set, a file of the image's that the layer takes away.
type File struct {
	Path string // relative to the image's root
	Mode fs.FileMode
	Data []byte
	Link string

	Removed bool
}

// Layer is the content of the boot layer.
type Layer struct {
	Kernel string // its version
	// Starter says what starts the node agent in this image.
	Starter layout.Starter
	Files   []File // sorted by path
}

// Make returns the boot layer for the tree of an image. Its errors are for the person who
// wrote the Dockerfile: an image that cannot boot is told what it lacks.
func Make(root fs.FS, o Options) (*Layer, error) {
	if o.Assets == nil {
		a, err := assets.FS(o.Arch)
		if err != nil {
			return nil, err
		}
		o.Assets = a
	}
	files, err := assetFiles(o.Assets)
	if err != nil {
		return nil, err
	}
	units, err := unitFiles(root)
	if err != nil {
		return nil, err
	}
	files = append(files, units...)

	options := boot.OptionsFrom(o.Labels)
	options.Key, options.PCRKey = o.Key, o.PCRKey
	if err := signLoader(root, files, options); err != nil {
		return nil, err
	}
	made, err := boot.Make(with(root, files), options)
	if err != nil {
		return nil, err
	}
	files = append(
		files,
		File{Path: layout.ImageInitrd, Mode: 0o644, Data: made.Initrd},
		File{Path: layout.ImageUKI, Mode: 0o644, Data: made.UKI},
		File{
			Path: layout.ImageAgent,
			Mode: fs.ModeSymlink | 0o777,
			Link: relative(layout.ImageAgent, layout.ImageApply),
		},
		File{Path: layout.ImageBootManifest, Mode: 0o644, Data: made.Manifest.Marshal()},
	)
	dirs, err := folders(root)
	if err != nil {
		return nil, err
	}
	files = append(append(files, dirs...), leftovers(root)...)
	switch {
	case !made.KernelIsFile:
		files = append(files, File{Path: layout.ImageKernel, Mode: 0o644, Data: made.Kernel})
	case made.KernelPath != layout.ImageKernel:
		// The distribution's file stays what it is, and its bytes are not in the layer.
		files = append(
			files,
			File{
				Path: layout.ImageKernel,
				Mode: fs.ModeSymlink | 0o777,
				Link: relative(layout.ImageKernel, made.KernelPath),
			},
		)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return &Layer{Kernel: made.Manifest.Kernel.Version, Starter: starter(root), Files: files}, nil
}

// signLoader signs systemd-boot among the files, where the image has a certificate for Secure Boot.
func signLoader(root fs.FS, files []File, o boot.Options) error {
	s, err := boot.ReadSecureBoot(root, o)
	if err != nil || s == nil {
		return err
	}
	for i, f := range files {
		if f.Path == layout.ImageSystemdBoot {
			files[i].Data, err = s.Sign(root, f.Path, f.Data, o.Key)
		}
	}
	return err
}

// assetFiles maps the assets to their places in the image.
func assetFiles(a fs.FS) ([]File, error) {
	var files []File
	err := fs.WalkDir(a, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(a, name)
		if err != nil {
			return err
		}
		f := File{Path: path.Join(layout.ImageBootDir, name), Mode: 0o644, Data: data}
		switch name {
		case "init", path.Base(layout.ImageE2fsck):
			f.Mode = 0o755
		case "kairos-apply":
			f.Path, f.Mode = layout.ImageApply, 0o755
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("boot assets: %w", err)
	}
	return files, nil
}

// relative returns the text of a link at from to the file to, both relative to the root.
func relative(from, to string) string {
	dir := strings.Split(path.Dir(from), "/")
	target := strings.Split(to, "/")
	for len(dir) > 0 && len(target) > 1 && dir[0] == target[0] {
		dir, target = dir[1:], target[1:]
	}
	return strings.Repeat("../", len(dir)) + strings.Join(target, "/")
}
