// Package sealed is what /init asks for before it mounts a layer, where its initrd has trust.json: the release is
// signed by the keys there, it is not too old, it is the one of the UKI that started, and the kernel's command line
// has no word that nobody signed.
//
// A refusal is a boot that fails like any other: the boot loader has counted the try. Where trust.json only warns,
// what would be refused is said, and goes on.
package sealed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"github.com/kairos-buildkit/kairos/disk/fat"
	"github.com/kairos-buildkit/kairos/internal/initramfs/console"
	"github.com/kairos-buildkit/kairos/internal/tpm"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/trust"
	"github.com/kairos-buildkit/kairos/uki"
)

// Seal is what the initrd trusts. Its methods may be called on nil, an initrd that asks for nothing.
type Seal struct {
	Anchor trust.Anchor
	Log    *console.Log
	// Problems are what was found and went on.
	Problems []string

	arch string
}

// Read reads the initrd's trust.json; nil where there is none. One that cannot be read is an error, and never none.
func Read(name string, log *console.Log) (*Seal, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		s := &Seal{Log: log, arch: runtime.GOARCH}
		if s.Anchor, err = trust.ParseAnchor(b); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("the initrd's %s: %w: this boot file is damaged", name, err)
}

// Refuse returns the error, or says it and returns nil where trust.json only warns.
func (s *Seal) Refuse(err error) error {
	if s == nil || err == nil {
		return nil
	}
	if !s.Anchor.Warn {
		return fmt.Errorf("refused: %w", err)
	}
	s.Log.Crit("would be refused if trust.json did not only warn: %v", err)
	s.Problems = append(s.Problems, "it would be refused: "+err.Error())
	return nil
}

// grubWords are what GRUB adds to the command line. Nothing else says these under BIOS, and UEFI has variables for
// them.
var grubWords = []string{
	"BOOT_IMAGE", layout.CmdlineESP, layout.CmdlineRelease, layout.CmdlineRole, layout.CmdlineTries,
}

// Cmdline returns the words of the kernel's command line that are obeyed, and whether the machine may boot with the
// others: the kernel and the image's init read them, too, whatever /init makes of them.
func (s *Seal) Cmdline(c layout.Cmdline, firmware string) (layout.Cmdline, error) {
	if s == nil {
		return c, nil
	}
	var allowed, refused layout.Cmdline
	for _, w := range c {
		key, _, _ := strings.Cut(w, "=")
		ok, _ := s.Anchor.Words(layout.Cmdline{w})
		for _, g := range grubWords {
			if firmware == layout.FirmwareBIOS && key == g {
				ok = layout.Cmdline{w}
			}
		}
		if len(ok) > 0 {
			allowed = append(allowed, w)
		} else {
			refused = append(refused, w)
		}
	}
	if len(refused) == 0 {
		return allowed, nil
	}
	err := s.Refuse(fmt.Errorf("the kernel's command line has words that the image does not allow: %q: take them "+
		"away, or allow them in the image (label %s, /%s)",
		refused, layout.ImageLabelCmdline, layout.ImageTrustPolicy))
	if err == nil {
		return c, nil
	}
	return allowed, err
}

// Release says whether a release may be mounted.
func (s *Seal) Release(r layout.Release) error {
	if s == nil {
		return nil
	}
	signed, err := s.Anchor.Check(r, s.arch)
	if err != nil {
		return s.Refuse(err)
	}
	for _, k := range signed {
		s.Log.Info("release %s, epoch %d, is signed by %s key %s", r.ID(), r.Epoch, k.Algorithm, k.ID)
	}
	return nil
}

// Floor says whether a release that starts in a role may do so on this machine: its TPM holds a lowest epoch. Where
// that cannot be read, it is said, and what the boot file itself asks for is all: whoever can keep a TPM from
// answering can take it away as well, and a TPM that breaks must not take the machine with it.
func (s *Seal) Floor(r layout.Release, role string, floors func() (tpm.Floors, error)) error {
	if s == nil || !s.Anchor.TPM {
		return nil
	}
	f, err := floors()
	if errors.Is(err, tpm.ErrNone) {
		s.Unchecked("the lowest epoch in the TPM: " + err.Error())
		return nil
	}
	if err != nil {
		problem := fmt.Sprintf("not checked: the lowest epoch in the TPM: %v", err)
		s.Log.Crit("%s", problem)
		s.Problems = append(s.Problems, problem)
		return nil
	}
	if lowest := f.Of(role); r.Epoch < lowest {
		return s.Refuse(fmt.Errorf("release %s (%s): its epoch is %d, and this machine's TPM holds %d as the lowest "+
			"that starts: take a later release; where the machine has another owner now, clear the TPM in the "+
			"firmware's setup", r.ID(), r.Version, r.Epoch, lowest))
	}
	s.Log.Info("the lowest epoch in the TPM is %d", f.Of(role))
	return nil
}

// Unchecked says what cannot be asked for on this machine.
func (s *Seal) Unchecked(what string) {
	if s != nil {
		s.Log.Info("not checked: %s", what)
	}
}

// maxUKI bounds a UKI in bytes: what is read of a partition that others write.
const maxUKI = 512 << 20

// UKI says whether the file that the firmware has started is the UKI that a signed release names. esp is the partition
// and image the file's path as the stub says it, with backslashes. The name in the boot menu is the node's: it counts
// as the one that the image's UKI has. What is read is the file as it is on the disk now.
func (s *Seal) UKI(esp fat.Disk, image string, r layout.Release) error {
	return s.uki(r, image, "in a release that boots, `kairos-apply verify --repair` writes it again",
		func() (fat.Disk, error) { return esp, nil })
}

// Medium is a device, or its file.
type Medium interface {
	io.ReaderAt
	io.Seeker
}

// LiveUKI is [Seal.UKI] for a live medium, which the release is on: the file is in the volume that UEFI starts from.
// Whether it is this medium that was started, and not one with another file of that name, it does not say.
func (s *Seal) LiveUKI(medium Medium, image string, r layout.Release) error {
	return s.uki(r, image, "write the medium again", func() (fat.Disk, error) {
		size, err := medium.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		begin, length, ok := fat.InISO(medium, size)
		if !ok {
			return nil, errors.New("the medium has no EFI system partition in its boot record")
		}
		return fat.ReadOnly(io.NewSectionReader(medium, begin, length)), nil
	})
}

func (s *Seal) uki(r layout.Release, image, repair string, volume func() (fat.Disk, error)) error {
	if s == nil {
		return nil
	}
	if r.UKI == "" {
		s.Unchecked("the UKI, of which release.json has no digest")
		return nil
	}
	name := strings.TrimPrefix(strings.ReplaceAll(image, `\`, "/"), "/")
	if name == "" {
		return s.Refuse(errors.New("the UKI: the firmware does not say which file it has started"))
	}
	esp, err := volume()
	if err != nil {
		return s.Refuse(fmt.Errorf("the UKI %s: %w", name, err))
	}
	b, err := readFile(esp, name)
	if err != nil {
		return s.Refuse(fmt.Errorf("the UKI %s: %w", name, err))
	}
	sum, err := uki.Authenticode(uki.Untitled(b))
	if err != nil {
		return s.Refuse(fmt.Errorf("the UKI %s: %w", name, err))
	}
	if have := layout.SHA256(sum); have != r.UKI {
		return s.Refuse(fmt.Errorf("the UKI %s is %s, and the one of release %s (%s) is %s: %s", name, have, r.ID(),
			r.Version, r.UKI, repair))
	}
	return nil
}

func readFile(volume fat.Disk, name string) ([]byte, error) {
	v, err := fat.Open(volume)
	if err != nil {
		return nil, err
	}
	f, err := v.FS().Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxUKI {
		return nil, fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxUKI)
	}
	b := make([]byte, info.Size())
	_, err = io.ReadFull(f, b)
	return b, err
}

// helper is the program that the kernel starts for a module that it misses. A word of the command line sets it.
const helper = "/proc/sys/kernel/modprobe"

// NoHelper has the kernel start no program, and returns what it would have started. It does nothing where the kernel
// has no such setting.
func NoHelper() (was []byte, err error) {
	if was, err = os.ReadFile(helper); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = os.WriteFile(helper, []byte("\n"), 0)
	}
	return was, err
}

// Helper sets it to what it was, for the image's system.
func Helper(was []byte) error {
	if was == nil {
		return nil
	}
	return os.WriteFile(helper, was, 0)
}
