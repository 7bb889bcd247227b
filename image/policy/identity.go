package policy

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// The types of signedIdentity: which name a signature has to be for.
const (
	matchExact             = "matchExact"
	matchRepoDigestOrExact = "matchRepoDigestOrExact"
	matchRepository        = "matchRepository"
	exactReference         = "exactReference"
	exactRepository        = "exactRepository"
	remapIdentity          = "remapIdentity"
)

type identity struct {
	kind           string
	wanted         reference.Named // exactReference, exactRepository
	prefix, signed string          // remapIdentity
}

func parseIdentity(b []byte) (i identity, err error) {
	f, err := object(b)
	if err != nil {
		return i, err
	}
	f.take("type", &i.kind)
	named := func(field string) {
		var s string
		f.take(field, &s)
		if i.wanted, err = reference.ParseNormalizedNamed(s); err != nil {
			f.fail(fmt.Errorf("%s %q: %w", field, s, err))
		} else if field == "dockerReference" && reference.IsNameOnly(i.wanted) {
			f.fail(fmt.Errorf("%s %q: want a tag or a digest", field, s))
		} else if field == "dockerRepository" && !reference.IsNameOnly(i.wanted) {
			f.fail(fmt.Errorf("%s %q: want neither tag nor digest", field, s))
		}
	}
	switch i.kind {
	case matchExact, matchRepoDigestOrExact, matchRepository:
	case exactReference:
		named("dockerReference")
	case exactRepository:
		named("dockerRepository")
	case remapIdentity:
		f.take("prefix", &i.prefix)
		f.take("signedPrefix", &i.signed)
		for name, value := range map[string]string{"prefix": i.prefix, "signedPrefix": i.signed} {
			if _, err := reference.ParseNamed(value + "/x"); err != nil {
				f.fail(fmt.Errorf("%s %q: want a host, or a host and the beginning of a path", name, value))
			}
		}
	default:
		f.fail(fmt.Errorf("type %q: want one of %s", i.kind, strings.Join([]string{
			matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository, remapIdentity,
		}, ", ")))
	}
	return i, f.done()
}

// accepts says whether an image may have a signature that is for a name.
func (i identity) accepts(image reference.Named, signed string) error {
	name, err := reference.ParseNormalizedNamed(signed)
	if err != nil {
		return fmt.Errorf("it is for %q, which is no name of an image", signed)
	}
	no := func(want string) error {
		if reference.IsNameOnly(name) && i.kind != matchRepository && i.kind != exactRepository {
			want += "; cosign signs for a repository without a tag: that is signedIdentity matchRepository"
		}
		return fmt.Errorf("it is for %s, and signedIdentity (%s) wants %s", signed, i.kind, want)
	}
	switch i.kind {
	case exactReference:
		if name.String() != i.wanted.String() {
			return no(i.wanted.String())
		}
		return nil
	case exactRepository:
		if name.Name() != i.wanted.Name() {
			return no(i.wanted.Name())
		}
		return nil
	}
	if image == nil {
		return fmt.Errorf("it is for %s, and the image was not asked for by a name in a registry: "+
			"signedIdentity %s or %s says which one", signed, exactRepository, exactReference)
	}
	switch i.kind {
	case matchRepository:
		if name.Name() != image.Name() {
			return no(image.Name())
		}
		return nil
	case matchExact:
		if reference.IsNameOnly(name) || name.String() != image.String() {
			return no(image.String())
		}
		return nil
	case remapIdentity:
		if image, err = i.remap(image); err != nil {
			return err
		}
	}
	if reference.IsNameOnly(name) {
		return no(image.String())
	}
	// What is asked for by its digest has that digest, and each tag of its repository will do.
	_, tagged := image.(reference.Tagged)
	if tagged && name.String() != image.String() || name.Name() != image.Name() {
		return no(image.String())
	}
	return nil
}

// remap gives an image that a mirror has the name that it has where it was signed.
func (i identity) remap(image reference.Named) (reference.Named, error) {
	rest, ok := strings.CutPrefix(image.Name(), i.prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return image, nil
	}
	return reference.ParseNamed(i.signed + strings.TrimPrefix(image.String(), i.prefix))
}
