package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	refspec "github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/internal/bounded"
	"github.com/kairos-buildkit/kairos/layout"
)

// Referrers lists the manifests of a type whose subject has this digest: by the referrers API or, where the registry
// has none, by the tag that the OCI distribution specification gives such a list. None is no error. Some registries
// do not say of which type one is: those are listed, too.
func (r *Repository) Referrers(
	ctx context.Context,
	subject layout.Digest,
	artifactType string,
) ([]ocispec.Descriptor, error) {
	all, err := r.referrers(ctx, subject)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool {
		// Registries older than the specification take the config's type for the artifact's.
		return d.ArtifactType != artifactType && d.ArtifactType != "" && d.ArtifactType != ocispec.MediaTypeEmptyJSON
	}), nil
}

func (r *Repository) referrers(ctx context.Context, subject layout.Digest) ([]ocispec.Descriptor, error) {
	lister, ok := r.fetcher.(remotes.ReferrersFetcher)
	if !ok {
		return nil, nil
	}
	all, err := lister.FetchReferrers(quiet(ctx), digest.Digest(subject))
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("referrers of %s: %w", subject, r.Explain(err))
	}
	return all, nil
}

// PushReferrer pushes the manifest of an artifact that has a subject, and sees to it that it is found there.
func (r *Repository) PushReferrer(
	ctx context.Context,
	subject layout.Digest,
	artifactType string,
	manifest []byte,
) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
	}
	if err := r.push(ctx, r.repo.Name()+"@"+desc.Digest.String(), desc, bytes.NewReader(manifest)); err != nil {
		return desc, err
	}
	all, err := r.referrers(ctx, subject)
	if err != nil {
		return desc, err
	}
	if slices.ContainsFunc(all, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return desc, nil
	}
	// The registry has no referrers API: the list is a tag's index, and whoever adds to it keeps what it has.
	listed := desc
	listed.ArtifactType = artifactType
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(all, listed),
	})
	if err != nil {
		return desc, err
	}
	tag := strings.Replace(string(subject), ":", "-", 1)
	return desc, r.push(ctx, r.repo.Name()+":"+tag, ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index)),
	}, bytes.NewReader(index))
}

// Push uploads a blob, unless the repository has it: then nothing is read, and uploaded is false.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, from io.Reader) (uploaded bool, err error) {
	read := &countedReader{Reader: from}
	err = r.push(ctx, r.repo.Name()+"@"+desc.Digest.String(), desc, read)
	return read.n > 0, err
}

type countedReader struct {
	io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (r *Repository) push(ctx context.Context, ref string, desc ocispec.Descriptor, from io.Reader) error {
	ctx = quiet(ctx)
	p, err := r.resolver.Pusher(ctx, ref)
	if err != nil {
		return r.Explain(err)
	}
	w, err := p.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, r.Explain(err))
	}
	defer w.Close()
	if _, err := io.Copy(w, from); err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, r.Explain(err))
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("push %s: %w", desc.Digest, r.Explain(err))
	}
	return nil
}

// maxTags bounds the list of a repository's tags in bytes.
const maxTags = 4 << 20

// Tags lists the tags of the repository, as far as the registry gives them with one answer.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	spec, err := refspec.Parse(r.Name)
	if err != nil {
		return nil, err
	}
	ctx, err = docker.ContextWithRepositoryScope(quiet(ctx), spec, false)
	if err != nil {
		return nil, err
	}
	hosts, err := r.hosts(r.host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		tags, err := r.tags(ctx, h)
		if err == nil {
			return tags, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("tags of %s: %w", r.repo.Name(), errors.Join(errs...))
}

func (r *Repository) tags(ctx context.Context, h docker.RegistryHost) ([]string, error) {
	_, path, _ := strings.Cut(r.repo.Name(), "/")
	u := url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + "/" + path + "/tags/list"}
	var seen []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		if h.Header != nil {
			req.Header = h.Header.Clone()
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, req); err != nil {
				return nil, err
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		b, err := bounded.ReadAll(resp.Body, maxTags)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized && h.Authorizer != nil && len(seen) < 2 {
			seen = append(seen, resp)
			if err := h.Authorizer.AddResponses(ctx, seen); err == nil {
				continue
			}
		}
		if resp.StatusCode != http.StatusOK {
			return nil, errors.New(resp.Status)
		}
		var list struct {
			Tags []string `json:"tags"`
		}
		err = json.Unmarshal(b, &list)
		return list.Tags, err
	}
}
