package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// mediumTargets are the stages that every Dockerfile has without writing them: the medium of
// its last stage, for BuildKit daemons that do not know our types of output.
//
//	docker buildx build --target iso --output type=local,dest=. .
//
// gives os.iso and os.iso.sha256. The build argument KAIROS_SIZE is a disk's size. A Dockerfile's own stage of that
// name goes before.
var mediumTargets = []string{"iso", "raw", "qcow2"}

// mediumTarget returns the medium that the build's target names, or "".
func mediumTarget(ctx context.Context, c client.Client) (string, error) {
	opts := c.BuildOpts().Opts
	target := opts["target"]
	if !slices.Contains(mediumTargets, target) || opts["requestid"] != "" {
		return "", nil
	}
	ui, err := dockerui.NewClient(ourselves{c})
	if err != nil {
		return "", err
	}
	src, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return "", err
	}
	own, err := hasStage(src.Data, target)
	if err != nil || own {
		// What is wrong with the Dockerfile, the Dockerfile frontend says better.
		return "", nil //nolint:nilerr // see above
	}
	return target, nil
}

func hasStage(dockerfile []byte, name string) (bool, error) {
	parsed, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		return false, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(stages, func(s instructions.Stage) bool { return strings.EqualFold(s.Name, name) }), nil
}

// lastStage is the client with the target taken out: the Dockerfile frontend builds the last stage.
type lastStage struct{ client.Client }

func (l lastStage) BuildOpts() client.BuildOpts {
	opts := l.Client.BuildOpts()
	opts.Opts = maps.Clone(opts.Opts)
	delete(opts.Opts, "target")
	return opts
}

// toMedia replaces the images of a result by the files of their media.
func (b *builder) toMedia(ctx context.Context, res *client.Result, format string) error {
	platforms, err := exptypes.ParsePlatforms(res.Metadata)
	if err != nil {
		return err
	}
	single := len(res.Refs) == 0
	for _, p := range platforms.Platforms {
		ref, ok := res.FindRef(p.ID)
		if !ok || ref == nil {
			return errors.New("the image is empty")
		}
		files, err := b.medium(
			ctx,
			p,
			ref,
			exptypes.ParseKey(res.Metadata, exptypes.ExporterImageConfigKey, &p),
			format,
		)
		if err != nil {
			return err
		}
		if single {
			res.SetRef(files)
		} else {
			res.AddRef(p.ID, files)
		}
		// Two files are no image: what describes one would be wrong.
		delete(res.Attestations, p.ID)
		for _, key := range []string{exptypes.ExporterImageConfigKey, exptypes.ExporterImageBaseConfigKey} {
			delete(res.Metadata, key+"/"+p.ID)
			delete(res.Metadata, key)
		}
	}
	return nil
}

// medium returns a reference with the medium's file and its checksum.
func (b *builder) medium(
	ctx context.Context,
	p exptypes.Platform,
	ref client.Reference,
	config []byte,
	format string,
) (client.Reference, error) {
	root, err := ref.ToState()
	if err != nil {
		return nil, err
	}
	if !json.Valid(config) {
		return nil, errors.New("the image has no config")
	}
	opts := b.client.BuildOpts().Opts
	args := []string{
		Binary,
		"medium",
		"--root",
		"/rootfs",
		"--config",
		"/config/config.json",
		"--out",
		"/out",
		"--format",
		format,
	}
	if epoch := opts["build-arg:SOURCE_DATE_EPOCH"]; epoch != "" {
		args = append(args, "--epoch", epoch)
	}
	if size := opts["build-arg:KAIROS_SIZE"]; size != "" && format != "iso" {
		args = append(args, "--size", size)
	}
	run := []llb.RunOption{
		llb.Args(args),
		llb.Network(pb.NetMode_NONE),
		llb.WithCustomName("[" + p.ID + " kairos] " + format),
		llb.AddMount("/rootfs", root, llb.Readonly),
		llb.AddMount("/config", llb.Scratch().File(llb.Mkfile("/config.json", 0o644, config)), llb.Readonly),
		llb.AddMount("/tmp", llb.Scratch()),
	}
	if p := b.ui.BuildPlatforms; len(p) > 0 {
		run = append(run, llb.Platform(p[0]))
	}
	def, err := b.tool.Run(run...).AddMount("/out", llb.Scratch()).Marshal(ctx)
	if err != nil {
		return nil, err
	}
	res, err := b.client.Solve(ctx, client.SolveRequest{Definition: def.ToPB(), CacheImports: b.ui.CacheImports})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}
