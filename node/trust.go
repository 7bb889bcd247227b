package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/node/fetch"
	"github.com/kairos-buildkit/kairos/release"
	"github.com/kairos-buildkit/kairos/store"
	"github.com/kairos-buildkit/kairos/trust"
)

// anchor is what the running system's initrd trusts: what a release has to be signed by to take its place. nil where
// it trusts whatever is there.
func (m *Machine) anchor() (*trust.Anchor, error) {
	b, err := os.ReadFile(m.path(layout.RunTrust))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := trust.ParseAnchor(b)
	if err != nil {
		return nil, fmt.Errorf("/%s: %w: restart the machine", layout.RunTrust, err)
	}
	return &a, nil
}

// acceptable refuses a release that must not boot here in roles: one that is not trusted, or that the firmware would
// not start.
func (m *Machine) acceptable(
	r layout.Release,
	program []byte,
	facts bootFacts,
	progress Progress,
	roles ...string,
) error {
	if err := m.trusted(r, facts.anchor, facts.uki, progress, roles...); err != nil {
		return err
	}
	return m.startable(r, program, facts)
}

// trusted refuses a release that the keys of the running system, or those of the release's own image, have not signed,
// or whose UKI here would be another one, or whose epoch is below what this machine starts in the roles that it is to
// have. What only warns is noted.
func (m *Machine) trusted(
	r layout.Release,
	own *trust.Anchor,
	uki layout.Digest,
	progress Progress,
	roles ...string,
) error {
	running, err := m.anchor()
	if err != nil {
		return err
	}
	return trustedBy(m.withFloor(running, roles...), r, m.withFloor(own, roles...), uki, progress)
}

// restorable is [Machine.trusted] for a release whose boot files are here, and are written again. The floor of the
// running system is left out: an older release stays what is fallen back to, and the recovery system has its own.
func (m *Machine) restorable(r layout.Release, own *trust.Anchor, uki layout.Digest, progress Progress) error {
	running, err := m.anchor()
	if err != nil {
		return err
	}
	if running != nil {
		running.Epoch = 0
	}
	return trustedBy(running, r, own, uki, progress)
}

func trustedBy(
	running *trust.Anchor,
	r layout.Release,
	own *trust.Anchor,
	uki layout.Digest,
	progress Progress,
) error {
	for _, by := range []struct {
		anchor *trust.Anchor
		whose  string
	}{{running, "the running system"}, {own, "the release itself"}} {
		if by.anchor == nil {
			continue
		}
		_, err := by.anchor.Check(r, runtime.GOARCH)
		if err == nil && r.UKI != "" && uki != r.UKI {
			err = fmt.Errorf("release %s (%s): its UKI is %s, and the one for this machine is %s: words that the "+
				"config adds to the kernel's command line (install.grub_options) are not signed: take them away",
				r.ID(), r.Version, r.UKI, uki)
		}
		if err == nil {
			continue
		}
		if !by.anchor.Warn {
			return refuse("%s asks for signatures: %v", by.whose, err)
		}
		progress.note(fmt.Sprintf("%s only warns: %v", by.whose, err))
	}
	return nil
}

// stageFrom says which release beside an image is staged; nil: the image's layers are converted. Where the running
// system asks for signatures, it refuses the image before anything is fetched.
func (m *Machine) stageFrom(
	ctx context.Context,
	e *fetch.Engine,
	s *store.Store,
	img *source.Image,
	progress Progress,
) (*published, error) {
	anchor, err := m.anchor()
	if err != nil {
		return nil, err
	}
	if anchor = m.withFloor(anchor, m.roleOf(s)); anchor != nil {
		beside, err := m.signedSource(ctx, s, img, s.Layer, anchor)
		if err == nil || !anchor.Warn {
			return beside, err
		}
	}
	if e == nil {
		return nil, nil
	}
	return m.published(ctx, s, img, s.Layer, progress), nil
}

// refuseUnsigned refuses an image that the running system does not trust, before anything of it is written.
func (m *Machine) refuseUnsigned(ctx context.Context, s *store.Store, img *source.Image) error {
	anchor, err := m.anchor()
	if err != nil || anchor == nil || anchor.Warn {
		return err
	}
	_, err = m.signedSource(ctx, s, img, s.Layer, m.withFloor(anchor, m.roleOf(s)))
	return err
}

// signedSource returns the release beside an image that an anchor accepts, nil for one on a medium, or a refusal.
func (m *Machine) signedSource(
	ctx context.Context,
	s *store.Store,
	img *source.Image,
	has hasLayer,
	anchor *trust.Anchor,
) (*published, error) {
	const whose = "the running system asks for signatures"
	if img.Made != nil {
		if _, err := anchor.Check(*img.Made, runtime.GOARCH); err != nil {
			return nil, refuse("%s: %v", whose, err)
		}
		return nil, nil
	}
	if img.Repository == nil {
		return nil, refuse("%s, and nothing can be beside the image %s where it is", whose, img.Ref)
	}
	beside, err := m.findPublished(ctx, s, img, has, anchor)
	if errors.Is(err, release.ErrNone) {
		return nil, refuse("%s by %d of the keys %s, and the image %s has no release beside it: publish it with "+
			"`kairos release --sign-key FILE`", whose, anchor.Threshold, anchor.KeyIDs(), img.Ref)
	}
	if err != nil {
		return nil, refuse("%s: %v", whose, err)
	}
	return beside, nil
}

// signaturesOf returns the signatures of a release: its own, or those that are beside the image for the very same
// record, where an anchor asks for some. Whether they are enough, [Machine.trusted] says.
func (m *Machine) signaturesOf(
	ctx context.Context,
	img *source.Image,
	r layout.Release,
	own *trust.Anchor,
) ([]byte, error) {
	anchor, err := m.anchor()
	if err != nil {
		return nil, err
	}
	if anchor == nil {
		anchor = own
	}
	if anchor == nil || img.Repository == nil || r.V1 || r.Manifest == "" || len(r.Signatures) > 0 {
		return r.Signatures, nil
	}
	record, err := r.Marshal()
	if err != nil {
		return nil, err
	}
	all, err := release.Signatures(ctx, img.Repository, r)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return anchor.Choose(record, all).Marshal()
}
