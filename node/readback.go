package node

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// readBack reads a release as the disk gives it back, not as memory still has it: nothing counts for the recovery
// system, so that a disk which keeps something else than it was given would show when it is needed.
func readBack(s *store.Store, r layout.Release) error {
	for _, l := range r.Layers {
		f, err := s.OpenBlob(l.DiffID)
		if err != nil {
			return err
		}
		// What is fsynced, as a blob is, leaves the cache.
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		if err != nil {
			return fmt.Errorf("layer %s: read from the disk: %w", l.DiffID, err)
		}
	}
	return s.VerifyRelease(r.ID())
}
