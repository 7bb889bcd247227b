// Package root mounts a release's layers as one root.
//
// Each layer is a loop device, a dm-verity device and an EROFS. They are mounted nosuid, nodev and noexec below a
// folder that only root enters, and detached from the tree once the root stands: the overlay keeps them alive, and
// what the root allows is decided by the overlay's own flags. So nothing of a layer that a higher one removes can be
// reached, and the running system sees one mount, not one for each layer.
package root

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/internal/blockdev"
	"github.com/kairos-buildkit/kairos/internal/mount"
	"github.com/kairos-buildkit/kairos/layout"
)

// Dir is where the root is put together.
const Dir = "/sysroot"

// layersDir holds the mounted layers until the root stands: 0 is the lowest.
const layersDir = "/" + layout.RunPrivate + "/layers"

// workers mount layers side by side: most of the time goes to waiting for the kernel.
const workers = 8

// Mount mounts a release read-only on Dir. Nothing of a layer is read that its root hash does not vouch for.
// With trial a damaged block is a panic; else it is an I/O error.
func Mount(store string, r layout.Release, trial bool) error {
	if err := quietDevices(); err != nil {
		return err
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	if len(r.Layers) == 1 {
		// An overlay takes two layers or more.
		return mountLayers(store, r, trial, func(int) (string, uintptr) { return Dir, unix.MS_RDONLY })
	}
	if err := mount.PrivateDir("/" + layout.RunPrivate); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	err := mountLayers(store, r, trial, func(n int) (string, uintptr) {
		return filepath.Join(layersDir, strconv.Itoa(n)), unix.MS_RDONLY | mount.Data
	})
	if err != nil {
		return err
	}
	if err := mountOverlay(layersDir, Dir, len(r.Layers)); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	return detach(layersDir, len(r.Layers))
}

// mountOverlay mounts layers, the folders 0, 1, … of dir, read-only on a folder.
//
// mount(2) takes a page of options, and would drop what is beyond: the base of the system. So the layers are
// named relative to the working directory, which leaves room for twice as many as overlayfs takes.
func mountOverlay(dir, target string, layers int) error {
	if layers > layout.MaxLayers {
		return fmt.Errorf("%d layers: the kernel takes %d", layers, layout.MaxLayers)
	}
	options := lowerdirs(layers)
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%d layers: their names do not fit into a page", layers)
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	return errors.Join(unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, options), os.Chdir("/"))
}

// lowerdirs returns overlay's options: it wants the highest layer first.
func lowerdirs(layers int) string {
	names := make([]string, layers)
	for i := range names {
		names[i] = strconv.Itoa(layers - 1 - i)
	}
	return "lowerdir=" + strings.Join(names, ":")
}

func detach(dir string, layers int) error {
	for i := range layers {
		if err := unix.Unmount(filepath.Join(dir, strconv.Itoa(i)), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach layer %d: %w", i+1, err)
		}
	}
	return os.RemoveAll(dir)
}

// mountLayers mounts all layers, several at a time.
func mountLayers(store string, r layout.Release, trial bool, at func(n int) (dir string, flags uintptr)) error {
	errs := make([]error, len(r.Layers))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(workers, len(r.Layers)) {
		wg.Go(func() {
			mapper, err := blockdev.OpenMapper()
			if err == nil {
				defer mapper.Close()
			}
			for n := range next {
				if errs[n] = err; err == nil {
					dir, flags := at(n)
					errs[n] = mountLayer(mapper, n, store, r.Layers[n], trial, dir, flags)
				}
			}
		})
	}
	for n := range r.Layers {
		next <- n
	}
	close(next)
	wg.Wait()
	for n, err := range errs {
		if err != nil { // one is enough: it is on a console
			return fmt.Errorf("layer %d of %d (%s): %w", n+1, len(errs), r.Layers[n].DiffID.Hex()[:12], err)
		}
	}
	return nil
}

func mountLayer(
	mapper *blockdev.Mapper,
	n int,
	store string,
	l layout.Layer,
	trial bool,
	dir string,
	flags uintptr,
) error {
	f, err := os.Open(filepath.Join(store, layout.BlobPath(l.DiffID)))
	if err != nil {
		return err
	}
	defer f.Close()
	loop, err := blockdev.Loop(f, 0, 0)
	if err != nil {
		return err
	}
	// The loop device lives on while dm-verity uses it, and goes with it.
	defer loop.Close()
	// A release on trial does not pass its health checks by luck.
	device, err := mapper.Create(devicePrefix+strconv.Itoa(n),
		blockdev.Verity{Device: loop.Name(), Size: l.Size, RootHash: l.RootHash, Strict: trial})
	if err != nil {
		return err
	}
	return mount.On(device, dir, "erofs", flags, "")
}
