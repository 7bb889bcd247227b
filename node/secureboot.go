package node

import (
	"context"
	"io/fs"

	"github.com/kairos-buildkit/kairos/api"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/internal/efivars"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/uki/secureboot"
)

// secureBoot is what the firmware says of Secure Boot, for the status.
func (m *Machine) secureBoot() (string, error) {
	vars := m.variables()
	if m.Boot.Firmware != layout.FirmwareUEFI || vars.Check() != nil {
		return "", nil
	}
	// Of db and dbx nothing is told, so that one of another kind than ours hides nothing.
	firmware, err := secureboot.ReadFirmware(func(name, vendor string) ([]byte, error) {
		if vendor != efivars.Global {
			return nil, fs.ErrNotExist
		}
		return vars.Read(name, vendor)
	})
	switch {
	case err != nil:
		return "", err
	case firmware.Enforcing:
		return api.SecureBootEnforcing, nil
	case firmware.Setup:
		return api.SecureBootSetup, nil
	}
	return api.SecureBootOff, nil
}

// bootSignaturesOf returns the signatures of an image's boot files, where the image says that they are apart from it:
// those of the medium, or those beside the image in its registry. Whether they are good, [readBootFiles] says. nil
// where there are none.
func bootSignaturesOf(ctx context.Context, img *source.Image) ([]byte, error) {
	if img.Config.Config.Labels[layout.ImageLabelBootSignatures] == "" {
		return nil, nil
	}
	if img.Made != nil {
		return img.Made.BootSignatures, nil
	}
	if img.Repository == nil || img.Manifest.Digest == "" {
		return nil, nil
	}
	return release.BootSignatures(ctx, img.Repository, layout.Digest(img.Manifest.Digest))
}

// startable refuses a release whose boot files this machine's firmware would not start, or that are not signed by
// the key which the release's image names; and one that does not open what is encrypted here.
func (m *Machine) startable(r layout.Release, program []byte, facts bootFacts) error {
	if len(m.Boot.Encrypted) > 0 && !facts.encryption {
		return refuse("release %s (%s) does not open encrypted partitions, which this machine has: %s", r.ID(),
			r.Version, noEncryption)
	}
	files := []struct {
		name string
		data []byte
	}{{layout.ImageUKI, program}, {layout.ImageSystemdBoot, facts.loader}}
	if facts.secureBoot != nil {
		for _, f := range files {
			if err := facts.secureBoot.Check(f.data); err != nil {
				return refuse("release %s (%s): its /%s is not the one that its key for Secure Boot has signed: %v",
					r.ID(), r.Version, f.name, err)
			}
		}
	}
	if m.Boot.Firmware != layout.FirmwareUEFI {
		return nil
	}
	firmware, err := secureboot.ReadFirmware(m.variables().Read)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := firmware.Starts(f.data); err != nil {
			return refuse("release %s (%s): this machine's firmware enforces Secure Boot and would not start "+
				"its /%s: %v: build the image with a key of the firmware's db (docs/security.md)",
				r.ID(), r.Version, f.name, err)
		}
	}
	return nil
}
