package node

import (
	"context"
	"fmt"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/store"
)

// repairShared reads the layers of an image that the store has already: what has rotted must not become a part of a
// new release. It is replaced by the other partition's bytes, else by the image's own.
func (m *Machine) repairShared(ctx context.Context, s *store.Store, img *source.Image, progress Progress) error {
	for _, l := range img.Layers {
		have, ok, err := s.Layer(l.DiffID)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		problem := s.VerifyBlob(have)
		if problem == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		progress.note(fmt.Sprintf("%v: its blob on the disk is damaged, and replaced", problem))
		if m.copyGood(ctx, s, have) {
			continue
		}
		if err := m.repairFrom(ctx, s, have, img, l); err != nil {
			return refuse(
				"%v, and cannot be replaced: %v. `kairos-apply reset` in the recovery system makes a new one",
				problem,
				err,
			)
		}
	}
	return nil
}

// copyGood replaces a blob by the one in the other store, where that is good.
func (m *Machine) copyGood(ctx context.Context, s *store.Store, want layout.Layer) bool {
	other := m.Recovery
	if s == m.Recovery {
		other = m.State
	}
	if other == nil || blobProblem(other, want) != nil {
		return false
	}
	f, err := other.OpenBlob(want.DiffID)
	if err != nil {
		return false
	}
	defer f.Close()
	return s.RepairBlob(ctx, want, f) == nil
}
