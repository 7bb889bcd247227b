package policy

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/image/source"
	"github.com/kairos-buildkit/kairos/layout"
)

// Subject is an image that a policy is asked about.
type Subject struct {
	transport string
	scopes    []string        // the most specific first
	name      reference.Named // what it was asked for by; nil where that is no name of a registry
	// descs are its manifest, and the index that led to it: whoever has signed that has signed what it lists. None
	// where the image has no manifest.
	descs []ocispec.Descriptor
	from  source.Repository // nil where nothing can be beside the image
}

// Artifact is what is beside the image, and was asked for by the same name.
func (s Subject) Artifact(d ocispec.Descriptor) Subject {
	s.descs = []ocispec.Descriptor{d}
	return s
}

func (s Subject) digests() (all []layout.Digest) {
	for _, d := range s.descs {
		all = append(all, layout.Digest(d.Digest))
	}
	return all
}

// The transports, in containers' words, of the kinds of places that have another word here. A daemon's image has the
// name of one in a registry, and is asked for as if it came from there. ISO and disk have no other word.
var transports = map[source.Kind]string{
	source.Registry: "docker", source.Containerd: "docker", source.Docker: "docker-daemon",
	source.OCILayout: "oci", source.OCIArchive: "oci-archive", source.DockerArchive: "docker-archive",
	source.Directory: "dir",
}

// Of describes an image that was opened by a reference. Signatures of one that containerd has are in the registry that
// its name says.
func Of(ctx context.Context, ref source.Ref, img *source.Image, o registry.Options) (s Subject, err error) {
	if s.transport = transports[ref.Kind]; s.transport == "" {
		s.transport = string(ref.Kind)
	}
	s.from = img.Repository
	for _, d := range []ocispec.Descriptor{img.Manifest, img.Index} {
		digest, err := layout.ParseDigest(d.Digest.String())
		if err == nil && !slices.Contains(s.digests(), digest) {
			s.descs = append(s.descs, d)
		}
	}
	switch ref.Kind {
	case source.Registry, source.Containerd, source.Docker:
		full, err := registry.FullName(ref.Name)
		if err != nil {
			return s, nil //nolint:nilerr // an engine names images as it likes: the transport's own scope counts
		}
		if s.name, err = reference.ParseNormalizedNamed(full); err != nil {
			return s, err
		}
		s.scopes = namedScopes(s.name)
		if ref.Kind == source.Containerd {
			s.from, err = registry.At(ctx, full, o)
		}
		return s, err
	case source.DockerArchive:
		return s, nil
	}
	name, _, _ := strings.Cut(ref.Name, "@")
	real, err := filepath.EvalSymlinks(name)
	for err != nil { // a tag follows the path
		i := strings.LastIndexByte(name, ':')
		if i < 0 {
			return s, err
		}
		name = name[:i]
		real, err = filepath.EvalSymlinks(name)
	}
	if real, err = filepath.Abs(real); err != nil {
		return s, err
	}
	for ; real != "/"; real = path.Dir(real) {
		s.scopes = append(s.scopes, real)
	}
	return s, nil
}

// namedScopes are the scopes of an image in a registry: name and tag or digest, the repository, what is above it up to
// the host with its port, and then *.DOMAIN for each domain that the host is in.
func namedScopes(named reference.Named) (all []string) {
	all = append(all, named.String())
	name := named.Name()
	for {
		all = append(all, name)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	host, _, _ := strings.Cut(name, ":")
	for {
		_, domain, ok := strings.Cut(host, ".")
		if !ok {
			return all
		}
		all, host = append(all, "*."+domain), domain
	}
}

// checkScope says what is wrong with a scope that no image would ever be in. Of transports that are not known here,
// such as atomic, all are taken: other programs read the file, too.
func checkScope(transport, scope string) error {
	if scope == "" {
		return nil
	}
	switch transport {
	case "docker", "docker-daemon":
		if domain, ok := strings.CutPrefix(scope, "*."); ok {
			if strings.ContainsAny(domain, "*/:@") || domain == "" {
				return errors.New("want *.DOMAIN")
			}
			return nil
		}
		if strings.Contains(scope, "*") {
			return errors.New("a * is only taken as *.DOMAIN")
		}
	case "docker-archive":
		return errors.New(`only the scope "" is there`)
	case "dir", "oci", "oci-archive", string(source.ISO), string(source.Disk):
		if !path.IsAbs(scope) || path.Clean(scope) != scope || scope == "/" {
			return fmt.Errorf("want a path from / on, without . and .. in it, or %q for all", "")
		}
	}
	return nil
}
