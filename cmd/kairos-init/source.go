package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
)

// source is where the release comes from.
type source struct {
	boot   layout.Boot // Release may be empty: then it is the only one
	device string      // that holds the store
	store  string      // path of the mounted store
}

// storeMount is where the file system with the store is mounted.
const storeMount = "/" + layout.RunStoreMount

// findSource finds and mounts what the machine was booted from.
func (m *machine) findSource() (*source, error) {
	o, err := m.readOrigin()
	if err != nil {
		return nil, err
	}
	if o.boot.Role == layout.RoleLive {
		return m.liveMedium(o.boot)
	}
	return m.installedDisk(o)
}

// liveMedium mounts the ISO 9660 volume labelled COS_LIVE.
func (m *machine) liveMedium(boot layout.Boot) (*source, error) {
	if err := m.modules.load("isofs"); err != nil {
		return nil, err
	}
	device, seen, err := m.devices.find(func(device string) bool {
		label, err := isoLabel(device)
		if err != nil {
			m.log.detail("%v", err)
		}
		return err == nil && label == layout.LabelLive
	})
	if err != nil {
		looked := "no disk or drive has appeared"
		if len(seen) > 0 {
			looked = "looked at " + strings.Join(seen, ", ")
		}
		return nil, fmt.Errorf("no medium labelled %s within %v (%s): attach the medium that this system was started from, or check that the image's kernel has the driver for it", layout.LabelLive, deviceTimeout, looked)
	}
	if err := mount(device, storeMount, "iso9660", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return nil, err
	}
	boot.Medium = device
	return &source{boot: boot, device: device, store: filepath.Join(storeMount, layout.LiveRoot)}, nil
}

// isoLabel reads the volume identifier of an ISO 9660 file system (ECMA-119, 8.4): 32 bytes at
// offset 40 of the primary volume descriptor, which is sector 16 of 2048 bytes. It is ""
// where there is no such file system.
func isoLabel(device string) (string, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", err // such as a drive without a medium
	}
	defer f.Close()
	var sector [2048]byte
	if _, err := f.ReadAt(sector[:], 16*2048); err != nil {
		if err == io.EOF {
			return "", nil // too small
		}
		return "", err
	}
	return parseISOLabel(sector[:]), nil
}

func parseISOLabel(sector []byte) string {
	if string(sector[:7]) != "\x01CD001\x01" {
		return ""
	}
	return strings.TrimRight(string(sector[40:72]), " \x00")
}

// readRelease reads the release to boot: the one whose id is known, else the only one.
func readRelease(s *source) (layout.Release, error) {
	if s.boot.Release == "" {
		ids, err := releaseIDs(s.store)
		if err != nil {
			return layout.Release{}, err
		}
		if len(ids) != 1 {
			return layout.Release{}, fmt.Errorf("%s has %d releases (%s): name one with %s= on the kernel's command line", s.device, len(ids), strings.Join(ids, ", "), layout.CmdlineRelease)
		}
		s.boot.Release = ids[0]
	}
	id := s.boot.Release
	if !layout.ValidID(id) {
		return layout.Release{}, fmt.Errorf("release %q: not an id of %d hex digits", id, layout.IDLength)
	}
	b, err := os.ReadFile(filepath.Join(s.store, layout.ReleasePath(id)))
	if err != nil {
		return layout.Release{}, fmt.Errorf("read release %s from %s: %w", id, s.device, err)
	}
	r, err := layout.ParseRelease(b)
	if err != nil {
		return layout.Release{}, fmt.Errorf("release %s on %s is damaged: %w", id, s.device, err)
	}
	if r.ID() != id {
		return layout.Release{}, fmt.Errorf("release %s on %s is named %s in its own file", id, s.device, r.ID())
	}
	return r, nil
}

func releaseIDs(store string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(store, layout.ReleasesDir))
	if err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if layout.ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
