package disk

import (
	"errors"
	"fmt"

	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/layout"
)

// Configure gives a system what the block install: of a cloud-config says of its disk, and the cloud-config itself. A
// raw disk and an installation with equal configs so have equal partitions, and equal files in OEM.
//
// The words for the kernel's command line are not part of it: they are in the boot files, see [config.Install.Labels].
//
// A path of it that a node cannot mount is an error.
func (s *System) Configure(i config.Install, cloudConfig []byte) error {
	s.Sizes, s.Encrypted = i.Sizes, i.Encrypted
	if s.Portable && len(i.Encrypted) > 0 {
		return errors.New("install.encrypted_partitions: a disk image that is written to many disks would give all " +
			"of them one key: make a medium, which installs each with a key of its own")
	}
	for _, p := range i.Extra {
		s.Extra = append(
			s.Extra,
			layout.Partition{Name: p.Name, Label: p.Label, Type: layout.TypeLinux, FS: p.FS, Size: p.Size},
		)
	}
	files, err := OEMFiles(i, cloudConfig)
	s.OEM = append(s.OEM, files...)
	return err
}

// OEMFiles returns the files of the OEM partition: the cloud-config, which root alone reads since it may have
// passwords and tokens, and what it adds to the mount policy.
func OEMFiles(i config.Install, cloudConfig []byte) ([]filetree.File, error) {
	var files []filetree.File
	if len(cloudConfig) > 0 {
		f := filetree.Bytes(layout.OEMCloudConfig, cloudConfig)
		f.Mode = 0o600
		files = append(files, f)
	}
	if m := (layout.Mounts{Bind: i.BindMounts, Ephemeral: i.EphemeralMounts}); len(m.Bind)+len(m.Ephemeral) > 0 {
		if err := m.Check(); err != nil {
			return nil, fmt.Errorf("the cloud-config's install: %w", err)
		}
		files = append(files, filetree.Bytes(layout.OEMMounts, m.Marshal()))
	}
	return files, nil
}
