package medium

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kairos-buildkit/kairos/layout"
)

// Release reads the release to boot: the one whose id is known, else the only one.
func (s *Source) Release() (layout.Release, error) {
	if s.Boot.Release == "" {
		ids, err := releaseIDs(s.Store)
		if err != nil {
			return layout.Release{}, err
		}
		if len(ids) != 1 {
			return layout.Release{}, fmt.Errorf(
				"%s has %d releases (%s): name one with %s= on the kernel's command line",
				s.Device,
				len(ids),
				strings.Join(ids, ", "),
				layout.CmdlineRelease,
			)
		}
		s.Boot.Release = ids[0]
	}
	id := s.Boot.Release
	if !layout.ValidID(id) {
		return layout.Release{}, fmt.Errorf("release %q: not an id of %d hex digits", id, layout.IDLength)
	}
	b, err := os.ReadFile(filepath.Join(s.Store, layout.ReleasePath(id)))
	if err != nil {
		return layout.Release{}, fmt.Errorf("read release %s from %s: %w", id, s.Device, err)
	}
	r, err := layout.ParseRelease(b)
	if err != nil {
		return layout.Release{}, fmt.Errorf("release %s on %s is damaged: %w", id, s.Device, err)
	}
	if r.ID() != id {
		return layout.Release{}, fmt.Errorf("release %s on %s is named %s in its own file", id, s.Device, r.ID())
	}
	r.Signatures = readSignatures(filepath.Join(s.Store, layout.ReleaseSignaturesPath(id)))
	return r, nil
}

// readSignatures reads a release's signatures, which are only asked for where the initrd trusts some keys. What cannot
// be read is none.
func readSignatures(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, layout.MaxSignaturesSize+1))
	if err != nil || len(b) > layout.MaxSignaturesSize {
		return nil
	}
	return b
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
