package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kairos-buildkit/kairos/internal/durable"
	"github.com/kairos-buildkit/kairos/layout"
)

// CollisionError says that a store has another release of the same id.
type CollisionError struct {
	ID         string
	Have, Want layout.Digest // of the images' configs
}

func (e *CollisionError) Error() string {
	return fmt.Sprintf(
		"release %s is image %s, and the ID of image %s begins with the same digits",
		e.ID,
		e.Have,
		e.Want,
	)
}

// CheckID returns a [*CollisionError] if the store has a release of another image under the id that a config's digest
// gives. An id is [layout.IDLength] digits, for which whoever wants to finds a second image in a minute. A release
// that is damaged is nobody's.
func (s *Store) CheckID(config layout.Digest) error {
	id := layout.ReleaseID(config)
	if have, err := s.Release(id); err == nil && have.Config != config {
		return &CollisionError{ID: id, Have: have.Config, Want: config}
	}
	return nil
}

// AddRelease records a release. All its layers must be in the store. The error is a [*CollisionError] where its id
// is another release's.
func (s *Store) AddRelease(r layout.Release) error {
	b, err := r.Marshal()
	if err != nil {
		return err
	}
	for _, want := range r.Layers {
		have, ok, err := s.Layer(want.DiffID)
		if err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
		if !ok || have != want {
			return fmt.Errorf("release %s: layer %s is not in the store", r.ID(), want.DiffID)
		}
	}
	if err := s.CheckID(r.Config); err != nil {
		return err
	}
	if len(r.Signatures) > layout.MaxSignaturesSize {
		return fmt.Errorf("release %s: its signatures have %d bytes, more than %d", r.ID(), len(r.Signatures),
			layout.MaxSignaturesSize)
	}
	// The record comes last: it is what makes the release one. Signatures that are there and are not given again stay:
	// of another record they are worth nothing.
	if len(r.Signatures) > 0 {
		if err := s.replace(layout.ReleaseSignaturesPath(r.ID()), r.Signatures); err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
	}
	if len(r.BootSignatures) > layout.MaxBootSignaturesSize {
		return fmt.Errorf("release %s: the signatures of its boot files have %d bytes, more than %d", r.ID(),
			len(r.BootSignatures), layout.MaxBootSignaturesSize)
	}
	if len(r.BootSignatures) > 0 {
		if err := s.replace(layout.ReleaseBootSignaturesPath(r.ID()), r.BootSignatures); err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
	}
	if !r.V1 && r.Image != "" {
		origin, err := layout.MarshalOrigin(r.Image)
		if err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
		if err := s.replace(layout.ReleaseOriginPath(r.ID()), origin); err != nil {
			return fmt.Errorf("release %s: %w", r.ID(), err)
		}
	}
	if err := s.replace(layout.ReleasePath(r.ID()), b); err != nil {
		return fmt.Errorf("release %s: %w", r.ID(), err)
	}
	return nil
}

// SetAcceptance writes what has accepted a release, the content of [layout.ReleaseAcceptancePath].
func (s *Store) SetAcceptance(id string, b []byte) error {
	if err := s.replace(layout.ReleaseAcceptancePath(id), b); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return nil
}

// replace writes a file of the store unless it has these bytes already.
func (s *Store) replace(name string, b []byte) error {
	path := s.path(name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := s.fs.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return s.fs.WriteFile(path, b, 0o644)
}

// Release reads a release. The error is fs.ErrNotExist where there is none.
func (s *Store) Release(id string) (layout.Release, error) { return s.view().Release(id) }

// Found is one release that [Store.Releases] came across.
type Found struct {
	ID      string
	Release layout.Release // empty where Err is set
	Err     error          // why the release cannot be read
}

// Releases returns the releases in the store, ordered by id.
func (s *Store) Releases() ([]Found, error) {
	entries, err := os.ReadDir(s.path(layout.ReleasesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("releases: %w", err)
	}
	var found []Found
	for _, e := range entries {
		if !e.IsDir() || !layout.ValidID(e.Name()) {
			continue
		}
		r, err := s.Release(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // its folder was made or emptied, and then came the crash
		}
		found = append(found, Found{ID: e.Name(), Release: r, Err: err})
	}
	return found, nil
}

// removeRelease removes a release, not its layers: [Store.GC] removes those that no other
// release has. That there is none is no error.
func (s *Store) removeRelease(id string) error {
	if !layout.ValidID(id) {
		return fmt.Errorf("release %q: not %d hex digits", id, layout.IDLength)
	}
	path := s.path(layout.ReleasePath(id))
	for _, name := range []string{
		path, s.path(layout.ReleaseSignaturesPath(id)), s.path(layout.ReleaseOriginPath(id)),
		s.path(layout.ReleaseAcceptancePath(id)), s.path(layout.ReleaseBootSignaturesPath(id)),
	} {
		if err := s.fs.Remove(name); err != nil {
			return fmt.Errorf("release %s: %w", id, err)
		}
	}
	if err := s.fs.RemoveLeftovers(filepath.Dir(path)); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	if err := s.fs.Remove(filepath.Dir(path)); err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return nil
}

// VerifyRelease reads every byte that a release boots from, and says whether all is well.
func (s *Store) VerifyRelease(id string) error {
	r, err := s.Release(id)
	if err != nil {
		return err
	}
	for _, layer := range r.Layers {
		have, ok, err := s.Layer(layer.DiffID)
		if err != nil {
			return fmt.Errorf("release %s: %w", id, err)
		}
		if !ok || have != layer {
			return fmt.Errorf("release %s: layer %s is missing or incomplete", id, layer.DiffID)
		}
		if err := s.VerifyBlob(layer); err != nil {
			return fmt.Errorf("release %s: %w", id, err)
		}
	}
	return nil
}

// isTemp says whether a folder's entry is an unfinished file.
func isTemp(e fs.DirEntry) bool { return e.Type().IsRegular() && durable.IsTemp(e.Name()) }
