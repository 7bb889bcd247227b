package medium

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
	"github.com/kairos-buildkit/kairos/verity"
)

// maxBootFile bounds a boot file in bytes.
const maxBootFile = 1 << 30

// Verify reads all that a release boots from, compares it with the release's record, and says what is wrong first:
// each layer's blob with its root hash, the UKI with its digest, kernel and initrd for BIOS with those in the UKI.
// Whose the record is, it does not ask.
func (m *Medium) Verify(ctx context.Context, r *Release) error {
	seen := map[layout.Digest]bool{}
	for i, l := range r.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if seen[l.DiffID] {
			continue
		}
		seen[l.DiffID] = true
		if err := r.verifyBlob(l); err != nil {
			return fmt.Errorf("%s: layer %d of %d, %s: %w", r.Place, i+1, len(r.Layers), l.DiffID, err)
		}
	}
	if r.UKI == "" {
		return errors.New("its record has no digest of its UKI: publish the release with this version")
	}
	names := m.ukis(r)
	if len(names) == 0 && r.Role != "" {
		return errors.New("its UKI is missing")
	}
	for _, name := range names {
		if err := m.verifyUKI(r, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *Release) verifyBlob(l layout.Layer) error {
	f, err := r.store.Open(layout.BlobPath(l.DiffID))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	at, ok := f.(io.ReaderAt)
	if want := verity.TotalSize(l.Size); !ok || info.Size() != want {
		return fmt.Errorf("its blob has %d bytes instead of %d", info.Size(), want)
	}
	if err := verity.Verify(at, l.Size, l.RootHash); err != nil {
		return err
	}
	sidecar, err := bounded.ReadFile(r.store, layout.SidecarPath(l.DiffID), maxSmall)
	if err != nil {
		return err
	}
	if !bytes.Equal(sidecar, layout.Sidecar{RootHash: l.RootHash, HashOffset: l.Size}.Marshal()) {
		return errors.New("its .dmverity file says something else")
	}
	return nil
}

// ukis are the release's UKIs on the ESP: those of its entries, on an ISO the only one.
func (m *Medium) ukis(r *Release) (names []string) {
	if r.Place == PlaceLive {
		return []string{layout.LiveUKI}
	}
	for _, f := range m.BootFiles {
		e, err := layout.ParseEntry(path.Base(f.Path))
		if err == nil && f.Release == r.ID() && (e.Seq == layout.RecoverySeq) == (r.Place == PlaceRecovery) {
			names = append(names, f.Path)
		}
	}
	return names
}

func (m *Medium) verifyUKI(r *Release, name string) error {
	if m.esp == nil {
		return errors.New("the ESP cannot be read")
	}
	b, err := bounded.ReadFile(m.esp, name, maxBootFile)
	if err != nil {
		return err
	}
	plain := uki.Untitled(b)
	sum, err := uki.Authenticode(plain)
	if err != nil {
		return err
	}
	if have := layout.SHA256(sum); have != r.UKI {
		return fmt.Errorf("it is %s, and the release's UKI is %s", have, r.UKI)
	}
	sections, err := uki.Sections(plain)
	if err != nil {
		return err
	}
	files, kernel, initrd := m.esp, path.Join(layout.GrubKernelDir, r.ID(), "vmlinuz"),
		path.Join(layout.GrubKernelDir, r.ID(), "initrd")
	if r.Place == PlaceLive {
		files, kernel, initrd = m.live, layout.ImageKernel, layout.ImageInitrd
	}
	for section, copied := range map[string]string{uki.Linux: kernel, uki.Initrd: initrd} {
		have, err := bounded.ReadFile(files, copied, maxBootFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // for UEFI alone
		}
		if err != nil {
			return err
		}
		for _, s := range sections {
			if s.Name == section && !bytes.Equal(s.Data, have) {
				return fmt.Errorf("%s, for BIOS, is not the one in it", copied)
			}
		}
	}
	return nil
}
