package medium

import (
	"fmt"
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
