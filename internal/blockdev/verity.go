package blockdev

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/verity"
)

// Mapper makes dm-verity devices.
type Mapper struct{ control *dm.Control }

// OpenMapper opens the kernel's device mapper.
func OpenMapper() (*Mapper, error) {
	control, err := dm.Open()
	if err != nil {
		return nil, fmt.Errorf("device mapper: %w: the image's kernel has to have CONFIG_BLK_DEV_DM", err)
	}
	return &Mapper{control}, nil
}

// Close closes the device mapper. Its devices stay.
func (m *Mapper) Close() error { return m.control.Close() }

// Verity is what a dm-verity device checks.
type Verity struct {
	Device   string // data, then a block with dm-verity's superblock, then the tree
	Size     int64  // of the data, in bytes: a multiple of verity.BlockSize
	RootHash string // hex
	// Strict makes a block that does not match a panic, where the kernel can do that (Linux 5.9); else it is an I/O
	// error.
	Strict bool
}

// Create makes a device that shows the data, and checks each block that is read against the root hash.
// It returns the device's path.
func (m *Mapper) Create(name string, v Verity) (string, error) {
	const sector = 512
	table := []dm.Target{{Length: uint64(v.Size / sector), Type: "verity", Params: v.table()}}
	strict := []dm.Target{table[0]}
	strict[0].Params += " 1 panic_on_corruption"
	dev, err := m.control.CreateDevice(name)
	if err != nil {
		return "", err
	}
	err = errors.ErrUnsupported
	if v.Strict {
		err = m.control.LoadTable(name, strict)
	}
	if err != nil {
		err = m.control.LoadTable(name, table)
	}
	if err == nil {
		err = m.control.SuspendDevice(name, false)
	}
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf(
				"%w: the blob is shorter than release.json says, or the kernel lacks dm-verity or sha256",
				err,
			)
		}
		return "", errors.Join(err, m.Remove(name))
	}
	return "/dev/dm-" + strconv.Itoa(int(unix.Minor(dev))), nil
}

// Remove removes a device.
func (m *Mapper) Remove(name string) error { return m.control.RemoveDevice(name) }

// table returns dm-verity's parameters (kernel documentation: device-mapper/verity).
func (v Verity) table() string {
	blocks := v.Size / verity.BlockSize
	return fmt.Sprintf("1 %s %s %d %d %d %d %s %s %s", v.Device, v.Device, verity.BlockSize, verity.BlockSize,
		blocks, blocks+1, verity.Algorithm, v.RootHash, verity.Salt)
}
