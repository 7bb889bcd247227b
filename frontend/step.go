package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/layout"
)

// Binary is the path of the program in the frontend's image.
const Binary = "/kairos-frontend"

// image is the result for one platform.
type image struct {
	platform exptypes.Platform
	config   []byte
	ref      client.Reference
	several  bool // one of several platforms
}

// addBootLayer replaces the image's reference and config by those with the boot layer.
func (b *builder) addBootLayer(ctx context.Context, i *image) error {
	if i.ref == nil {
		return errors.New("the image is empty: it needs at least a kernel and an init, as a distribution's image with its kernel package has")
	}
	if i.platform.Platform.OS != "linux" {
		return fmt.Errorf("platform %s: only linux images can boot", i.platform.ID)
	}
	labels, config, err := addHistory(i.config)
	if err != nil {
		return fmt.Errorf("platform %s: %w", i.platform.ID, err)
	}
	root, err := i.ref.ToState()
	if err != nil {
		return err
	}
	def, err := b.step(i, root, labels).Marshal(ctx)
	if err != nil {
		return err
	}
	// Without the cache imports a cached result would miss here although the Dockerfile's
	// own steps hit.
	res, err := b.client.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), CacheImports: b.ui.CacheImports})
	if err != nil {
		return err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return err
	}
	i.ref, i.config = ref, config
	return nil
}

// step returns root with the boot layer on top.
func (b *builder) step(i *image, root llb.State, labels map[string]string) llb.State {
	name := "[kairos] boot layer"
	if i.several {
		name = "[" + i.platform.ID + " kairos] boot layer"
	}
	args := []string{Binary, "boot-layer", "--root", "/rootfs", "--arch", i.platform.Platform.Architecture}
	// Only the labels that the step reads: another label does not make it run again.
	for _, key := range stepLabels {
		if v, ok := labels[key]; ok {
			args = append(args, "--label", key+"="+v)
		}
	}
	opts := []llb.RunOption{
		llb.Args(args),
		llb.Network(pb.NetMode_NONE),
		llb.WithCustomName(name),
	}
	if p := b.ui.BuildPlatforms; len(p) > 0 {
		opts = append(opts, llb.Platform(p[0]))
	}
	if no, ok := b.client.BuildOpts().Opts["no-cache"]; ok && no == "" {
		opts = append(opts, llb.IgnoreCache)
	}
	return b.tool.Run(opts...).AddMount("/rootfs", root)
}

var stepLabels = []string{
	layout.ImageLabelCmdline,
	layout.ImageLabelModules,
	layout.ImageLabelVersion,
	ocispec.AnnotationVersion,
}

// addHistory appends the boot layer's entry to the image config's history, and returns the
// image's labels. All other fields of the config keep their bytes.
func addHistory(config []byte) (labels map[string]string, _ []byte, _ error) {
	var img struct {
		Config  ocispec.ImageConfig `json:"config"`
		History []ocispec.History   `json:"history"`
	}
	fields := map[string]json.RawMessage{}
	for _, v := range []any{&img, &fields} {
		if err := json.Unmarshal(config, v); err != nil {
			return nil, nil, fmt.Errorf("image config: %w", err)
		}
	}
	// The time stays open: the exporter fills in the layer's, or SOURCE_DATE_EPOCH.
	history, err := json.Marshal(append(slices.Clip(img.History), ocispec.History{
		CreatedBy: "kairos boot layer",
		Comment:   "kairos.frontend.v0",
	}))
	if err != nil {
		return nil, nil, err
	}
	fields["history"] = history
	out, err := json.Marshal(fields)
	return img.Config.Labels, out, err
}
