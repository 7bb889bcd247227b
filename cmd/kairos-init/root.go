package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// layersDir holds the mounted layers: 0 is the lowest. They stay visible in the running
// system, so that findmnt shows what the root is made of.
const layersDir = "/" + layout.RunDir + "/layers"

// mountRoot mounts a release read-only on sysroot: each layer through dm-verity, and an overlay of
// them all. Nothing of a layer is read that its root hash does not vouch for.
func (m *machine) mountRoot(store string, r layout.Release) error {
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("device mapper: %w: the image's kernel has to have CONFIG_BLK_DEV_DM", err)
	}
	defer control.Close()
	dirs := make([]string, len(r.Layers))
	for i, l := range r.Layers {
		dirs[i] = layerDir(i)
		if err := m.mountLayer(control, i, filepath.Join(store, layout.BlobPath(l.DiffID)), l, dirs[i]); err != nil {
			return fmt.Errorf("layer %d of %d (%s): %w", i+1, len(r.Layers), l.DiffID.Hex()[:12], err)
		}
	}
	if len(dirs) == 1 {
		// An overlay takes two layers or more.
		if err := os.MkdirAll(sysroot, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dirs[0], sysroot, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount the root: %w", err)
		}
		return nil
	}
	return mount("overlay", sysroot, "overlay", unix.MS_RDONLY, lowerdirs(dirs))
}

func layerDir(n int) string { return layersDir + "/" + strconv.Itoa(n) }

// lowerdirs returns overlay's options: it wants the highest layer first. mount(2) takes a page
// of options, enough for 170 layers of names as short as these.
func lowerdirs(dirs []string) string {
	var b strings.Builder
	b.WriteString("lowerdir=")
	for i := len(dirs) - 1; i >= 0; i-- {
		b.WriteString(dirs[i])
		if i > 0 {
			b.WriteByte(':')
		}
	}
	return b.String()
}

func (m *machine) mountLayer(control *dm.Control, n int, blob string, l layout.Layer, dir string) error {
	loop, err := attachLoop(blob)
	if err != nil {
		return err
	}
	device, err := openVerity(control, "kairos-layer-"+strconv.Itoa(n), loop.Name(), l, m.boot.Trial)
	// The loop device lives on while dm-verity uses it, and goes with it.
	loop.Close()
	if err != nil {
		return err
	}
	return mount(device, dir, "erofs", unix.MS_RDONLY, "")
}

// attachLoop makes a read-only loop device of a file. It goes away with its last user.
func attachLoop(file string) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("loop device for %s: %w", file, err) }
	f, err := os.Open(file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:len(config.Info.File_name)-1], filepath.Base(file))
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return fail(err)
	}
	loop, err := os.Open("/dev/loop" + strconv.Itoa(n))
	if err != nil {
		return fail(err)
	}
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		loop.Close()
		return fail(err)
	}
	return loop, nil
}

// openVerity makes a device that shows the blob's EROFS image and checks each block that is
// read from it against the layer's root hash. A block that does not match is an I/O error; for a release
// on trial it is a panic, so that a damaged one does not pass its health checks by luck.
func openVerity(control *dm.Control, name, device string, l layout.Layer, trial bool) (string, error) {
	const sector = 512
	table := []dm.Target{{Length: uint64(l.Size / sector), Type: "verity", Params: verityTable(device, l)}}
	strict := []dm.Target{table[0]}
	strict[0].Params += " 1 panic_on_corruption"
	dev, err := control.CreateDevice(name)
	if err != nil {
		return "", err
	}
	err = errors.ErrUnsupported
	if trial {
		err = control.LoadTable(name, strict) // Linux 5.9 and later
	}
	if err != nil {
		err = control.LoadTable(name, table)
	}
	if err == nil {
		err = control.SuspendDevice(name, false)
	}
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w: the blob is shorter than release.json says, or the kernel lacks dm-verity or sha256", err)
		}
		return "", errors.Join(err, control.RemoveDevice(name))
	}
	return "/dev/dm-" + strconv.Itoa(int(unix.Minor(dev))), nil
}

// verityTable returns dm-verity's parameters (kernel documentation: device-mapper/verity): the
// tree is in the same device, after the image and the block with the superblock.
func verityTable(device string, l layout.Layer) string {
	blocks := l.Size / verity.BlockSize
	return fmt.Sprintf("1 %s %s %d %d %d %d %s %s %s",
		device, device, verity.BlockSize, verity.BlockSize, blocks, blocks+1, verity.Algorithm, l.RootHash, verity.Salt)
}
