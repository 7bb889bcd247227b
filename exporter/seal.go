package exporter

import (
	"context"
	"fmt"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/layout"
	"github.com/kairos-buildkit/kairos/uki"
)

// seal finds the signatures that an image with keys asks for, and refuses what its /init would refuse.
func (p *prepared) seal(ctx context.Context) error {
	anchor, err := boot.Trust(p.root, boot.OptionsFrom(p.Config.Config.Labels))
	if err != nil || anchor == nil || p.options.unsigned {
		return err
	}
	var r layout.Release
	if p.Made != nil {
		r = *p.Made
	} else {
		r = p.described() // with the manifest: what is signed is what is published
		if p.options.Signatures != nil {
			if r.Signatures, err = p.options.Signatures(ctx, *anchor, r); err != nil {
				return fmt.Errorf("signatures of release %s: %w", r.ID(), err)
			}
		}
	}
	r.Image = ""
	_, err = anchor.Check(r, p.Config.Architecture)
	if err == nil {
		err = p.signedUKI(r)
	}
	if err != nil && !anchor.Warn {
		return fmt.Errorf("the image trusts the keys in /%s: %w", layout.ImageTrustDir, err)
	}
	if err != nil {
		p.options.warn("The image trusts the keys in /%s, and only warns: %v.", layout.ImageTrustDir, err)
	}
	if len(r.Signatures) > 0 {
		p.signed = &r
	}
	return nil
}

// signedUKI says whether the UKI that is put on the medium is the one that the release names.
func (p *prepared) signedUKI(r layout.Release) error {
	sum, err := uki.Authenticode(p.boot.UKI)
	if err != nil {
		return fmt.Errorf("/%s: %w", layout.ImageUKI, err)
	}
	if have := layout.SHA256(sum); have != r.UKI {
		return fmt.Errorf("release %s: its UKI is %s, and the one for this medium is %s: a config cannot add words "+
			"to the signed command line: put them into the label %s", r.ID(), r.UKI, have, layout.ImageLabelCmdline)
	}
	return nil
}
