package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kairos-buildkit/kairos/boot"
	"github.com/kairos-buildkit/kairos/erofs"
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
		return errors.New(
			"the image is empty: it needs at least a kernel and an init, " +
				"as a distribution's image with its kernel package has",
		)
	}
	if i.platform.Platform.OS != "linux" {
		return fmt.Errorf("platform %s: only linux images can boot", i.platform.ID)
	}
	labels, config, err := addHistory(i.config)
	if err != nil {
		return fmt.Errorf("platform %s: %w", i.platform.ID, err)
	}
	if _, err := layout.ParseHealth(labels); err != nil {
		return fmt.Errorf("platform %s: %w", i.platform.ID, err)
	}
	root, err := i.ref.ToState()
	if err != nil {
		return err
	}
	boots := b.step(i, root, bootLayer, labels)
	format, err := b.format(ctx, boots, labels)
	if err != nil {
		return fmt.Errorf("platform %s: %w", i.platform.ID, err)
	}
	if config, err = addLabel(config, layout.ImageLabelFormat, format.String()); err != nil {
		return fmt.Errorf("platform %s: %w", i.platform.ID, err)
	}
	ref, err := b.solve(ctx, b.step(i, boots, release, labels))
	if err != nil {
		return err
	}
	i.ref, i.config = ref, config
	return nil
}

// format returns the format of blobs that the kernel reads which the boot layer was made for.
func (b *builder) format(ctx context.Context, st llb.State, labels map[string]string) (layout.Format, error) {
	ref, err := b.solve(ctx, st)
	if err != nil {
		return layout.Format{}, err
	}
	data, err := ref.ReadFile(ctx, client.ReadRequest{Filename: layout.ImageBootManifest})
	if err != nil {
		return layout.Format{}, err
	}
	m, err := boot.ParseManifest(data)
	if err != nil {
		return layout.Format{}, err
	}
	f := layout.Format{Compression: m.Kernel.Compression, Version: erofs.FormatVersion}
	if c := strings.TrimSpace(labels[layout.ImageLabelCompression]); layout.CompressionRank(c) >= 0 {
		f.Compression = c
	}
	return f, nil
}

// solve has a state built when its content is read.
func (b *builder) solve(ctx context.Context, st llb.State) (client.Reference, error) {
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, err
	}
	// Without the cache imports a cached result would miss here although the Dockerfile's
	// own steps hit.
	res, err := b.client.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), CacheImports: b.ui.CacheImports})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}

// layer is one that a step of ours adds.
type layer struct {
	command, name string
	labels        []string // what of the image's labels is in it
	secrets       []secret // private keys that sign boot files, where the build has them
}

// secret is one of the build's, and the flag that tells the step its file.
type secret struct{ id, flag string }

// path is where the step finds the secret, if the build has that.
func (s secret) path() string { return "/run/secrets/" + s.id }

// keys are the private keys that boot files are signed by.
var keys = []secret{{layout.SecureBootSecret, "--secure-boot-key"}, {layout.PCRSecret, "--pcr-key"}}

const (
	stepBootLayer = "boot-layer"
	stepRelease   = "release-layer"
)

var (
	bootLayer = layer{stepBootLayer, "boot layer", []string{
		layout.ImageLabelCmdline, layout.ImageLabelModules, layout.ImageLabelKernel,
		layout.ImageLabelTrust, layout.ImageLabelEnroll, layout.ImageLabelBootSignatures,
	}, keys}
	// What names the version is a layer of its own, so that a new one costs this layer alone.
	release = layer{stepRelease, "release", []string{layout.ImageLabelVersion, ocispec.AnnotationVersion}, nil}
)

// step returns root with a layer on top.
func (b *builder) step(i *image, root llb.State, l layer, labels map[string]string) llb.State {
	name := "[kairos] " + l.name
	if i.several {
		name = "[" + i.platform.ID + " kairos] " + l.name
	}
	args := []string{Binary, l.command, "--root", "/rootfs", "--arch", i.platform.Platform.Architecture}
	// Only the labels that the step reads: another label does not make it run again.
	for _, key := range l.labels {
		if v, ok := labels[key]; ok {
			args = append(args, "--label", key+"="+v)
		}
	}
	opts := []llb.RunOption{
		llb.Network(pb.NetMode_NONE),
		llb.WithCustomName(name),
	}
	for _, s := range l.secrets {
		// The key is in the step's memory only, and not in what the step's cache is found by: the certificate or the
		// public key is, and an image that has it is signed, or the step fails.
		args = append(args, s.flag, s.path())
		opts = append(opts, llb.AddSecret(s.path(), llb.SecretID(s.id), llb.SecretOptional))
	}
	opts = append(opts, llb.Args(args))
	if p := b.ui.BuildPlatforms; len(p) > 0 {
		opts = append(opts, llb.Platform(p[0]))
	}
	if no, ok := b.client.BuildOpts().Opts["no-cache"]; ok && no == "" {
		opts = append(opts, llb.IgnoreCache)
	}
	return b.tool.Run(opts...).AddMount("/rootfs", root)
}

// addHistory appends the entries of our layers to the image config's history, and returns the
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
	entries := slices.Clip(img.History)
	for _, l := range []layer{bootLayer, release} {
		entries = append(entries, ocispec.History{CreatedBy: "kairos " + l.name, Comment: "kairos.frontend.v0"})
	}
	history, err := json.Marshal(entries)
	if err != nil {
		return nil, nil, err
	}
	fields["history"] = history
	out, err := json.Marshal(fields)
	return img.Config.Labels, out, err
}

// addLabel sets a label of an image config. All other fields keep their bytes.
func addLabel(config []byte, key, value string) ([]byte, error) {
	image, section, labels := map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]string{}
	read := func(b json.RawMessage, to any) error {
		if len(b) == 0 {
			return nil
		}
		return json.Unmarshal(b, to)
	}
	if err := read(config, &image); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := read(image["config"], &section); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := read(section["Labels"], &labels); err != nil {
		return nil, fmt.Errorf("image config: labels: %w", err)
	}
	if section == nil { // "config": null
		section = map[string]json.RawMessage{}
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	var err error
	if section["Labels"], err = json.Marshal(labels); err != nil {
		return nil, err
	}
	if image["config"], err = json.Marshal(section); err != nil {
		return nil, err
	}
	return json.Marshal(image)
}
