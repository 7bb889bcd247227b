package image

import (
	"cmp"
	"fmt"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fits says whether an image for p runs on the platform that is asked for.
func (o Options) fits(p ocispec.Platform) error {
	want := o.Platform
	switch {
	case want.Architecture == "":
		return nil
	case p.OS != "" && p.OS != want.OS || p.Architecture != want.Architecture:
		return o.unfit(platforms.Format(p))
	case want.Variant == "" || p.Variant == "":
		return nil
	}
	// A CPU that has a variant has the lower ones.
	if !platforms.Only(want).Match(p) {
		e := o.unfit(platforms.Format(p))
		e.What = fmt.Sprintf(
			"it is for CPUs of %s, and this one has no more than %s",
			platforms.Format(p),
			platforms.Format(want),
		)
		return e
	}
	return nil
}

func (o Options) unfit(has string) *UnfitError {
	return &UnfitError{
		What:     fmt.Sprintf("it is for %s, not for %s", has, platforms.Format(o.Platform)),
		Platform: true,
	}
}

// compare orders platforms that fit: the highest variant that the CPU has comes first, or, where
// nobody said which CPU it is, the lowest.
func (o Options) compare(a, b ocispec.Platform) int {
	n := cmp.Compare(rank(a), rank(b))
	if o.Platform.Variant != "" {
		return -n
	}
	return n
}

// rank is a variant's number among those of its architecture: "v7" is 7, and none is the lowest.
func rank(p ocispec.Platform) (n float64) {
	if _, err := fmt.Sscanf(p.Variant, "v%g", &n); err != nil {
		return 0
	}
	return n
}
