//go:build vm

package node

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/loader"
	"github.com/kairos-buildkit/kairos/store"
)

// smallDisk is a disk whose partition has a size, with an image installed.
func smallDisk(t *testing.T, partition, size string, img testImage) (*Machine, string) {
	t.Helper()
	disk := t.TempDir()
	dir := filepath.Join(disk, partition)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount: %v (these tests run as root)", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return install(t, disk, "uefi", t.TempDir(), img), disk
}

func TestFullOrReadOnlyPartitionLeavesTheOldRelease(t *testing.T) {
	a, _, _ := threeImages(t)
	big := newImage(t, runtime.GOARCH, a.layers[0], tarOf(t, map[string]string{"big": noise(24 << 20)}), a.layers[2])
	intact := func(t *testing.T, disk string) {
		t.Helper()
		if order, err := bootable(disk, "uefi"); err != nil || order[0].ID != a.id || len(order) != 2 {
			t.Errorf("boots %v, %v", order, err)
		}
		noLeftovers(t, disk)
	}
	t.Run("state too small", func(t *testing.T) {
		m, disk := smallDisk(t, stateDir, "20m", a)
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: big.source()})
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "MiB free") {
			t.Errorf("%v", err)
		}
		intact(t, disk)
	})
	t.Run("state full in the middle", func(t *testing.T) {
		m, disk := smallDisk(t, stateDir, "40m", a)
		// What the estimate cannot know: somebody else fills the partition meanwhile.
		filled := false
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: big.source(), Progress: func(e Event) {
			if e.Step == "layer" && !filled {
				filled = true
				os.WriteFile(filepath.Join(disk, stateDir, "log"), make([]byte, 30<<20), 0o644)
			}
		}})
		if err == nil || !isNoSpace(err) || !strings.Contains(err.Error(), "nothing that boots was changed") {
			t.Errorf("%v", err)
		}
		intact(t, disk)
		os.Remove(filepath.Join(disk, stateDir, "log"))
		if _, err := m.Upgrade(t.Context(), UpgradeOptions{Source: big.source()}); err != nil {
			t.Errorf("with room again: %v", err)
		}
	})
	t.Run("ESP too small", func(t *testing.T) {
		m, disk := smallDisk(t, espDir, "2m", a)
		m.bootFiles = func(*store.Store, layout.Release, Progress) (loader.BootFiles, bootFacts, error) {
			return loader.BootFiles{UKI: make([]byte, 3<<20)}, bootFacts{}, nil
		}
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: big.source()})
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "ESP") {
			t.Errorf("%v", err)
		}
		if found, err := m.State.Releases(); err != nil || len(found) != 1 {
			t.Errorf("STATE has %d releases, %v", len(found), err)
		}
		intact(t, disk)
	})
	t.Run("read-only", func(t *testing.T) {
		m, disk := smallDisk(t, stateDir, "80m", a)
		if err := unix.Mount("", filepath.Join(disk, stateDir), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		_, err := m.Upgrade(t.Context(), UpgradeOptions{Source: big.source()})
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%v", err)
		}
		intact(t, disk)
	})
}
