package medium

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kairos-buildkit/kairos/internal/initramfs/devices"
	"github.com/kairos-buildkit/kairos/layout"
)

// liveMedium mounts the ISO 9660 volume labelled COS_LIVE.
func (f *Finder) liveMedium(boot layout.Boot) (Source, error) {
	s := Source{Boot: boot}
	if err := f.Modules.Load("isofs"); err != nil {
		return s, err
	}
	device, seen, err := f.Devices.Find(func(device string) bool {
		label, err := isoLabel(device)
		if err != nil {
			f.Log.Detail("%v", err)
		}
		return err == nil && label == layout.LabelLive
	})
	if err != nil {
		looked := "no disk or drive has appeared"
		if len(seen) > 0 {
			looked = "looked at " + strings.Join(seen, ", ")
		}
		return s, fmt.Errorf(
			"no medium labelled %s within %v (%s): attach the medium that this system was started from, "+
				"or check that the image's kernel has the driver for it",
			layout.LabelLive,
			devices.Timeout,
			looked,
		)
	}
	device, err = f.started(device, "a medium labelled "+layout.LabelLive, func(device string) bool {
		label, err := isoLabel(device)
		return err == nil && label == layout.LabelLive
	})
	if err != nil {
		return s, err
	}
	// For root alone: the cloud-config is on the medium, with its passwords and tokens, and ISO 9660 has no
	// permissions.
	const forRoot = "mode=0400,dmode=0500"
	if err := mountStore(device, "iso9660", forRoot); err != nil {
		return s, err
	}
	s.Boot.Medium, s.Device, s.Store = device, device, filepath.Join(storeMount, layout.LiveRoot)
	return s, nil
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
