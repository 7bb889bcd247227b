package builder

import (
	"context"
	"encoding/json"
	"maps"
	"strings"

	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageExporter is the stock exporter of images, archives and pushes, with two defaults of ours,
// so that a build has one image whatever its outputs are.
//
// With a SOURCE_DATE_EPOCH, rewrite-timestamp is on, as it is for media: equal input, equal
// bytes. And what is written does not depend on whether a medium was made of the same layers before:
//
// BuildKit keeps a layer's first blob and exports that one, whatever its compression, unless it
// is told to force one. For media we make uncompressed blobs, which nobody wants in a
// registry. So gzip, BuildKit's default, is forced; but not where the base image's own layers
// are compressed otherwise, for their digests must stay.
type imageExporter struct{ stock exporter.Exporter }

func (e imageExporter) Resolve(
	ctx context.Context,
	id int,
	attrs map[string]string,
) (exporter.ExporterInstance, error) {
	attrs = maps.Clone(attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	// Without an epoch it does nothing.
	if attrs[rewriteTimestamp] == "" {
		attrs[rewriteTimestamp] = "true"
	}
	plain, err := e.stock.Resolve(ctx, id, attrs)
	if err != nil || attrs["compression"] != "" || attrs["force-compression"] != "" {
		return plain, err
	}
	attrs = maps.Clone(attrs)
	attrs["compression"], attrs["force-compression"] = "gzip", "true"
	forced, err := e.stock.Resolve(ctx, id, attrs)
	return imageInstance{ExporterInstance: plain, forced: forced}, err
}

var rewriteTimestamp = string(exptypes.OptKeyRewriteTimestamp)

type imageInstance struct {
	exporter.ExporterInstance
	forced exporter.ExporterInstance
}

func (i imageInstance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (
	map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error,
) {
	if baseIsGzip(ctx, src, session.NewGroup(info.SessionID)) {
		return i.forced.Export(ctx, src, info)
	}
	return i.ExporterInstance.Export(ctx, src, info)
}

// baseIsGzip says whether all layers that come from base images are compressed with gzip.
func baseIsGzip(ctx context.Context, src *exporter.Source, s session.Group) bool {
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return false
	}
	for _, p := range ps.Platforms {
		ref, ok := src.FindRef(p.ID)
		if !ok || ref == nil {
			continue
		}
		var base ocispec.Image
		if b := exptypes.ParseKey(src.Metadata, exptypes.ExporterImageBaseConfigKey, &p); len(b) > 0 {
			if err := json.Unmarshal(b, &base); err != nil {
				return false
			}
		}
		if !isGzip(ctx, ref, len(base.RootFS.DiffIDs), s) {
			return false
		}
	}
	return true
}

// isGzip looks at the lowest n layers of ref.
func isGzip(ctx context.Context, ref cache.ImmutableRef, n int, s session.Group) bool {
	if n == 0 {
		return true
	}
	chain := ref.LayerChain()
	defer func() { _ = chain.Release(context.WithoutCancel(ctx)) }()
	if n > len(chain) {
		return false
	}
	remotes, err := chain[n-1].GetRemotes(
		ctx,
		false,
		cacheconfig.RefConfig{Compression: compression.New(compression.Default)},
		false,
		s,
	)
	if err != nil || len(remotes) == 0 {
		return false
	}
	for _, desc := range remotes[0].Descriptors {
		if !strings.HasSuffix(desc.MediaType, "gzip") {
			return false
		}
	}
	return true
}
