package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/config"
	"github.com/kairos-buildkit/kairos/disk"
	"github.com/kairos-buildkit/kairos/disk/filetree"
	"github.com/kairos-buildkit/kairos/disk/luks"
	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/modprobe"
	"github.com/kairos-buildkit/kairos/layout"
)

// noEncryption says what an image lacks that does not open encrypted partitions.
const noEncryption = "its kernel has no dm-crypt (CONFIG_DM_CRYPT), AES or XTS, or its boot layer is of a version " +
	"that asks for no key: install a kernel that has them, and build the image with this version"

// encryptable refuses to encrypt where nobody would see the recovery key, or what is there stays.
func encryptable(i config.Install, unattended bool) error {
	switch {
	case len(i.Encrypted) == 0:
		return nil
	case unattended:
		return refuse("install.encrypted_partitions: nobody would see the recovery key, and nothing else opens the " +
			"partitions at a start. Nothing was changed: install with `kairos-apply install` at the machine")
	case i.NoFormat:
		return refuse("install.encrypted_partitions: with no-format the partitions stay as they are: leave one of " +
			"both out")
	}
	return nil
}

// isEncrypted says whether a device has a LUKS2 volume.
func isEncrypted(device string) (bool, error) {
	f, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = luks.Read(f)
	return !errors.Is(err, luks.ErrNone), nil
}

// volume is a partition that is encrypted, and its key.
type volume struct {
	name   string
	header *luks.Header
	key    []byte
}

// section is a part of a disk, where a volume goes.
type section struct {
	*io.SectionReader
	*io.OffsetWriter
	disk *os.File
}

func (s section) Sync() error { return s.disk.Sync() }

func sectionOf(f *os.File, at, size int64) section {
	return section{io.NewSectionReader(f, at, size), io.NewOffsetWriter(f, at), f}
}

// newVolume writes the header of a new volume, over all that a former one has had in its place.
func newVolume(on luks.Device, label string, sectorSize int64, recovery string, passphrase []byte) (volume, error) {
	h, key, err := luks.New(label, sectorSize)
	if err != nil {
		return volume{}, err
	}
	v := volume{header: h, key: key}
	zeros := make([]byte, 1<<20)
	for at, end := int64(0), h.Begin(); at < end; at += int64(len(zeros)) {
		if _, err := on.WriteAt(zeros[:min(end-at, int64(len(zeros)))], at); err != nil {
			return v, err
		}
	}
	err = h.Add(on, key, []byte(recovery), luks.Random, map[string]any{"type": layout.TokenRecovery})
	if err == nil && len(passphrase) > 0 {
		err = h.Add(on, key, passphrase, luks.Passphrase, nil)
	}
	return v, err
}

// encryptPartitions makes the volumes of a disk that is being installed, with their file systems, which the kernel
// encrypts. The kernel knows no partitions yet.
func encryptPartitions(
	ctx context.Context,
	f *os.File,
	s disk.System,
	placed []disk.Placed,
	recovery string,
	o InstallOptions,
) (all []volume, err error) {
	_ = modprobe.Load("dm_crypt", "loop") // they may be built in
	for _, p := range placed {
		if !slices.Contains(s.Encrypted, p.Name) {
			continue
		}
		o.Progress.step(api.StepPartition, p.Label)
		on := sectionOf(f, p.Start, p.Size)
		v, err := newVolume(on, p.Label, max(s.SectorSize, 512), recovery, o.Passphrase)
		if err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", p.Label, err)
		}
		v.name = p.Name
		if err := fill(ctx, f, p, v, s.Inside); err != nil {
			return nil, fmt.Errorf("encrypt %s: %w", p.Label, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// fill writes a volume's file system.
func fill(
	ctx context.Context,
	f *os.File,
	p disk.Placed,
	v volume,
	inside func(string, int64) disk.Ext4,
) (err error) {
	loop, err := blockdev.WritableLoop(f, p.Start, p.Size)
	if err != nil {
		return err
	}
	defer loop.Close()
	name := layout.MapperName(v.name)
	path, err := blockdev.OpenVolume(name, loop, v.header, v.key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeVolume(name)) }()
	return writeInside(ctx, path, func(size int64) disk.Ext4 { return inside(v.name, size) })
}

// writeInside writes a file system to the device of an open volume.
func writeInside(ctx context.Context, path string, fs func(size int64) disk.Ext4) error {
	d, err := openExclusive(path)
	if err != nil {
		return err
	}
	defer d.Close()
	size, err := blockdev.Size(d)
	if err != nil {
		return err
	}
	image, err := fs(size).Image()
	if err != nil {
		return err
	}
	if err := image.WriteOver(ctx, d, 0); err != nil {
		return err
	}
	return d.Sync()
}

// closeVolume closes a volume that udev may still be looking at.
func closeVolume(name string) (err error) {
	for range 50 {
		if err = blockdev.CloseVolume(name); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// openVolumes opens volumes of a disk that was just installed, and returns how a system that runs from it sees its
// partitions.
func openVolumes(
	all []volume,
	devices map[string]string,
) (open map[string]layout.Encrypted, done func() error, err error) {
	open = map[string]layout.Encrypted{}
	done = func() error {
		var errs []error
		for name := range open {
			errs = append(errs, closeVolume(layout.MapperName(name)))
		}
		return errors.Join(errs...)
	}
	for _, v := range all {
		f, err := os.Open(devices[v.name])
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		path, err := blockdev.OpenVolume(layout.MapperName(v.name), f, v.header, v.key)
		f.Close()
		if err != nil {
			return nil, nil, errors.Join(err, done())
		}
		open[v.name] = layout.Encrypted{Device: devices[v.name], UnlockedBy: layout.UnlockedByRecovery}
		devices[v.name] = path
	}
	return open, done, nil
}

// reencrypt gives a partition that nothing has opened a new volume with an empty file system, and returns the recovery
// key of that, a new one where none is given. What was on it nobody reads any more.
func (m *Machine) reencrypt(
	ctx context.Context,
	p layout.Partition,
	files []filetree.File,
	recovery string,
) (string, error) {
	e := m.Boot.Encrypted[p.Name]
	f, err := openExclusive(e.Device)
	if err != nil {
		return "", err
	}
	defer func() { f.Close() }()
	sectorSize, err := blockdev.SectorSize(f)
	if err != nil {
		return "", err
	}
	if recovery == "" {
		recovery = luks.NewRecoveryKey()
	}
	v, err := newVolume(f, p.Label, sectorSize, recovery, nil)
	if err != nil {
		return "", err
	}
	f.Close() // dm-crypt wants it for itself
	if f, err = os.Open(e.Device); err != nil {
		return "", err
	}
	path, err := blockdev.OpenVolume(layout.MapperName(p.Name), f, v.header, v.key)
	if err != nil {
		return "", err
	}
	m.Boot.Devices[p.Name], e.UnlockedBy = path, layout.UnlockedByRecovery
	m.Boot.Encrypted[p.Name] = e
	return recovery, writeInside(ctx, path, func(size int64) disk.Ext4 {
		x := disk.Ext4{Label: p.Label, Time: time.Now(), Files: files, Size: size}
		rand.Read(x.UUID[:])
		return x
	})
}
