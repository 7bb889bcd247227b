package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/verity"
)

// View is a store for looking only: its folder as a file system, such as that of a partition which is not mounted.
type View struct{ FS fs.FS }

func (s *Store) view() View { return View{os.DirFS(s.dir)} }

// Layer is [Store.Layer].
func (v View) Layer(diffID layout.Digest) (layout.Layer, bool, error) {
	fail := func(err error) (layout.Layer, bool, error) {
		return layout.Layer{}, false, fmt.Errorf("layer %s: %w", diffID, err)
	}
	info, err := fs.Stat(v.FS, layout.BlobPath(diffID))
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Layer{}, false, nil
	}
	if err != nil {
		return fail(err)
	}
	b, err := fs.ReadFile(v.FS, layout.SidecarPath(diffID))
	if errors.Is(err, fs.ErrNotExist) {
		return layout.Layer{}, false, nil
	}
	if err != nil {
		return fail(err)
	}
	sidecar, err := layout.ParseSidecar(b)
	if err != nil || info.Size() != verity.TotalSize(sidecar.HashOffset) {
		return layout.Layer{}, false, nil
	}
	return layout.Layer{DiffID: diffID, Size: sidecar.HashOffset, RootHash: sidecar.RootHash}, true, nil
}

// Release is [Store.Release].
func (v View) Release(id string) (layout.Release, error) {
	if !layout.ValidID(id) {
		return layout.Release{}, fmt.Errorf("release %q: not %d hex digits", id, layout.IDLength)
	}
	b, err := fs.ReadFile(v.FS, layout.ReleasePath(id))
	if err != nil {
		return layout.Release{}, fmt.Errorf("release %s: %w", id, err)
	}
	r, err := layout.ParseRelease(b)
	if err != nil {
		return layout.Release{}, fmt.Errorf("release %s is damaged: %w", id, err)
	}
	if r.ID() != id {
		return layout.Release{}, fmt.Errorf("release %s is damaged: it says that it is %s", id, r.ID())
	}
	if r.Signatures, err = v.readBounded(layout.ReleaseSignaturesPath(id), layout.MaxSignaturesSize); err != nil {
		return layout.Release{}, fmt.Errorf("release %s: %w", id, err)
	}
	name := layout.ReleaseBootSignaturesPath(id)
	if r.BootSignatures, err = v.readBounded(name, layout.MaxBootSignaturesSize); err != nil {
		return layout.Release{}, fmt.Errorf("release %s: %w", id, err)
	}
	if !r.V1 {
		// It is for people and for repair: a release boots without it.
		if b, err := fs.ReadFile(v.FS, layout.ReleaseOriginPath(id)); err == nil {
			r.Image, _ = layout.ParseOrigin(b)
		}
	}
	return r, nil
}

// readBounded reads signatures: nil where there are none. Whether they are any good, packages trust and
// uki/secureboot say; a file that is larger than the limit in bytes is none.
func (v View) readBounded(name string, limit int64) ([]byte, error) {
	f, err := v.FS.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if int64(len(b)) > limit {
		b = nil
	}
	return b, err
}
