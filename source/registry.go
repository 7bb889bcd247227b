package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// openRegistry opens an image in a registry.
func openRegistry(ctx context.Context, s string, o Options) (*Image, error) {
	var opts []name.Option
	if o.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(s, opts...)
	if err != nil {
		return nil, err
	}
	r := &registry{repo: ref.Context(), options: []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain)}}
	desc, err := remote.Get(ref, append(r.options, remote.WithContext(ctx))...)
	if err != nil {
		return nil, r.explain(err)
	}
	return imageAt(ctx, r, ocispec.Descriptor{
		MediaType: string(desc.MediaType), Size: desc.Size, Digest: digest.Digest(desc.Digest.String()),
	}, o.Platform)
}

type registry struct {
	repo    name.Repository
	options []remote.Option
}

func (r *registry) open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ref := r.repo.Digest(desc.Digest.String())
	opts := append(r.options, remote.WithContext(ctx))
	if images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) {
		d, err := remote.Get(ref, opts...)
		if err != nil {
			return nil, r.explain(err)
		}
		return io.NopCloser(bytes.NewReader(d.Manifest)), nil
	}
	layer, err := remote.Layer(ref, opts...)
	if err != nil {
		return nil, r.explain(err)
	}
	blob, err := layer.Compressed()
	return blob, r.explain(err)
}

// explain says what a person can do about it.
func (r *registry) explain(err error) error {
	host := r.repo.RegistryStr()
	var answer *transport.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answer):
		return fmt.Errorf("registry %s cannot be reached: %w", host, err)
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("registry %s wants to know who you are: log in with `docker login %s`: %w", host, host, err)
	case answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("registry %s does not have it: %w", host, err)
	default:
		return fmt.Errorf("registry %s: %w", host, err)
	}
}
