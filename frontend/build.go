// Package frontend is a BuildKit gateway frontend: it turns a Dockerfile into a container
// image that also boots.
//
//	# syntax=kairos
//	FROM debian:trixie
//	RUN apt-get update && apt-get install -y linux-image-amd64 systemd-sysv
//
// Everything in the Dockerfile means what BuildKit's own Dockerfile frontend says it means:
// that frontend is imported and run as it is. What it returns is a result with one reference
// per platform, image configs, attestations and metadata. For each platform this package adds
// one build step on top, and hands the result on with nothing else changed:
//
//	user's root ──▶ kairos-frontend boot-layer --root /rootfs … ──▶ the same root and one layer
//
// The step runs the frontend's own image, which BuildKit names to a frontend by digest. It has
// the user's root as a writable mount, no network and no privileges, and it runs on the
// platform of the build host: it only reads and writes files, so an arm64 image needs no
// emulation here. Package bootlayer says what it writes.
//
// The protocol is BuildKit's docs/dev/frontends.md (github.com/moby/buildkit).
package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"golang.org/x/sync/errgroup"
)

// Build answers one build request: a gateway client.BuildFunc.
func Build(ctx context.Context, c client.Client) (*client.Result, error) {
	medium, err := mediumTarget(ctx, c)
	if err != nil {
		return nil, err
	}
	asked := c
	if medium != "" {
		asked = lastStage{c}
	}
	res, err := dockerfile.Build(ctx, ourselves{asked})
	if err != nil {
		return nil, err
	}
	if _, ok := c.BuildOpts().Opts["requestid"]; ok {
		// --check, --call: an answer about the Dockerfile, not an image.
		return res, nil
	}
	tool, err := currentImage(c)
	if err != nil {
		return nil, err
	}
	ui, err := dockerui.NewClient(c)
	if err != nil {
		return nil, err
	}
	b := &builder{client: c, ui: ui, tool: tool}
	if err := b.addBootLayers(ctx, res); err != nil {
		return nil, err
	}
	if medium != "" {
		return res, b.toMedia(ctx, res, medium)
	}
	return res, nil
}

// ourselves keeps the Dockerfile frontend from following the syntax line of the Dockerfile:
// it names us, and we are running.
type ourselves struct{ client.Client }

func (o ourselves) BuildOpts() client.BuildOpts {
	opts := o.Client.BuildOpts()
	if _, ok := opts.Opts["cmdline"]; !ok {
		attrs := map[string]string{"cmdline": "kairos"}
		maps.Copy(attrs, opts.Opts)
		opts.Opts = attrs
	}
	return opts
}

// currentImage returns the frontend's own image.
func currentImage(c client.Client) (llb.State, error) {
	self, ok := c.(interface {
		CurrentFrontend() (*llb.State, error)
	})
	if !ok {
		return llb.State{}, errors.New("kairos frontend: it has to run from its image, as in `# syntax=kairos`")
	}
	st, err := self.CurrentFrontend()
	if err != nil {
		return llb.State{}, fmt.Errorf("kairos frontend: find its own image: %w", err)
	}
	if st == nil {
		return llb.State{}, errors.New(
			"kairos frontend: this BuildKit does not tell a frontend its own image: use BuildKit 0.11 or later",
		)
	}
	return *st, nil
}

type builder struct {
	client client.Client
	ui     *dockerui.Client
	tool   llb.State
}

// addBootLayers replaces each platform's reference and image config in res. Attestations
// and all other metadata stay as the Dockerfile frontend made them.
func (b *builder) addBootLayers(ctx context.Context, res *client.Result) error {
	if len(res.Refs) == 0 {
		platforms, err := exptypes.ParsePlatforms(res.Metadata)
		if err != nil {
			return err
		}
		if len(platforms.Platforms) != 1 {
			return fmt.Errorf("kairos frontend: one image for %d platforms", len(platforms.Platforms))
		}
		image := image{
			platform: platforms.Platforms[0],
			config:   res.Metadata[exptypes.ExporterImageConfigKey],
			ref:      res.Ref,
		}
		if err := b.addBootLayer(ctx, &image); err != nil {
			return err
		}
		res.SetRef(image.ref)
		res.AddMeta(exptypes.ExporterImageConfigKey, image.config)
		return nil
	}
	platforms, err := exptypes.ParsePlatforms(res.Metadata)
	if err != nil {
		return err
	}
	images := make([]image, len(platforms.Platforms))
	eg, ctx := errgroup.WithContext(ctx)
	for i, p := range platforms.Platforms {
		images[i] = image{platform: p, config: res.Metadata[configKey(p)], ref: res.Refs[p.ID], several: true}
		eg.Go(func() error { return b.addBootLayer(ctx, &images[i]) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	for _, image := range images {
		res.AddRef(image.platform.ID, image.ref)
		res.AddMeta(configKey(image.platform), image.config)
	}
	return nil
}

func configKey(p exptypes.Platform) string { return exptypes.ExporterImageConfigKey + "/" + p.ID }
