package node

import (
	"errors"
	"io/fs"
	"path"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/kairos-buildkit/kairos/layout"
)

// An image of some kilobytes whose layers are hundreds of megabytes in all is refused where a store has no room for a
// part of that, and leaves nothing.
func TestUpgradeBoundsContent(t *testing.T) {
	a, _, _ := threeImages(t)
	disk := t.TempDir()
	m := install(t, disk, "uefi", t.TempDir(), a)
	layers := [][]byte{a.layers[0]}
	for _, name := range []string{"x", "y", "z"} {
		layers = append(layers, tarOf(t, map[string]string{name: strings.Repeat("\x00", 50<<20)}))
	}
	bomb := newImage(t, runtime.GOARCH, append(layers, a.layers[2])...)
	for _, recovery := range []bool{false, true} {
		m.freeBytes = func(string) (int64, error) { return reserve + 1<<20, nil }
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: bomb.source(), Recovery: recovery})
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "say so with --max-content SIZE") {
			t.Errorf("recovery %v: %v", recovery, err)
		}
		if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != a.id || len(order) != 2 {
			t.Errorf("boots %v, %v", order, err)
		}
		noLeftovers(t, disk)
	}
	if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: bomb.source(), MaxContent: 1 << 30}); err != nil {
		t.Errorf("allowed by name: %v", err)
	}
}

// claims is a tree one of whose files says that it has 12 GiB.
type claims struct {
	fs.FS
	name string
}

func (c claims) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err == nil && name == c.name {
		f = hugeFile{f}
	}
	return f, err
}

type hugeFile struct{ fs.File }

func (h hugeFile) Stat() (fs.FileInfo, error) {
	info, err := h.File.Stat()
	return hugeInfo{info}, err
}

type hugeInfo struct{ fs.FileInfo }

func (hugeInfo) Size() int64 { return 12 << 30 }

// A file of an image that is one hole of gigabytes is not read into memory.
func TestImageFilesAreBounded(t *testing.T) {
	core := path.Join(layout.ImageGrubDir, "core.img")
	tree := fstest.MapFS{core: {}}
	boot := []string{layout.ImageUKI, layout.ImageBootManifest, layout.ImageKernel, layout.ImageInitrd}
	for _, name := range append(boot, layout.ImageSystemdBoot) {
		tree[name] = &fstest.MapFile{Data: []byte("{}")}
	}
	if _, err := imageBootFiles(tree); err != nil {
		t.Fatal(err)
	}
	var refused *RefusedError
	for _, name := range boot {
		_, err := imageBootFiles(claims{tree, name})
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := programs(claims{tree, layout.ImageSystemdBoot}, layout.Release{}); !errors.As(err, &refused) {
		t.Errorf("boot loader: %v", err)
	}
	// The version is read before anything else is known of the image.
	m := install(t, t.TempDir(), "uefi", t.TempDir(), newImage(t, runtime.GOARCH, bootLayer(t, "loader 1")))
	m.bootFiles = readBootFiles
	large := tarOf(t, map[string]string{layout.ImageRelease: strings.Repeat("\x00", maxText+1)})
	_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: newImage(t, runtime.GOARCH, large).source()})
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "more than 16 MiB") {
		t.Errorf("version: %v", err)
	}
}
