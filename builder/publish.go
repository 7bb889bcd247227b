package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/resolver/config"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	media "github.com/kairos-buildkit/kairos/exporter"
	"github.com/kairos-buildkit/kairos/image"
	"github.com/kairos-buildkit/kairos/image/registry"
	"github.com/kairos-buildkit/kairos/release"
)

// TypeRelease is the output that pushes an image and its release: type=image,push=true,release=true.
const TypeRelease = "release"

// attrRelease of an image that is pushed asks for its release beside it.
const attrRelease = "release"

// releaseExporter pushes images, and their releases where release=true asks for them.
type releaseExporter struct {
	imageExporter
	worker   *worker
	sessions *session.Manager
	always   bool // type=release
}

func (e releaseExporter) Resolve(
	ctx context.Context,
	id int,
	attrs map[string]string,
) (exporter.ExporterInstance, error) {
	attrs, insecure, release, err := releaseAttrs(attrs, e.always)
	if err != nil {
		return nil, err
	}
	inner, err := e.imageExporter.Resolve(ctx, id, attrs)
	if err != nil || !release {
		return inner, err
	}
	return releaseInstance{ExporterInstance: inner, releaseExporter: e, insecure: insecure}, nil
}

// releaseAttrs returns the attributes of the image alone, and whether its release is wanted.
func releaseAttrs(attrs map[string]string, always bool) (rest map[string]string, insecure, release bool, err error) {
	rest = maps.Clone(attrs)
	if rest == nil {
		rest = map[string]string{}
	}
	if always {
		for _, key := range []string{attrRelease, "push"} {
			if _, ok := rest[key]; !ok {
				rest[key] = "true"
			}
		}
	}
	bools := map[string]bool{}
	for _, key := range []string{attrRelease, "push", "registry.insecure"} {
		v, ok := rest[key]
		if !ok {
			continue
		}
		if bools[key], err = boolAttr(v); err != nil {
			return nil, false, false, fmt.Errorf("%s=%s: %w", key, v, err)
		}
	}
	delete(rest, attrRelease)
	switch {
	case always && (!bools[attrRelease] || !bools["push"]):
		return nil, false, false, errors.New("type=release pushes an image and its release: for less use type=image")
	case bools[attrRelease] && !bools["push"]:
		return nil, false, false, errors.New("release=true: a release is beside an image in a registry: add push=true")
	case bools[attrRelease] && rest["name"] == "":
		return nil, false, false, errors.New("release=true: push where? Add name=REF")
	}
	return rest, bools["registry.insecure"], bools[attrRelease], nil
}

type releaseInstance struct {
	exporter.ExporterInstance
	releaseExporter
	insecure bool
}

func (i releaseInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (
	map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error,
) {
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, nil, nil, err
	}
	resp, push, ref, err := i.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return resp, push, ref, err
	}
	p := publication{
		digest: resp[exptypes.ExporterImageDigestKey],
		local:  i.worker.ContentStore(),
		cache:  i.worker.layers,
	}
	for _, platform := range ps.Platforms {
		p.platforms = append(p.platforms, platform.Platform)
	}
	if p.sign, err = i.worker.signer(ctx, i.sessions, info.SessionID); err != nil {
		return resp, push, ref, err
	}
	names := resp[exptypes.ExporterImageNameKey]
	return resp, func(ctx context.Context) error {
		if push != nil {
			if err := push(ctx); err != nil {
				return err
			}
		}
		p.hosts = func(name reference.Named) docker.RegistryHosts {
			return i.hosts(name, info.SessionID)
		}
		return p.publish(ctx, strings.Split(names, ","))
	}, ref, nil
}

// hosts reaches a registry as the push of the image did, with the credentials of the client.
func (i releaseInstance) hosts(name reference.Named, sessionID string) docker.RegistryHosts {
	hosts, scope := i.worker.RegistryHosts, resolver.ScopeType{Push: true, Insecure: i.insecure}
	if i.insecure {
		yes := true
		hosts = resolver.NewRegistryConfig(map[string]config.RegistryConfig{
			reference.Domain(name): {Insecure: &yes, PlainHTTP: &yes},
		})
	}
	return resolver.DefaultPool.GetResolver(
		hosts, name.Name(), scope, i.sessions, session.NewGroup(sessionID),
	).HostsFunc
}

// publication is an image that was pushed, and whose releases are to be.
type publication struct {
	digest    string // of its manifest or index
	platforms []ocispec.Platform
	local     content.Provider // has most of what was pushed
	cache     string
	hosts     func(reference.Named) docker.RegistryHosts
	sign      Signer // or nil
}

// publish publishes the release of each platform in each repository that the image was pushed to.
func (p *publication) publish(ctx context.Context, names []string) error {
	done := map[string]bool{}
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("name %q of the image: %w", name, err)
		}
		named = reference.TrimNamed(named)
		if done[named.Name()] {
			continue // another tag
		}
		done[named.Name()] = true
		for _, platform := range p.platforms {
			if err := p.one(ctx, named, platform); err != nil {
				return fmt.Errorf("publish the release of %s: the image is pushed, its release is not: %w", name, err)
			}
		}
	}
	return nil
}

func (p *publication) one(ctx context.Context, named reference.Named, platform ocispec.Platform) error {
	repo, desc, err := registry.Find(ctx, named.Name()+"@"+p.digest, registry.Options{Hosts: p.hosts(named)})
	if err != nil {
		return err
	}
	img, err := image.Read(ctx, localFirst{p.local, repo}, image.Options{Platform: platform, Fallback: true}, desc)
	if err != nil {
		return err
	}
	img.Ref = repo.Name
	made, pushed, err := PublishRelease(ctx, repo, *img, media.Options{
		Cache:    p.cache,
		Progress: func(step string) func(error) error { return progress.OneOff(ctx, step) },
		Warn:     func(sentence string) { warn(ctx, sentence) },
	}, p.sign == nil, nil)
	if err != nil {
		return err
	}
	if p.sign != nil {
		if err := p.signed(ctx, repo, pushed); err != nil {
			return err
		}
	}
	said := progress.OneOff(ctx, fmt.Sprintf(
		"release %s (%s) of %s: %s, %.1f MB uploaded, %.1f MB were there already",
		made.ID(), made.Version, named, pushed.Artifact.Digest,
		float64(pushed.Uploaded)/1e6, float64(pushed.Shared)/1e6,
	))
	return said(nil)
}

// signed signs a release that was published.
func (p *publication) signed(ctx context.Context, repo *registry.Repository, pushed release.Pushed) error {
	a, err := release.Read(ctx, repo, pushed.Artifact)
	if err != nil {
		return err
	}
	all, err := p.sign(a.Release)
	if err != nil {
		return err
	}
	if _, err := release.AddSignatures(ctx, repo, a, all); err != nil {
		return err
	}
	for _, one := range all {
		said := progress.OneOff(ctx, fmt.Sprintf("release %s (%s) is signed by %s key %s",
			a.Release.ID(), a.Release.Version, one.Algorithm, one.Key))
		if err := said(nil); err != nil {
			return err
		}
	}
	return nil
}

// localFirst reads what was just pushed where it was pushed from. A base image's layers may never have been here.
type localFirst struct {
	local content.Provider
	repo  image.Blobs
}

// Open implements [image.Blobs].
func (l localFirst) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	at, err := l.local.ReaderAt(ctx, desc)
	if err != nil || at.Size() != desc.Size {
		if err == nil {
			_ = at.Close()
		}
		return l.repo.Open(ctx, desc)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(at, 0, at.Size()), at}, nil
}
