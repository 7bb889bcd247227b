package rollout

import (
	"fmt"
	"strings"

	"github.com/kairos-buildkit/kairos/fleet/api/v1alpha1"
)

// pin is what the first node's answer binds the others to.
type pin struct {
	policy           v1alpha1.PinPolicy
	release, version string
	digest           string
}

// pinOf reads it from the status, or where that has not been written from the records, the oldest first.
func pinOf(s v1alpha1.NodeOpUpgradeSpec, status v1alpha1.NodeOpUpgradeStatus, records []v1alpha1.NodeRecord) pin {
	p := pin{policy: s.Pin, release: status.Release, version: status.Version, digest: status.Digest}
	if p.policy == "" {
		p.policy = v1alpha1.PinRelease
	}
	for _, r := range records {
		if p.release == "" && r.Release != "" && !r.Undo {
			p.release, p.version = r.Release, r.Version
		}
		if p.digest == "" && p.release == r.Release {
			p.digest = r.Digest
		}
	}
	return p
}

// refuses says why a node's answer is not the release that the others got.
func (p pin) refuses(a v1alpha1.HelperReport) string {
	if p.policy == v1alpha1.PinNone || p.release == "" || a.Release == "" || a.Release == p.release {
		return ""
	}
	return fmt.Sprintf("the image is release %s on this node, and was %s on the first one: its tag was moved "+
		"meanwhile, or the node's CPU takes another image", a.Release, p.release)
}

// image is the reference that the next node fetches.
func (p pin) image(ref string) string {
	if p.policy != v1alpha1.PinDigest || p.digest == "" || strings.Contains(ref, "@") {
		return ref
	}
	return ref + "@" + p.digest
}
